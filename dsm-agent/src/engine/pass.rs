//! One pass over one deployment: what this node should do now, given all that was read.
//!
//! Order: outcomes of own steps are recorded first, then the planner's lock is contended for, then the planner decides,
//! then this node does its share; the status comes when nothing else is to do.

use std::collections::BTreeSet;
use std::time::Duration;

use drivers::driver::{NodeName, Scope};

use super::action::{Action, PLANNER_LOCK, TimerKey};
use super::digest::sha256_hex;
use super::driver_port::DriverPort;
use super::id::Generation;
use super::machine::{Machine, Timer};
use super::record::{Answers, Outcome, Phase, Trouble, WishRecord};
use super::view::{ClusterView, GenerationView, LockView, View, WishFile};
use crate::limits::{LOCK_RETRY, PLANNER_RANK_DELAY};

/// See the head of this file.
pub(super) struct Pass<'a> {
    pub node: &'a str,
    pub drivers: &'a dyn DriverPort,
    pub cluster: &'a ClusterView,
    pub view: &'a View,
    pub machine: &'a mut Machine,
    pub actions: Vec<Action>,
    /// Faults of the wish file; the last accepted wish goes on meanwhile.
    pub faults: Vec<Trouble>,
}

impl<'a> Pass<'a> {
    pub fn new(
        node: &'a str,
        drivers: &'a dyn DriverPort,
        cluster: &'a ClusterView,
        view: &'a View,
        machine: &'a mut Machine,
    ) -> Self {
        Self {
            node,
            drivers,
            cluster,
            view,
            machine,
            actions: Vec::new(),
            faults: Vec::new(),
        }
    }

    /// What to do now.
    pub fn decide(mut self) -> Vec<Action> {
        if self.view.round == 0 {
            self.machine.denied.clear();
        }
        if !self.cluster.presence.contains_key(self.node) {
            return self.actions;
        }
        self.record_outcomes();
        if self.actions.is_empty() {
            self.contend();
        }
        if !self.actions.is_empty() {
            return self.actions;
        }
        let situation = self.machine.planner.map(|fence| self.plan(fence));
        if self.actions.is_empty() {
            self.participate();
        }
        if let Some(situation) = situation
            && self.actions.is_empty()
        {
            self.report(situation);
        }
        self.actions
    }

    /// Sets a timer unless it runs or is over.
    pub fn set_timer(&mut self, key: TimerKey, after: Duration) {
        if self.machine.timers.contains_key(&key) {
            return;
        }
        self.machine.timers.insert(key.clone(), Timer::Running);
        self.actions.push(Action::SetTimer { key, after });
    }

    /// Whether the deployment is to go.
    pub fn is_removing(record: &WishRecord) -> bool {
        record.removal.is_some()
    }

    /// Whether nothing is left to do for a deployment that is gone.
    pub fn is_gone(&self) -> bool {
        let Some(record) = &self.view.record else {
            return false;
        };
        let Some(removal) = &record.removal else {
            return false;
        };
        let done = self.view.generation.as_ref().is_some_and(|generation| {
            let result = generation.result.as_ref().map(|result| result.outcome);
            generation.intent.removed && result == Some(Outcome::Done)
        });
        self.view.wish == WishFile::Absent && (removal.successor.is_some() || done)
    }

    /// Nodes of the wish, and those that earlier generations may have left something on.
    pub fn participants(&self, record: &WishRecord) -> BTreeSet<NodeName> {
        let mut nodes: BTreeSet<NodeName> = record.spec.nodes.iter().cloned().collect();
        if let Some(generation) = &self.view.generation {
            nodes.extend(left_over(generation));
        }
        nodes
    }

    /// The newest generation's number, 0 when there is none.
    pub fn generation_number(&self) -> Generation {
        self.view
            .generation
            .as_ref()
            .map_or(Generation(0), GenerationView::number)
    }

    /// What a fresh observation of `node` has to answer to.
    pub fn answers_of(&self, record: &WishRecord, node: &str) -> Answers {
        let generation = self.view.generation.as_ref();
        Answers {
            wish_revision: record.since_revision,
            removed: Self::is_removing(record),
            generation: self.generation_number(),
            closed: generation.is_none_or(|generation| !generation.is_open()),
            seq: generation.map_or(0, |generation| generation.seq(node)),
            presence: self.cluster.presence.get(node).copied().unwrap_or(0),
        }
    }

