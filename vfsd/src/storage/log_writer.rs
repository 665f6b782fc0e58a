//! The one worker that writes the log: takes what has queued up, writes it as one frame, flushes once.
//!
//! Invariants: records reach the disk in the order they were queued; a completion runs only after a flush that covers
//! everything queued before it; after the first error nothing is written any more, because the kernel may have dropped
//! the unwritten pages (`fsync(2)`). Not here: who may append what (`append_log.rs`).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use super::disk::{Disk, DiskFile, Pause, Worker};
use super::entry_index::Place;
use super::frame::{self, HEADER_LEN};
use super::log_queue::{Completion, Next, Operation, Shared};
use super::record::{Checkpoint, Pledge, Position, RECORD_VERSION, Record};
use super::{StorageError, segment};
use crate::limits::{COMMITTED_MARK_EVERY, LOG_BATCH_BYTES_MAX};

/// The writing side of a log.
pub(super) struct LogWriter {
    shared: Arc<Shared>,
    file: Arc<dyn DiskFile>,
    segment: u64,
    offset: u64,
    spare: Option<mpsc::Receiver<Result<PathBuf, StorageError>>>,
    /// What a segment that begins now would have to say of the ones before it.
    written: Checkpoint,
    /// What the disk holds for good once the next flush is over.
    pledge: Pledge,
    segment_last: BTreeMap<u64, Option<u64>>,
}

/// What the writer starts from.
pub(super) struct Start {
    pub file: Arc<dyn DiskFile>,
    pub segment: u64,
    pub offset: u64,
    pub segments: Vec<(u64, Option<u64>)>,
    pub written: Checkpoint,
}

/// A batch on its way to the disk.
#[derive(Default)]
struct Batch {
    body: Vec<u8>,
    places: Vec<(Position, usize)>,
    completions: Vec<Completion>,
    purged: Option<Position>,
}

impl LogWriter {
    pub(super) fn new(shared: Arc<Shared>, start: Start) -> Self {
        let Start {
            file,
            segment,
            offset,
            segments,
            written,
        } = start;
        let segment_last = segments.into_iter().collect();
        let mut writer = Self {
            shared,
            file,
            segment,
            offset,
            spare: None,
            written,
            pledge: Pledge {
                vote: written.vote,
                last: None,
            },
            segment_last,
        };
        writer.written.version = RECORD_VERSION;
        writer.prepare_spare();
        writer
    }

    /// A batch, the largest entry of it included, fits into a segment, also into the small ones of tests.
    fn batch_bytes_max(&self) -> usize {
        let of_segment = usize::try_from(self.shared.segment_bytes / 4).unwrap_or(usize::MAX);
        LOG_BATCH_BYTES_MAX.min(of_segment)
    }

    /// Writes one batch, and tells who waits for it.
    fn step(&mut self, operations: Vec<Operation>) {
        let before = self.written;
        let mut batch = self.encode(operations);
        let failure = match self.write(&mut batch, before) {
            Ok(()) => None,
            // Told before.
            Err(StorageError::Poisoned(reason)) => Some(reason),
            Err(error) => {
                tracing::error!(%error, "the log cannot be written any more");
                self.shared.poison(error.to_string());
                Some(error.to_string())
            }
        };
        self.shared.note_done();
        for completion in batch.completions {
            completion(match &failure {
                None => Ok(()),
                Some(reason) => Err(io::Error::from(StorageError::Poisoned(reason.clone()))),
            });
        }
    }

    fn finish(mut self) {
        if let Some(spare) = self.spare.take()
            && let Ok(Ok(path)) = spare.recv()
        {
            // Made again when needed; a left-over would only take space.
            let _ = self.shared.disk.remove(&path);
        }
    }

    fn encode(&mut self, operations: Vec<Operation>) -> Batch {
        let mut batch = Batch::default();
        for operation in operations {
            let record = match &operation {
                Operation::Vote(vote) => {
                    if self.pledge.vote != Some(*vote) {
                        self.pledge = Pledge {
                            vote: Some(*vote),
                            last: None,
                        };
                    }
                    self.written.vote = Some(*vote);
                    Record::Vote(*vote)
                }
                Operation::Entry(entry) => {
                    self.written.last_index = Some(entry.position.index);
                    self.pledge.last = Some(entry.position);
                    Record::Entry {
                        position: entry.position,
                        kind: entry.kind,
                        payload: &entry.payload,
                    }
                }
                Operation::TruncateAfter(index) => {
                    let bound = index.or(self.written.purged.map(|purged| purged.index));
                    self.written.last_index = self
                        .written
                        .last_index
                        .filter(|&last| Some(last) <= bound)
                        .or(bound);
                    Record::TruncateAfter(*index)
                }
                Operation::Purge(position) => {
                    batch.purged = Some(*position);
                    self.written.purged = self.written.purged.max(Some(*position));
                    self.written.last_index = self.written.last_index.max(Some(position.index));
                    Record::Purge(*position)
                }
                Operation::Committed(position) => {
                    self.written.committed = Some(*position);
                    Record::Committed(*position)
                }
                Operation::Done(_) => {
                    if let Operation::Done(completion) = operation {
                        batch.completions.push(completion);
                    }
                    continue;
                }
            };
            batch.body = record.encode_to(std::mem::take(&mut batch.body));
            if let Operation::Entry(entry) = &operation {
                // The payload is the last field of its record.
                batch
                    .places
                    .push((entry.position, batch.body.len() - entry.payload.len()));
            }
        }
        batch
    }

