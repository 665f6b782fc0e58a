//! Going on after a difference: what an observation still asks for, and whether that is done again.
//!
//! Invariants: what did not last is done again a bounded number of times, then a person is told what fights for it.

use std::collections::BTreeSet;

use drivers::driver::{NodeName, Plan, Step};

use super::log::StepState;
use super::pass::Pass;
use super::record::{Outcome, PlannedStep, Reason, Trouble, WishRecord};
use super::status::Situation;
use super::view::GenerationView;
use crate::limits::RESUMES_A_MINUTE_MAX;

impl Pass<'_> {
    /// All steps are done: an observation must find nothing left to do.
    pub(super) fn verify(
        &mut self,
        record: &WishRecord,
        generation: &GenerationView,
        present: &BTreeSet<NodeName>,
    ) -> Situation {
        let missing = self.not_fresh(record, present);
        if !missing.is_empty() {
            return Situation::Converging(Vec::new());
        }
        let troubles = self.troubles(present);
        if !troubles.is_empty() {
            return Situation::troubled(troubles);
        }
        let input = self.plan_input(record, present, false);
        match self.drivers.plan(&record.spec.driver, &input) {
            Ok(plan) => {
                self.end_verified(record, generation, plan);
                Situation::Converging(Vec::new())
            }
            Err(refusal) => Situation::refused(refusal),
        }
    }

    /// Ends a generation whose steps are all done, by what an observation leaves to do.
    fn end_verified(&mut self, record: &WishRecord, generation: &GenerationView, left: Plan) {
        let repeated = left.steps.into_iter().map(PlannedStep::of).find(|step| {
            generation.plan.steps.iter().any(|known| {
                known.step.node == step.step.node && known.args_digest == step.args_digest
            })
        });
        let Some(PlannedStep { step, .. }) = repeated else {
            self.finish(generation, Outcome::Done, "as wished".to_owned(), "");
            return;
        };
        // What a restart or somebody else undid is done again once; a step that never lasts is a fault of the driver.
        let is_second_time = generation.intent.reason == Reason::Resume;
        if is_second_time && !self.has_restarted(generation, &step.node) {
            let reason = format!(
                "{} succeeded, and the observation afterwards asks for it again: a fault of driver {}",
                step.title, record.spec.driver
            );
            let hint = "report it with the output of: dsm-agent audit";
            self.finish(generation, Outcome::Failed, reason, hint);
            return;
        }
        let reason = format!(
            "{} on {} did not last; it is done again",
            step.title, step.node
        );
        self.finish(generation, Outcome::Superseded, reason, "");
    }

    /// Why the open generation cannot go on as planned: a step fails, and an agent was started since the plan was made.
    /// What the plan rests on there may not have lasted (a service that runs, a file under `/run`), and only a new plan
    /// asks for it again. It happens once a start: an agent observes an unfinished generation only when it starts.
    pub(super) fn fails_after_restart(&self, generation: &GenerationView) -> Option<String> {
        let fails = |step: &&Step| {
            let is_failed = matches!(
                generation.state(&step.id),
                StepState::FailedRetryable | StepState::FailedPermanent
            );
            // A lock that was lost is no failure.
            is_failed
                && generation
                    .trace(&step.id)
                    .is_some_and(|trace| trace.failures > 0)
        };
        let mut steps = generation.plan.steps.iter().map(|planned| &planned.step);
        let failing = steps.find(fails)?;
        let (node, _) = self.view.observed.iter().find(|(node, seen)| {
            let in_this_one = seen.answers.generation == generation.number();
            in_this_one && self.cluster.presence.get(*node) == Some(&seen.answers.presence)
        })?;
        Some(format!(
            "{} fails, and {node} was restarted since it was planned; what did not last is done again",
            failing.title
        ))
    }

    /// Whether the agent of `node` has taken presence anew since its last line.
    fn has_restarted(&self, generation: &GenerationView, node: &str) -> bool {
        let last = generation.logs.get(node).and_then(|log| log.lines.last());
        last.is_some_and(|line| self.cluster.presence.get(node) != Some(&line.fence))
    }
}

/// Whether an ended generation may be followed by one for the same wish although nobody asked.
pub(super) fn may_go_on(last: Option<&GenerationView>, present: &BTreeSet<NodeName>) -> bool {
    let Some(result) = last.and_then(|last| last.result.as_ref()) else {
        return true;
    };
    match result.outcome {
        Outcome::Done | Outcome::Superseded => true,
        // A member that was away then and is back changes what is possible.
        Outcome::Failed => present.iter().any(|node| !result.present.contains(node)),
        Outcome::Abandoned | Outcome::Undone | Outcome::Stuck => false,
    }
}

pub(super) fn fought_over(plan: &Plan) -> Trouble {
    let what = plan.steps.first().map_or("", |step| step.title.as_str());
    let often = format!("was due again more than {RESUMES_A_MINUTE_MAX} times in a minute");
    Trouble::blocks(
        format!("something else keeps changing this deployment: \"{what}\" {often}"),
        "find what changes it (configuration management, a person), then: dsm-agent retry",
    )
}
