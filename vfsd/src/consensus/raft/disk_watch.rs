//! Watches how long the disk takes for one batch of the log. A leader may go on without its own disk as long as the
//! others have theirs; but one that can write nothing is one that nobody should wait for.
//!
//! Invariant: while the disk is stalled this node stands for no election, and what it leads it gives to a voter that
//! answers, as soon as there is one. Not here: what the log does with errors (`storage/log_writer.rs`).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use openraft::ServerState;

use crate::consensus::cluster::hand_over::hand_over;
use crate::consensus::core::Core;
use crate::limits::{LOG_STALL_CHECK_BEATS, LOG_STALL_MAX};

/// Runs until it is dropped.
pub async fn run(core: Arc<Core>) {
    let mut beats = core.beat.every(LOG_STALL_CHECK_BEATS);
    loop {
        beats.next().await;
        let stalled_for = core.log.stalled_for();
        let is_stalled = stalled_for > LOG_STALL_MAX;
        if core.is_stalled.swap(is_stalled, Ordering::AcqRel) != is_stalled {
            core.decide_elections();
            if is_stalled {
                tracing::warn!(
                    ?stalled_for,
                    "the disk does not write the log: this node leads nobody until it does"
                );
            } else {
                tracing::info!("the disk writes the log again");
            }
        }
        if is_stalled && core.view.metrics().state == ServerState::Leader {
            hand_over(&core.view, &core.link.peers).await;
        }
    }
}

impl Core {
    /// Whether this node may stand for election.
    pub fn may_stand(&self) -> bool {
        self.pledges.takes_part() && !self.is_stalled.load(Ordering::Acquire)
    }

    /// Whether Raft's timer begins elections follows from what is known of this node now.
    pub fn decide_elections(&self) {
        self.view.raft.runtime_config().elect(self.may_stand());
    }
}
