//! Starting this node's steps: what a step needs, its lock, its next attempt.
//!
//! Invariants: a step starts only if the newest generation is open, is what the accepted wish asks for, and all that
//! the step needs has succeeded; after a start of the agent nothing runs before this node was observed once. What a
//! step waits for is written only when it differs from what the log says, so that own lines wake nobody into a loop.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use drivers::driver::{Disruption, Step, StepId};
use serde_json::Value;

use super::action::{Action, StartStep, TimerKey};
use super::digest::canonical_digest;
use super::log::{Entry, Ev, StepState};
use super::machine::Running;
use super::pass::Pass;
use super::record::{PlannedStep, WishRecord};
use super::view::GenerationView;
use crate::limits::{LOG_NOTES_MAX, WAIT_UNTOLD_MAX};

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
        let needless = self.needless_steps(record, generation);
        let mut waits = BTreeMap::new();
        for planned in &generation.plan.steps {
            let id = &planned.step.id;
            if planned.step.node != self.node {
                continue;
            }
            if needless.contains(id) {
                self.skip(generation, planned);
            } else if let Some(what) = self.consider_step(record, generation, planned) {
                waits.insert(id, what);
            }
        }
        self.tell(generation, &needless, &waits);
    }

    /// Tells that own steps are planned, and what they wait for where that is news: with the first step that starts, in
    /// its write; without one, when it has lasted.
    fn tell(
        &mut self,
        generation: &GenerationView,
        needless: &BTreeSet<StepId>,
        waits: &BTreeMap<&StepId, String>,
    ) {
        let key = TimerKey::Wait(self.view.id.clone());
        let mut news = self.news(generation, needless, waits);
        let lines = generation.seq(self.node) + news.len() as u64;
        if news.is_empty() || lines > LOG_NOTES_MAX {
            self.machine.timers.remove(&key);
            return;
        }
        let is_over = self.machine.is_over(&key);
        let starts = self.actions.iter_mut().find_map(|action| match action {
            Action::StartStep(start) => Some(start),
            _ => None,
        });
        if let Some(start) = starts {
            news.retain(|entry| is_over || entry.ev == Ev::Planned);
            start.before.splice(0..0, news);
        } else if is_over {
            self.machine.timers.remove(&key);
            self.actions.push(Action::Note {
                deployment: self.view.id.clone(),
                generation: generation.number(),
                entries: news,
            });
        } else {
            self.set_timer(key, WAIT_UNTOLD_MAX);
        }
    }

    /// What the log does not say yet of own steps.
    fn news(
        &self,
        generation: &GenerationView,
        needless: &BTreeSet<StepId>,
        waits: &BTreeMap<&StepId, String>,
    ) -> Vec<Entry> {
        let log = generation.logs.get(self.node);
        let trace = |step: &StepId| log.and_then(|log| log.steps.get(step));
        let mut entries = Vec::new();
        for (step, _) in generation.steps_of(self.node) {
            if trace(&step.id).is_none() && !needless.contains(&step.id) {
                entries.push(Entry::of(Ev::Planned, &step.id, 0));
            }
        }
        for (step, what) in waits {
            let told = trace(step).and_then(|trace| trace.waits.as_ref());
            // The table has no wait for a step that a crash left half done.
            if told != Some(what) && generation.state(step) != StepState::Running {
                entries.push(Entry {
                    note: Some(what.clone()),
                    ..Entry::of(Ev::Waiting, step, 0)
                });
            }
        }
        entries
    }

    /// Own steps that the driver does not ask for any more, by an observation that is newer than the plan: somebody
    /// else did them. Only while no own step has begun, and only steps that stand alone: later the observation shows
    /// half of the plan, and the driver may leave out what the other half still needs.
    fn needless_steps(&self, record: &WishRecord, generation: &GenerationView) -> BTreeSet<StepId> {
        let mut states = generation.steps_of(self.node).map(|(_, state)| state);
        let Some(seen) = self.view.observed.get(self.node) else {
            return BTreeSet::new();
        };
        let is_newer = Some(&seen.answers.presence) == self.cluster.presence.get(self.node)
            && generation.plan.observed.get(self.node) != Some(&canonical_digest(&seen.facts));
        let has_begun = states.any(|state| state != StepState::Ready);
        if !is_newer || has_begun || seen.trouble.is_some() {
            return BTreeSet::new();
        }
        let input = self.plan_input(record, &generation.plan.present, false);
        let Ok(now) = self.checked_plan(record, &input) else {
            return BTreeSet::new();
        };
        let asked: BTreeSet<_> = now
            .steps
            .into_iter()
            .map(|step| (step.node.clone(), PlannedStep::of(step).args_digest))
            .collect();
        let steps = &generation.plan.steps;
        let needed: BTreeSet<_> = steps.iter().flat_map(|other| &other.step.needs).collect();
        let needless = steps.iter().filter(|planned| {
            let step = &planned.step;
            step.node == self.node
                && step.needs.is_empty()
                && !needed.contains(&step.id)
                && !asked.contains(&(step.node.clone(), planned.args_digest.clone()))
        });
        needless.map(|planned| planned.step.id.clone()).collect()
    }

    fn skip(&mut self, generation: &GenerationView, planned: &PlannedStep) {
        let inputs = BTreeMap::<StepId, Value>::new();
        self.actions.push(Action::Append {
            deployment: self.view.id.clone(),
            generation: generation.number(),
            entry: Entry {
                in_digest: Some(canonical_digest(&(&planned.args_digest, &inputs))),
                note: Some("a newer observation finds it in place".to_owned()),
                ..Entry::of(Ev::Skipped, &planned.step.id, 0)
            },
        });
    }

    /// Starts a step, or says what it waits for that is not this node's own work.
    fn consider_step(
        &mut self,
        record: &WishRecord,
        generation: &GenerationView,
        planned: &PlannedStep,
    ) -> Option<String> {
        let step = &planned.step;
        let key = (generation.number(), step.id.clone());
        if self.machine.running.contains_key(&key) {
            return None;
        }
        let trace = generation.trace(&step.id);
        let attempt = trace.map_or(0, |trace| trace.attempts) + 1;
        match generation.state(&step.id) {
            StepState::Ready | StepState::Running => {}
            StepState::FailedRetryable => {
                let failures = trace.map_or(0, |trace| trace.failures);
                if let Some(pause) = self.pause_before(generation, step, attempt, failures) {
                    let pause = pause.as_millis();
                    return Some(format!("a pause of {pause} ms before attempt {attempt}"));
                }
            }
            StepState::Done | StepState::FailedPermanent | StepState::Void => return None,
        }
        if let Some(awaited) = awaited_step(generation, step) {
            // A step of this node is under way or waits itself.
            let is_own = awaited.node == self.node;
            return (!is_own).then(|| format!("{} {}", awaited.node, awaited.title));
        }
        match self.hold_lock(record, generation, step) {
            Hold::Held(lock, fence) => {
                self.start(record, generation, planned, attempt, lock, fence);
                None
            }
            Hold::Soon => None,
            Hold::Elsewhere(what) => Some(what),
        }
    }

    fn start(
        &mut self,
        record: &WishRecord,
        generation: &GenerationView,
        planned: &PlannedStep,
        attempt: u32,
        lock: Option<String>,
        fence: u64,
    ) {
        let step = &planned.step;
        let outputs = step
            .needs
            .iter()
            .filter_map(|need| Some((need.clone(), generation.trace(need)?.out.clone())));
        let inputs: BTreeMap<StepId, Value> = outputs.collect();
        let entry = Entry {
            in_digest: Some(canonical_digest(&(&planned.args_digest, &inputs))),
            ..Entry::of(Ev::Started, &step.id, attempt)
        };
        let acquired = lock.as_ref().map(|lock| Entry {
            note: Some(format!("{lock}, fence {fence}")),
            ..Entry::of(Ev::LockAcquired, &step.id, attempt)
        });
        let running = Running {
            attempt,
            end: None,
            note: None,
            is_cancelled: false,
        };
        let key = (generation.number(), step.id.clone());
        self.machine.running.insert(key, running);
        self.actions.push(Action::StartStep(Box::new(StartStep {
            deployment: self.view.id.clone(),
            generation: generation.number(),
            driver: generation.intent.driver.name.clone(),
            step: step.clone(),
            attempt,
            before: acquired.into_iter().collect(),
            entry,
            scope: self.scope(record),
            lock,
            fence,
            inputs,
        })));
    }

    /// How long a failed step pauses, while it does.
    fn pause_before(
        &mut self,
        generation: &GenerationView,
        step: &Step,
        attempt: u32,
        failures: u32,
    ) -> Option<Duration> {
        if failures == 0 {
            return None;
        }
        let id = self.view.id.clone();
        let key = TimerKey::Retry(id, generation.number(), step.id.clone(), attempt);
        if self.machine.is_over(&key) {
            return None;
        }
        let policy = self
            .drivers
            .retry_policy(&generation.intent.driver.name, &step.op);
        let doubled = policy
            .delay_min
            .saturating_mul(1 << failures.saturating_sub(1).min(16));
        let pause = doubled.min(policy.delay_max);
        self.set_timer(key, pause);
        Some(pause)
    }

    /// The step's lock and its fence, presence when it has none.
    fn hold_lock(&mut self, record: &WishRecord, generation: &GenerationView, step: &Step) -> Hold {
        let Some(wanted) = &step.lock else {
            return match self.cluster.presence.get(self.node) {
                Some(fence) => Hold::Held(None, *fence),
                None => Hold::Soon,
            };
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
            return match used(lock) {
                true => Hold::Soon,
                false => Hold::Held(Some(lock.clone()), *fence),
            };
        }
        if wanted == SLOT && self.is_limit_reached(record, generation) {
            return Hold::Elsewhere(lock_words(record, wanted));
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
                Hold::Soon
            }
            None => {
                self.retry_lock_later();
                Hold::Elsewhere(lock_words(record, wanted))
            }
        }
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

