//! What the engine wants done.

use std::collections::BTreeMap;
use std::time::Duration;

use drivers::driver::{Scope, Step, StepId};
use serde_json::Value;

use super::id::{DeploymentId, Generation};
use super::log::Entry;
use super::record::{
    Answers, Claims, GenerationResult, Intent, Observed, PlanRecord, RequestNote, Status,
    WishRecord,
};

/// Name of the planner's lock below a deployment's lock directory.
pub const PLANNER_LOCK: &str = "planner";

/// One thing to do. The rim performs actions of one answer in order and stops at the first that fails.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Read this deployment and tell.
    Read(DeploymentId),
    /// Try to take a lock, without waiting.
    TryLock {
        /// Whose.
        deployment: DeploymentId,
        /// Its name below the deployment's lock directory.
        lock: String,
    },
    /// Let a lock go.
    ReleaseLock {
        /// Whose.
        deployment: DeploymentId,
        /// Its name.
        lock: String,
    },
    /// Write `plans/wish.json`.
    WriteWish {
        /// Whose.
        deployment: DeploymentId,
        /// The record.
        record: WishRecord,
    },
    /// Copy the sealed secrets of a record that is being adopted.
    CopySecrets {
        /// From.
        from: DeploymentId,
        /// To.
        to: DeploymentId,
    },
    /// Write `plans/requests/UUID.json`.
    NoteRequest {
        /// Whose.
        deployment: DeploymentId,
        /// The request.
        request: String,
        /// The note.
        note: RequestNote,
    },
    /// Put a generation in place.
    WriteGeneration {
        /// Its intent.
        intent: Box<Intent>,
        /// Its plan.
        plan: Box<PlanRecord>,
    },
    /// Write `result.json`.
    WriteResult {
        /// Whose.
        deployment: DeploymentId,
        /// The result.
        result: GenerationResult,
    },
    /// Append to this node's log.
    Append {
        /// Whose.
        deployment: DeploymentId,
        /// Which generation.
        generation: Generation,
        /// What.
        entry: Entry,
    },
    /// Append lines that tell of steps and move none of them, in one write.
    Note {
        /// Whose.
        deployment: DeploymentId,
        /// Which generation.
        generation: Generation,
        /// What, in order.
        entries: Vec<Entry>,
    },
    /// Append `started` and what goes before it, and only when it is durable run the step.
    StartStep(Box<StartStep>),
    /// End a running step.
    CancelStep {
        /// Whose.
        deployment: DeploymentId,
        /// Which generation.
        generation: Generation,
        /// Which.
        step: StepId,
    },
    /// Let the driver look at this node.
    Observe {
        /// Its driver.
        driver: String,
        /// What it looks at.
        scope: Box<Scope>,
        /// What the observation will answer to.
        answers: Answers,
    },
    /// Write `observed/NODE.json`.
    WriteObserved {
        /// Whose.
        deployment: DeploymentId,
        /// The observation.
        observed: Box<Observed>,
    },
    /// Write this node's claims.
    WriteClaims(Claims),
    /// Write status.json and status.txt, soon.
    WriteStatus(Box<Status>),
    /// Write what the deployment offers.
    WriteOutputs {
        /// Whose.
        deployment: DeploymentId,
        /// Name -> text.
        outputs: BTreeMap<String, String>,
    },
    /// Make the safety checks of a removal.
    CheckAbsence(DeploymentId),
    /// Tell when this time has passed; set again, it counts anew.
    SetTimer {
        /// Which.
        key: TimerKey,
        /// How long.
        after: Duration,
    },
}

/// All that is needed to run a step.
#[derive(Debug, Clone, PartialEq)]
pub struct StartStep {
    /// Whose.
    pub deployment: DeploymentId,
    /// Which generation.
    pub generation: Generation,
    /// Its driver.
    pub driver: String,
    /// The step.
    pub step: Step,
    /// Which attempt.
    pub attempt: u32,
    /// Lines that come before it in the same write, and move no step.
    pub before: Vec<Entry>,
    /// The `started` line.
    pub entry: Entry,
    /// For the driver.
    pub scope: Scope,
    /// The lock that it holds, else presence counts.
    pub lock: Option<String>,
    /// Fence of that lock.
    pub fence: u64,
    /// Outputs of the steps that it needs.
    pub inputs: BTreeMap<StepId, Value>,
}

/// Names of timers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum TimerKey {
    /// This node's turn to take the planner's lock.
    PlannerTurn(DeploymentId),
    /// The grace of a removal is over.
    Removal(DeploymentId),
    /// A member is away for long.
    MemberGrace(DeploymentId, String),
    /// A generation takes too long.
    Deadline(DeploymentId, Generation),
    /// A failed step may run again.
    Retry(DeploymentId, Generation, StepId, u32),
    /// A failed observation may run again.
    Observe(DeploymentId),
    /// Locks that were denied are tried again.
    Lock(DeploymentId),
    /// A wait has lasted long enough to be told.
    Wait(DeploymentId),
    /// The window in which resumes are counted ends.
    Resumes(DeploymentId),
}

impl TimerKey {
    /// Whose timer it is.
    pub fn deployment(&self) -> &DeploymentId {
        match self {
            TimerKey::PlannerTurn(id)
            | TimerKey::Removal(id)
            | TimerKey::MemberGrace(id, _)
            | TimerKey::Deadline(id, _)
            | TimerKey::Retry(id, ..)
            | TimerKey::Observe(id)
            | TimerKey::Lock(id)
            | TimerKey::Wait(id)
            | TimerKey::Resumes(id) => id,
        }
    }
}
