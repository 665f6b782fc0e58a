//! The durable log: entries, vote, bounds, all in one sequence of records.
//!
//! Invariants: one order for all writes (a vote never overtakes an entry); an entry can be read as soon as it was
//! appended and is durable when its completion ran; many appends share one flush. After an error the log is closed for
//! good. Not here: what the entries mean (`consensus/raft/log_store.rs`).

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

use super::disk::{self, Disk, DiskFile, RealDisk};
use super::log_index::{LogIndex, Place};
use super::log_writer::{LogWriter, Start};
use super::record::{Checkpoint, Pledge, Position, StoredEntry, Vote};
use super::{StorageError, atomic_file, recovery, segment};
use crate::clock;
use crate::limits::{
    COMMITTED_MARK_EVERY, ENTRY_BYTES_MAX, LOG_QUEUE_BYTES_MAX, LOG_SEGMENT_BYTES,
};

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
    state: Mutex<State>,
    /// Wakes a writer that is a thread.
    work: Condvar,
    /// Wakes a writer that is a task.
    pub(super) work_for_task: Notify,
    room: Notify,
    /// Rings when the log is closed by an error.
    failed: Notify,
    // Held while waiting for room, so that who came first goes on first.
    room_queue: tokio::sync::Mutex<()>,
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

#[derive(Default)]
struct State {
    index: LogIndex,
    segments: BTreeMap<u64, Arc<dyn DiskFile>>,
    queue: VecDeque<Operation>,
    queued_bytes: usize,
    committed_unwritten: bool,
    /// The last entry that came to disk; it may have been truncated since.
    written: Option<Position>,
    /// What came to disk of votes, and of entries under the last of them.
    pledge: Pledge,
    /// Since when the writer has been busy with one batch.
    writes_since: Option<Duration>,
    /// The last purge that came to disk.
    purge_written: Option<Position>,
    poisoned: Option<String>,
    closing: bool,
    closed: bool,
}

/// A log of Raft entries in a directory. Closing it (or dropping it) writes what is queued.
pub struct AppendLog {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for AppendLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AppendLog")
            .field("dir", &self.shared.dir)
            .finish_non_exhaustive()
    }
}

/// Where the log begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The last purged position.
    pub purged: Option<Position>,
    /// The last entry, or the last purged one if there is none.
    pub last: Option<Position>,
}

impl AppendLog {
    /// Makes the first, empty segment of a new log in the existing directory `dir`.
    ///
    /// # Errors
    /// [`StorageError::NotEmpty`] if there is a log, [`StorageError::Io`].
    pub fn create(dir: &Path) -> Result<(), StorageError> {
        Self::create_with(dir, LOG_SEGMENT_BYTES)
    }

    /// As [`AppendLog::create`] with segments of `segment_bytes`.
    ///
    /// # Errors
    /// As there.
    pub fn create_with(dir: &Path, segment_bytes: u64) -> Result<(), StorageError> {
        Self::create_on(&RealDisk, dir, segment_bytes)
    }

    /// As [`AppendLog::create_with`] on another disk.
    ///
    /// # Errors
    /// As there.
    pub fn create_on(disk: &dyn Disk, dir: &Path, segment_bytes: u64) -> Result<(), StorageError> {
        if !segment::list(disk, dir)?.is_empty() {
            return Err(StorageError::NotEmpty(dir.to_path_buf()));
        }
        let prepared = segment::prepare(disk, dir, segment_bytes)?;
        segment::activate(disk, &prepared, dir, 1).map(drop)
    }

    /// Opens the log in `dir`, cutting off an interrupted write.
    ///
    /// # Errors
    /// [`StorageError::LogMissing`] if there is none, [`StorageError::Corrupt`] if its middle is damaged.
    pub fn open(dir: &Path) -> Result<Self, StorageError> {
        Self::open_with(dir, LOG_SEGMENT_BYTES)
    }

