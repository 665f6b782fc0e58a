//! A node's own share: recording outcomes, observing, claiming.
//!
//! Invariants: an outcome is kept until the log shows it; an observation names what it answers to, and is made only
//! while no step runs here.
//! Not here: starting steps (`execution.rs`).

use std::time::Duration;

use drivers::driver::{OpClass, StepId};
use serde_json::Value;

use super::action::{Action, TimerKey};
use super::event::StepEnd;
use super::execution::is_lock_for;
use super::id::Generation;
use super::log::{Entry, Ev, LineError, StepState};
use super::pass::Pass;
use super::record::{Claimant, FORMAT, Observed, Outcome, Trouble, WishRecord};
use super::view::GenerationView;
use crate::limits::{OBSERVE_DEGRADED, OBSERVE_RETRY};

impl Pass<'_> {
    /// Appends what is known of own steps and not in the log yet.
    pub(super) fn record_outcomes(&mut self) {
        let keys: Vec<_> = self.machine.running.keys().cloned().collect();
        for key in keys {
            let open = self
                .view
                .generation
                .as_ref()
                .filter(|found| found.number() == key.0);
            let Some(generation) = open else {
                // Its generation is not the newest any more: the outcome has nowhere to go, the observation tells it.
                if self.machine.running[&key].end.is_some() {
                    self.forget(&key);
                }
                continue;
            };
            self.record_outcome(generation, &key);
        }
    }

    fn record_outcome(&mut self, generation: &GenerationView, key: &(Generation, StepId)) {
        let running = self.machine.running[key].clone();
        let trace = generation.trace(&key.1);
        let recorded = trace.is_some_and(|trace| {
            trace.state != StepState::Running && trace.attempts >= running.attempt
        });
        if recorded {
            self.forget(key);
            return;
        }
        let append = |entry| Action::Append {
            deployment: self.view.id.clone(),
            generation: key.0,
            entry,
        };
        if let Some((end, dur_us)) = running.end {
            let driver = &generation.intent.driver.name;
            let op = generation
                .plan
                .step(&key.1)
                .map_or("", |step| step.op.as_str());
            let attempts_max = self.drivers.retry_policy(driver, op).attempts_max;
            let failures = trace.map_or(0, |trace| trace.failures) + 1;
            let mut entry = outcome_entry(&key.1, running.attempt, end, failures < attempts_max);
            entry.dur_us = Some(dur_us);
            self.actions.push(append(entry));
        } else if let Some(note) = running.note {
            let entry = Entry {
                note: Some(note),
                ..Entry::of(Ev::Progress, &key.1, running.attempt)
            };
            self.actions.push(append(entry));
            if let Some(running) = self.machine.running.get_mut(key) {
                running.note = None;
            }
        }
    }

    fn forget(&mut self, key: &(Generation, StepId)) {
        self.machine.running.remove(key);
        let lock = self
            .view
            .generation
            .as_ref()
            .and_then(|generation| generation.plan.step(&key.1))
            .and_then(|step| step.lock.clone());
        let Some(wanted) = lock else {
            return;
        };
        // One step of a node holds at most one slot at a time; roles are held by name.
        let held = self
            .machine
            .held
            .keys()
            .find(|held| is_lock_for(held, &wanted))
            .cloned();
        if let Some(lock) = held {
            self.machine.held.remove(&lock);
            self.actions.push(Action::ReleaseLock {
                deployment: self.view.id.clone(),
                lock,
            });
        }
    }

    /// Does this node's share of the deployment.
    pub(super) fn participate(&mut self) {
        let Some(record) = &self.view.record else {
            return;
        };
        if !self.view.broken.is_empty() {
            return;
        }
        if record
            .removal
            .as_ref()
            .is_some_and(|removal| removal.successor.is_some())
        {
            return;
        }
        if !self.participants(record).contains(self.node) {
            self.drop_claims(record);
            return;
        }
        self.cancel_void_steps(record);
        self.close_own_steps();
        if !self.actions.is_empty() {
            return;
        }
        self.observe(record);
        if self.actions.is_empty() {
            self.run_steps(record);
        }
        if self.actions.is_empty() && self.is_gone() {
            self.drop_claims(record);
        }
    }

    /// Ends running steps that only read (waits) once their generation is void; all others run to their end.
    fn cancel_void_steps(&mut self, record: &WishRecord) {
        let Some(generation) = &self.view.generation else {
            return;
        };
        if generation.is_open() && self.is_wanted(record, generation) {
            return;
        }
        for ((number, id), running) in &mut self.machine.running {
            let only_reads = *number == generation.number()
                && generation
                    .plan
                    .step(id)
                    .is_some_and(|step| step.class == OpClass::Pure);
            if !only_reads || running.is_cancelled || running.end.is_some() {
                continue;
            }
            running.is_cancelled = true;
            self.actions.push(Action::CancelStep {
                deployment: self.view.id.clone(),
                generation: *number,
                step: id.clone(),
            });
        }
    }

    /// Whether the generation is for what the accepted wish asks.
    pub(super) fn is_wanted(&self, record: &WishRecord, generation: &GenerationView) -> bool {
        generation.intent.digest == record.digest
            && generation.intent.removed == Self::is_removing(record)
    }

    /// Says of own steps of a generation that was ended from outside that they are void.
    fn close_own_steps(&mut self) {
        let Some(generation) = &self.view.generation else {
            return;
        };
        let ev = match generation.result.as_ref().map(|result| result.outcome) {
            Some(Outcome::Superseded) => Ev::Superseded,
            Some(Outcome::Abandoned) => Ev::Abandoned,
            _ => return,
        };
        for (step, state) in generation.steps_of(self.node) {
            let under_way = self
                .machine
                .running
                .contains_key(&(generation.number(), step.id.clone()));
            if under_way || matches!(state, StepState::Done | StepState::Void) {
                continue;
            }
            self.actions.push(Action::Append {
                deployment: self.view.id.clone(),
                generation: generation.number(),
                entry: Entry::of(ev, &step.id, 0),
            });
        }
    }

    fn observe(&mut self, record: &WishRecord) {
        if self.machine.observing.is_some() || !self.machine.running.is_empty() {
            return;
        }
        let wanted = self.answers_of(record, self.node);
        if let Some((answers, result)) = self.machine.observed.take() {
            if answers == wanted {
                self.write_observation(record, answers, result);
                return;
            }
            self.machine.observe_again = true;
        }
        let before = self.view.observed.get(self.node);
        let fresh = before.is_some_and(|seen| self.is_fresh(self.node, &seen.answers, &wanted));
        let troubled = before.is_some_and(|seen| seen.trouble.is_some());
        let retry = match (troubled, wanted.closed && fresh && self.is_unwell(record)) {
            (true, _) => self.is_observe_due(OBSERVE_RETRY),
            (false, true) => self.is_observe_due(OBSERVE_DEGRADED),
            (false, false) => false,
        };
        let due = !self.machine.observed_once
            || retry
            || (wanted.closed && (self.machine.observe_again || !fresh))
            || (!fresh && self.is_awaited(record));
        if !due {
            return;
        }
        self.machine.observe_again = false;
        self.machine.observing = Some(wanted.clone());
        self.actions.push(Action::Observe {
            driver: record.spec.driver.clone(),
            scope: Box::new(self.scope(record)),
            answers: wanted,
        });
    }

    fn is_observe_due(&mut self, after: Duration) -> bool {
        let key = TimerKey::Observe(self.view.id.clone());
        if self.machine.take_over(&key) {
            return true;
        }
        self.set_timer(key, after);
        false
    }

    /// Whether the driver finds fault with what runs although nothing is to do.
    fn is_unwell(&self, record: &WishRecord) -> bool {
        if Self::is_removing(record) {
            return false;
        }
        let (present, _) = self.split_presence(&self.participants(record));
        !self.health(record, &present).degraded.is_empty()
    }

    /// Whether the planner waits for an observation of the open generation: all its steps are done.
    fn is_awaited(&self, record: &WishRecord) -> bool {
        self.view.generation.as_ref().is_some_and(|generation| {
            generation.all_done() && generation.intent.digest == record.digest
        })
    }

    fn write_observation(
        &mut self,
        record: &WishRecord,
        answers: super::record::Answers,
        result: Result<drivers::driver::Observation, Trouble>,
    ) {
        self.machine.observed_once = true;
        let (facts, measures, mut trouble) = match result {
            Ok(seen) => (seen.facts, seen.measures, None),
            Err(trouble) => (Value::Null, Value::Null, Some(trouble)),
        };
        if trouble.is_none() {
            self.machine.conflict = self.claim_conflict(record);
            trouble = self.machine.conflict.clone();
        }
        let same = self.view.observed.get(self.node).is_some_and(|before| {
            before.facts == facts
                && before.trouble == trouble
                && self.is_fresh(self.node, &before.answers, &answers)
        });
        let observed = Observed::new(self.node, answers, facts, measures, trouble);
        if !same {
            self.actions.push(Action::WriteObserved {
                deployment: self.view.id.clone(),
                observed: Box::new(observed),
            });
        }
    }

    /// Another deployment on this node that has what this one would take.
    fn claim_conflict(&self, record: &WishRecord) -> Option<Trouble> {
        if Self::is_removing(record) || !record.spec.nodes.iter().any(|node| node == self.node) {
            return None;
        }
        let wish = record.spec.wish(&self.view.id);
        for claim in self.drivers.claims(&record.spec.driver, &wish, &record.uid) {
            let key = format!("{} {}", claim.kind, claim.value);
            let Some(owner) = self.cluster.claims.claims.get(&key) else {
                continue;
            };
            if owner.uid != record.uid {
                return Some(Trouble {
                    field: Some(claim.field.clone()),
                    node: Some(self.node.to_owned()),
                    reason: format!("{key} on {} belongs to {}", self.node, owner.deployment),
                    hint: format!(
                        "change {}, or remove {} first",
                        claim.field, owner.deployment
                    ),
                    waits: false,
                });
            }
        }
        None
    }

    /// Takes the deployment's claims before the first effect; true when they are held.
    pub(super) fn hold_claims(&mut self, record: &WishRecord) -> bool {
        if Self::is_removing(record) || !record.spec.nodes.iter().any(|node| node == self.node) {
            return true;
        }
        if let Some(conflict) = self.claim_conflict(record) {
            if self.machine.conflict.as_ref() != Some(&conflict) {
                self.machine.conflict = Some(conflict);
                self.machine.observed_once = false;
            }
            return false;
        }
        let wish = record.spec.wish(&self.view.id);
        let mut claims = self.cluster.claims.clone();
        claims.format = FORMAT;
        claims.claims.retain(|_, owner| owner.uid != record.uid);
        for claim in self.drivers.claims(&record.spec.driver, &wish, &record.uid) {
            let owner = Claimant {
                deployment: self.view.id.clone(),
                uid: record.uid.clone(),
            };
            claims
                .claims
                .insert(format!("{} {}", claim.kind, claim.value), owner);
        }
        if claims.claims == self.cluster.claims.claims {
            return true;
        }
        self.actions.push(Action::WriteClaims(claims));
        false
    }

    /// Gives back what the deployment had here, also under the name that it was adopted from.
    fn drop_claims(&mut self, record: &WishRecord) {
        let mut claims = self.cluster.claims.clone();
        claims.claims.retain(|_, owner| owner.uid != record.uid);
        if claims.claims != self.cluster.claims.claims {
            self.actions.push(Action::WriteClaims(claims));
        }
    }
}

fn outcome_entry(step: &str, attempt: u32, end: StepEnd, may_retry: bool) -> Entry {
    match end {
        StepEnd::Succeeded(outcome) => Entry {
            out: outcome.outputs,
            changes: outcome.changes,
            ..Entry::of(Ev::Succeeded, step, attempt)
        },
        StepEnd::Failed {
            code,
            message,
            hint,
            retryable,
        } => Entry {
            err: Some(LineError {
                code,
                retryable: retryable && may_retry,
                msg: message,
                hint,
            }),
            ..Entry::of(Ev::Failed, step, attempt)
        },
        StepEnd::Fenced { reason } => Entry {
            note: Some(reason),
            ..Entry::of(Ev::LockLost, step, attempt)
        },
    }
}
