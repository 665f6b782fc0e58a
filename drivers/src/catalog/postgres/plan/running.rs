//! The steps to a running cluster: primary, standbys, rolling changes, roles and databases.
//!
//! Order of a rolling change: a raised parameter that a standby must not have less of goes to standbys first, a lowered
//! one to the primary first, both at once in three rounds; everything else to standbys first, the primary last. One
//! member restarts at a time, under lock `slot`.

mod files;
mod packages;
mod replication;
mod roles;
mod server;
mod synchronous;

use self::server::Special;
use std::collections::BTreeMap;

use crate::catalog::postgres::args::At;
use crate::catalog::postgres::facts::{Data, Facts};
use crate::catalog::postgres::layout::Place;
use crate::catalog::postgres::ops::Op;
use crate::catalog::postgres::plan::builder::{Builder, Link, Words};
use crate::catalog::postgres::plan::view::View;
use crate::driver::{Plan, Refusal};

/// The plan for a wish that nothing speaks against.
///
/// # Errors
/// A version that no repository offers.
pub fn plan(view: &View<'_>) -> Result<Plan, Refusal> {
    let mut planner = Planner {
        view,
        builder: Builder::new(view.input),
        installed: BTreeMap::new(),
        restarted: Link::holds(),
        place: view.place(),
        hba: view.hba(),
    };
    for node in &view.wish.nodes {
        let link = planner.install(node)?;
        planner.installed.insert(node.clone(), link);
    }
    match &view.primary {
        Some(primary) => planner.cluster(primary),
        None => planner.standbys_alone(),
    }
    Ok(planner.builder.finish())
}

struct Planner<'a> {
    view: &'a View<'a>,
    builder: Builder<'a>,
    installed: BTreeMap<String, Link>,
    /// The last restart so far: the next one waits for it.
    restarted: Link,
    place: Place,
    hba: String,
}

impl Planner<'_> {
    fn cluster(&mut self, primary: &str) {
        let facts = self.view.facts(primary);
        let special = self.special(&facts);
        let synchronous = self.interim_synchronous(&facts);
        let settings = self.view.primary_settings(&synchronous);
        let restarts = self.restarts(primary, &facts, &settings);
        let is_last = restarts && (special.lowered.is_empty() || !special.raised.is_empty());

        let data = self.primary_data(primary, &facts);
        let first = if is_last {
            // What admits new members comes first; what needs the restart comes last.
            let mut admitting = facts.settings.clone().unwrap_or_else(|| settings.clone());
            admitting.insert("synchronous_standby_names".to_owned(), synchronous.clone());
            self.configure(primary, "admit", &admitting, &facts, &[&data])
        } else {
            self.configure(primary, "configure", &settings, &facts, &[&data])
        };
        let started = self.run(
            primary,
            &facts,
            restarts && !is_last,
            &first,
            false,
            BTreeMap::new(),
        );
        if restarts && !is_last && started == Link::Deferred {
            // The primary has to come down first, and it is away.
            self.restarted = Link::Deferred;
        }
        let admitted = self.admit(primary, &facts, &started);

        let mut awaited = Vec::new();
        let mut followed = Vec::new();
        for node in self.view.standbys().cloned().collect::<Vec<_>>() {
            let (running, streaming) =
                self.standby(&node, primary, &admitted, &special, !is_last && restarts);
            followed.push(running.or_without());
            awaited.extend(streaming);
        }
        let mut ready = started;
        if is_last {
            let mut needs: Vec<&Link> = followed.iter().collect();
            needs.extend([&admitted, &ready]);
            let written = self.configure(primary, "configure", &settings, &facts, &needs);
            ready = self.restart(primary, &written, false, BTreeMap::new());
            if !special.lowered.is_empty() {
                self.lower_standbys(primary, &special, &ready);
            }
        }
        let synced = self.synchronous(primary, &synchronous, &ready, &awaited);
        self.roles_and_databases(primary, &facts, &synced);
        self.leavers(primary, &facts, &ready);
    }

    /// The primary's node is unknown while members are away: standbys serve reads, nothing else happens.
    fn standbys_alone(&mut self) {
        for node in &self.view.wish.nodes {
            let facts = self.view.facts(node);
            if facts.is_standby() && facts.settings.is_some() && facts.unit_digest.is_some() {
                self.start(node, &facts, &Link::holds());
            }
        }
    }

    /// One standby. Gives the step after which it runs, and the one after which it streams, if it joins.
    fn standby(
        &mut self,
        node: &str,
        primary: &str,
        admitted: &Link,
        special: &Special,
        primary_restarted: bool,
    ) -> (Link, Option<Link>) {
        let facts = self.view.facts(node);
        let mut settings = self.view.standby_settings(node, primary);
        if !special.raised.is_empty() {
            settings.extend(special.highest.clone());
        }
        let installed = self.installed(node);
        let anew = self.must_copy_anew(node, &self.view.facts(primary));
        if facts.has_own_data() && !anew {
            let restarts = self.restarts(node, &facts, &settings);
            let before = self.restarted.clone();
            let mut needs = vec![&installed];
            if !facts.has_passfile || primary_restarted {
                needs.push(admitted);
            }
            if restarts {
                needs.push(&before);
            }
            let written = self.configure(node, "configure", &settings, &facts, &needs);
            let lowered = self.control_at_most(&facts, &settings);
            let awaits = self.view.is_present(primary);
            let running = self.run(node, &facts, restarts, &written, awaits, lowered);
            let receives = facts.server.as_ref().is_some_and(|server| server.receiving);
            let streaming = (!receives && self.is_to_be_named(node))
                .then(|| self.await_streaming(node, &[&running, admitted]));
            return (running, streaming);
        }
        let data = match &facts.data {
            Data::Foreign { .. } => self.adopt(node, &facts, &installed),
            Data::Absent | Data::Ours { .. } => {
                self.base_backup(node, primary, &[&installed, admitted])
            }
        };
        let blank = Facts {
            data: Data::Absent,
            is_running: false,
            server: None,
            ..facts
        };
        let written = self.configure(node, "configure", &settings, &blank, &[&data, admitted]);
        let started = self.start(node, &blank, &written);
        let streaming = self.await_streaming(node, &[&started]);
        (started, Some(streaming))
    }

    fn await_streaming(&mut self, node: &str, needs: &[&Link]) -> Link {
        let reason = "it has joined when it follows the primary";
        let words = Words::new("wait until it streams", reason);
        let args = At {
            place: self.place.clone(),
        };
        let op = (Op::AwaitStreaming, "await-streaming");
        self.builder.step(node, op, &words, &args, needs)
    }

    /// The third round, when some of the special parameters rise and others fall.
    fn lower_standbys(&mut self, primary: &str, special: &Special, ready: &Link) {
        for node in self.view.standbys().cloned().collect::<Vec<_>>() {
            let settings = self.view.standby_settings(&node, primary);
            let before = self.restarted.clone();
            let written = self.configure_after(&node, "lower", &settings, &[ready, &before]);
            self.restart(&node, &written, true, special.lowered.clone());
        }
    }
}
