//! Decides when a snapshot is due: by bytes of log, not by entries.
//!
//! Invariant: a snapshot is taken when the log has grown by as much as the last snapshot is large, so that both
//! together stay within twice the state. Not here: writing it (`raft_state_machine.rs`).

use std::sync::Arc;

use super::core::Core;
use super::snapshot_store::SnapshotStore;
use crate::limits::{SNAPSHOT_CHECK_EVERY, SNAPSHOT_DUE_BYTES};

/// Runs until it is dropped.
pub async fn run(core: Arc<Core>, snapshots: SnapshotStore) {
    let mut counted_from = 0;
    let mut known = core.metrics().snapshot;
    let mut tick = tokio::time::interval(SNAPSHOT_CHECK_EVERY);
    loop {
        tick.tick().await;
        let snapshot = core.metrics().snapshot;
        let appended = core.log.appended_bytes();
        if snapshot != known {
            known = snapshot;
            counted_from = appended;
        }
        let due = SNAPSHOT_DUE_BYTES.max(snapshots.size());
        if appended - counted_from < due {
            continue;
        }
        tracing::info!(log_bytes = appended - counted_from, "taking a snapshot");
        counted_from = appended;
        if core.raft.trigger().snapshot().await.is_err() {
            return;
        }
    }
}
