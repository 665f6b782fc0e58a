//! The driver contract: what the agent asks of a driver, and the data that travels between them.
//!
//! Invariants: [`Driver::plan`] is pure and deterministic (same input, same bytes, on any node); [`Driver::observe`]
//! changes nothing; [`Driver::apply`] may run again after a crash at any instant. No secret is ever part of a value in
//! this file: steps and observations name secrets by key.
//! Not here: how steps are recorded and scheduled (`dsm-agent/src/engine`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::DriverError;
use crate::fence::FenceGuard;
use crate::host::Host;

/// Name of a node, as in `/.vfs/members.json`.
pub type NodeName = String;

/// Stable name of a step inside its plan, for example `n2/base-backup`. Unique in the plan, the same for the same
/// change.
pub type StepId = String;

/// One piece of software's operational knowledge.
pub trait Driver: Send + Sync {
    /// Name, version, parameters and operations. Constant for one build.
    fn describe(&self) -> Description;

    /// Checks the `params` object of a wish beyond its schema. Pure.
    ///
    /// # Errors
    /// All faults found, each with the path of its field; an empty list is never returned as an error.
    fn check(&self, wish: &Wish) -> Result<(), Vec<FieldError>>;

    /// What the deployment takes for itself on each of its nodes: ports, data directories. Pure; the wish passed
    /// [`Driver::check`].
    fn claims(&self, wish: &Wish, uid: &str) -> Vec<Claim> {
        let _ = (wish, uid);
        Vec::new()
    }

    /// Reads what is there on this node. Changes nothing.
    ///
    /// # Errors
    /// [`DriverError::Retryable`] when the machine did not answer; what is absent or foreign is an observation, no
    /// error.
    fn observe(&self, host: &dyn Host, scope: &Scope) -> Result<Observation, DriverError>;

    /// The steps from what is observed to what is desired. Pure and deterministic; empty when nothing is to do.
    ///
    /// # Errors
    /// [`Refusal`] when the wish cannot be reached from here without a person.
    fn plan(&self, input: &PlanInput) -> Result<Plan, Refusal>;

    /// Performs one step, or finds that it holds already. May run again after a crash.
    ///
    /// # Errors
    /// See [`DriverError`]; on `Fenced` the driver stops at once.
    fn apply(
        &self,
        host: &dyn Host,
        step: &Step,
        context: &StepContext<'_>,
    ) -> Result<StepOutcome, DriverError>;

    /// Takes back the effect of a succeeded step whose [`Undo`] is `Op`.
    ///
    /// # Errors
    /// As [`Driver::apply`].
    fn undo(
        &self,
        host: &dyn Host,
        step: &Step,
        outputs: &Value,
        context: &StepContext<'_>,
    ) -> Result<StepOutcome, DriverError>;

    /// What people and other deployments see of it: roles, states, endpoints. Pure.
    fn health(&self, input: &PlanInput) -> Health;

    /// Whether `members` may be stopped together now without an outage or a loss. Pure.
    fn ok_to_stop(&self, input: &PlanInput, members: &BTreeSet<NodeName>) -> Verdict;

    /// Whether `member` may become the primary now without losing an acknowledged change. Pure.
    fn ok_to_promote(&self, input: &PlanInput, member: &NodeName) -> Verdict;
}

/// What a driver says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// Name in the wish's field `driver`.
    pub name: String,
    /// Version of the driver, not of the software.
    pub version: String,
    /// One sentence for `dsm-agent drivers`.
    pub summary: String,
    /// JSON Schema of `params`, generated from the driver's types.
    pub params_schema: Value,
    /// The operations its plans may contain.
    pub ops: Vec<OpDescription>,
}

/// What one operation declares about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OpDescription {
    /// Name in [`Step::op`].
    pub op: String,
    /// One sentence.
    pub summary: String,
    /// What a repetition may do.
    pub class: OpClass,
    /// What users of the software notice.
    pub disruption: Disruption,
    /// How it is taken back, or why not.
    pub undo: Undo,
    /// Longest time one attempt may take; a step of the op carries the same or less.
    #[serde(with = "duration_ms")]
    pub timeout: Duration,
    /// What to do after a `Retryable` failure.
    pub retry: RetryPolicy,
}

/// How often a step is tried again after a `Retryable` failure, and how long the caller waits in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Attempts in all, the first one included; at least 1.
    pub attempts_max: u32,
    /// Delay before the second attempt; it doubles with each further one.
    #[serde(with = "duration_ms")]
    pub delay_min: Duration,
    /// Longest delay.
    #[serde(with = "duration_ms")]
    pub delay_max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts_max: 8,
            delay_min: Duration::from_millis(250),
            delay_max: Duration::from_secs(10),
        }
    }
}

