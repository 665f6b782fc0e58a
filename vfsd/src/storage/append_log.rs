//! The durable log: entries, vote, bounds, all in one sequence of records.
//!
//! Invariants: one order for all writes (a vote never overtakes an entry); an entry can be read as soon as it was
//! appended and is durable when its completion ran; many appends share one flush. After an error the log is closed for
//! good. Not here: what the entries mean (`consensus/raft/log_store.rs`).

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::disk::{self, Disk, DiskFile, RealDisk};
use super::entry_index::Place;
pub use super::log_queue::Completion;
use super::log_queue::{Operation, Shared};
use super::log_writer::{LogWriter, Start};
use super::record::{Checkpoint, Pledge, Position, StoredEntry, Vote};
use super::{StorageError, atomic_file, recovery, segment};
use crate::clock;
use crate::limits::{ENTRY_BYTES_MAX, LOG_QUEUE_BYTES_MAX, LOG_SEGMENT_BYTES, STOP_LOOK_EVERY};

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
        let shared = Shared::new(
            disk,
            dir.to_path_buf(),
            segment_bytes,
            found.index,
            segments,
        );
        let shared = Arc::new(shared);
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
    /// It ends with the next batch that the writer takes, and with the log; not by itself while the disk hangs. So
    /// whoever waits here has a bound of its own.
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

    /// Writes what is queued and stops the writer. What is appended later fails. Blocks on the disk.
    pub fn close(&self) {
        if let Some(thread) = self.begin_close() {
            join(thread);
        }
    }

    /// As [`AppendLog::close`], but waits no longer than `within`, and blocks nobody. Returns whether the writer has
    /// ended: one that has not is waited for by nobody any more, and what it still has to write was told to nobody.
    pub async fn close_within(&self, within: Duration) -> bool {
        let Some(thread) = self.begin_close() else {
            return true;
        };
        let ends = async {
            while !thread.is_finished() {
                tokio::time::sleep(STOP_LOOK_EVERY).await;
            }
        };
        if tokio::time::timeout(within, ends).await.is_err() {
            return false;
        }
        join(thread);
        true
    }

    /// Tells the writer that nothing more comes; the thread that it is, if it is one, the first time.
    fn begin_close(&self) -> Option<JoinHandle<()>> {
        let mut state = self.shared.state.lock();
        state.closing = true;
        self.shared.wake_writer();
        drop(state);
        self.writer.lock().take()
    }
}

fn join(writer: JoinHandle<()>) {
    if writer.join().is_err() {
        tracing::error!("the log writer panicked");
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

#[cfg(test)]
mod crash_test;
#[cfg(test)]
mod recovery_test;
