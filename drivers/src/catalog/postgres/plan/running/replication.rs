//! Who has data, how standbys come by theirs, and what is left of those that went.

use std::collections::BTreeSet;

use super::Planner;
use super::server::PRIMARY_LOCK;
use crate::catalog::postgres::args::{At, BaseBackup, Init, Remove, RemovedData, Slots};
use crate::catalog::postgres::facts::{Data, Facts};
use crate::catalog::postgres::ops::Op;
use crate::catalog::postgres::params::{REPLICATION_KEY, REPLICATION_ROLE};
use crate::catalog::postgres::plan::builder::{Link, Words};
use crate::catalog::postgres::slots::{SLOT_PREFIX, slot_name};
use crate::driver::Disruption;

impl Planner<'_> {
    pub(super) fn primary_data(&mut self, primary: &str, facts: &Facts) -> Link {
        let installed = self.installed(primary);
        match &facts.data {
            Data::Ours { .. } => installed,
            Data::Foreign { .. } => self.adopt(primary, facts, &installed),
            Data::Absent => {
                self.builder.change(
                    '+',
                    primary,
                    "primary",
                    Disruption::None,
                    "first of nodes, and no node has data",
                );
                let words = Words::new("initialise the data directory", "no member has data")
                    .locked(PRIMARY_LOCK);
                let args = Init {
                    place: self.place.clone(),
                    system_identifier: None,
                };
                self.builder
                    .step(primary, (Op::Init, "init"), &words, &args, &[&installed])
            }
        }
    }

    pub(super) fn adopt(&mut self, node: &str, facts: &Facts, installed: &Link) -> Link {
        let Data::Foreign {
            system_identifier, ..
        } = &facts.data
        else {
            return installed.clone();
        };
        let directory = self.place.data_directory.display().to_string();
        self.builder.change(
            '+',
            node,
            &format!("adopts {directory}"),
            Disruption::None,
            "params.adopt",
        );
        let words = Words::new(
            "adopt the data directory",
            "params.adopt names its system identifier",
        );
        let args = Init {
            place: self.place.clone(),
            system_identifier: system_identifier.clone(),
        };
        self.builder
            .step(node, (Op::Adopt, "adopt"), &words, &args, &[installed])
    }

    /// Role and slots that standbys need on the primary.
    pub(super) fn admit(&mut self, primary: &str, facts: &Facts, started: &Link) -> Link {
        let standbys: Vec<String> = self.view.standbys().cloned().collect();
        let server = facts.server.clone().unwrap_or_default();
        let at = At {
            place: self.place.clone(),
        };
        let mut role = started.clone();
        let has_role = server.roles.contains(REPLICATION_ROLE);
        if !standbys.is_empty() && (!has_role || !self.view.input.secrets.contains(REPLICATION_KEY))
        {
            let words = Words::new("make the replication role", "standbys log in with it");
            role = self.builder.step(
                primary,
                (Op::ReplicationRole, "replication-role"),
                &words,
                &at,
                &[started],
            );
        }
        let anew: Vec<&String> = standbys
            .iter()
            .filter(|node| self.must_copy_anew(node, facts))
            .collect();
        let lost: Vec<String> = anew
            .iter()
            .map(|node| slot_name(node))
            .filter(|slot| server.slots.contains_key(slot))
            .collect();
        let missing = |slot: &String| !server.slots.contains_key(slot) || lost.contains(slot);
        let create: Vec<String> = standbys
            .iter()
            .map(|node| slot_name(node))
            .filter(missing)
            .collect();
        if create.is_empty() {
            return role;
        }
        let discarded: Vec<Link> = anew.iter().map(|node| self.discard(node)).collect();
        let mut needs: Vec<&Link> = discarded.iter().collect();
        needs.push(&role);
        let words = Words::new(
            "make replication slots",
            "they keep write-ahead log for standbys",
        );
        let args = Slots {
            place: self.place.clone(),
            drop: lost,
            create,
        };
        self.builder
            .step(primary, (Op::Slots, "slots"), &words, &args, &needs)
    }

    /// The log that a standby still needs is gone, or nothing kept it while the standby was out.
    pub(super) fn must_copy_anew(&self, node: &str, primary: &Facts) -> bool {
        let facts = self.view.facts(node);
        let Some(server) = primary
            .server
            .as_ref()
            .filter(|_| facts.is_standby() && self.view.is_present(node))
        else {
            return false;
        };
        let receives = facts.server.as_ref().is_some_and(|server| server.receiving);
        match server.slots.get(&slot_name(node)) {
            Some(lost) => *lost,
            None => !receives,
        }
    }

    pub(super) fn discard(&mut self, node: &str) -> Link {
        let reason = "the write-ahead log that it needs is gone";
        self.builder.change(
            '~',
            node,
            "copied anew from the primary",
            Disruption::DataMove,
            reason,
        );
        let args = At {
            place: self.place.clone(),
        };
        self.builder.step(
            node,
            (Op::Discard, "discard"),
            &Words::new("set the data aside", reason),
            &args,
            &[],
        )
    }

    pub(super) fn base_backup(&mut self, node: &str, primary: &str, needs: &[&Link]) -> Link {
        let detail = format!("joins, base backup from {primary}");
        self.builder.change(
            '+',
            node,
            &detail,
            Disruption::DataMove,
            "it is in nodes and has no data",
        );
        let title = format!("base backup from {primary}");
        let args = BaseBackup {
            place: self.place.clone(),
            primary: self.view.address(primary).to_owned(),
            slot: slot_name(node),
        };
        let words = Words::new(&title, "it has no data");
        self.builder
            .step(node, (Op::BaseBackup, "base-backup"), &words, &args, needs)
    }

    /// Nodes that are not in the wish any more, and slots that no member uses.
    pub(super) fn leavers(&mut self, primary: &str, facts: &Facts, ready: &Link) {
        let mut left = Vec::new();
        for (node, _) in self.view.leavers() {
            let reason = "it is not in nodes any more";
            self.builder.change(
                '-',
                node,
                "leaves, its copy of the data is set aside",
                Disruption::None,
                reason,
            );
            let args = Remove {
                place: self.place.clone(),
                data: RemovedData::SetAside,
            };
            let words = Words::new("leave the cluster", reason);
            left.push(
                self.builder
                    .step(node, (Op::Remove, "remove"), &words, &args, &[ready])
                    .or_without(),
            );
        }
        let used: BTreeSet<String> = self.view.standbys().map(|node| slot_name(node)).collect();
        let slots = facts.server.clone().unwrap_or_default().slots;
        let unused: Vec<String> = slots
            .into_keys()
            .filter(|slot| slot.starts_with(SLOT_PREFIX) && !used.contains(slot))
            .collect();
        if unused.is_empty() {
            return;
        }
        let words = Words::new(
            "drop replication slots",
            "no member uses them; they would fill the disk",
        );
        let args = Slots {
            place: self.place.clone(),
            drop: unused,
            create: Vec::new(),
        };
        let mut needs: Vec<&Link> = left.iter().collect();
        needs.push(ready);
        self.builder
            .step(primary, (Op::Slots, "drop-slots"), &words, &args, &needs);
    }
}
