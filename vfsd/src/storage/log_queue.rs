//! What the log and its writer share: the index of what there is, the queue of what is to be written, and how far that
//! has come.
//!
//! Invariants: what is queued is in the order in which it was asked for; a mark of what is committed goes to the disk
//! behind the entry that it names; once the log is closed by an error it stays so. Not here: who may append what
//! (`append_log.rs`), the writing (`log_writer.rs`).

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

use super::disk::{Disk, DiskFile};
use super::entry_index::{EntryIndex, Place};
use super::record::{Pledge, Position, StoredEntry, Vote};
use crate::clock;
use crate::limits::COMMITTED_MARK_EVERY;

/// Called by the writer when everything queued before it is durable, or will never be.
pub type Completion = Box<dyn FnOnce(io::Result<()>) + Send>;

/// What waits for the writer.
pub(super) enum Operation {
    Vote(Vote),
    Entry(StoredEntry),
    TruncateAfter(Option<u64>),
    Purge(Position),
    Committed(Position),
    Done(Completion),
}

impl Operation {
    fn len(&self) -> usize {
        match self {
            Self::Entry(entry) => entry.payload.len() + 32,
            _ => 32,
        }
    }
}

/// What the log's users and its writer share.
pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    pub(super) segment_bytes: u64,
    // Leaf lock: nothing is called and no file is touched while it is held.
    pub(super) state: Mutex<State>,
    /// Wakes a writer that is a thread.
    pub(super) work: Condvar,
    /// Wakes a writer that is a task.
    pub(super) work_for_task: Notify,
    pub(super) room: Notify,
    /// Rings when the log is closed by an error.
    pub(super) failed: Notify,
    // Held while waiting for room, so that who came first goes on first.
    pub(super) room_queue: tokio::sync::Mutex<()>,
}

/// What there is for the writer to do.
pub(super) enum Next {
    /// To be written.
    Batch(Vec<Operation>),
    /// Not now.
    Nothing,
    /// The log was closed, and all is written.
    End,
}

/// Of the log and its writer, under one lock.
#[derive(Default)]
pub(super) struct State {
    pub(super) index: EntryIndex,
    pub(super) segments: BTreeMap<u64, Arc<dyn DiskFile>>,
    pub(super) queue: VecDeque<Operation>,
    pub(super) queued_bytes: usize,
    pub(super) committed_unwritten: bool,
    /// The last entry that came to disk; it may have been truncated since.
    pub(super) written: Option<Position>,
    /// What came to disk of votes, and of entries under the last of them.
    pub(super) pledge: Pledge,
    /// Since when the writer has been busy with one batch.
    pub(super) writes_since: Option<Duration>,
    /// The last purge that came to disk.
    pub(super) purge_written: Option<Position>,
    pub(super) poisoned: Option<String>,
    pub(super) closing: bool,
    pub(super) closed: bool,
}

impl State {
    /// The unwritten committed mark, as far as it can go to disk behind `batch`.
    ///
    /// Raft learns that entries are committed before this node has flushed them: a mark on disk that outruns its
    /// entries names what the log does not have after a crash. And a queued entry that a later operation truncates is
    /// none of those that the mark covers, so only what the log still holds counts. A mark that a snapshot covers goes
    /// behind the purge that follows it.
    fn mark_within_reach(&self, batch: &[Operation]) -> Option<Position> {
        if self.poisoned.is_some() {
            // It would never come to disk, and whoever closes the log would wait for it for ever.
            return None;
        }
        let committed = self.index.committed.filter(|_| self.committed_unwritten)?;
        let purged = batch.iter().rev().find_map(|operation| match operation {
            Operation::Purge(position) => Some(*position),
            _ => None,
        });
        if purged.max(self.purge_written) >= Some(committed) {
            return Some(committed);
        }
        let queued = batch.iter().rev().find_map(|operation| match operation {
            Operation::Entry(entry) => Some(entry.position),
            _ => None,
        });
        let reach = queued.or(self.written)?;
        if !self.index.holds(reach) {
            return None;
        }
        let index = committed.index.min(reach.index);
        let term = self.index.slot(index)?.term;
        Some(Position { term, index })
    }
}

