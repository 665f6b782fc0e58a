//! Reads the segments of a log back, up to the last whole frame.
//!
//! Invariants: a bad frame at the end is an interrupted write and is cut; a bad frame with whole ones behind it is
//! damage and is refused. Not here: the layout of frames (`frame.rs`) and records (`record.rs`).

use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::disk::{Disk, DiskFile};
use super::entry_index::{EntryIndex, Place};
use super::frame::{self, FrameRead};
use super::record::{self, Checkpoint, Position, Record, StoredEntry};
use super::{StorageError, segment};
use crate::storage::record::RECORD_VERSION;

/// A log as it was found on disk.
pub(super) struct Recovered {
    pub index: EntryIndex,
    /// Each segment with the index of the last entry that was ever written into it.
    pub segments: Vec<(u64, Option<u64>)>,
    /// Where the next frame goes in the last segment; 0 if nothing stands in it.
    pub end: u64,
    /// The newest committed mark, while the entry that it names has not been read.
    ahead: Option<Position>,
    /// The oldest segment is not the first that there was: what came before it must be purged.
    is_continued: bool,
}

/// Reads the log in `dir`.
pub(super) fn recover(
    disk: &dyn Disk,
    dir: &Path,
    segment_bytes: u64,
) -> Result<Recovered, StorageError> {
    let numbers = segment::list(disk, dir)?;
    let Some(&last) = numbers.last() else {
        return Err(StorageError::LogMissing(dir.to_path_buf()));
    };
    let mut found = Recovered {
        index: EntryIndex::default(),
        segments: Vec::new(),
        end: 0,
        ahead: None,
        is_continued: false,
    };
    let mut previous = None;
    for number in numbers {
        if previous.is_some_and(|previous| number != previous + 1) {
            let reason = format!("segment {:016x} before it is missing", number - 1);
            return Err(StorageError::Corrupt {
                path: segment::path(dir, number),
                offset: 0,
                reason,
            });
        }
        previous = Some(number);
        let path = segment::path(dir, number);
        let bytes = disk.read(&path).map_err(StorageError::io("read", &path))?;
        let end = SegmentReader {
            path,
            number,
            found: &mut found,
            last_entry: None,
        }
        .read(&bytes, number == last)?;
        if number == last {
            found.end = end.after as u64;
            let file = segment::open(disk, dir, number)?;
            make_ready(
                &*file,
                &segment::path(dir, number),
                &bytes,
                end,
                segment_bytes,
            )?;
        }
    }
    // Whoever renamed the last segment may have been interrupted, or its flush may have failed.
    disk.sync_dir(dir).map_err(StorageError::io("flush", dir))?;
    found.settle_mark();
    if found.is_continued && found.index.has_hole() {
        return Err(StorageError::Corrupt {
            path: segment::path(dir, found.segments[0].0),
            offset: 0,
            reason: "the entries before it are neither here nor purged".into(),
        });
    }
    Ok(found)
}

impl Recovered {
    /// Takes a mark that earlier builds wrote before its entries, if they came to disk after all. Otherwise the mark
    /// before it stays: an entry that merely has the index may be one that was about to be truncated.
    fn settle_mark(&mut self) {
        if let Some(mark) = self.ahead.filter(|&mark| self.index.holds(mark)) {
            self.index.committed = self.index.committed.max(Some(mark));
            self.ahead = None;
        }
    }

    fn mark(&mut self, position: Option<Position>) {
        self.settle_mark();
        match position {
            Some(position) if self.index.holds(position) => self.index.committed = Some(position),
            Some(position) => self.ahead = Some(position),
            None => {}
        }
    }
}

/// Where the last whole frame of a segment begins, and where it ends.
#[derive(Clone, Copy)]
struct LastFrame {
    at: usize,
    after: usize,
}

/// Makes the last whole frame durable, zeroes what stands behind it, and restores the full size.
///
/// The frame is written again: if its flush failed, the kernel may show bytes that it will never write (`fsync(2)`).
/// Only the last can be such a one, because nothing is written after a failure.
fn make_ready(
    file: &dyn DiskFile,
    path: &Path,
    bytes: &[u8],
    last: LastFrame,
    segment_bytes: u64,
) -> Result<(), StorageError> {
    let torn = bytes[last.after..]
        .iter()
        .rposition(|&byte| byte != 0)
        .map_or(0, |last| last + 1);
    if torn > 0 {
        tracing::warn!(segment = %path.display(), offset = last.after, bytes = torn,
            "cut an interrupted write off the log");
    }
    let mut end = bytes[last.at..last.after].to_vec();
    end.resize(end.len() + torn, 0);
    file.write_all_at(&end, last.at as u64)
        .map_err(StorageError::io("write", path))?;
    if (bytes.len() as u64) < segment_bytes {
        file.set_len(segment_bytes)
            .map_err(StorageError::io("extend", path))?;
    }
    file.sync_all().map_err(StorageError::io("flush", path))
}

