//! The record below `/run`: one type for each kind of file.
//!
//! Invariants: each document carries `format`; a higher one is an error, an older one is read; times are information
//! for people and never decide anything. No secret is ever part of a record.
//! Not here: paths (`mount/paths.rs`), the log's lines (`log.rs`).

use std::collections::{BTreeMap, BTreeSet};

use drivers::driver::{ChangeLine, FieldError, MemberHealth, NodeFacts, NodeName, Step, StepId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::desired::{OnDelete, Policy, Spec};
use super::digest::canonical_digest;
use super::id::{DeploymentId, Generation};

/// The format that this version writes and the highest that it reads.
pub const FORMAT: u32 = 1;

/// `plans/wish.json`: the last accepted save.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WishRecord {
    /// See [`FORMAT`].
    pub format: u32,
    /// Revision of the accepted file.
    pub revision: u64,
    /// First revision with this digest: what observations answer to, so that saving the same again changes nothing.
    pub since_revision: u64,
    /// Inode of the file; the same inode under a new name is adopted.
    pub inode: u64,
    /// Digest of `spec`.
    pub digest: String,
    /// What is wanted.
    pub spec: Spec,
    /// How.
    pub policy: Policy,
    /// Stable id that names data directory, unit, slots and marker.
    pub uid: String,
    /// Set by the request `pause`, cleared by `resume`.
    #[serde(default)]
    pub paused: bool,
    /// The record whose uid and secrets this one took over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopted_from: Option<DeploymentId>,
    /// Set when the deployment is to go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removal: Option<Removal>,
}

/// Why and how a deployment goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Removal {
    /// What becomes of its data.
    pub on_delete: OnDelete,
    /// Under this name it lives on: nothing is stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successor: Option<DeploymentId>,
}

/// Why a generation exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The wish changed.
    Spec,
    /// A person asked for it after a failure.
    Retry,
    /// A managed file or service changed by itself.
    Drift,
    /// A member's presence went.
    MemberLost,
    /// A member's presence came back.
    MemberJoined,
    /// An observation differs from what was reached.
    Resume,
    /// The wish came under a new name.
    Adopted,
    /// The wish was deleted.
    Remove,
    /// A failure is being taken back.
    Undo,
}

/// `intent.json`: what a generation is for. Never changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intent {
    /// See [`FORMAT`].
    pub format: u32,
    /// Whose.
    pub deployment: DeploymentId,
    /// Its number.
    pub generation: Generation,
    /// Why it exists.
    pub reason: Reason,
    /// What is wanted.
    pub spec: Spec,
    /// Digest of `spec`.
    pub digest: String,
    /// True when the deployment is to go.
    pub removed: bool,
    /// Revision of the wish.
    pub revision: u64,
    /// See [`WishRecord::since_revision`].
    pub since_revision: u64,
    /// Inode of the wish.
    pub inode: u64,
    /// Owner of the wish file, as `uid 0`; ` on NODE` and ` with COMMAND` may follow.
    pub author: String,
    /// The generation that it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supersedes: Option<Generation>,
    /// The request that asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// Driver and its version.
    pub driver: DriverVersion,
    /// The policy as it was.
    pub policy: Policy,
    /// See [`WishRecord::uid`].
    pub uid: String,
    /// Nodes of the wish, and those that earlier generations may have left something on.
    pub participants: BTreeSet<NodeName>,
    /// Who planned it, under which fence of the planner's lock.
    pub planner: PlannerMark,
    /// When, for people.
    pub at: String,
}

/// A driver as it was when a plan was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriverVersion {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// Who planned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannerMark {
    /// The node.
    pub node: NodeName,
    /// Its fence.
    pub fence: u64,
}

/// `plan.json`: the steps of a generation. Never changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanRecord {
    /// See [`FORMAT`].
    pub format: u32,
    /// Whose.
    pub deployment: DeploymentId,
    /// Which generation.
    pub generation: Generation,
    /// Digest of driver, placement, parameters and base; the first `prev` of each log.
    pub digest: String,
    /// Digest of the observations that the plan rests on.
    pub base: String,
    /// Digest of each node's observation.
    pub observed: BTreeMap<NodeName, String>,
    /// Participants that had presence.
    pub present: BTreeSet<NodeName>,
    /// What changes, for people.
    pub changes: Vec<ChangeLine>,
    /// The steps, each after what it needs.
    pub steps: Vec<PlannedStep>,
    /// Exact versions that the plan chose.
    pub versions: BTreeMap<String, String>,
}

/// A step with the digest of what it does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedStep {
    /// The step.
    #[serde(flatten)]
    pub step: Step,
    /// Digest of operation and arguments.
    pub args_digest: String,
}

