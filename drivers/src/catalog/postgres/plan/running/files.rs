//! Configuration files: written where they differ, with a line for people for each parameter that changes.

use std::collections::BTreeSet;

use super::Planner;
use crate::catalog::postgres::args::Configure;
use crate::catalog::postgres::conf::{self, Settings};
use crate::catalog::postgres::facts::Facts;
use crate::catalog::postgres::layout::Layout;
use crate::catalog::postgres::ops::Op;
use crate::catalog::postgres::parameters::{ChangeClass, NOT_BELOW_PRIMARY, change_class};
use crate::catalog::postgres::plan::builder::{Link, Words};
use crate::driver::Disruption;
use crate::sls::file::digest;

impl Planner<'_> {
    /// Files as they should be on `node`; no step if they are.
    pub(super) fn configure(
        &mut self,
        node: &str,
        name: &str,
        settings: &Settings,
        facts: &Facts,
        needs: &[&Link],
    ) -> Link {
        let is_standby = settings.contains_key("primary_conninfo");
        let unit = conf::unit(&Layout::new(&self.view.input.uid, self.place.clone()));
        let same_files = facts.settings.as_ref() == Some(settings)
            && facts.hba_digest == Some(digest(self.hba.as_bytes()))
            && facts.unit_digest == Some(digest(unit.as_bytes()))
            && facts.note.is_some();
        let is_loaded = !facts.is_running || facts.has_loaded;
        if same_files && is_loaded && (facts.has_passfile || !is_standby) && facts.has_own_data() {
            return Link::all(needs);
        }
        self.tell_settings(settings, facts.settings.as_ref());
        if facts.has_own_data() && facts.note.is_some() && facts.settings.as_ref() == Some(settings)
            || facts.has_own_data() && facts.settings.is_none()
        {
            let subject = format!("{node} configuration");
            let reason = "files differ from what the wish makes of them";
            self.builder
                .change('~', &subject, "written anew", Disruption::Reload, reason);
        }
        self.configure_after(node, name, settings, needs)
    }

    pub(super) fn configure_after(
        &mut self,
        node: &str,
        name: &str,
        settings: &Settings,
        needs: &[&Link],
    ) -> Link {
        let is_standby = settings.contains_key("primary_conninfo");
        let args = Configure {
            place: self.place.clone(),
            settings: settings.clone(),
            hba: self.hba.clone(),
            is_standby,
        };
        let title = if name == "synchronous" {
            "wait for a standby at each commit"
        } else {
            "write the configuration"
        };
        let words = Words::new(title, "the files differ from the wish");
        self.builder
            .step(node, (Op::Configure, name), &words, &args, needs)
    }

    /// One line for each parameter of the wish that changes.
    pub(super) fn tell_settings(&mut self, new: &Settings, old: Option<&Settings>) {
        let Some(old) = old else { return };
        let names: BTreeSet<&String> = new.keys().chain(old.keys()).collect();
        for name in names
            .into_iter()
            .filter(|name| !name.starts_with("primary_") && *name != "synchronous_standby_names")
        {
            let (before, after) = (old.get(name), new.get(name));
            if before == after {
                continue;
            }
            let word = |value: Option<&String>| value.map_or("default".to_owned(), Clone::clone);
            let (disruption, reason) = match (change_class(name), special_move(name, before, after))
            {
                (ChangeClass::Reload, _) => (Disruption::Reload, "PostgreSQL reads it again"),
                (ChangeClass::Restart, Some(true)) => (
                    Disruption::Restart,
                    "raised: standbys first (PostgreSQL refuses a standby below its primary)",
                ),
                (ChangeClass::Restart, Some(false)) => {
                    (Disruption::Restart, "lowered: primary first")
                }
                (ChangeClass::Restart, None) => (
                    Disruption::Restart,
                    "one member at a time, the primary last",
                ),
            };
            self.builder.change(
                '~',
                name,
                &format!("{} -> {}", word(before), word(after)),
                disruption,
                reason,
            );
        }
    }
}

/// Whether a special parameter rises (`true`) or falls; `None` for others.
fn special_move(name: &str, before: Option<&String>, after: Option<&String>) -> Option<bool> {
    let (_, default) = NOT_BELOW_PRIMARY
        .iter()
        .find(|(special, _)| *special == name)?;
    let value = |text: Option<&String>| text.and_then(|text| text.parse().ok()).unwrap_or(*default);
    let (before, after): (u64, u64) = (value(before), value(after));
    Some(before < after)
}
