//! The planner's share: accepting wishes, making generations, ending them.
//!
//! Invariants: only the holder of the planner's lock comes here; a generation is planned from fresh observations of all
//! participants that have presence; a generation that is open is ended (`result.json`) before observations for the next
//! one count, so that no step of it starts behind the plan's back.

use std::collections::{BTreeMap, BTreeSet};

use drivers::driver::{Desired as DriverDesired, Health, NodeName, Observation, Plan, PlanInput};
use serde_json::Value;

use super::action::{Action, TimerKey};
use super::desired::{Desired, OnDelete};
use super::digest::canonical_digest;
use super::log::StepState;
use super::machine::Absence;
use super::pass::Pass;
use super::plan_rules;
use super::record::{
    DriverVersion, FORMAT, GenerationResult, Intent, NodeOutcome, Outcome, PlanRecord, PlannedStep,
    PlannerMark, Reason, RequestKind, RequestNote, Trouble, WishRecord,
};
use super::status::Situation;
use super::view::{GenerationView, WishDocument, WishFile};
use crate::limits::{MEMBER_GRACE, RESUME_WINDOW, RESUMES_A_MINUTE_MAX};

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

    /// Takes over what the wish file says, or notes its faults.
    fn accept_wish(&mut self, fence: u64) {
        match &self.view.wish {
            WishFile::Absent => {}
            WishFile::Emptied => self.faults.push(Trouble::blocks(
                "the wish file is empty: that is no wish, and no deletion either".to_owned(),
                "write the wish again, or delete the file to remove the deployment",
            )),
            WishFile::Refused(troubles) => self.faults.extend(troubles.iter().cloned()),
            WishFile::Present(document) => {
                let checked = document.desired.clone().and_then(|desired| {
                    desired
                        .check(&self.view.id, &self.cluster.members, self.drivers)
                        .map(|()| desired)
                });
                match checked {
                    Err(faults) => self.faults.extend(faults.into_iter().map(Trouble::from)),
                    Ok(desired) => self.accept(document, desired, fence),
                }
            }
        }
        if !matches!(self.view.wish, WishFile::Absent) {
            self.machine.absence = Absence::None;
        }
    }

    fn accept(&mut self, document: &WishDocument, desired: Desired, fence: u64) {
        // What lives on under another name keeps its uid there: the same name again is a new deployment.
        let moved_on = self.view.record.as_ref().filter(|record| {
            record
                .removal
                .as_ref()
                .is_some_and(|removal| removal.successor.is_some())
        });
        let before = self.view.record.as_ref().filter(|_| moved_on.is_none());
        let digest = desired.spec.digest();
        if let Some(before) = before
            && before.spec.driver != desired.spec.driver
        {
            let reason = format!("the driver of {} cannot change", self.view.id);
            let hint = format!(
                "it is {}; delete the file, then write the other",
                before.spec.driver
            );
            self.faults.push(Trouble {
                field: Some("driver".to_owned()),
                ..Trouble::blocks(reason, &hint)
            });
            return;
        }
        let adoptable = self.view.adoptable.as_ref().filter(|_| before.is_none());
        let same = before.filter(|before| before.digest == digest && before.removal.is_none());
        let uid = match (before, adoptable) {
            (Some(before), _) => before.uid.clone(),
            (None, Some(old)) => old.record.uid.clone(),
            (None, None) if moved_on.is_some() => {
                let uid = new_uid(&self.cluster.cluster, fence);
                format!("{uid}r{}", document.revision)
            }
            (None, None) => match &self.view.remembered_uid {
                Some(uid) => uid.clone(),
                None => new_uid(&self.cluster.cluster, fence),
            },
        };
        let record = WishRecord {
            format: FORMAT,
            revision: document.revision,
            since_revision: same.map_or(document.revision, |before| before.since_revision),
            inode: document.inode,
            digest,
            spec: desired.spec,
            policy: desired.policy,
            uid,
            paused: before.is_some_and(|before| before.paused),
            adopted_from: match before {
                Some(before) => before.adopted_from.clone(),
                None => adoptable.map(|old| old.id.clone()),
            },
            removal: None,
        };
        if before == Some(&record) {
            return;
        }
        if let Some(old) = adoptable {
            self.actions.push(Action::CopySecrets {
                from: old.id.clone(),
                to: self.view.id.clone(),
            });
        }
        let deployment = self.view.id.clone();
        self.actions.push(Action::WriteWish { deployment, record });
    }

    fn consider_requests(&mut self, record: &WishRecord) -> Option<Situation> {
        for (id, request) in &self.view.requests {
            let generation = self.view.generation.as_ref();
            let failed = generation.is_some_and(|generation| {
                generation
                    .result
                    .as_ref()
                    .is_some_and(|result| result.outcome != Outcome::Done)
            });
            let outcome = match request.kind {
                RequestKind::Pause | RequestKind::Resume => {
                    let paused = request.kind == RequestKind::Pause;
                    if record.paused != paused {
                        let record = WishRecord {
                            paused,
                            ..record.clone()
                        };
                        let deployment = self.view.id.clone();
                        self.actions.push(Action::WriteWish { deployment, record });
                    }
                    if paused { "paused" } else { "resumed" }.to_owned()
                }
                RequestKind::Abandon => match generation.filter(|found| found.is_open()) {
                    Some(found) => {
                        let reason = format!("given up by {}", request.by);
                        self.finish(found, Outcome::Abandoned, reason, "");
                        format!("generation {} abandoned", found.number())
                    }
                    None => "no generation was open".to_owned(),
                },
                RequestKind::Retry => match generation {
                    Some(found) if found.intent.request.as_ref() == Some(id) => {
                        format!("generation {} made", found.number())
                    }
                    _ if failed => continue,
                    _ => "nothing had failed".to_owned(),
                },
                RequestKind::Approve => match self.view.wish {
                    WishFile::Absent if record.removal.is_none() => continue,
                    WishFile::Absent => "removal approved".to_owned(),
                    _ => "there was nothing to approve: the wish is there".to_owned(),
                },
            };
            self.note_request(id, outcome);
        }
        (!self.actions.is_empty()).then_some(Situation::Planning(Vec::new()))
    }

    fn note_request(&mut self, id: &str, outcome: String) {
        self.actions.push(Action::NoteRequest {
            deployment: self.view.id.clone(),
            request: id.to_owned(),
            note: RequestNote {
                format: FORMAT,
                outcome,
                at: self.view.now.clone(),
            },
        });
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
            let hint = "see: dsm-agent log, then dsm-agent retry, or raise policy.deadline";
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

    /// All steps are done: an observation must find nothing left to do.
    fn verify(
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

    /// Whether the agent of `node` has taken presence anew since its last line.
    fn has_restarted(&self, generation: &GenerationView, node: &str) -> bool {
        let last = generation.logs.get(node).and_then(|log| log.lines.last());
        last.is_some_and(|line| self.cluster.presence.get(node) != Some(&line.fence))
    }

    /// Plans without members that are away for long, if the driver can.
    fn watch_members(
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

    /// Whether all these members are away for longer than the grace.
    fn are_given_up(&mut self, absent: &BTreeSet<NodeName>) -> bool {
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
    fn welcome(&mut self, present: &BTreeSet<NodeName>) {
        for node in present {
            let key = TimerKey::MemberGrace(self.view.id.clone(), node.clone());
            self.machine.timers.remove(&key);
        }
    }

    /// The driver's plan with the agent's own steps, if it keeps the rules.
    fn checked_plan(&self, record: &WishRecord, input: &PlanInput) -> Result<Plan, Situation> {
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

    fn retry_request(&self) -> Option<String> {
        let mut requests = self.view.requests.iter();
        requests
            .find(|(_, request)| request.kind == RequestKind::Retry)
            .map(|(id, _)| id.clone())
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

    fn write_generation(
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

    fn not_fresh(&self, record: &WishRecord, present: &BTreeSet<NodeName>) -> Vec<NodeName> {
        let is_stale = |node: &&NodeName| {
            let wanted = self.answers_of(record, node);
            let seen = self.view.observed.get(*node);
            !seen.is_some_and(|seen| self.is_fresh(node, &seen.answers, &wanted))
        };
        present.iter().filter(is_stale).cloned().collect()
    }

    fn troubles(&self, present: &BTreeSet<NodeName>) -> Vec<Trouble> {
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
    fn plan_input(
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
}

fn new_uid(cluster: &str, fence: u64) -> String {
    let plain: String = cluster
        .chars()
        .filter(|c| c.is_ascii_alphanumeric())
        .take(12)
        .collect::<String>()
        .to_ascii_lowercase();
    format!("{}-{fence}", if plain.is_empty() { "c" } else { &plain })
}

pub(super) fn absent_member(node: &str) -> Trouble {
    Trouble::waits(
        format!("node {node} has no presence: its agent, vfsd or the machine is down"),
        &format!("start {node}; or see on its console: systemctl status vfsd dsm-agent"),
    )
    .on(node)
}

/// Whether an ended generation may be followed by one for the same wish although nobody asked.
fn may_go_on(last: Option<&GenerationView>, present: &BTreeSet<NodeName>) -> bool {
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

fn fought_over(plan: &Plan) -> Trouble {
    let what = plan.steps.first().map_or("", |step| step.title.as_str());
    let often = format!("was due again more than {RESUMES_A_MINUTE_MAX} times in a minute");
    Trouble::blocks(
        format!("something else keeps changing this deployment: \"{what}\" {often}"),
        "find what changes it (configuration management, a person), then: dsm-agent retry",
    )
}