    fn write(&mut self, batch: &mut Batch, before: Checkpoint) -> Result<(), StorageError> {
        if let Some(reason) = self.shared.poisoned() {
            return Err(StorageError::Poisoned(reason));
        }
        if batch.body.is_empty() {
            return Ok(());
        }
        let checkpoint = Record::Checkpoint(Checkpoint {
            version: RECORD_VERSION,
            ..before
        })
        .encode_to(Vec::new());
        let room = self.shared.segment_bytes - self.offset;
        if self.offset > 0 && (HEADER_LEN + batch.body.len()) as u64 > room {
            self.roll()?;
        }
        let mut frame = frame::begin();
        if self.offset == 0 {
            frame.extend_from_slice(&checkpoint);
        }
        let body_at = self.offset + frame.len() as u64;
        frame.extend_from_slice(&batch.body);
        frame::seal(&mut frame, self.segment, self.offset);
        let path = segment::path(&self.shared.dir, self.segment);
        self.file
            .write_all_at(&frame, self.offset)
            .map_err(StorageError::io("write", &path))?;
        self.file
            .sync_data()
            .map_err(StorageError::io("flush", &path))?;
        self.offset += frame.len() as u64;
        let last = batch
            .places
            .iter()
            .map(|(position, _)| position.index)
            .max();
        let segment_last = self.segment_last.entry(self.segment).or_default();
        *segment_last = (*segment_last).max(last);
        let segment = self.segment;
        let places = batch.places.drain(..).map(|(position, at)| {
            (
                position,
                Place {
                    segment,
                    offset: body_at + at as u64,
                },
            )
        });
        self.shared.note_written(places, self.pledge);
        if let Some(purged) = batch.purged {
            self.shared.note_purged(purged);
            self.delete_segments(purged)?;
        }
        Ok(())
    }

    /// Goes on in a new segment.
    fn roll(&mut self) -> Result<(), StorageError> {
        let disk = &*self.shared.disk;
        let prepared = match self.spare.take().map(|spare| spare.recv()) {
            Some(Ok(Ok(prepared))) => prepared,
            // It was prepared long ago, and what failed then may go now: there is room again, or a thread.
            Some(Ok(Err(_)) | Err(_)) | None => {
                segment::prepare(disk, &self.shared.dir, self.shared.segment_bytes)?
            }
        };
        let number = self.segment + 1;
        self.file = segment::activate(disk, &prepared, &self.shared.dir, number)?;
        self.segment = number;
        self.offset = 0;
        self.segment_last.insert(number, None);
        self.shared.add_segment(number, Arc::clone(&self.file));
        self.prepare_spare();
        Ok(())
    }

    fn prepare_spare(&mut self) {
        let (shared, (sender, receiver)) = (Arc::clone(&self.shared), mpsc::sync_channel(1));
        let job = move || {
            let prepared = segment::prepare(&*shared.disk, &shared.dir, shared.segment_bytes);
            // The writer is gone only if it panicked.
            let _ = sender.send(prepared);
        };
        let started = self.shared.disk.start("log-spare", Box::new(job));
        // Without a thread the segment is prepared when it is needed.
        self.spare = started.ok().map(|()| receiver);
    }

    /// Deletes the oldest segments while all of their entries are purged. The active one stays: its checkpoint carries
    /// the vote.
    fn delete_segments(&mut self, purged: Position) -> Result<(), StorageError> {
        while let Some((&number, &last)) = self.segment_last.first_key_value() {
            if number == self.segment || last.is_some_and(|last| last > purged.index) {
                return Ok(());
            }
            let path: PathBuf = segment::path(&self.shared.dir, number);
            self.shared.drop_segment(number);
            remove(&*self.shared.disk, &path)?;
            self.segment_last.remove(&number);
        }
        Ok(())
    }
}

fn remove(disk: &dyn Disk, path: &Path) -> Result<(), StorageError> {
    disk.remove(path).map_err(StorageError::io("remove", path))
}

impl Worker for LogWriter {
    fn run(mut self: Box<Self>) {
        while let Some(operations) = self.shared.wait_for_batch(self.batch_bytes_max()) {
            self.step(operations);
        }
        self.finish();
    }

    fn run_as_task(mut self: Box<Self>, pause: Box<dyn Fn() -> Pause + Send>) -> Pause {
        Box::pin(async move {
            let mut was_idle = false;
            loop {
                match self.shared.next_batch(self.batch_bytes_max(), was_idle) {
                    Next::Batch(operations) => {
                        pause().await;
                        self.step(operations);
                        was_idle = false;
                    }
                    Next::Nothing => {
                        let work = self.shared.work_for_task.notified();
                        let waited = tokio::time::timeout(COMMITTED_MARK_EVERY, work);
                        was_idle = waited.await.is_err();
                    }
                    Next::End => return self.finish(),
                }
            }
        })
    }
}
