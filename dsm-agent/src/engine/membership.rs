//! Members that are away: who has presence, the graces, and when the others go on without them.
//!
//! Invariants: a restart of an agent or a machine is no loss of a member; the grace runs on this agent's own clock.

use std::collections::BTreeSet;

use drivers::driver::NodeName;

use super::action::TimerKey;
use super::pass::Pass;
use super::record::{Outcome, Trouble, WishRecord};
use super::status::Situation;
use super::view::GenerationView;
use crate::limits::MEMBER_GRACE;

impl Pass<'_> {
    /// Participants with presence, and the others.
    pub(super) fn split_presence(
        &self,
        nodes: &BTreeSet<NodeName>,
    ) -> (BTreeSet<NodeName>, BTreeSet<NodeName>) {
        nodes
            .iter()
            .cloned()
            .partition(|node| self.cluster.presence.contains_key(node))
    }

    /// Whether all these members are away for longer than the grace.
    pub(super) fn are_given_up(&mut self, absent: &BTreeSet<NodeName>) -> bool {
        let mut given_up = true;
        for node in absent {
            let key = TimerKey::MemberGrace(self.view.id.clone(), node.clone());
            if !self.machine.is_over(&key) {
                self.set_timer(key, MEMBER_GRACE);
                given_up = false;
            }
        }
        given_up
    }

    /// Forgets how long members were away that are here now.
    pub(super) fn welcome(&mut self, present: &BTreeSet<NodeName>) {
        for node in present {
            let key = TimerKey::MemberGrace(self.view.id.clone(), node.clone());
            self.machine.timers.remove(&key);
        }
    }

    /// Plans without members that are away for long, if the driver can.
    pub(super) fn watch_members(
        &mut self,
        record: &WishRecord,
        generation: &GenerationView,
        absent: &BTreeSet<NodeName>,
    ) -> Situation {
        let mut waiting = Vec::new();
        for node in &generation.intent.participants {
            let key = TimerKey::MemberGrace(self.view.id.clone(), node.clone());
            if !absent.contains(node) || generation.is_settled_on(node) {
                self.machine.timers.remove(&key);
                continue;
            }
            waiting.push(absent_member(node));
            if !self.machine.is_over(&key) {
                self.set_timer(key, MEMBER_GRACE);
                continue;
            }
            let present = generation
                .intent
                .participants
                .difference(absent)
                .cloned()
                .collect();
            let input = self.plan_input(record, &present, false);
            let possible = self.drivers.plan(&record.spec.driver, &input);
            if possible.is_ok_and(|plan| plan.steps.iter().all(|step| present.contains(&step.node)))
            {
                self.machine.timers.remove(&key);
                let reason = format!("member {node} was lost");
                self.finish(generation, Outcome::Superseded, reason, "");
                break;
            }
        }
        Situation::Converging(waiting)
    }
}

pub(super) fn absent_member(node: &str) -> Trouble {
    Trouble::waits(
        format!("node {node} has no presence: its agent, vfsd or the machine is down"),
        &format!("start {node}; or see on its console: systemctl status vfsd dsm-agent"),
    )
    .on(node)
}
