//! Starts and restarts, and which parameters make an order of them.

use std::collections::{BTreeMap, BTreeSet};

use super::Planner;
use crate::catalog::postgres::args::{At, Restart};
use crate::catalog::postgres::conf::Settings;
use crate::catalog::postgres::facts::Facts;
use crate::catalog::postgres::ops::Op;
use crate::catalog::postgres::parameters::{ChangeClass, NOT_BELOW_PRIMARY, change_class};
use crate::catalog::postgres::plan::builder::{Link, Words};
use crate::driver::Disruption;

/// Lock of the one node that may be primary.
pub(super) const PRIMARY_LOCK: &str = "role/primary";

/// Lock of a member that restarts.
const RESTART_LOCK: &str = "slot";

impl Planner<'_> {
    /// Starts what is stopped, restarts what has to.
    pub(super) fn run(
        &mut self,
        node: &str,
        facts: &Facts,
        restarts: bool,
        written: &Link,
        awaits_streaming: bool,
        control_at_most: BTreeMap<String, u64>,
    ) -> Link {
        if restarts {
            return self.restart(node, written, awaits_streaming, control_at_most);
        }
        self.start(node, facts, written)
    }

    pub(super) fn start(&mut self, node: &str, facts: &Facts, written: &Link) -> Link {
        if facts.is_running && facts.server.is_some() && facts.has_own_data() {
            return written.clone();
        }
        let is_primary = self.view.primary.as_deref() == Some(node);
        let title = if is_primary {
            "start the primary"
        } else {
            "start the standby"
        };
        let words = Words::new(title, "it takes no connections");
        let words = if is_primary {
            words.locked(PRIMARY_LOCK)
        } else {
            words
        };
        if facts.has_own_data() && !facts.is_running {
            self.builder.change(
                '~',
                node,
                "stopped -> running",
                Disruption::None,
                "services start when their role is known",
            );
        }
        let args = At {
            place: self.place.clone(),
        };
        self.builder
            .step(node, (Op::Start, "start"), &words, &args, &[written])
    }

    pub(super) fn restart(
        &mut self,
        node: &str,
        written: &Link,
        awaits: bool,
        control_at_most: BTreeMap<String, u64>,
    ) -> Link {
        let words =
            Words::new("restart the server", "a changed parameter needs it").locked(RESTART_LOCK);
        let args = Restart {
            place: self.place.clone(),
            awaits_streaming: awaits,
            control_at_most,
        };
        let name = if self.builder.has(&format!("{node}/restart")) {
            "restart-again"
        } else {
            "restart"
        };
        let before = self.restarted.clone();
        let link = self.builder.step(
            node,
            (Op::Restart, name),
            &words,
            &args,
            &[written, &before],
        );
        if link != Link::Deferred {
            self.restarted = link.clone();
        }
        link
    }

    /// Whether a running member has to restart for `new`.
    pub(super) fn restarts(&self, node: &str, facts: &Facts, new: &Settings) -> bool {
        let Some(old) = facts
            .settings
            .as_ref()
            .filter(|_| facts.is_running && facts.has_own_data())
        else {
            return false;
        };
        let names: BTreeSet<&String> = new.keys().chain(old.keys()).collect();
        let changed = |name: &&&String| old.get(**name) != new.get(**name);
        let by_settings = names
            .iter()
            .filter(changed)
            .any(|name| change_class(name) == ChangeClass::Restart);
        let pending = facts
            .server
            .as_ref()
            .is_some_and(|server| !server.pending_restart.is_empty());
        // Files that were written and not loaded may hide a restart; the step asks the server before it restarts it.
        by_settings
            || pending
            || !facts.has_loaded
            || facts.runs_old_binaries()
            || self.installed(node) != Link::holds()
    }

    /// Compares with what the primary runs with, not with its file: a file may have been written without a restart.
    pub(super) fn special(&self, primary: &Facts) -> Special {
        let mut special = Special::default();
        let Some(server) = &primary.server else {
            return special;
        };
        let new = self.view.primary_settings("");
        for (name, default) in NOT_BELOW_PRIMARY {
            let before = server.special.get(name).copied().unwrap_or(default);
            let after = special_value(&new, name, default);
            special
                .highest
                .insert(name.to_owned(), before.max(after).to_string());
            if before < after {
                special.raised.insert(name.to_owned());
            } else if before > after {
                special.lowered.insert(name.to_owned(), after);
            }
        }
        special
    }

    /// The values that a standby's control file must have come down to before it restarts with `settings`.
    pub(super) fn control_at_most(
        &self,
        facts: &Facts,
        settings: &Settings,
    ) -> BTreeMap<String, u64> {
        let Some(server) = &facts.server else {
            return BTreeMap::new();
        };
        let falls = |(name, default): (&str, u64)| {
            let after = special_value(settings, name, default);
            let before = server.special.get(name).copied().unwrap_or(default);
            (before > after).then(|| (name.to_owned(), after))
        };
        NOT_BELOW_PRIMARY.into_iter().filter_map(falls).collect()
    }
}

/// The special parameters whose values rise or fall, with the values that a member must have while both kinds change.
#[derive(Default)]
pub(super) struct Special {
    pub(super) raised: BTreeSet<String>,
    pub(super) lowered: BTreeMap<String, u64>,
    pub(super) highest: Settings,
}

fn special_value(settings: &Settings, name: &str, default: u64) -> u64 {
    settings
        .get(name)
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}
