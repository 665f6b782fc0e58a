//! The status: what the planner's decision means for people, derived from the view alone.
//!
//! Invariants: every wait has its reason and, where a person can act, what to do; no number that changes by itself is
//! part of it, so that an unchanged deployment has an unchanged status.

use std::collections::BTreeSet;

use drivers::driver::{MemberHealth, NodeName, Refusal, Step};

use super::action::Action;
use super::id::DeploymentId;
use super::log::StepState;
use super::pass::Pass;
use super::record::{FORMAT, NodeStatus, Outcome, Phase, Status, Trouble, WishRecord};
use super::view::{GenerationView, WishFile};

/// Where the planner found the deployment.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Situation {
    /// A person is needed.
    Blocked(Vec<Trouble>),
    /// It goes on by itself.
    Waiting(Vec<Trouble>),
    /// A person paused it.
    Paused,
    /// These nodes have not answered with a fresh observation yet.
    Planning(Vec<NodeName>),
    /// Steps run; these are missing meanwhile.
    Converging(Vec<Trouble>),
    /// Nothing is to do; these are missing.
    Settled(Vec<Trouble>),
    /// It runs, and cannot do better now.
    Degraded(Vec<Trouble>),
    /// The last generation failed and nobody asked for another.
    Failed(Vec<Trouble>),
    /// It is being removed; these are missing.
    Removing(Vec<Trouble>),
    /// It is gone, or lives on under this name.
    Gone(Option<DeploymentId>),
}

impl Situation {
    /// By the worst of the troubles.
    pub fn troubled(troubles: Vec<Trouble>) -> Self {
        if troubles.iter().all(|trouble| trouble.waits) {
            Situation::Waiting(troubles)
        } else {
            Situation::Blocked(troubles)
        }
    }

    /// A driver's refusal to plan.
    pub fn refused(refusal: Refusal) -> Self {
        Self::troubled(vec![Trouble {
            field: refusal.field,
            node: refusal.node,
            reason: refusal.reason,
            hint: refusal.hint,
            waits: refusal.waits,
        }])
    }

    /// What had been reached runs on, while members are away.
    pub fn degraded(self, away: Vec<Trouble>) -> Self {
        match self {
            Situation::Waiting(mut troubles) => {
                troubles.extend(away);
                Situation::Degraded(troubles)
            }
            other => other,
        }
    }
}

