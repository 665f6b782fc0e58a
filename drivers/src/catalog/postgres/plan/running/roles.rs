//! Roles and databases of the wish.

use super::Planner;
use crate::catalog::postgres::args::{Database, Role};
use crate::catalog::postgres::facts::{Data, Facts};
use crate::catalog::postgres::ops::Op;
use crate::catalog::postgres::params::OWNER_ROLE;
use crate::catalog::postgres::plan::builder::{Link, Words};
use crate::driver::Disruption;

impl Planner<'_> {
    pub(super) fn roles_and_databases(&mut self, primary: &str, facts: &Facts, ready: &Link) {
        let server = facts.server.clone().unwrap_or_default();
        let mut owner = ready.clone();
        for role in self.view.checked.roles() {
            let is_owner = role == OWNER_ROLE;
            let is_there = server.roles.contains(&role)
                && (is_owner || server.owners.contains(&role))
                && self.view.input.secrets.contains(&role);
            if is_there {
                continue;
            }
            if self.is_known_absent(facts) {
                let subject = format!("role {role}");
                self.builder.change(
                    '+',
                    &subject,
                    "generated password",
                    Disruption::None,
                    "the wish's users",
                );
            }
            let title = format!("make role {role}");
            let args = Role {
                place: self.place.clone(),
                role: role.clone(),
            };
            let words = Words::new(&title, "the wish's users");
            let link = self.builder.step(
                primary,
                (Op::Role, &format!("role-{role}")),
                &words,
                &args,
                &[&owner],
            );
            if is_owner {
                owner = link;
            }
        }
        for database in &self.view.checked.params.databases {
            if server.databases.contains(database) {
                continue;
            }
            if self.is_known_absent(facts) {
                let subject = format!("database {database}");
                self.builder.change(
                    '+',
                    &subject,
                    "of role owner",
                    Disruption::None,
                    "the wish's databases",
                );
            }
            let title = format!("create database {database}");
            let args = Database {
                place: self.place.clone(),
                database: database.clone(),
            };
            let words = Words::new(&title, "the wish's databases");
            self.builder.step(
                primary,
                (Op::Database, &format!("database-{database}")),
                &words,
                &args,
                &[&owner],
            );
        }
    }

    /// Whether what the observation of the primary does not name is known not to be there. A server that does not
    /// answer tells nothing; the steps look first, then.
    pub(super) fn is_known_absent(&self, primary: &Facts) -> bool {
        primary.server.is_some() || primary.data == Data::Absent
    }
}
