//! What the engine is told.

use drivers::driver::{Observation, StepId, StepOutcome};

use super::action::{Action, TimerKey};
use super::id::{DeploymentId, Generation};
use super::record::{Answers, Trouble};
use super::view::{ClusterView, View};

/// Something happened, or was read.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Members, presence, facts or claims, as read.
    Cluster(ClusterView),
    /// A deployment, as read; the answer is what to do about it.
    View(Box<View>),
    /// A lock was taken.
    LockGranted {
        /// Whose.
        deployment: DeploymentId,
        /// Its name below the deployment's lock directory.
        lock: String,
        /// Its fence.
        fence: u64,
    },
    /// Another node has it.
    LockDenied {
        /// Whose.
        deployment: DeploymentId,
        /// Its name.
        lock: String,
    },
    /// A lock that was held is void.
    LockLost {
        /// Whose.
        deployment: DeploymentId,
        /// Its name.
        lock: String,
    },
    /// The driver looked.
    Observed {
        /// What.
        deployment: DeploymentId,
        /// What the observation answers to.
        answers: Answers,
        /// What it saw, or why it could not.
        result: Result<Observation, Trouble>,
    },
    /// A step came to its end.
    StepEnded {
        /// Whose.
        deployment: DeploymentId,
        /// Which generation.
        generation: Generation,
        /// Which.
        step: StepId,
        /// Which attempt.
        attempt: u32,
        /// How.
        end: StepEnd,
        /// How long it took, in microseconds.
        dur_us: u64,
    },
    /// A running step said how far it is.
    StepProgress {
        /// Whose.
        deployment: DeploymentId,
        /// Which generation.
        generation: Generation,
        /// Which.
        step: StepId,
        /// Which attempt.
        attempt: u32,
        /// Its words.
        note: String,
    },
    /// A timer ran out.
    Timer(TimerKey),
    /// The safety checks of a removal.
    AbsenceChecked {
        /// Whose.
        deployment: DeploymentId,
        /// What they say.
        verdict: AbsenceVerdict,
    },
    /// These actions were not performed: the first failed, the rest was not tried.
    NotPerformed {
        /// Whose.
        deployment: DeploymentId,
        /// The actions.
        actions: Vec<Action>,
        /// Why, in words.
        reason: String,
    },
    /// A minute passed, or presence changed: observe everything again.
    ObserveAll,
}

/// How an attempt of a step ended.
#[derive(Debug, Clone, PartialEq)]
pub enum StepEnd {
    /// All its effects are done.
    Succeeded(StepOutcome),
    /// It failed.
    Failed {
        /// Stable word for machines.
        code: String,
        /// What failed.
        message: String,
        /// What to do.
        hint: String,
        /// Whether another attempt may help.
        retryable: bool,
    },
    /// Its lock was lost; it stopped.
    Fenced {
        /// How the loss was seen.
        reason: String,
    },
}

/// What the safety checks of a removal say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AbsenceVerdict {
    /// The tree may be lagging or is not the tree; nothing follows from the absence.
    Unsafe(String),
    /// The name is there again.
    Present,
    /// It is surely absent.
    Absent {
        /// Deployments whose wish is absent, neither adopted nor approved, this one included.
        missing: Vec<DeploymentId>,
        /// All deployments that have a record and are not removed.
        total: usize,
    },
}