/// Whether a step's lock is there.
enum Hold {
    /// It is, with its fence; no name when presence counts.
    Held(Option<String>, u64),
    /// It is being asked for, or another step of this node uses it.
    Soon,
    /// Another node has it; in words.
    Elsewhere(String),
}

/// The step that `step` waits for: one of its own node before others, else the first that is not done.
fn awaited_step<'a>(generation: &'a GenerationView, step: &Step) -> Option<&'a Step> {
    let pending = || {
        let needs = step
            .needs
            .iter()
            .filter_map(|need| generation.plan.step(need));
        needs.filter(|need| generation.state(&need.id) != StepState::Done)
    };
    pending()
        .find(|need| need.node == step.node)
        .or_else(|| pending().next())
}

/// The same words as long as the lock is not to be had, whatever step of the others is in the way.
fn lock_words(record: &WishRecord, wanted: &str) -> String {
    match wanted == SLOT {
        true => format!(
            "a free slot: max_unavailable is {}",
            record.policy.max_unavailable
        ),
        false => format!("lock {wanted}, which is not free"),
    }
}

/// The lock that stands for any free slot.
const SLOT: &str = "slot";

/// Whether the lock file `held` is what a step that wants `wanted` needs.
pub(super) fn is_lock_for(held: &str, wanted: &str) -> bool {
    held == wanted || (wanted == SLOT && held.starts_with("slot/"))
}
