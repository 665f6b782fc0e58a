//! The pure core: the tree, its locks and sessions, as a function of the log.
//!
//! Invariants: no I/O, no clock, no random number, no `HashMap`, no float; the same entries give the same bytes on every
//! replica ([`StateMachine::digest`]). A refused entry changes nothing but the outcome window.
//! Not here: who may lead, when a session has expired (the leader's `consensus/lease_keeper.rs` judges and proposes).

pub mod command;
pub mod ids;
pub mod log_time;
pub mod outcome;

use command::Entry;
use ids::LogIndex;
use log_time::LogTime;
use outcome::Applied;

/// The replicated state. Cloning is cheap (persistent maps): readers hold a clone, `apply` works on the original.
#[derive(Debug, Clone, Default)]
pub struct StateMachine {
    applied: LogIndex,
    log_time: LogTime,
}

impl StateMachine {
    /// The state before the first entry: the four fixed directories and nothing else.
    pub fn new() -> Self {
        Self::default()
    }

    /// Index of the last applied entry.
    pub fn applied(&self) -> LogIndex {
        self.applied
    }

    /// Log time of the last applied entry; a leader stamps its entries from here on.
    pub fn log_time(&self) -> LogTime {
        self.log_time
    }

    /// Applies the entry at `index`.
    ///
    /// # Panics
    /// If `index` is not above the last applied one: entries are applied once, in order.
    pub fn apply(&mut self, index: LogIndex, entry: &Entry) -> Applied {
        assert!(index > self.applied, "entry {index} comes after {}", self.applied);
        self.applied = index;
        self.log_time = self.log_time.max(entry.stamp.log_time);
        Applied { index, node: entry.author.node, outcome: Ok(outcome::Done::Unit), changes: Vec::new() }
    }

    /// Passes an index that carries no entry of ours (a blank or membership entry of Raft).
    ///
    /// # Panics
    /// As [`StateMachine::apply`].
    pub fn pass(&mut self, index: LogIndex) {
        assert!(index > self.applied, "entry {index} comes after {}", self.applied);
        self.applied = index;
    }
}