struct SegmentReader<'a> {
    path: PathBuf,
    number: u64,
    found: &'a mut Recovered,
    last_entry: Option<u64>,
}

impl SegmentReader<'_> {
    fn read(mut self, bytes: &[u8], is_last: bool) -> Result<LastFrame, StorageError> {
        let mut at = 0;
        let mut last_at = 0;
        let end = loop {
            let reason = match frame::read_at(bytes, self.number, at) {
                FrameRead::Whole { body, end } => {
                    self.replay(bytes, body, at)?;
                    (last_at, at) = (at, end);
                    continue;
                }
                FrameRead::Empty => "nothing stands here".to_owned(),
                FrameRead::Bad { reason } if is_last => reason,
                // The next segment is begun only after all of this one was flushed.
                FrameRead::Bad { reason } => return Err(self.corrupt(at, reason)),
            };
            if frame::find_whole(bytes, self.number, at + 1).is_some() {
                return Err(self.corrupt(at, reason));
            }
            break LastFrame {
                at: last_at,
                after: at,
            };
        };
        self.found.segments.push((self.number, self.last_entry));
        Ok(end)
    }

    fn corrupt(&self, offset: usize, reason: impl Into<String>) -> StorageError {
        StorageError::Corrupt {
            path: self.path.clone(),
            offset: offset as u64,
            reason: reason.into(),
        }
    }

    /// Before anything else is read: what a later version writes need not be readable, and is no damage.
    fn check_version(&self, body: &[u8]) -> Result<(), StorageError> {
        match record::version_of_segment(body) {
            Some(version) if version != RECORD_VERSION => Err(StorageError::Format {
                path: self.path.clone(),
                found: format!("log records {version}"),
                known: format!("log records {RECORD_VERSION}"),
            }),
            _ => Ok(()),
        }
    }

    fn replay(&mut self, bytes: &[u8], body: &[u8], frame_at: usize) -> Result<(), StorageError> {
        let mut rest = body;
        let mut is_first_record = frame_at == 0;
        if is_first_record {
            self.check_version(body)?;
        }
        while !rest.is_empty() {
            let (record, tail) = record::decode_first(rest).map_err(|error| {
                self.corrupt(frame_at, format!("a record cannot be decoded: {error}"))
            })?;
            if is_first_record != matches!(record, Record::Checkpoint(_)) {
                return Err(self.corrupt(
                    frame_at,
                    "a segment begins with its checkpoint, and has only one",
                ));
            }
            is_first_record = false;
            self.replay_record(bytes, &record, frame_at)?;
            rest = tail;
        }
        Ok(())
    }

    fn replay_record(
        &mut self,
        bytes: &[u8],
        record: &Record<'_>,
        frame_at: usize,
    ) -> Result<(), StorageError> {
        match *record {
            Record::Checkpoint(checkpoint) => self.adopt(checkpoint, frame_at)?,
            Record::Vote(vote) => self.found.index.vote = Some(vote),
            Record::Committed(position) => self.found.mark(Some(position)),
            Record::TruncateAfter(index) => self.found.index.truncate_after(index),
            Record::Purge(position) => self.found.index.purge(position),
            Record::Entry {
                position,
                kind,
                payload,
            } => {
                self.last_entry = self.last_entry.max(Some(position.index));
                let index = &mut self.found.index;
                if let Some(expected) = index
                    .expected()
                    .filter(|&expected| expected != position.index)
                {
                    let reason =
                        format!("entry {} stands where {expected} must be", position.index);
                    return Err(self.corrupt(frame_at, reason));
                }
                let offset = payload.as_ptr() as usize - bytes.as_ptr() as usize;
                let place = Place {
                    segment: self.number,
                    offset: offset as u64,
                };
                let entry = StoredEntry {
                    position,
                    kind,
                    payload: Bytes::copy_from_slice(payload),
                };
                index.append(&entry, Some(place));
            }
        }
        Ok(())
    }

    fn adopt(&mut self, checkpoint: Checkpoint, frame_at: usize) -> Result<(), StorageError> {
        let index = &mut self.found.index;
        if self.found.segments.is_empty() {
            index.vote = checkpoint.vote;
            if let Some(purged) = checkpoint.purged {
                index.purge(purged);
            }
            if let Some(last) = checkpoint.last_index {
                index.begin_at(last + 1);
                self.found.is_continued = true;
            }
            self.found.mark(checkpoint.committed);
            return Ok(());
        }
        let last = index.expected().map(|next| next.saturating_sub(1));
        if (index.vote, last) != (checkpoint.vote, checkpoint.last_index) {
            let reason = format!(
                "it follows entry {:?} and vote {:?}, but the segment before it ends with {last:?} and {:?}",
                checkpoint.last_index, checkpoint.vote, index.vote
            );
            return Err(self.corrupt(frame_at, reason));
        }
        Ok(())
    }
}
