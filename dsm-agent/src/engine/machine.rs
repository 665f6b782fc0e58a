//! What an agent remembers of one deployment between passes: only what dies with it anyway.
//!
//! Invariants: losing a machine loses nothing but work under way on this node; all else is read again from the tree.

use std::collections::{BTreeMap, BTreeSet};

use drivers::driver::{Observation, StepId};

use super::action::TimerKey;
use super::event::{AbsenceVerdict, StepEnd};
use super::id::Generation;
use super::record::{Answers, Status, Trouble};

/// A step that this agent runs.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Running {
    /// Its attempt.
    pub attempt: u32,
    /// Its end, as soon as it is known; kept until the log shows it.
    pub end: Option<(StepEnd, u64)>,
    /// Progress that is not in the log yet.
    pub note: Option<String>,
    /// It was told to end, because nothing waits for it any more.
    pub is_cancelled: bool,
}

/// How far the removal of an absent wish has come.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) enum Absence {
    /// The wish is there, or nobody has looked.
    #[default]
    None,
    /// The first checks are under way.
    Checking,
    /// The grace runs since this time (for people).
    Counting(String),
    /// The last checks are under way.
    CheckingAgain,
    /// It is to be removed.
    Confirmed,
    /// Something speaks against it.
    HeldBack(AbsenceVerdict),
}

/// A timer of this deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timer {
    /// It runs.
    Running,
    /// Its time has passed.
    Over,
}

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Machine {
    /// Fence of the planner's lock while it is held.
    pub planner: Option<u64>,
    /// Other locks that are held, with their fences.
    pub held: BTreeMap<String, u64>,
    /// Locks that were refused in this pass.
    pub denied: BTreeSet<String>,
    /// Steps that run here, or ended and are not recorded yet.
    pub running: BTreeMap<(Generation, StepId), Running>,
    /// The observation under way, and what it will answer to.
    pub observing: Option<Answers>,
    /// The last observation that is not written yet.
    pub observed: Option<(Answers, Result<Observation, Trouble>)>,
    /// Whether this node was observed since the agent started.
    pub observed_once: bool,
    /// Whether it is to be observed again without another reason.
    pub observe_again: bool,
    /// Timers.
    pub timers: BTreeMap<TimerKey, Timer>,
    /// See [`Absence`].
    pub absence: Absence,
    /// Resumes in the running window.
    pub resumes: u32,
    /// The last status handed out.
    pub status: Option<Status>,
    /// The last outputs handed out.
    pub outputs: Option<BTreeMap<String, String>>,
    /// The last claim conflict found before a first effect.
    pub conflict: Option<Trouble>,
}

impl Machine {
    /// Whether the timer's time has passed; forgets it then.
    pub fn take_over(&mut self, key: &TimerKey) -> bool {
        let over = self.timers.get(key) == Some(&Timer::Over);
        if over {
            self.timers.remove(key);
        }
        over
    }

    /// Whether the timer's time has passed.
    pub fn is_over(&self, key: &TimerKey) -> bool {
        self.timers.get(key) == Some(&Timer::Over)
    }
}