/// Something of a node that only one deployment may use at a time, for `/run/nodes/NODE.claims.json`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Claim {
    /// `port` or `path`.
    pub kind: String,
    /// `5432`, `/var/lib/contextos/postgres/7f3a-12`.
    pub value: String,
    /// Field of the wish to change when two deployments claim the same: `params.port`.
    pub field: String,
}

/// What may happen when an operation runs a second time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OpClass {
    /// Reads only.
    Pure,
    /// A repetition changes nothing.
    Idempotent,
    /// It first looks whether it has happened already.
    ProbeFirst,
    /// It cannot be taken back; it also looks first.
    Irreversible,
}

/// What users of the software notice of a step, from least to most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Disruption {
    /// Nothing.
    None,
    /// A reload of the configuration.
    Reload,
    /// One member restarts.
    Restart,
    /// The primary moves.
    Switchover,
    /// The service stops.
    Stop,
    /// Data is copied or deleted.
    DataMove,
}

/// How a step is taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Undo {
    /// [`Driver::undo`] can.
    Op,
    /// It cannot; the text says why.
    Impossible(String),
}

/// The wish as the driver sees it: checked by the agent for its general fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Wish {
    /// `mid/shop-db`.
    pub deployment: String,
    /// The nodes in the order of the file.
    pub nodes: Vec<NodeName>,
    /// The object `params`, or `{}`.
    pub params: Value,
}

/// A fault in one field of the wish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldError {
    /// `params.max_conections`.
    pub field: String,
    /// `is not a parameter of driver postgres`.
    pub reason: String,
    /// `write max_connections (nearest name), or see: dsm-agent schema postgres`.
    pub hint: String,
}

/// What an observation is about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scope {
    /// The deployment's id, `mid/shop-db`.
    pub deployment: String,
    /// Stable id that names data directory, unit, slots and marker; survives a rename of the wish.
    pub uid: String,
    /// The node that observes.
    pub node: NodeName,
    /// The wish that the observation answers; `None` when the deployment is being removed.
    pub wish: Option<Wish>,
}

/// What a driver saw on one node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Observation {
    /// What plans rest on; part of the digest.
    pub facts: Value,
    /// What varies all the time (lag, sizes); never part of a digest or a plan.
    #[serde(default)]
    pub measures: Value,
}

/// General facts of a node, from `/run/nodes/NODE.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// Address that other nodes reach it by, without a port.
    pub address: String,
    /// `debian 12`.
    pub os: String,
    /// Logical processors.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Labels of the node's configuration.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// All that a plan may depend on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlanInput {
    /// `mid/shop-db`.
    pub deployment: String,
    /// See [`Scope::uid`].
    pub uid: String,
    /// What is wanted.
    pub desired: Desired,
    /// The freshest observation of each participant that has one.
    pub observed: BTreeMap<NodeName, Observation>,
    /// Participants whose agent has presence now.
    pub present: BTreeSet<NodeName>,
    /// Facts of the participants.
    pub facts: BTreeMap<NodeName, NodeFacts>,
    /// Secret keys that the record holds already.
    pub secrets: BTreeSet<String>,
}

/// What a deployment should become.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Desired {
    /// It should run like this.
    Running(Wish),
    /// It should be gone.
    Removed {
        /// The last accepted wish.
        wish: Wish,
        /// Whether data directories go too.
        purge: bool,
    },
}

/// A graph of steps, in an order in which each step follows what it needs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// One line a change, for people: the head of `plan.txt`.
    pub changes: Vec<ChangeLine>,
    /// The steps.
    pub steps: Vec<Step>,
    /// Exact versions that the plan chose, by package name.
    #[serde(default)]
    pub versions: BTreeMap<String, String>,
}

/// A change as a person reads it: `~ max_connections  100 -> 300  restart  raised: standbys first`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeLine {
    /// `+` appears, `-` goes, `~` changes.
    pub sign: char,
    /// What changes.
    pub subject: String,
    /// Old and new value, or what happens to it.
    pub detail: String,
    /// What is noticed of it.
    pub disruption: Disruption,
    /// Why it is done, and why so.
    pub reason: String,
}