    /// As [`AppendLog::open`] with segments of `segment_bytes`.
    ///
    /// # Errors
    /// As there.
    pub fn open_with(dir: &Path, segment_bytes: u64) -> Result<Self, StorageError> {
        Self::open_on(RealDisk::shared(), dir, segment_bytes)
    }

    /// As [`AppendLog::open_with`] on another disk.
    ///
    /// # Errors
    /// As there.
    pub fn open_on(
        disk: Arc<dyn Disk>,
        dir: &Path,
        segment_bytes: u64,
    ) -> Result<Self, StorageError> {
        atomic_file::remove_left_overs(&*disk, dir)?;
        let found = recovery::recover(&*disk, dir, segment_bytes)?;
        let mut segments = BTreeMap::new();
        for &(number, _) in &found.segments {
            segments.insert(number, segment::open(&*disk, dir, number)?);
        }
        let (&active, file) = segments
            .last_key_value()
            .ok_or_else(|| StorageError::LogMissing(dir.to_path_buf()))?;
        let written = Checkpoint {
            version: 0,
            vote: found.index.vote,
            purged: found.index.purged,
            committed: found.index.committed,
            last_index: found.index.last().map(|position| position.index),
        };
        let start = Start {
            file: Arc::clone(file),
            segment: active,
            offset: found.end,
            segments: found.segments,
            written,
        };
        let shared = Arc::new(Shared {
            disk,
            dir: dir.to_path_buf(),
            segment_bytes,
            state: Mutex::new(State {
                purge_written: found.index.purged,
                pledge: Pledge {
                    vote: found.index.vote,
                    last: None,
                },
                index: found.index,
                segments,
                ..State::default()
            }),
            work: Condvar::new(),
            work_for_task: Notify::new(),
            room: Notify::new(),
            failed: Notify::new(),
            room_queue: tokio::sync::Mutex::new(()),
        });
        let writer = LogWriter::new(Arc::clone(&shared), start);
        let thread = shared
            .disk
            .employ("log-writer", Box::new(writer))
            .map_err(StorageError::io("start the writer of", dir))?;
        Ok(Self {
            shared,
            writer: Mutex::new(thread),
        })
    }

    /// The vote that was saved last.
    pub fn vote(&self) -> Option<Vote> {
        self.shared.state.lock().index.vote
    }

    /// Saves the vote; `done` is called when it is durable.
    pub fn save_vote(&self, vote: Vote, done: Completion) {
        let mut state = self.shared.state.lock();
        state.index.vote = Some(vote);
        self.shared
            .push(&mut state, [Operation::Vote(vote), Operation::Done(done)]);
    }

    /// The position up to which entries were known to be committed, as of the last record that came to disk.
    pub fn committed(&self) -> Option<Position> {
        self.shared.state.lock().index.committed
    }

    /// Notes the committed position. It goes to disk behind the next records, or by itself within
    /// [`COMMITTED_MARK_EVERY`] on an idle node; never before the entry that it names.
    pub fn note_committed(&self, position: Option<Position>) {
        let mut state = self.shared.state.lock();
        state.index.committed = position;
        state.committed_unwritten = true;
    }

    /// Where the log begins and ends.
    pub fn bounds(&self) -> Bounds {
        let state = self.shared.state.lock();
        Bounds {
            purged: state.index.purged,
            last: state.index.last(),
        }
    }

    /// What the disk holds for good by now, of what came to it since the log was opened.
    pub fn pledge(&self) -> Pledge {
        self.shared.state.lock().pledge
    }

    /// How long the disk has been busy with one batch.
    pub fn stalled_for(&self) -> Duration {
        let since = self.shared.state.lock().writes_since;
        since.map_or(Duration::ZERO, |since| {
            clock::boottime().saturating_sub(since)
        })
    }

    /// Bytes of all entries appended since the log was opened, and of those found then: a measure that only grows.
    pub fn appended_bytes(&self) -> u64 {
        self.shared.state.lock().index.appended_bytes()
    }

    /// Index of the oldest of the last entries that have at most `bytes` together.
    pub fn first_within(&self, bytes: u64) -> u64 {
        self.shared.state.lock().index.first_within(bytes)
    }

