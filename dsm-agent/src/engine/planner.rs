//! The planner's share: what its holder does next, from the accepted wish to the settled deployment.
//!
//! Invariants: only the holder of the planner's lock comes here; a generation is planned from fresh observations of all
//! participants that have presence; a generation that is open is ended (`result.json`) before observations for the next
//! one count, so that no step of it starts behind the plan's back.
//! Not here: wishes and requests (`acceptance.rs`), members that are away (`membership.rs`), the plan and its
//! generation (`generation.rs`), going on after a difference (`resumption.rs`).

use std::collections::BTreeSet;

use drivers::driver::{Health, NodeName};

use super::action::{Action, TimerKey};
use super::membership::absent_member;
use super::pass::Pass;
use super::record::{Outcome, Reason, Trouble, WishRecord};
use super::resumption::{fought_over, may_go_on};
use super::status::Situation;
use super::view::GenerationView;
use crate::limits::{RESUME_WINDOW, RESUMES_A_MINUTE_MAX};

impl Pass<'_> {
    /// What the planner does now, and what is to be said about the deployment if nothing is to do.
    pub(super) fn plan(&mut self, fence: u64) -> Situation {
        if !self.view.broken.is_empty() {
            return Situation::Blocked(self.view.broken.clone());
        }
        self.accept_wish(fence);
        if !self.actions.is_empty() {
            return Situation::Planning(Vec::new());
        }
        let Some(record) = self.view.record.clone() else {
            return match std::mem::take(&mut self.faults) {
                faults if faults.is_empty() => Situation::Gone(None),
                faults => Situation::Blocked(faults),
            };
        };
        if let Some(situation) = self.consider_requests(&record) {
            return situation;
        }
        if let Some(situation) = self.consider_absence(&record) {
            return situation;
        }
        match self
            .view
            .generation
            .as_ref()
            .filter(|generation| generation.is_open())
        {
            Some(generation) => self.supervise(&record, generation),
            None => self.next_generation(&record, fence),
        }
    }

    /// Looks after the open generation.
    fn supervise(&mut self, record: &WishRecord, generation: &GenerationView) -> Situation {
        let removing = Self::is_removing(record);
        if generation.intent.digest != record.digest || generation.intent.removed != removing {
            let what = if removing {
                "the wish was deleted"
            } else {
                "a newer wish"
            };
            self.finish(generation, Outcome::Superseded, what.to_owned(), "");
            return Situation::Planning(Vec::new());
        }
        if record.paused || record.policy.paused {
            return Situation::Paused;
        }
        let (present, absent) = self.split_presence(&generation.intent.participants);
        if let Some(reason) = self.fails_after_restart(generation) {
            self.finish(generation, Outcome::Superseded, reason, "");
            return Situation::Planning(Vec::new());
        }
        if let Some((step, trace)) = generation.failure() {
            let busy = present.iter().any(|node| generation.is_running_on(node));
            if !busy {
                let error = trace.err.clone();
                let message = error.as_ref().map_or("it failed", |err| err.msg.as_str());
                let reason = format!("{} ({}): {message}", step.title, step.id);
                let hint = error.map(|err| err.hint).unwrap_or_default();
                self.finish(generation, Outcome::Failed, reason, &hint);
            }
            return Situation::Converging(Vec::new());
        }
        if generation.all_done() {
            return self.verify(record, generation, &present);
        }
        let deadline = TimerKey::Deadline(self.view.id.clone(), generation.number());
        if self.machine.take_over(&deadline) {
            let limit = record.policy.deadline().as_secs();
            let reason = format!("it was not done within the deadline of {limit} s");
            let hint = "raise policy.deadline in the wish, if it only needs longer";
            self.finish(generation, Outcome::Failed, reason, hint);
            return Situation::Converging(Vec::new());
        }
        self.set_timer(deadline, record.policy.deadline());
        let troubles = self.troubles(&present);
        if troubles.iter().any(|trouble| !trouble.waits) {
            return Situation::Blocked(troubles);
        }
        self.watch_members(record, generation, &absent)
    }

    fn next_generation(&mut self, record: &WishRecord, fence: u64) -> Situation {
        let last = self.view.generation.as_ref();
        let removing = Self::is_removing(record);
        if record.paused || record.policy.paused {
            return Situation::Paused;
        }
        let (present, absent) = self.split_presence(&self.participants(record));
        self.welcome(&present);
        let waits: Vec<_> = absent.iter().map(|node| absent_member(node)).collect();
        if present.is_empty() || (last.is_none() && !removing && !absent.is_empty()) {
            return Situation::Waiting(waits);
        }
        let missing = self.not_fresh(record, &present);
        if !missing.is_empty() {
            return Situation::Planning(missing);
        }
        let troubles = self.troubles(&present);
        if !troubles.is_empty() {
            return Situation::troubled(troubles);
        }
        let changed = last.is_none_or(|last| {
            last.intent.digest != record.digest || last.intent.removed != removing
        });
        let input = self.plan_input(record, &present, false);
        let plan = match self.checked_plan(record, &input) {
            Ok(plan) => plan,
            Err(situation) if changed || absent.is_empty() => return situation,
            Err(situation) => return situation.degraded(waits),
        };
        if plan.steps.is_empty() && !changed {
            return self.settled(record, &present, waits);
        }
        // A restart of an agent or a machine is no loss of a member.
        if !self.are_given_up(&absent) {
            return Situation::Degraded(waits);
        }
        let retry = self.retry_request();
        if !changed && retry.is_none() && !may_go_on(last, &present) {
            return Situation::Failed(waits);
        }
        let reason = self.reason(record, last, &present, changed, retry.is_some());
        if reason == Reason::Resume && self.machine.resumes >= RESUMES_A_MINUTE_MAX {
            return Situation::Blocked(vec![fought_over(&plan)]);
        }
        if reason == Reason::Resume {
            self.machine.resumes += 1;
            self.set_timer(TimerKey::Resumes(self.view.id.clone()), RESUME_WINDOW);
        }
        self.write_generation(record, fence, reason, retry, plan, &present);
        Situation::Planning(Vec::new())
    }

    fn settled(
        &mut self,
        record: &WishRecord,
        present: &BTreeSet<NodeName>,
        waits: Vec<Trouble>,
    ) -> Situation {
        if Self::is_removing(record) {
            return if waits.is_empty() {
                Situation::Gone(None)
            } else {
                Situation::Removing(waits)
            };
        }
        let health = self.health(record, present);
        if self.machine.outputs.as_ref() != Some(&health.outputs) {
            self.machine.outputs = Some(health.outputs.clone());
            self.actions.push(Action::WriteOutputs {
                deployment: self.view.id.clone(),
                outputs: health.outputs.clone(),
            });
        }
        Situation::Settled(waits)
    }

    /// What people see, measures included.
    pub(super) fn health(&self, record: &WishRecord, present: &BTreeSet<NodeName>) -> Health {
        let input = self.plan_input(record, present, true);
        self.drivers.health(&record.spec.driver, &input)
    }

    fn reason(
        &self,
        record: &WishRecord,
        last: Option<&GenerationView>,
        present: &BTreeSet<NodeName>,
        changed: bool,
        retry: bool,
    ) -> Reason {
        let Some(last) = last else {
            return match (&record.removal, &record.adopted_from) {
                (Some(_), _) => Reason::Remove,
                (None, Some(_)) => Reason::Adopted,
                (None, None) => Reason::Spec,
            };
        };
        if changed {
            return if Self::is_removing(record) {
                Reason::Remove
            } else {
                Reason::Spec
            };
        }
        if retry {
            Reason::Retry
        } else if last.plan.present.iter().any(|node| !present.contains(node)) {
            Reason::MemberLost
        } else if present.iter().any(|node| !last.plan.present.contains(node)) {
            Reason::MemberJoined
        } else {
            Reason::Resume
        }
    }
}