impl PlannedStep {
    /// Adds the digest.
    pub fn of(step: Step) -> Self {
        let args_digest = canonical_digest(&(&step.op, &step.args));
        Self { step, args_digest }
    }
}

impl PlanRecord {
    /// The step called `id`.
    pub fn step(&self, id: &str) -> Option<&Step> {
        self.steps
            .iter()
            .map(|planned| &planned.step)
            .find(|step| step.id == id)
    }
}

/// How a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Outcome {
    /// All steps succeeded and an observation found nothing left to do.
    Done,
    /// A step failed for good, or time ran out.
    Failed,
    /// What was done was taken back.
    Undone,
    /// Taking back failed.
    Stuck,
    /// A newer wish, or the loss of a member, ended it.
    Superseded,
    /// A person gave it up.
    Abandoned,
}

/// `result.json`: written once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenerationResult {
    /// See [`FORMAT`].
    pub format: u32,
    /// Which generation.
    pub generation: Generation,
    /// How it ended.
    pub outcome: Outcome,
    /// Why, in words.
    pub reason: String,
    /// What a person can do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
    /// Each node's share.
    pub nodes: BTreeMap<NodeName, NodeOutcome>,
    /// Participants that had presence then.
    pub present: BTreeSet<NodeName>,
    /// When, for people.
    pub at: String,
}

/// One node's share of a generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeOutcome {
    /// Steps that succeeded or were skipped.
    pub done: u64,
    /// Steps of this node.
    pub total: u64,
    /// The step that failed, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<(StepId, String)>,
}

/// What an observation answers to: the planner takes it as fresh only if all of it is as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answers {
    /// [`WishRecord::since_revision`].
    pub wish_revision: u64,
    /// True when the deployment is to go.
    pub removed: bool,
    /// The newest generation, 0 when there is none.
    pub generation: Generation,
    /// True when its result was known: then the observer starts none of its steps any more.
    pub closed: bool,
    /// Last line of the observer's log of that generation, 0 when there is none.
    pub seq: u64,
    /// Fence of the observer's presence: an observation from before a restart is old.
    pub presence: u64,
}

/// `observed/NODE.json`: what the driver saw.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Observed {
    /// See [`FORMAT`].
    pub format: u32,
    /// Who.
    pub node: NodeName,
    /// What it answers to.
    pub answers: Answers,
    /// Digest of `answers`, `facts` and `trouble`.
    pub digest: String,
    /// What plans rest on.
    pub facts: Value,
    /// Why this node cannot take part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<Trouble>,
    /// What varies all the time; outside the digest.
    pub measures: Value,
}

/// A reason not to go on, with what a person can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trouble {
    /// Field of the wish, where one is at fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Node, where the fault lies on one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// What is wrong.
    pub reason: String,
    /// What to do.
    pub hint: String,
    /// True when it may pass by itself.
    pub waits: bool,
}

impl Trouble {
    /// A trouble that waits for the system.
    pub fn waits(reason: String, hint: &str) -> Self {
        Self {
            field: None,
            node: None,
            reason,
            hint: hint.to_owned(),
            waits: true,
        }
    }

    /// A trouble that waits for a person.
    pub fn blocks(reason: String, hint: &str) -> Self {
        Self {
            waits: false,
            ..Self::waits(reason, hint)
        }
    }

    /// The same, on one node.
    #[must_use]
    pub fn on(mut self, node: &str) -> Self {
        self.node = Some(node.to_owned());
        self
    }
}

impl From<FieldError> for Trouble {
    fn from(fault: FieldError) -> Self {
        Self {
            field: Some(fault.field),
            node: None,
            reason: fault.reason,
            hint: fault.hint,
            waits: false,
        }
    }
}

impl Observed {
    /// Puts an observation together and computes its digest.
    pub fn new(
        node: &str,
        answers: Answers,
        facts: Value,
        measures: Value,
        trouble: Option<Trouble>,
    ) -> Self {
        let digest = canonical_digest(&(&answers, &facts, &trouble));
        Self {
            format: FORMAT,
            node: node.to_owned(),
            answers,
            digest,
            facts,
            trouble,
            measures,
        }
    }
}

/// What a person asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RequestKind {
    /// Plan again after a failure.
    Retry,
    /// Start nothing new.
    Pause,
    /// End a pause.
    Resume,
    /// Give up the open generation.
    Abandon,
    /// Allow a removal that the safety rules hold back.
    Approve,
}

/// `requests/UUID.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// See [`FORMAT`].
    pub format: u32,
    /// What.
    pub kind: RequestKind,
    /// Who, as `root on n2`.
    pub by: String,
    /// When, for people.
    pub at: String,
}

