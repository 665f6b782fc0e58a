//! Writes of the leader.
//!
//! Invariant: only the leader of its own term writes, and it stamps what it writes. Not here: proposals of this node's
//! callers, which go to the leader wherever it is (`proposals/`).

use std::sync::Arc;
use std::time::Duration;

use openraft::ReadPolicy;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, ForwardToLeader, RaftError};
use openraft::impls::ProgressResponder;

use crate::consensus::raft::types::{EntryBytes, TypeConfig};
use crate::consensus::sessions::stamp_clock::StampClock;
use crate::consensus::view::View;
use crate::limits::{ENTRY_BYTES_MAX, WRITE_TIMEOUT};
use crate::state_machine::command::{Author, Command, Entry};
use crate::state_machine::ids::{LogIndex, NodeId};
use crate::state_machine::log_time::LogTime;
use crate::state_machine::outcome::Outcome;
use crate::storage::append_log::AppendLog;

/// See the module.
pub struct Writer {
    view: Arc<View>,
    log: Arc<AppendLog>,
    clock: StampClock,
}

/// Why the leader did not write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// This node does not lead (any more); try the other one, or later.
    #[error("this node does not lead")]
    NotLeader(Option<u64>),
    /// The entry has more bytes than the log takes.
    #[error("an entry of {0} bytes is longer than {ENTRY_BYTES_MAX}")]
    TooLong(usize),
    /// No majority has it yet; it may still come.
    #[error("no majority has confirmed it within {} ms", .0.as_millis())]
    TimedOut(Duration),
    /// Raft has stopped.
    #[error("Raft has stopped: {0}")]
    Stopped(String),
}

impl Writer {
    /// Writes through the node that `view` shows, as fast as `log` takes it.
    pub fn new(view: Arc<View>, log: Arc<AppendLog>) -> Self {
        Self {
            view,
            log,
            clock: StampClock::default(),
        }
    }

    /// The log time now, if this node leads in `term`.
    pub fn now(&self, term: u64) -> LogTime {
        self.clock.now(term, self.view.state().log_time())
    }

    /// Stamps an entry, writes it, and waits until it is applied here, at most `WRITE_TIMEOUT`.
    ///
    /// # Errors
    /// [`WriteError`].
    pub async fn write(&self, entry: Entry) -> Result<(LogIndex, Option<Outcome>), WriteError> {
        let term = self.view.raft.metrics().borrow_watched().current_term;
        let bytes = self.stamped(term, entry)?;
        let written = async {
            match self.view.raft.client_write(bytes).await {
                Ok(written) => Ok((LogIndex(written.log_id.index), written.data.0)),
                Err(RaftError::APIError(error)) => Err(not_leader(&error)),
                Err(RaftError::Fatal(fatal)) => Err(WriteError::Stopped(fatal.to_string())),
            }
        };
        in_room(&self.log, written).await
    }

    fn stamped(&self, term: u64, mut entry: Entry) -> Result<EntryBytes, WriteError> {
        let applied = self.view.published.state.load().log_time();
        entry.stamp = self.clock.stamp(term, applied);
        let bytes = entry.encode();
        if bytes.len() > ENTRY_BYTES_MAX {
            return Err(WriteError::TooLong(bytes.len()));
        }
        Ok(EntryBytes(bytes.into()))
    }

    /// Writes a command of the leader itself.
    ///
    /// # Errors
    /// [`WriteError`].
    pub async fn write_own(
        &self,
        command: Command,
    ) -> Result<(LogIndex, Option<Outcome>), WriteError> {
        self.write(self.own(command)).await
    }

    /// Writes a command that the leader of `term` has decided on, unless another term has begun.
    ///
    /// # Errors
    /// [`WriteError`].
    pub async fn write_own_in_term(&self, term: u64, command: Command) -> Result<(), WriteError> {
        let bytes = self.stamped(term, self.own(command))?;
        let stopped = || WriteError::Stopped("it is shutting down".into());
        let (responder, written) = ProgressResponder::complete_only();
        let sent = self
            .view
            .raft
            .write(bytes)
            .with_leader(term)
            .responder(responder);
        in_time(async {
            sent.await.map_err(|_| stopped())?;
            match written.await.map_err(|_| stopped())? {
                Ok(_) => Ok(()),
                Err(error) => Err(not_leader(&error)),
            }
        })
        .await
    }