impl Pass<'_> {
    /// Hands out the status if it differs from the last one.
    pub(super) fn report(&mut self, situation: Situation) {
        let status = self.status(situation);
        if self.machine.status.as_ref() == Some(&status) {
            return;
        }
        self.machine.status = Some(status.clone());
        self.actions.push(Action::WriteStatus(Box::new(status)));
    }

    fn status(&self, situation: Situation) -> Status {
        let record = self.view.record.as_ref();
        let generation = self.view.generation.as_ref();
        let (phase, mut conditions, mut next_action) = self.words(situation);
        conditions.extend(self.faults.iter().cloned());
        let phase = match phase {
            // A faulty save is a matter for a person; what runs is not touched by it.
            Phase::Active | Phase::Degraded | Phase::Failed
                if self.faults.iter().any(|fault| !fault.waits) =>
            {
                Phase::Blocked
            }
            other => other,
        };
        if let Some(first) = conditions.first()
            && next_action.is_empty()
        {
            next_action.clone_from(&first.hint);
        }
        let nodes = record
            .map(|record| self.node_rows(record))
            .unwrap_or_default();
        let steps = generation.map_or((0, 0), steps_done_and_total);
        let waiting_on = conditions.iter().filter(|trouble| trouble.waits);
        let outputs = match (phase, record) {
            (Phase::Active | Phase::Degraded, Some(record)) => {
                self.health(record, &self.present_of(record)).outputs
            }
            _ => Default::default(),
        };
        let failed = generation.and_then(|generation| {
            let result = generation.result.as_ref()?;
            (result.outcome == Outcome::Failed).then(|| result.reason.clone())
        });
        Status {
            format: FORMAT,
            deployment: self.view.id.clone(),
            phase,
            since: String::new(),
            generation: self.generation_number(),
            revision: match &self.view.wish {
                WishFile::Present(document) => document.revision,
                _ => 0,
            },
            steps_done: steps.0,
            steps_total: steps.1,
            waiting_on: waiting_on.map(|trouble| trouble.reason.clone()).collect(),
            last_error: failed.or_else(|| latest_error(generation)),
            next_action,
            conditions,
            outputs,
            planned_at: generation.map(|generation| generation.intent.at.clone()),
            ended_at: generation
                .and_then(|generation| Some(generation.result.as_ref()?.at.clone())),
            nodes,
        }
    }

    fn present_of(&self, record: &WishRecord) -> BTreeSet<NodeName> {
        self.split_presence(&self.participants(record)).0
    }

    /// Phase, conditions and what happens next.
    fn words(&self, situation: Situation) -> (Phase, Vec<Trouble>, String) {
        let nothing = String::new;
        match situation {
            Situation::Blocked(troubles) => (Phase::Blocked, troubles, nothing()),
            Situation::Waiting(troubles) => (Phase::Waiting, troubles, nothing()),
            Situation::Degraded(troubles) => (Phase::Degraded, troubles, nothing()),
            Situation::Removing(troubles) => (Phase::Removing, troubles, nothing()),
            Situation::Paused => {
                let hint = format!("dsm-agent resume {}", self.view.id);
                let trouble = Trouble::blocks("it is paused: nothing new starts".to_owned(), &hint);
                (Phase::Blocked, vec![trouble], nothing())
            }
            Situation::Planning(missing) => {
                let next = match missing.is_empty() {
                    true => "planning".to_owned(),
                    false => format!("{} look at what is there", missing.join(", ")),
                };
                (self.planning_phase(), Vec::new(), next)
            }
            Situation::Converging(troubles) => {
                let removing = self.view.record.as_ref().is_some_and(Self::is_removing);
                let phase = if removing {
                    Phase::Removing
                } else {
                    Phase::Converging
                };
                (phase, troubles, "the steps of the plan".to_owned())
            }
            Situation::Settled(away) => self.settled_words(away),
            Situation::Failed(away) => {
                let result = self
                    .view
                    .generation
                    .as_ref()
                    .and_then(|found| found.result.as_ref());
                let reason = result.map_or_else(String::new, |result| result.reason.clone());
                let fallback = format!(
                    "dsm-agent log {0} tells how it went, dsm-agent retry {0} tries again",
                    self.view.id
                );
                let hint = match result.map(|result| result.hint.as_str()) {
                    Some(hint) if !hint.is_empty() => format!("{hint}; {fallback}"),
                    _ => fallback,
                };
                let mut troubles = vec![Trouble::blocks(reason, &hint)];
                troubles.extend(away);
                (Phase::Failed, troubles, nothing())
            }
            Situation::Gone(successor) => {
                let next = match successor {
                    Some(successor) => format!("it lives on as {successor}"),
                    None => self.kept_words(),
                };
                (Phase::Removed, Vec::new(), next)
            }
        }
    }

    /// Where data was kept, as the removing steps say it in their output `kept`.
    fn kept_words(&self) -> String {
        let Some(generation) = &self.view.generation else {
            return "nothing".to_owned();
        };
        let mut kept: Vec<String> = Vec::new();
        for planned in &generation.plan.steps {
            let out = generation.trace(&planned.step.id).map(|trace| &trace.out);
            if let Some(place) = out.and_then(|out| out.get("kept")?.as_str()) {
                kept.push(format!("{place} on {}", planned.step.node));
            }
        }
        match kept.is_empty() {
            true => "nothing".to_owned(),
            false => format!("nothing; data was kept in {}", kept.join(", ")),
        }
    }

    fn planning_phase(&self) -> Phase {
        match &self.view.generation {
            None => Phase::Pending,
            Some(_) => Phase::Planning,
        }
    }

    fn settled_words(&self, away: Vec<Trouble>) -> (Phase, Vec<Trouble>, String) {
        let Some(record) = &self.view.record else {
            return (Phase::Removed, Vec::new(), String::new());
        };
        let health = self.health(record, &self.present_of(record));
        let mut troubles: Vec<_> = health
            .degraded
            .into_iter()
            .map(|why| Trouble::waits(why, ""))
            .collect();
        troubles.extend(away);
        if troubles.is_empty() {
            return (Phase::Active, troubles, "nothing".to_owned());
        }
        (Phase::Degraded, troubles, String::new())
    }

    fn node_rows(&self, record: &WishRecord) -> Vec<NodeStatus> {
        let mut order = record.spec.nodes.clone();
        let others = self.participants(record).into_iter();
        order.extend(
            others
                .filter(|node| !record.spec.nodes.contains(node))
                .collect::<Vec<_>>(),
        );
        let members = match Self::is_removing(record) {
            true => Vec::new(),
            false => self.health(record, &self.present_of(record)).members,
        };
        let row = |node: &NodeName| self.node_row(node, &members);
        order.iter().map(row).collect()
    }

    fn node_row(&self, node: &NodeName, members: &[MemberHealth]) -> NodeStatus {
        let mut row = NodeStatus {
            node: node.clone(),
            present: self.cluster.presence.contains_key(node),
            member: members.iter().find(|member| &member.node == node).cloned(),
            done: 0,
            total: 0,
            running: Vec::new(),
            waiting: Vec::new(),
            failed: None,
        };
        let Some(generation) = &self.view.generation else {
            return row;
        };
        for (step, state) in generation.steps_of(node) {
            row.total += 1;
            let trace = generation.trace(&step.id);
            let note = trace
                .and_then(|trace| trace.note.clone())
                .unwrap_or_default();
            let error = trace
                .and_then(|trace| trace.err.as_ref())
                .map(|err| err.msg.clone());
            match state {
                StepState::Done => row.done += 1,
                StepState::Void => {}
                StepState::Running => row.running.push((step.title.clone(), note)),
                StepState::Ready => {
                    row.waiting
                        .push((step.title.clone(), waits_for(generation, step)));
                }
                StepState::FailedRetryable => {
                    let why = error.map_or_else(
                        || "its lock".to_owned(),
                        |msg| format!("another attempt: {msg}"),
                    );
                    row.waiting.push((step.title.clone(), why));
                }
                StepState::FailedPermanent => {
                    row.failed = Some((step.title.clone(), error.unwrap_or_default()));
                }
            }
        }
        row
    }
}

