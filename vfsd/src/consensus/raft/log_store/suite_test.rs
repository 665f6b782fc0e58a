//! openraft's own suite for log stores and state machines, on real files.

use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

use super::RaftLogStore;
use crate::consensus::raft::snapshot_store::SnapshotStore;
use crate::consensus::raft::state_machine::{Published, RaftStateMachine};
use crate::consensus::raft::types::TypeConfig;
use crate::fs::feed::ChangeFeed;
use crate::storage::append_log::AppendLog;
use crate::storage::disk::RealDisk;

const SEGMENT: u64 = 64 * 1024;

struct Builder;

impl StoreBuilder<TypeConfig, RaftLogStore, RaftStateMachine, tempfile::TempDir> for Builder {
    async fn build(
        &self,
    ) -> Result<(tempfile::TempDir, RaftLogStore, RaftStateMachine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        AppendLog::create_with(dir.path(), SEGMENT).unwrap();
        let log = AppendLog::open_with(dir.path(), SEGMENT).unwrap();
        let published = Published::new(Arc::new(ChangeFeed::default()));
        let snapshots = SnapshotStore::open(RealDisk::shared(), dir.path().to_path_buf()).unwrap();
        let machine = RaftStateMachine::open(snapshots, published).unwrap();
        Ok((dir, RaftLogStore::new(Arc::new(log)), machine))
    }
}

#[test]
fn the_log_store_passes_the_suite_of_openraft() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(Suite::test_all(Builder)).unwrap();
}
