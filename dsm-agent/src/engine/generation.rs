//! Making a generation: the input of a plan, the plan, its intent, and how it ended.
//!
//! Invariants: a plan rests on nothing but its input, so that any node would come to the same one; intent and plan are
//! handed out together and never change.

use std::collections::{BTreeMap, BTreeSet};

use drivers::driver::{Desired as DriverDesired, NodeName, Observation, Plan, PlanInput};
use serde_json::Value;

use super::action::Action;
use super::desired::OnDelete;
use super::digest::canonical_digest;
use super::log::StepState;
use super::pass::Pass;
use super::plan_rules;
use super::record::{
    DriverVersion, FORMAT, GenerationResult, Intent, NodeOutcome, Outcome, PlanRecord, PlannedStep,
    PlannerMark, Reason, Trouble, WishRecord,
};
use super::status::Situation;
use super::view::{GenerationView, WishFile};

impl Pass<'_> {
    pub(super) fn not_fresh(
        &self,
        record: &WishRecord,
        present: &BTreeSet<NodeName>,
    ) -> Vec<NodeName> {
        let is_stale = |node: &&NodeName| {
            let wanted = self.answers_of(record, node);
            let seen = self.view.observed.get(*node);
            !seen.is_some_and(|seen| self.is_fresh(node, &seen.answers, &wanted))
        };
        present.iter().filter(is_stale).cloned().collect()
    }

    pub(super) fn troubles(&self, present: &BTreeSet<NodeName>) -> Vec<Trouble> {
        let seen = present.iter().filter_map(|node| {
            let trouble = self.view.observed.get(node)?.trouble.clone()?;
            Some(if trouble.node.is_none() {
                trouble.on(node)
            } else {
                trouble
            })
        });
        seen.collect()
    }

    /// All that a plan may depend on; measures only for what people see.
    pub(super) fn plan_input(
        &self,
        record: &WishRecord,
        present: &BTreeSet<NodeName>,
        measures: bool,
    ) -> PlanInput {
        let wish = record.spec.wish(&self.view.id);
        let participants = self.participants(record);
        let observed = self
            .view
            .observed
            .iter()
            .filter(|(node, _)| participants.contains(*node));
        PlanInput {
            deployment: self.view.id.to_string(),
            uid: record.uid.clone(),
            desired: match &record.removal {
                None => DriverDesired::Running(wish),
                Some(removal) => DriverDesired::Removed {
                    wish,
                    purge: removal.on_delete == OnDelete::Purge,
                },
            },
            observed: observed
                .map(|(node, seen)| {
                    let measures = if measures {
                        seen.measures.clone()
                    } else {
                        Value::Null
                    };
                    (
                        node.clone(),
                        Observation {
                            facts: seen.facts.clone(),
                            measures,
                        },
                    )
                })
                .collect(),
            present: present.clone(),
            facts: participants
                .iter()
                .filter_map(|node| Some((node.clone(), self.cluster.facts.get(node)?.clone())))
                .collect(),
            secrets: self.view.secrets.keys().cloned().collect(),
        }
    }

    /// The driver's plan with the agent's own steps, if it keeps the rules.
    pub(super) fn checked_plan(
        &self,
        record: &WishRecord,
        input: &PlanInput,
    ) -> Result<Plan, Situation> {
        let driver = &record.spec.driver;
        let mut plan = self
            .drivers
            .plan(driver, input)
            .map_err(Situation::refused)?;
        // Enforced, not trusted: any node must come to the same plan.
        if self.drivers.plan(driver, input).as_ref() != Ok(&plan) {
            let reason = format!("driver {driver} gave two plans for the same input");
            let hint = "report it; nothing was changed";
            return Err(Situation::Blocked(vec![Trouble::blocks(reason, hint)]));
        }
        if !Self::is_removing(record) {
            plan_rules::add_reseal(
                &mut plan,
                &record.spec.nodes,
                &input.present,
                &self.view.secrets,
            )
            .map_err(|trouble| Situation::troubled(vec![trouble]))?;
        }
        plan_rules::check(&plan, &input.present)
            .map_err(|trouble| Situation::Blocked(vec![trouble]))?;
        Ok(plan)
    }

    pub(super) fn write_generation(
        &mut self,
        record: &WishRecord,
        fence: u64,
        reason: Reason,
        request: Option<String>,
        plan: Plan,
        present: &BTreeSet<NodeName>,
    ) {
        let observed: BTreeMap<_, _> = self
            .view
            .observed
            .iter()
            .filter(|(node, _)| present.contains(*node))
            .map(|(node, seen)| (node.clone(), canonical_digest(&seen.facts)))
            .collect();
        let base = canonical_digest(&(
            &observed,
            present,
            self.view.secrets.keys().collect::<Vec<_>>(),
        ));
        let intent = self.intent(record, fence, reason, request);
        let digest = canonical_digest(&(&record.spec, intent.removed, &base));
        let plan = PlanRecord {
            format: FORMAT,
            deployment: self.view.id.clone(),
            generation: intent.generation,
            digest,
            base,
            observed,
            present: present.clone(),
            changes: plan.changes,
            steps: plan.steps.into_iter().map(PlannedStep::of).collect(),
            versions: plan.versions,
        };
        self.actions.push(Action::WriteGeneration {
            intent: Box::new(intent),
            plan: Box::new(plan),
        });
    }

    fn intent(
        &self,
        record: &WishRecord,
        fence: u64,
        reason: Reason,
        request: Option<String>,
    ) -> Intent {
        let description = self.drivers.describe(&record.spec.driver);
        Intent {
            format: FORMAT,
            deployment: self.view.id.clone(),
            generation: self.generation_number().next(),
            reason,
            spec: record.spec.clone(),
            digest: record.digest.clone(),
            removed: Self::is_removing(record),
            revision: record.revision,
            since_revision: record.since_revision,
            inode: record.inode,
            author: match &self.view.wish {
                WishFile::Present(document) => document.author.clone(),
                _ => String::new(),
            },
            supersedes: self.view.generation.as_ref().map(GenerationView::number),
            request,
            driver: DriverVersion {
                name: record.spec.driver.clone(),
                version: description.map(|found| found.version).unwrap_or_default(),
            },
            policy: record.policy.clone(),
            uid: record.uid.clone(),
            participants: self.participants(record),
            planner: PlannerMark {
                node: self.node.to_owned(),
                fence,
            },
            at: self.view.now.clone(),
        }
    }

    /// Writes how the generation ended.
    pub(super) fn finish(
        &mut self,
        generation: &GenerationView,
        outcome: Outcome,
        reason: String,
        hint: &str,
    ) {
        let mut nodes: BTreeMap<NodeName, NodeOutcome> = BTreeMap::new();
        for planned in &generation.plan.steps {
            let step = &planned.step;
            let node = nodes.entry(step.node.clone()).or_insert(NodeOutcome {
                done: 0,
                total: 0,
                failed: None,
            });
            node.total += 1;
            match (generation.state(&step.id), generation.trace(&step.id)) {
                (StepState::Done, _) => node.done += 1,
                (StepState::FailedPermanent, Some(trace)) => {
                    let message = trace.err.as_ref().map(|err| err.msg.clone());
                    node.failed = Some((step.id.clone(), message.unwrap_or_default()));
                }
                _ => {}
            }
        }
        self.actions.push(Action::WriteResult {
            deployment: self.view.id.clone(),
            result: GenerationResult {
                format: FORMAT,
                generation: generation.number(),
                outcome,
                reason,
                hint: hint.to_owned(),
                nodes,
                present: self.split_presence(&generation.intent.participants).0,
                at: self.view.now.clone(),
            },
        });
    }
}