    fn own(&self, command: Command) -> Entry {
        let author = Author {
            node: NodeId(self.view.id),
            ..Author::daemon()
        };
        Entry::new(author, command)
    }

    /// An index that covers everything committed before the call, confirmed by a majority.
    ///
    /// # Errors
    /// [`WriteError`] if this node does not lead or no majority answers.
    pub async fn read_index(&self) -> Result<LogIndex, WriteError> {
        match self
            .view
            .raft
            .get_read_linearizer(ReadPolicy::ReadIndex)
            .await
        {
            Ok(linearizer) => Ok(LogIndex(linearizer.read_log_id().index())),
            Err(RaftError::Fatal(fatal)) => Err(WriteError::Stopped(fatal.to_string())),
            Err(RaftError::APIError(_)) => Err(WriteError::NotLeader(None)),
        }
    }
}

/// Writes in time, once the log has room. A disk that hangs makes none.
async fn in_room<T>(
    log: &AppendLog,
    write: impl Future<Output = Result<T, WriteError>>,
) -> Result<T, WriteError> {
    in_time(async {
        let room = log.wait_for_room().await;
        room.map_err(|error| WriteError::Stopped(error.to_string()))?;
        write.await
    })
    .await
}

/// Whatever a write waits for on its way, it ends.
async fn in_time<T>(write: impl Future<Output = Result<T, WriteError>>) -> Result<T, WriteError> {
    match tokio::time::timeout(WRITE_TIMEOUT, write).await {
        Ok(written) => written,
        Err(_) => Err(WriteError::TimedOut(WRITE_TIMEOUT)),
    }
}

fn not_leader(error: &ClientWriteError<TypeConfig>) -> WriteError {
    match error {
        ClientWriteError::ForwardToLeader(ForwardToLeader { leader_id, .. })
        | ClientWriteError::LogEntryDiscarded(ForwardToLeader { leader_id, .. }) => {
            WriteError::NotLeader(*leader_id)
        }
        // Neither is asked of a plain write.
        ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_) => {
            WriteError::NotLeader(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::limits::LOG_QUEUE_BYTES_MAX;
    use crate::storage::disk::Disk;
    use crate::storage::disk::fake::{FakeDisk, Faults};
    use crate::storage::record::{Position, StoredEntry};

    /// Longer than any write waits, in virtual time.
    const LONG: Duration = Duration::from_secs(3600);

    fn large(index: u64) -> StoredEntry {
        StoredEntry {
            position: Position { term: 1, index },
            kind: 1,
            payload: vec![7; ENTRY_BYTES_MAX].into(),
        }
    }

    /// Its callers are threads of programs: one that waits for ever cannot be told apart from one that hangs.
    #[tokio::test(start_paused = true)]
    async fn a_write_that_waits_for_room_on_a_hanging_disk_ends_in_its_time() {
        let (disk, dir) = (FakeDisk::new(1, Faults::default()), Path::new("/log"));
        disk.create_dir(dir).unwrap();
        let segment = 2 * ENTRY_BYTES_MAX as u64;
        AppendLog::create_on(&disk, dir, segment).unwrap();
        let log = AppendLog::open_on(Arc::new(disk.clone()), dir, segment).unwrap();
        let write = || {
            let written = in_room(&log, async { Ok(()) });
            tokio::time::timeout(LONG, written)
        };
        assert_eq!(write().await, Ok(Ok(())));
        disk.set_hanging(true);
        let entries = LOG_QUEUE_BYTES_MAX / ENTRY_BYTES_MAX + 2;
        log.append((0..entries as u64).map(large), Box::new(|_| {}));
        let begun = tokio::time::Instant::now();
        let refused = Err(WriteError::TimedOut(WRITE_TIMEOUT));
        assert_eq!(write().await, Ok(refused));
        assert!(begun.elapsed() < 2 * WRITE_TIMEOUT);
        disk.set_hanging(false);
        assert_eq!(write().await, Ok(Ok(())), "it goes on when the disk does");
    }
}