/// Of all nodes, also of those that leave with this generation.
fn steps_done_and_total(generation: &GenerationView) -> (u64, u64) {
    let mut done = 0;
    let mut total = 0;
    for planned in &generation.plan.steps {
        total += 1;
        done += u64::from(generation.state(&planned.step.id) == StepState::Done);
    }
    (done, total)
}

fn waits_for(generation: &GenerationView, step: &Step) -> String {
    let pending = step
        .needs
        .iter()
        .find(|need| generation.state(need) != StepState::Done);
    match pending.and_then(|need| generation.plan.step(need)) {
        Some(need) => format!("{} {}", need.node, need.title),
        None => step
            .lock
            .as_ref()
            .map_or_else(|| "its turn".to_owned(), |lock| format!("lock {lock}")),
    }
}

fn latest_error(generation: Option<&GenerationView>) -> Option<String> {
    let generation = generation?;
    generation.plan.steps.iter().find_map(|planned| {
        let trace = generation.trace(&planned.step.id)?;
        let failing = matches!(
            trace.state,
            StepState::FailedRetryable | StepState::FailedPermanent
        );
        let error = trace.err.as_ref().filter(|_| failing)?;
        Some(format!(
            "{} {}: {}",
            planned.step.node, planned.step.title, error.msg
        ))
    })
}