    /// Whether `given` is as good as `wanted`: an observation of an open generation stays good after its end if no step
    /// of the node could start any more.
    pub fn is_fresh(&self, node: &str, given: &Answers, wanted: &Answers) -> bool {
        let settled = self
            .view
            .generation
            .as_ref()
            .is_none_or(|generation| generation.is_settled_on(node));
        let closed = given.closed == wanted.closed || (settled && wanted.closed);
        closed
            && Answers {
                closed: wanted.closed,
                ..given.clone()
            } == *wanted
    }

    /// What a driver is told of this deployment on this node.
    pub fn scope(&self, record: &WishRecord) -> Scope {
        let wish = (!Self::is_removing(record)).then(|| record.spec.wish(&self.view.id));
        Scope {
            deployment: self.view.id.to_string(),
            uid: record.uid.clone(),
            node: self.node.to_owned(),
            wish,
        }
    }

    fn contend(&mut self) {
        if self.machine.planner.is_some() {
            if self.is_gone() && self.machine.running.is_empty() {
                self.release_when_gone();
            }
            return;
        }
        if !self.is_worth_planning() {
            return;
        }
        let Some(rank) = self.rank() else {
            return;
        };
        match &self.view.planner {
            LockView::Held(holder) if holder != self.node => return,
            LockView::Delayed | LockView::Held(_) => {
                if self.machine.denied.contains(PLANNER_LOCK) {
                    self.retry_lock_later();
                    return;
                }
            }
            LockView::Free => {}
        }
        if self.machine.denied.contains(PLANNER_LOCK) {
            return;
        }
        let turn = TimerKey::PlannerTurn(self.view.id.clone());
        if rank > 0 && !self.machine.is_over(&turn) {
            self.set_timer(turn, PLANNER_RANK_DELAY * rank);
            return;
        }
        self.machine.timers.remove(&turn);
        self.actions.push(Action::TryLock {
            deployment: self.view.id.clone(),
            lock: PLANNER_LOCK.to_owned(),
        });
    }

    /// Lets the lock go once people were told that the deployment is gone.
    fn release_when_gone(&mut self) {
        if self.view.told != Some(Phase::Removed) {
            return;
        }
        self.machine.planner = None;
        self.actions.push(Action::ReleaseLock {
            deployment: self.view.id.clone(),
            lock: PLANNER_LOCK.to_owned(),
        });
    }

    pub fn retry_lock_later(&mut self) {
        let key = TimerKey::Lock(self.view.id.clone());
        if self.machine.is_over(&key) {
            self.machine.timers.remove(&key);
        }
        self.set_timer(key, LOCK_RETRY);
    }

    fn is_worth_planning(&self) -> bool {
        let nothing_wished = matches!(self.view.wish, WishFile::Absent | WishFile::Emptied);
        let nothing_known = self.view.record.is_none() && self.view.generation.is_none();
        let nothing = nothing_wished && nothing_known;
        let settled = self.is_gone() && self.view.told == Some(Phase::Removed);
        !nothing && !settled
    }

    /// This node's place among those that may plan: those that take part and have presence, else all that have.
    fn rank(&self) -> Option<u32> {
        let mut nodes = BTreeSet::new();
        if let Some(record) = &self.view.record {
            nodes.extend(self.participants(record));
        }
        if let WishFile::Present(document) = &self.view.wish
            && let Ok(desired) = &document.desired
        {
            nodes.extend(desired.spec.nodes.iter().cloned());
        }
        let present = &self.cluster.presence;
        let mut candidates: Vec<&str> = nodes
            .iter()
            .map(String::as_str)
            .filter(|node| present.contains_key(*node))
            .collect();
        if candidates.is_empty() {
            candidates = present.keys().map(String::as_str).collect();
        }
        candidates.sort_by_cached_key(|node| rendezvous(self.view.id.as_str(), node));
        let place = candidates.iter().position(|node| *node == self.node)?;
        u32::try_from(place).ok()
    }
}

/// Nodes that `generation` may have left something on.
fn left_over(generation: &GenerationView) -> Vec<NodeName> {
    let done = generation
        .result
        .as_ref()
        .is_some_and(|result| result.outcome == Outcome::Done);
    if !done {
        return generation.intent.participants.iter().cloned().collect();
    }
    if generation.intent.removed {
        return Vec::new();
    }
    // Those that were away when it ended may still have what it wanted gone.
    let away = generation
        .intent
        .participants
        .difference(&generation.plan.present);
    generation
        .intent
        .spec
        .nodes
        .iter()
        .chain(away)
        .cloned()
        .collect()
}

/// Highest random weight: each deployment prefers other nodes, all agents agree on the order.
fn rendezvous(deployment: &str, node: &str) -> String {
    sha256_hex(format!("{deployment}\0{node}").as_bytes())
}