    /// Bytes of all entries above `index`.
    pub fn bytes_above(&self, index: u64) -> u64 {
        self.shared.state.lock().index.bytes_above(index)
    }

    /// Bytes that the segments take on disk.
    pub fn disk_bytes(&self) -> u64 {
        self.shared.state.lock().segments.len() as u64 * self.shared.segment_bytes
    }

    /// Waits while more waits for the disk than [`LOG_QUEUE_BYTES_MAX`]. Whoever brings entries waits here first:
    /// [`AppendLog::append`] itself never does, because Raft beats no heart meanwhile.
    ///
    /// # Errors
    /// [`StorageError::Poisoned`]: the log takes nothing any more.
    pub async fn wait_for_room(&self) -> Result<(), StorageError> {
        if self.has_room()? {
            return Ok(());
        }
        let _turn = self.shared.room_queue.lock().await;
        loop {
            let room = self.shared.room.notified();
            if self.has_room()? {
                return Ok(());
            }
            room.await;
        }
    }

    /// Why nothing is written any more; nothing while the log takes what it is given.
    pub fn failure(&self) -> Option<String> {
        let reason = self.shared.poisoned()?;
        Some(StorageError::Poisoned(reason).to_string())
    }

    /// Ends when nothing is written any more, with the reason. Not every write has somebody who waits for it: a
    /// committed mark, a purge and a truncation have not.
    pub async fn failed(&self) -> String {
        loop {
            let failed = self.shared.failed.notified();
            if let Some(reason) = self.failure() {
                return reason;
            }
            failed.await;
        }
    }

    fn has_room(&self) -> Result<bool, StorageError> {
        let state = self.shared.state.lock();
        match &state.poisoned {
            Some(reason) => Err(StorageError::Poisoned(reason.clone())),
            None => Ok(state.queued_bytes <= LOG_QUEUE_BYTES_MAX),
        }
    }

    /// Appends entries, readable at once; `done` is called when they are durable.
    ///
    /// # Panics
    /// If the entries leave a hole, or one is longer than [`ENTRY_BYTES_MAX`].
    pub fn append(&self, entries: impl IntoIterator<Item = StoredEntry>, done: Completion) {
        let mut state = self.shared.state.lock();
        for entry in entries {
            let len = entry.payload.len();
            assert!(
                len <= ENTRY_BYTES_MAX,
                "an entry of {len} bytes is longer than {ENTRY_BYTES_MAX}"
            );
            state.index.append(&entry, None);
            self.shared.push(&mut state, [Operation::Entry(entry)]);
        }
        self.shared.push(&mut state, [Operation::Done(done)]);
    }

    /// Drops all entries above `index`; `None` drops all.
    pub fn truncate_after(&self, index: Option<u64>) {
        let mut state = self.shared.state.lock();
        state.index.truncate_after(index);
        self.shared
            .push(&mut state, [Operation::TruncateAfter(index)]);
    }

    /// Drops all entries up to `position`, inclusive, and the segments that hold nothing else.
    pub fn purge(&self, position: Position) {
        let mut state = self.shared.state.lock();
        state.index.purge(position);
        self.shared.push(&mut state, [Operation::Purge(position)]);
    }

    /// The entries of `range` that exist, until their payloads exceed `bytes_max`; at least one if any exists. What is
    /// not in memory is read where it blocks nobody.
    ///
    /// # Errors
    /// [`StorageError::Io`] if a segment cannot be read, [`StorageError::Corrupt`] if what it holds has changed.
    pub async fn entries(&self, range: Range<u64>, bytes_max: u64) -> io::Result<Vec<StoredEntry>> {
        let found = self.locate(range, bytes_max);
        let in_memory = |located: &Located| matches!(located.source, Source::Cached(_));
        let is_quick = found.iter().all(in_memory);
        let dir = self.shared.dir.clone();
        let load = move || {
            let loaded = found.into_iter().map(|located| located.load(&dir));
            loaded.collect::<Result<Vec<_>, _>>()
        };
        if is_quick {
            return Ok(load()?);
        }
        Ok(disk::run_blocking(&*self.shared.disk, load).await??)
    }