impl Shared {
    /// Of a log whose segments of `segment_bytes` in `dir` hold what `index` says.
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        segment_bytes: u64,
        index: EntryIndex,
        segments: BTreeMap<u64, Arc<dyn DiskFile>>,
    ) -> Self {
        let state = State {
            purge_written: index.purged,
            pledge: Pledge {
                vote: index.vote,
                last: None,
            },
            index,
            segments,
            ..State::default()
        };
        Self {
            disk,
            dir,
            segment_bytes,
            state: Mutex::new(state),
            work: Condvar::new(),
            work_for_task: Notify::new(),
            room: Notify::new(),
            failed: Notify::new(),
            room_queue: tokio::sync::Mutex::new(()),
        }
    }

    pub(super) fn push<const N: usize>(&self, state: &mut State, operations: [Operation; N]) {
        if state.closed {
            // A completion that is dropped tells its waiter that it will never come.
            return;
        }
        for operation in operations {
            state.queued_bytes += operation.len();
            state.queue.push_back(operation);
        }
        self.wake_writer();
    }

    /// Which of the two waits is the disk's choice; the other costs some nanoseconds.
    pub(super) fn wake_writer(&self) {
        self.work.notify_one();
        self.work_for_task.notify_one();
    }

    /// Waits for work and takes about `bytes_max` of it; `None` when the log was closed and all is taken.
    pub(super) fn wait_for_batch(&self, bytes_max: usize) -> Option<Vec<Operation>> {
        let mut state = self.state.lock();
        let mut was_idle = false;
        loop {
            match self.take_batch(&mut state, bytes_max, was_idle) {
                Next::Batch(batch) => return Some(batch),
                Next::End => return None,
                Next::Nothing => {
                    let waited = self.work.wait_for(&mut state, COMMITTED_MARK_EVERY);
                    was_idle = waited.timed_out();
                }
            }
        }
    }

    /// What there is to do now. Nobody wakes the writer for a mark alone: that is written when it `was_idle` for a
    /// while.
    pub(super) fn next_batch(&self, bytes_max: usize, was_idle: bool) -> Next {
        self.take_batch(&mut self.state.lock(), bytes_max, was_idle)
    }

    fn take_batch(&self, state: &mut State, bytes_max: usize, was_idle: bool) -> Next {
        if state.queue.is_empty() && !state.closing && !was_idle {
            return Next::Nothing;
        }
        let mut batch = Vec::new();
        let mut bytes = 0;
        while bytes < bytes_max
            && let Some(operation) = state.queue.pop_front()
        {
            bytes += operation.len();
            batch.push(operation);
        }
        state.queued_bytes -= bytes;
        self.room.notify_one();
        if let Some(mark) = state.mark_within_reach(&batch) {
            state.committed_unwritten = state.index.committed != Some(mark);
            batch.push(Operation::Committed(mark));
        }
        if !batch.is_empty() {
            state.writes_since = Some(clock::boottime());
            return Next::Batch(batch);
        }
        if !state.closing {
            return Next::Nothing;
        }
        state.closed = true;
        Next::End
    }

    /// The batch that was taken is done with.
    pub(super) fn note_done(&self) {
        self.state.lock().writes_since = None;
    }

    pub(super) fn note_purged(&self, position: Position) {
        let mut state = self.state.lock();
        state.purge_written = state.purge_written.max(Some(position));
    }

    pub(super) fn note_written(
        &self,
        places: impl Iterator<Item = (Position, Place)>,
        pledge: Pledge,
    ) {
        let mut state = self.state.lock();
        state.pledge = pledge;
        for (position, place) in places {
            state.index.set_place(position, place);
            state.written = Some(position);
        }
        state.index.evict();
    }

    pub(super) fn add_segment(&self, number: u64, file: Arc<dyn DiskFile>) {
        self.state.lock().segments.insert(number, file);
    }

    pub(super) fn drop_segment(&self, number: u64) {
        self.state.lock().segments.remove(&number);
    }

    pub(super) fn poisoned(&self) -> Option<String> {
        self.state.lock().poisoned.clone()
    }

    pub(super) fn poison(&self, reason: String) {
        let mut state = self.state.lock();
        state.poisoned.get_or_insert(reason);
        self.room.notify_one();
        self.failed.notify_waiters();
    }
}