/// `plans/requests/UUID.json`: a request was seen, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestNote {
    /// See [`FORMAT`].
    pub format: u32,
    /// What came of it.
    pub outcome: String,
    /// When, for people.
    pub at: String,
}

/// `secrets/KEY`: a value that only the named nodes can open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedSecret {
    /// See [`FORMAT`].
    pub format: u32,
    /// Node -> public key that it was sealed to.
    pub recipients: BTreeMap<NodeName, String>,
    /// The age file, base64.
    pub sealed: String,
}

/// `/run/nodes/NODE.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// See [`FORMAT`].
    pub format: u32,
    /// The node.
    pub node: NodeName,
    /// Version of its agent.
    pub agent: String,
    /// Drivers and their versions.
    pub drivers: BTreeMap<String, String>,
    /// General facts.
    #[serde(flatten)]
    pub facts: NodeFacts,
}

/// `/run/nodes/NODE.claims.json`: what deployments have for themselves on this node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// See [`FORMAT`].
    pub format: u32,
    /// `port 5432` -> who has it.
    pub claims: BTreeMap<String, Claimant>,
}

/// Who has a claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claimant {
    /// The deployment.
    pub deployment: DeploymentId,
    /// Its uid: a renamed deployment keeps its claims.
    pub uid: String,
}

/// Status words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Phase {
    /// Seen, nothing done yet.
    Pending,
    /// The nodes are looked at.
    Planning,
    /// Steps run.
    Converging,
    /// All is as wished.
    Active,
    /// It runs, not as wished.
    Degraded,
    /// It waits for the system.
    Waiting,
    /// It waits for a person.
    Blocked,
    /// A step failed for good.
    Failed,
    /// It is being removed.
    Removing,
    /// It is gone.
    Removed,
}

impl Phase {
    /// The word that people see.
    pub fn word(self) -> &'static str {
        match self {
            Phase::Pending => "Pending",
            Phase::Planning => "Planning",
            Phase::Converging => "Converging",
            Phase::Active => "Active",
            Phase::Degraded => "Degraded",
            Phase::Waiting => "Waiting",
            Phase::Blocked => "Blocked",
            Phase::Failed => "Failed",
            Phase::Removing => "Removing",
            Phase::Removed => "Removed",
        }
    }
}

/// `plans/status.json`: derived from the rest, rebuildable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// See [`FORMAT`].
    pub format: u32,
    /// Whose.
    pub deployment: DeploymentId,
    /// The word.
    pub phase: Phase,
    /// Since when, for people.
    #[serde(default)]
    pub since: String,
    /// The newest generation, 0 when there is none.
    pub generation: Generation,
    /// Revision of the wish file that this status answers to, 0 when there is none.
    #[serde(default)]
    pub revision: u64,
    /// Steps of it that are done.
    pub steps_done: u64,
    /// Its steps.
    pub steps_total: u64,
    /// One row a node, in the wish's order.
    pub nodes: Vec<NodeStatus>,
    /// What it waits on.
    pub waiting_on: Vec<String>,
    /// The last failure, in words.
    pub last_error: Option<String>,
    /// What happens next, or what a person should do.
    pub next_action: String,
    /// All that is worth knowing, most important first.
    pub conditions: Vec<Trouble>,
    /// What the deployment offers.
    pub outputs: BTreeMap<String, String>,
    /// When the newest generation was planned, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planned_at: Option<String>,
    /// When it ended, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
}

impl Status {
    /// Of a deployment that nothing is known of yet.
    pub fn pending(deployment: DeploymentId) -> Self {
        Self {
            format: FORMAT,
            deployment,
            phase: Phase::Pending,
            since: String::new(),
            generation: Generation(0),
            revision: 0,
            steps_done: 0,
            steps_total: 0,
            nodes: Vec::new(),
            waiting_on: Vec::new(),
            last_error: None,
            next_action: String::new(),
            conditions: Vec::new(),
            outputs: BTreeMap::new(),
            planned_at: None,
            ended_at: None,
        }
    }
}

/// One node's row in the status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The node.
    pub node: NodeName,
    /// Its agent has presence.
    pub present: bool,
    /// What the driver says of it.
    pub member: Option<MemberHealth>,
    /// Steps done and steps in all.
    pub done: u64,
    /// Steps of it.
    pub total: u64,
    /// Steps that run now: title and latest progress.
    pub running: Vec<(String, String)>,
    /// Steps that are ready or wait: title and what for.
    pub waiting: Vec<(String, String)>,
    /// A failure: title of the step and message.
    pub failed: Option<(String, String)>,
}

/// The part of every record that says whether it can be read.
#[derive(Debug, Deserialize)]
pub struct FormatHead {
    /// See [`FORMAT`].
    pub format: u32,
}
