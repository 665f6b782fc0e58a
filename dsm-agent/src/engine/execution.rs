//! Starting this node's steps: what a step needs, its lock, its next attempt.
//!
//! Invariants: a step starts only if the newest generation is open, is what the accepted wish asks for, and all that
//! the step needs has succeeded; after a start of the agent nothing runs before this node was observed once.

use std::collections::BTreeMap;

use drivers::driver::{Disruption, Step};

use super::action::{Action, StartStep, TimerKey};
use super::digest::canonical_digest;
use super::log::{Entry, Ev, StepState};
use super::machine::Running;
use super::pass::Pass;
use super::record::{PlannedStep, WishRecord};
use super::view::GenerationView;

impl Pass<'_> {
    pub(super) fn run_steps(&mut self, record: &WishRecord) {
        let Some(generation) = &self.view.generation else {
            return;
        };
        let wanted = self.is_wanted(record, generation);
        let paused = record.paused || record.policy.paused;
        if !generation.is_open() || !wanted || paused || generation.failure().is_some() {
            return;
        }
        // A crash may have left a step half done: the observation comes first.
        if !self.machine.observed_once || self.machine.observing.is_some() {
            return;
        }
        if generation.is_settled_on(self.node) || !self.hold_claims(record) {
            return;
        }
        for planned in &generation.plan.steps {
            if planned.step.node == self.node {
                self.consider_step(record, generation, planned);
            }
        }
    }

    fn consider_step(
        &mut self,
        record: &WishRecord,
        generation: &GenerationView,
        planned: &PlannedStep,
    ) {
        let step = &planned.step;
        let key = (generation.number(), step.id.clone());
        if self.machine.running.contains_key(&key) {
            return;
        }
        let trace = generation.trace(&step.id);
        let attempt = trace.map_or(0, |trace| trace.attempts) + 1;
        match generation.state(&step.id) {
            StepState::Ready | StepState::Running => {}
            StepState::FailedRetryable => {
                let failures = trace.map_or(0, |trace| trace.failures);
                if !self.is_retry_due(generation, step, attempt, failures) {
                    return;
                }
            }
            StepState::Done | StepState::FailedPermanent | StepState::Void => return,
        }
        let mut inputs = BTreeMap::new();
        for need in &step.needs {
            match generation.trace(need) {
                Some(trace) if trace.state == StepState::Done => {
                    inputs.insert(need.clone(), trace.out.clone());
                }
                _ => return,
            }
        }
        let Some((lock, fence)) = self.hold_lock(record, generation, step) else {
            return;
        };
        let entry = Entry {
            in_digest: Some(canonical_digest(&(&planned.args_digest, &inputs))),
            ..Entry::of(Ev::Started, &step.id, attempt)
        };
        if let Some(lock) = &lock {
            self.actions.push(Action::Append {
                deployment: self.view.id.clone(),
                generation: generation.number(),
                entry: Entry {
                    note: Some(format!("{lock}, fence {fence}")),
                    ..Entry::of(Ev::LockAcquired, &step.id, attempt)
                },
            });
        }
        let running = Running {
            attempt,
            end: None,
            note: None,
            is_cancelled: false,
        };
        self.machine.running.insert(key, running);
        self.actions.push(Action::StartStep(Box::new(StartStep {
            deployment: self.view.id.clone(),
            generation: generation.number(),
            driver: generation.intent.driver.name.clone(),
            step: step.clone(),
            attempt,
            entry,
            scope: self.scope(record),
            lock,
            fence,
            inputs,
        })));
    }

    fn is_retry_due(
        &mut self,
        generation: &GenerationView,
        step: &Step,
        attempt: u32,
        failures: u32,
    ) -> bool {
        if failures == 0 {
            return true;
        }
        let id = self.view.id.clone();
        let key = TimerKey::Retry(id, generation.number(), step.id.clone(), attempt);
        if self.machine.is_over(&key) {
            return true;
        }
        let policy = self
            .drivers
            .retry_policy(&generation.intent.driver.name, &step.op);
        let doubled = policy
            .delay_min
            .saturating_mul(1 << failures.saturating_sub(1).min(16));
        self.set_timer(key, doubled.min(policy.delay_max));
        false
    }

    /// The step's lock and its fence (presence when it has none), or `None` while it is not held.
    fn hold_lock(
        &mut self,
        record: &WishRecord,
        generation: &GenerationView,
        step: &Step,
    ) -> Option<(Option<String>, u64)> {
        let Some(wanted) = &step.lock else {
            let presence = self.cluster.presence.get(self.node).copied()?;
            return Some((None, presence));
        };
        let used = |lock: &str| {
            self.machine.running.keys().any(|(_, id)| {
                let other = generation
                    .plan
                    .step(id)
                    .and_then(|step| step.lock.as_deref());
                other.is_some_and(|other| is_lock_for(lock, other))
            })
        };
        let held = self
            .machine
            .held
            .iter()
            .find(|(held, _)| is_lock_for(held, wanted));
        if let Some((lock, fence)) = held {
            return (!used(lock)).then(|| (Some(lock.clone()), *fence));
        }
        if wanted == SLOT && self.is_limit_reached(record, generation) {
            return None;
        }
        let candidate = if wanted == SLOT {
            (0..record.policy.max_unavailable)
                .map(|slot| format!("{SLOT}/{slot}"))
                .find(|slot| !self.machine.denied.contains(slot))
        } else {
            Some(wanted.clone()).filter(|lock| !self.machine.denied.contains(lock))
        };
        match candidate {
            Some(lock) => {
                let deployment = self.view.id.clone();
                self.actions.push(Action::TryLock { deployment, lock });
            }
            None => self.retry_lock_later(),
        }
        None
    }

    /// A slot is unusable while any log shows a disruptive step without outcome.
    fn is_limit_reached(&self, record: &WishRecord, generation: &GenerationView) -> bool {
        let under_way = generation.plan.steps.iter().filter(|planned| {
            planned.step.disruption > Disruption::Reload
                && planned.step.lock.as_deref() == Some(SLOT)
                && planned.step.node != self.node
                && generation.state(&planned.step.id) == StepState::Running
        });
        under_way.count() >= record.policy.max_unavailable as usize
    }
}

/// The lock that stands for any free slot.
const SLOT: &str = "slot";

/// Whether the lock file `held` is what a step that wants `wanted` needs.
pub(super) fn is_lock_for(held: &str, wanted: &str) -> bool {
    held == wanted || (wanted == SLOT && held.starts_with("slot/"))
}