/// One atomic unit of work on one node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Stable name inside the plan.
    pub id: StepId,
    /// Who runs it.
    pub node: NodeName,
    /// Operation, one of [`Description::ops`].
    pub op: String,
    /// A line for people: `create database shop`.
    pub title: String,
    /// Why it is in the plan.
    pub reason: String,
    /// Arguments; all that the step depends on besides its inputs. No secrets, only their keys.
    pub args: Value,
    /// Steps that must have succeeded before it starts.
    pub needs: Vec<StepId>,
    /// Lock to hold while it runs, below the deployment's lock directory: `role/primary`, or `slot` for any free slot.
    #[serde(default)]
    pub lock: Option<String>,
    /// See [`OpClass`].
    pub class: OpClass,
    /// See [`Disruption`].
    pub disruption: Disruption,
    /// See [`Undo`].
    pub undo: Undo,
    /// Longest time one attempt may take.
    #[serde(with = "duration_ms")]
    pub timeout: Duration,
}

/// What a running step may use.
pub struct StepContext<'a> {
    /// Deployment and its stable id.
    pub scope: &'a Scope,
    /// Token of the step's lock, or of the agent's presence.
    pub fence: u64,
    /// Says whether the fence still holds; asked before each effect.
    pub guard: &'a dyn FenceGuard,
    /// Outputs of the steps it needs, by id.
    pub inputs: &'a BTreeMap<StepId, Value>,
    /// Secrets of the deployment.
    pub secrets: &'a dyn Secrets,
    /// Takes progress for people (`41 MB, 83 %`); may be dropped.
    pub progress: &'a (dyn Fn(&str) + Sync),
}

/// The deployment's secrets, as one node may use them.
pub trait Secrets: Send + Sync {
    /// Plaintext of `key`.
    ///
    /// # Errors
    /// `Permanent` when there is none, or this node is no recipient of it.
    fn reveal(&self, key: &str) -> Result<Secret, DriverError>;

    /// Makes `key` with a generated value of `len` characters from `[A-Za-z0-9]`, sealed to the deployment's nodes,
    /// unless it exists. Either way it exists afterwards.
    ///
    /// # Errors
    /// `Retryable` when the tree did not take it.
    fn ensure_generated(&self, key: &str, len: usize) -> Result<(), DriverError>;
}

/// A value that never shows itself: `Debug` prints `[secret]`, and memory is wiped on drop.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(zeroize::Zeroizing<String>);

impl Secret {
    /// Wraps a plaintext.
    pub fn new(plaintext: String) -> Self {
        Self(zeroize::Zeroizing::new(plaintext))
    }

    /// The plaintext, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[secret]")
    }
}

/// What a step did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StepOutcome {
    /// Every state that changed, old to new; empty when all held already.
    pub changes: Vec<StateChange>,
    /// What later steps may need; no secrets.
    #[serde(default)]
    pub outputs: Value,
}

/// One state that changed on the machine: the audit trail's leaf.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateChange {
    /// `file /etc/postgresql/15/shop/postgresql.conf`, `package postgresql-15`, `service postgresql@15-shop`.
    pub resource: String,
    /// Value before, `None` if it was absent.
    pub old: Option<String>,
    /// Value after, `None` if it is gone; for files a unified diff stands in `diff`.
    pub new: Option<String>,
    /// Unified diff, secrets redacted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
}

/// Why no plan can be made, and what a person can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Field of the wish at fault, where one is.
    pub field: Option<String>,
    /// Node where the fault lies, where it is one.
    pub node: Option<NodeName>,
    /// What is wrong, with values.
    pub reason: String,
    /// What to do.
    pub hint: String,
    /// True when it may pass by itself (waiting for a member), false when a person is needed.
    pub waits: bool,
}

/// What a deployment looks like from outside.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// One row a node, in the wish's order.
    pub members: Vec<MemberHealth>,
    /// Why it is Degraded; empty when it is not.
    pub degraded: Vec<String>,
    /// What it offers: `connect` -> `postgresql://...`.
    pub outputs: BTreeMap<String, String>,
}

/// One member in the status table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberHealth {
    /// The node.
    pub node: NodeName,
    /// `primary`, `standby`, or `-`.
    pub role: String,
    /// `accepting`, `streaming`, `stopped`, `unknown`.
    pub state: String,
    /// Extra words: `sync`, `lag 3 MB`.
    pub note: String,
}

/// A yes, or a no with its reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It is safe.
    Yes,
    /// It is not, because of this.
    No(String),
}

mod duration_ms {
    //! Durations as whole milliseconds.
    use serde::{Deserialize, Deserializer, Serializer};
    use std::time::Duration;

    pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}
