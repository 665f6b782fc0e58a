//! openraft's log storage on the append log.
//!
//! Invariants: one order for votes and entries; `IOFlushed` is called only after the flush. Not here: the files
//! (`storage/append_log.rs`).

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use tokio::sync::oneshot;

use crate::consensus::raft::entry_format::{raft_entry, stored_entry};
use crate::consensus::raft::types::{self, LogId, RaftEntry, TypeConfig, Vote};
use crate::limits::REPLICATION_BYTES_MAX;
use crate::storage::append_log::AppendLog;

/// The log as openraft uses it. A clone is another handle to the same log.
#[derive(Debug, Clone)]
pub struct RaftLogStore {
    log: Arc<AppendLog>,
}

impl RaftLogStore {
    /// Uses `log`.
    pub fn new(log: Arc<AppendLog>) -> Self {
        Self { log }
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> std::ops::Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(&start) => start,
        Bound::Excluded(&start) => start + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&end) => end.saturating_add(1),
        Bound::Excluded(&end) => end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

impl RaftLogReader<TypeConfig> for RaftLogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<RaftEntry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let entries = self.log.entries(bounds(&range), u64::MAX).await?;
        entries.into_iter().map(raft_entry).collect()
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.log.vote().map(types::vote))
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<RaftEntry>, io::Error> {
        let entries = self.log.entries(start..end, REPLICATION_BYTES_MAX).await?;
        entries.into_iter().map(raft_entry).collect()
    }
}

impl RaftLogStorage<TypeConfig> for RaftLogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let bounds = self.log.bounds();
        Ok(LogState {
            last_purged_log_id: bounds.purged.map(types::log_id),
            last_log_id: bounds.last.map(types::log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (sender, receiver) = oneshot::channel();
        let done = Box::new(move |result| {
            // The receiver is gone only when Raft was stopped meanwhile.
            let _ = sender.send(result);
        });
        self.log.save_vote(types::stored_vote(vote), done);
        receiver
            .await
            .unwrap_or_else(|_| Err(io::Error::other("the log was closed")))
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.log
            .note_committed(committed.as_ref().map(types::position));
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.log.committed().map(types::log_id))
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().map(|entry| stored_entry(&entry));
        self.log.append(
            entries,
            Box::new(move |result| callback.io_completed(result)),
        );
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        self.log.truncate_after(last_log_id.map(|id| id.index));
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        self.log.purge(types::position(&log_id));
        Ok(())
    }
}

#[cfg(test)]
#[path = "log_store/suite_test.rs"]
mod suite_test;
