//! What a pass has read from the tree: the only facts that decisions rest on.

use std::collections::{BTreeMap, BTreeSet};

use drivers::driver::{FieldError, NodeFacts, NodeName, StepId};

use super::desired::Desired;
use super::id::{DeploymentId, Generation};
use super::log::{NodeLog, StepState, StepTrace};
use super::record::{
    Claims, GenerationResult, Intent, Observed, Phase, PlanRecord, Request, Trouble, WishRecord,
};

/// What an agent knows of the cluster as a whole.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClusterView {
    /// Name of the cluster.
    pub cluster: String,
    /// All members.
    pub members: BTreeSet<NodeName>,
    /// Members whose agent has presence, with its fence.
    pub presence: BTreeMap<NodeName, u64>,
    /// General facts of the nodes.
    pub facts: BTreeMap<NodeName, NodeFacts>,
    /// What deployments have for themselves on this node.
    pub claims: Claims,
}

/// The state of a deployment's file under `/mid` or `/ctx`.
#[derive(Debug, Clone, PartialEq)]
pub enum WishFile {
    /// There is none.
    Absent,
    /// It is there and has no content: that is no wish, and no deletion either.
    Emptied,
    /// It cannot be a wish; nothing is changed.
    Refused(Vec<Trouble>),
    /// It was read.
    Present(WishDocument),
}

/// A wish as read.
#[derive(Debug, Clone, PartialEq)]
pub struct WishDocument {
    /// Revision of the content.
    pub revision: u64,
    /// Inode of the file.
    pub inode: u64,
    /// Owner of the file, as `uid 0`.
    pub author: String,
    /// Its meaning, or all its general faults.
    pub desired: Result<Desired, Vec<FieldError>>,
}

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LockView {
    /// No lock file.
    Free,
    /// Held by this node.
    Held(NodeName),
    /// The holder is gone; the lock delay runs.
    Delayed,
}

/// The newest generation.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerationView {
    /// `intent.json`.
    pub intent: Intent,
    /// `plan.json`.
    pub plan: PlanRecord,
    /// `result.json`.
    pub result: Option<GenerationResult>,
    /// Each node's log that has lines.
    pub logs: BTreeMap<NodeName, NodeLog>,
}

/// Everything that is read of one deployment before deciding.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// Which.
    pub id: DeploymentId,
    /// 0 for the first read of a pass, then counting.
    pub round: u32,
    /// Time in words, for records; nothing depends on it.
    pub now: String,
    /// The file.
    pub wish: WishFile,
    /// `plans/wish.json`.
    pub record: Option<WishRecord>,
    /// The newest generation.
    pub generation: Option<GenerationView>,
    /// `observed/`.
    pub observed: BTreeMap<NodeName, Observed>,
    /// Requests without a note.
    pub requests: BTreeMap<String, Request>,
    /// Secrets and the nodes that each is sealed to.
    pub secrets: BTreeMap<String, BTreeSet<NodeName>>,
    /// The planner's lock.
    pub planner: LockView,
    /// A record whose wish came under this name: same inode, its own file gone.
    pub adoptable: Option<WishRecordOf>,
    /// The file that has the recorded inode now, and whether its record took this one over.
    pub successor: Option<(DeploymentId, bool)>,
    /// What people were told last; read only when the deployment is to go.
    pub told: Option<Phase>,
    /// The uid that this node remembers, in case the record is lost.
    pub remembered_uid: Option<String>,
    /// Records that cannot be read.
    pub broken: Vec<Trouble>,
}

/// A record and whose it is.
#[derive(Debug, Clone, PartialEq)]
pub struct WishRecordOf {
    /// Whose.
    pub id: DeploymentId,
    /// The record.
    pub record: WishRecord,
}

impl GenerationView {
    /// Its number.
    pub fn number(&self) -> Generation {
        self.intent.generation
    }

    /// Whether it has no result yet.
    pub fn is_open(&self) -> bool {
        self.result.is_none()
    }

    /// What the log of the step's node says of it.
    pub fn trace(&self, step: &StepId) -> Option<&StepTrace> {
        let node = &self.plan.step(step)?.node;
        self.logs.get(node)?.steps.get(step)
    }

    /// Where a step stands.
    pub fn state(&self, step: &StepId) -> StepState {
        self.trace(step)
            .map_or(StepState::Ready, |trace| trace.state)
    }

    /// Last line of `node`'s log, 0 when there is none.
    pub fn seq(&self, node: &str) -> u64 {
        self.logs.get(node).map_or(0, |log| log.seq)
    }

    /// Steps of `node` and where they stand, in the plan's order.
    pub fn steps_of<'a>(
        &'a self,
        node: &'a str,
    ) -> impl Iterator<Item = (&'a drivers::driver::Step, StepState)> {
        self.plan
            .steps
            .iter()
            .map(|planned| &planned.step)
            .filter(move |step| step.node == node)
            .map(|step| (step, self.state(&step.id)))
    }

    /// Whether all steps are done.
    pub fn all_done(&self) -> bool {
        self.plan
            .steps
            .iter()
            .all(|planned| self.state(&planned.step.id) == StepState::Done)
    }

    /// Whether no step of `node` can start or run any more.
    pub fn is_settled_on(&self, node: &str) -> bool {
        use StepState::{Done, FailedPermanent, Void};
        self.steps_of(node)
            .all(|(_, state)| matches!(state, Done | FailedPermanent | Void))
    }

    /// Whether a step of `node` is started and has no outcome.
    pub fn is_running_on(&self, node: &str) -> bool {
        self.steps_of(node)
            .any(|(_, state)| state == StepState::Running)
    }

    /// The first step that failed for good.
    pub fn failure(&self) -> Option<(&drivers::driver::Step, &StepTrace)> {
        self.plan.steps.iter().find_map(|planned| {
            let trace = self.trace(&planned.step.id)?;
            (trace.state == StepState::FailedPermanent).then_some((&planned.step, trace))
        })
    }
}