    /// As [`AppendLog::entries`], reading on this thread.
    ///
    /// # Errors
    /// As there.
    pub fn entries_now(
        &self,
        range: Range<u64>,
        bytes_max: u64,
    ) -> Result<Vec<StoredEntry>, StorageError> {
        let found = self.locate(range, bytes_max);
        found
            .into_iter()
            .map(|located| located.load(&self.shared.dir))
            .collect()
    }

    fn locate(&self, range: Range<u64>, bytes_max: u64) -> Vec<Located> {
        let state = self.shared.state.lock();
        let (Some(first), Some(last)) = (state.index.first_index(), state.index.last()) else {
            return Vec::new();
        };
        let mut bytes = 0;
        let mut found = Vec::new();
        for index in range.start.max(first)..range.end.min(last.index + 1) {
            let Some(slot) = state.index.slot(index) else {
                break;
            };
            bytes += u64::from(slot.len);
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            let position = Position {
                term: slot.term,
                index,
            };
            let source = match (&slot.payload, slot.place) {
                (Some(payload), _) => Source::Cached(payload.clone()),
                (None, Some(place)) => Source::OnDisk {
                    file: state.segments.get(&place.segment).map(Arc::clone),
                    place,
                    len: slot.len,
                    checksum: slot.checksum,
                },
                (None, None) => unreachable!("an entry that is not on disk is cached"),
            };
            found.push(Located {
                position,
                kind: slot.kind,
                source,
            });
        }
        found
    }

    /// Writes what is queued and stops the writer. What is appended later fails.
    pub fn close(&self) {
        {
            let mut state = self.shared.state.lock();
            state.closing = true;
            self.shared.wake_writer();
        }
        let thread = self.writer.lock().take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the log writer panicked");
        }
    }
}

impl Drop for AppendLog {
    fn drop(&mut self) {
        self.close();
    }
}

/// An entry and where its payload is.
struct Located {
    position: Position,
    kind: u8,
    source: Source,
}

enum Source {
    Cached(Bytes),
    OnDisk {
        file: Option<Arc<dyn DiskFile>>,
        place: Place,
        len: u32,
        checksum: u32,
    },
}

impl Located {
    fn load(self, dir: &Path) -> Result<StoredEntry, StorageError> {
        let payload = match self.source {
            Source::Cached(payload) => payload,
            Source::OnDisk {
                file,
                place,
                len,
                checksum,
            } => {
                let path = segment::path(dir, place.segment);
                let gone = || StorageError::io("read", &path)(io::ErrorKind::NotFound.into());
                let file = file.ok_or_else(gone)?;
                let mut payload = vec![0; len as usize];
                file.read_exact_at(&mut payload, place.offset)
                    .map_err(StorageError::io("read", &path))?;
                if crc32c::crc32c(&payload) != checksum {
                    let reason = format!(
                        "entry {} has changed since it was written",
                        self.position.index
                    );
                    return Err(StorageError::Corrupt {
                        path,
                        offset: place.offset,
                        reason,
                    });
                }
                payload.into()
            }
        };
        Ok(StoredEntry {
            position: self.position,
            kind: self.kind,
            payload,
        })
    }
}

impl State {
    /// The unwritten committed mark, as far as it can go to disk behind `batch`.
    ///
    /// Raft learns that entries are committed before this node has flushed them: a mark on disk that outruns its
    /// entries names what the log does not have after a crash. And a queued entry that a later operation truncates is
    /// none of those that the mark covers, so only what the log still holds counts. A mark that a snapshot covers goes
    /// behind the purge that follows it.
    fn mark_within_reach(&self, batch: &[Operation]) -> Option<Position> {
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
    fn push<const N: usize>(&self, state: &mut State, operations: [Operation; N]) {
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
    fn wake_writer(&self) {
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

#[cfg(test)]
mod crash_test;
#[cfg(test)]
mod recovery_test;
