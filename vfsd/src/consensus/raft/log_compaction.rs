//! Decides when a snapshot is due: by bytes of log, not by entries.
//!
//! Invariant: a snapshot is taken when the log has grown by as much as the last manifest is large: writing snapshots
//! costs no more than writing the log, since a large content is written once. One that could not be written is due
//! again after a while, however little the log has grown. Not here: writing it (`state_machine.rs`).

use std::sync::Arc;

use openraft::errors::Fatal;
use tokio::time::Instant;

use crate::consensus::core::Core;
use crate::consensus::raft::snapshot_store::SnapshotStore;
use crate::consensus::raft::types::TypeConfig;
use crate::limits::{
    LOG_BYTES_KEPT, SNAPSHOT_CHECK_BEATS, SNAPSHOT_DUE_BYTES, SNAPSHOT_RETRY_EVERY,
};

/// Runs until it is dropped.
pub async fn run(core: Arc<Core>) {
    let mut known = core.view.metrics().snapshot;
    let uncovered = known.map_or(u64::MAX, |covered| core.log.bytes_above(covered.index));
    let mut counted_from = core.log.appended_bytes().saturating_sub(uncovered);
    let mut tried: Option<Instant> = None;
    let mut beats = core.beat.every(SNAPSHOT_CHECK_BEATS);
    loop {
        beats.next().await;
        let snapshot = core.view.metrics().snapshot;
        let appended = core.log.appended_bytes();
        if snapshot != known {
            known = snapshot;
            counted_from = appended;
            if let Some(covered) = snapshot
                && purge(&core, covered.index).await.is_err()
            {
                return;
            }
        }
        let is_overdue = core.snapshots.has_failed();
        if is_overdue && tried.is_some_and(|tried| tried.elapsed() < SNAPSHOT_RETRY_EVERY) {
            continue;
        }
        let grown = appended - counted_from;
        if !is_overdue && grown < SNAPSHOT_DUE_BYTES {
            continue;
        }
        // A look at the disk, which may not answer: beside the loop that everything else shares.
        let Ok(last) = core.snapshots.run_blocking(SnapshotStore::size).await else {
            return;
        };
        if !is_overdue && grown < last {
            continue;
        }
        tracing::info!(log_bytes = grown, is_overdue, "taking a snapshot");
        counted_from = appended;
        tried = Some(Instant::now());
        if core.view.raft.trigger().snapshot().await.is_err() {
            return;
        }
    }
}

/// openraft keeps a number of entries behind a snapshot, however large they are; this keeps the disk from filling.
async fn purge(core: &Core, covered: u64) -> Result<(), Fatal<TypeConfig>> {
    let kept_from = core.log.first_within(LOG_BYTES_KEPT);
    match kept_from.checked_sub(1) {
        Some(upto) => core.view.raft.trigger().purge_log(upto.min(covered)).await,
        None => Ok(()),
    }
}
