//! What one handle has changed and not committed: dirty ranges, each with its place in the order of the calls on the
//! inode, gathered until they travel as one entry.
//!
//! Invariants: extents never overlap; one that reaches to [`END`] comes of a truncation; committing them gives the same
//! bytes as the calls did one by one. What a later call of this node
//! has decided, and what is committed already, is taken out ([`DirtyRanges::give_way_to`]): an older write never covers
//! a newer one. Not here: whose ranges these are and when they are committed (`uncommitted.rs`, `commit.rs`).

use std::collections::BTreeMap;

use crate::limits::{DIRTY_RANGE_OVERHEAD_BYTES, FILE_BYTES_MAX};
use crate::state_machine::command::{ContentOp, ContentUpdate};
use crate::state_machine::content::Content;
use crate::state_machine::fs_error::FsError;

/// Where a call stands among the calls on its inode. Calls that follow each other on one handle share a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Order(pub u64);

/// The end of an extent that a truncation made: everything behind its start is gone.
const END: u64 = u64::MAX;

/// Bytes of an extent that are known.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Bytes {
    Written(Vec<u8>),
    Zeros,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Extent {
    end: u64,
    at: Order,
    bytes: Bytes,
}

impl Extent {
    fn weight(&self) -> u64 {
        let bytes = match &self.bytes {
            Bytes::Written(bytes) => bytes.len() as u64,
            Bytes::Zeros => 0,
        };
        bytes + DIRTY_RANGE_OVERHEAD_BYTES
    }

    /// The part from `from` on, for an extent that starts at `start`.
    fn tail(&self, start: u64, from: u64) -> Self {
        let bytes = match &self.bytes {
            Bytes::Written(bytes) => Bytes::Written(bytes[index(from - start)..].to_vec()),
            Bytes::Zeros => Bytes::Zeros,
        };
        Self { bytes, ..*self }
    }

    /// Cuts off everything from `to` on, for an extent that starts at `start`.
    fn cut(&mut self, start: u64, to: u64) {
        self.end = to;
        if let Bytes::Written(bytes) = &mut self.bytes {
            bytes.truncate(index(to - start));
        }
    }
}

/// Extents by where they start, and what they weigh together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Extents {
    by_start: BTreeMap<u64, Extent>,
    weight: u64,
}

impl std::ops::Deref for Extents {
    type Target = BTreeMap<u64, Extent>;

    fn deref(&self) -> &Self::Target {
        &self.by_start
    }
}

impl Extents {
    fn insert(&mut self, start: u64, extent: Extent) {
        self.weight += extent.weight();
        let replaced = self.by_start.insert(start, extent);
        self.weight -= replaced.map_or(0, |extent| extent.weight());
    }

    fn remove(&mut self, start: u64) {
        let removed = self.by_start.remove(&start);
        self.weight -= removed.map_or(0, |extent| extent.weight());
    }

    /// Changes the extent that starts at `start`.
    fn edit(&mut self, start: u64, edit: impl FnOnce(&mut Extent)) {
        if let Some(extent) = self.by_start.get_mut(&start) {
            let before = extent.weight();
            edit(extent);
            self.weight = self.weight + extent.weight() - before;
        }
    }
}

/// The uncommitted changes of one handle.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DirtyRanges {
    extents: Extents,
    /// The last truncation, and the size that it and what was committed since left.
    cut: Option<(Order, u64)>,
    /// Sizes that the file has at least (`fallocate`): an earlier one only if it is larger than all later ones.
    extends: Vec<(Order, u64)>,
}

impl DirtyRanges {
    /// Whether there is nothing to commit.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What it takes in memory, about.
    pub fn weight(&self) -> u64 {
        self.extents.weight + self.extends.len() as u64 * DIRTY_RANGE_OVERHEAD_BYTES
    }

    /// Whether every byte of the file is decided here: what the file held before is gone.
    pub fn replaces(&self) -> bool {
        let mut reached = 0;
        for (&start, extent) in self.extents.iter() {
            if start != reached {
                return false;
            }
            reached = extent.end;
        }
        reached == END
    }

    /// Whether bytes were written, not only cut off.
    pub fn has_bytes(&self) -> bool {
        let mut extents = self.extents.values();
        extents.any(|extent| matches!(extent.bytes, Bytes::Written(_)))
    }

    /// How many bytes were written.
    pub fn bytes(&self) -> u64 {
        let written = self
            .extents
            .iter()
            .filter(|(_, extent)| matches!(extent.bytes, Bytes::Written(_)));
        written.map(|(start, extent)| extent.end - start).sum()
    }

    /// Whether this is a truncation to 0 and nothing else.
    pub fn only_empties(&self) -> bool {
        let is_cut_to_nothing = self.cut.is_some_and(|(_, size)| size == 0);
        is_cut_to_nothing && self.extents.len() == 1 && self.extends.is_empty()
    }

    /// Adds bytes at `offset`.
    ///
    /// # Errors
    /// [`FsError::FileTooLarge`] past [`FILE_BYTES_MAX`].
    pub fn write(&mut self, at: Order, offset: u64, data: &[u8]) -> Result<(), FsError> {
        let end = checked_end(offset, data.len() as u64)?;
        if data.is_empty() || self.overwrite(at, offset, end, data) {
            return Ok(());
        }
        self.carve(offset, end);
        let before = self.extents.range(..offset).next_back();
        let joined = before.filter(|(_, extent)| {
            let is_written = matches!(extent.bytes, Bytes::Written(_));
            is_written && extent.end == offset && extent.at == at
        });
        if let Some((&start, _)) = joined {
            self.extents.edit(start, |extent| {
                if let Bytes::Written(bytes) = &mut extent.bytes {
                    bytes.extend_from_slice(data);
                    extent.end = end;
                }
            });
        } else {
            let bytes = Bytes::Written(data.to_vec());
            self.extents.insert(offset, Extent { end, at, bytes });
        }
        Ok(())
    }

    /// Writes into an extent that has all of the bytes already, under the same order.
    fn overwrite(&mut self, at: Order, offset: u64, end: u64, data: &[u8]) -> bool {
        // It weighs what it weighed.
        let found = self.extents.by_start.range_mut(..=offset).next_back();
        let Some((&start, extent)) = found.filter(|(_, e)| e.at == at && end <= e.end) else {
            return false;
        };
        let Bytes::Written(bytes) = &mut extent.bytes else {
            return false;
        };
        bytes[index(offset - start)..index(end - start)].copy_from_slice(data);
        true
    }

    /// Makes the bytes from `offset` to `end` zeros; the size stays.
    ///
    /// # Errors
    /// As [`DirtyRanges::write`].
    pub fn zero(&mut self, at: Order, offset: u64, end: u64) -> Result<(), FsError> {
        let end = checked_end(offset, end.saturating_sub(offset))?;
        if offset >= end {
            return Ok(());
        }
        let sizes = self.sizes_written(offset, end, at);
        self.insert_zeros(at, offset, end);
        for (at, size) in sizes {
            self.note_size(at, size);
        }
        Ok(())
    }

    /// What was written between `from` and `to` up to `until` gave the file a size, which outlives the bytes.
    fn sizes_written(&self, from: u64, to: u64, until: Order) -> Vec<(Order, u64)> {
        let extents = self.extents.range(..to).map(|(_, extent)| extent);
        let written = extents.filter(|extent| {
            let is_written = matches!(extent.bytes, Bytes::Written(_));
            is_written && extent.end > from && extent.at <= until
        });
        written
            .map(|extent| (extent.at, to.min(extent.end)))
            .collect()
    }

    /// Sets the size (`ftruncate`, or `O_TRUNC` with 0).
    ///
    /// # Errors
    /// As [`DirtyRanges::write`].
    pub fn truncate(&mut self, at: Order, size: u64) -> Result<(), FsError> {
        checked_end(size, 0)?;
        self.extends.clear();
        self.insert_zeros(at, size, END);
        self.cut = Some((at, size));
        Ok(())
    }

    /// Makes the file at least `size` bytes long (`fallocate`).
    ///
    /// # Errors
    /// As [`DirtyRanges::write`].
    pub fn extend(&mut self, at: Order, size: u64) -> Result<(), FsError> {
        checked_end(size, 0)?;
        self.note_size(at, size);
        Ok(())
    }

    fn note_size(&mut self, at: Order, size: u64) {
        let covers =
            |(at, size): (Order, u64), other: (Order, u64)| at >= other.0 && size >= other.1;
        if !self.extends.iter().any(|&other| covers(other, (at, size))) {
            self.extends.retain(|&other| !covers((at, size), other));
            self.extends.push((at, size));
        }
    }

    fn insert_zeros(&mut self, at: Order, start: u64, end: u64) {
        self.carve(start, end);
        let bytes = Bytes::Zeros;
        self.extents.insert(start, Extent { end, at, bytes });
    }

    /// Takes everything between `from` and `to` out.
    fn carve(&mut self, from: u64, to: u64) {
        if let Some((&start, extent)) = self.extents.range(..from).next_back()
            && extent.end > from
        {
            let rest = (extent.end > to).then(|| extent.tail(start, to));
            self.extents.edit(start, |extent| extent.cut(start, from));
            if let Some(rest) = rest {
                self.extents.insert(to, rest);
            }
        }
        while let Some((&start, extent)) = self.extents.range(from..to).next() {
            let rest = (extent.end > to).then(|| extent.tail(start, to));
            self.extents.remove(start);
            if let Some(rest) = rest {
                self.extents.insert(to, rest);
            }
        }
    }

    /// Drops what `later` has decided after it; `later` is committed, or about to be before this.
    pub fn give_way_to(&mut self, later: &Self) {
        for (&start, extent) in later.extents.iter() {
            match &extent.bytes {
                Bytes::Written(_) => self.cut_keeps(extent.at, extent.end),
                Bytes::Zeros => {
                    for (at, size) in self.sizes_written(start, extent.end, extent.at) {
                        self.note_size(at, size);
                    }
                }
            }
            self.carve_older(extent.at, start, extent.end);
        }
        for &(at, size) in &later.extends {
            self.cut_keeps(at, size);
        }
        if let Some((at, _)) = later.cut {
            self.cut = self.cut.filter(|&(own, _)| own > at);
            self.extends.retain(|&(own, _)| own > at);
        }
    }

    /// An older truncation must not take back a size that a later call gave.
    fn cut_keeps(&mut self, at: Order, end: u64) {
        if let Some((_, size)) = self.cut.as_mut().filter(|(own, _)| *own < at) {
            *size = end.max(*size);
        }
    }

    fn carve_older(&mut self, at: Order, from: u64, to: u64) {
        let reaching = self.extents.range(..from).next_back();
        let reaching = reaching.filter(|(_, extent)| extent.end > from);
        let inside = self.extents.range(from..to);
        let older: Vec<(u64, u64)> = reaching
            .into_iter()
            .chain(inside)
            .filter(|(_, extent)| extent.at < at)
            .map(|(start, extent)| (from.max(*start), to.min(extent.end)))
            .collect();
        for (from, to) in older {
            self.carve(from, to);
        }
    }

    /// Takes back what was on its way to a commit; what was changed since stands over it.
    pub fn take_back(&mut self, older: Self) {
        let newer = std::mem::replace(self, older);
        for (start, extent) in newer.extents.by_start {
            if extent.bytes == Bytes::Zeros {
                for (at, size) in self.sizes_written(start, extent.end, extent.at) {
                    self.note_size(at, size);
                }
            }
            self.carve(start, extent.end);
            self.extents.insert(start, extent);
        }
        if let Some((at, _)) = newer.cut {
            self.cut = newer.cut;
            self.extends.retain(|&(own, _)| own > at);
        }
        for (at, size) in newer.extends {
            self.note_size(at, size);
        }
    }

    /// The size that a truncation and what came after it left, and where the written bytes end.
    fn size_left(&self) -> Option<(u64, u64)> {
        let (_, size) = self.cut?;
        let mut extents = self.extents.values().rev();
        let written = extents.find(|extent| matches!(extent.bytes, Bytes::Written(_)));
        let written = written.map_or(0, |extent| extent.end);
        Some((size.max(written), written))
    }

    /// As an entry carries it.
    pub fn to_update(&self) -> ContentUpdate {
        let mut ops: Vec<ContentOp> = Vec::new();
        let replaces = self.replaces();
        match self.size_left() {
            Some((size, _)) if !replaces => ops.push(ContentOp::Truncate(size)),
            Some((size, written)) if written < size => ops.push(ContentOp::Extend(size)),
            _ => {}
        }
        for (&offset, extent) in self.extents.iter() {
            match &extent.bytes {
                Bytes::Written(data) => ops.push(ContentOp::Write {
                    offset,
                    data: data.clone(),
                }),
                Bytes::Zeros if replaces => {}
                Bytes::Zeros => {
                    let len = extent.end.min(FILE_BYTES_MAX).saturating_sub(offset);
                    ops.extend((len > 0).then_some(ContentOp::Zero { offset, len }));
                }
            }
        }
        let extends = self.extends.iter().map(|&(_, size)| size).max();
        ops.extend(extends.map(ContentOp::Extend));
        if replaces {
            ContentUpdate::Replace(ops)
        } else {
            ContentUpdate::Patch(ops)
        }
    }
}

/// The content as the calls of several handles leave it, whoever made them: `content` with all `ranges` on top, in the
/// order of the calls.
pub fn lay_over<'a>(
    content: &Content,
    ranges: impl IntoIterator<Item = &'a DirtyRanges>,
) -> Content {
    let mut steps: Vec<(Order, u8, u64, Step<'a>)> = Vec::new();
    for dirty in ranges {
        for (&start, extent) in dirty.extents.iter() {
            let (rank, step) = match &extent.bytes {
                Bytes::Zeros => (1, Step::Zero(extent.end)),
                Bytes::Written(bytes) => (2, Step::Write(bytes)),
            };
            steps.push((extent.at, rank, start, step));
        }
        let cut = dirty.cut.iter();
        steps.extend(cut.map(|&(at, size)| (at, 0, size, Step::Truncate)));
        let extends = dirty.extends.iter();
        steps.extend(extends.map(|&(at, size)| (at, 3, size, Step::Extend)));
    }
    steps.sort_by_key(|&(at, rank, start, _)| (at, rank, start));
    let mut seen = content.clone();
    for (_, _, at, step) in steps {
        let done = match step {
            Step::Truncate => seen.truncate(at),
            Step::Zero(end) => {
                seen.zero(at, end - at);
                Ok(())
            }
            Step::Write(bytes) => seen.write(at, bytes),
            Step::Extend if at > seen.size() => seen.truncate(at),
            Step::Extend => Ok(()),
        };
        done.expect("ranges that were accepted fit a file");
    }
    seen
}

enum Step<'a> {
    Truncate,
    Zero(u64),
    Write(&'a [u8]),
    Extend,
}

fn checked_end(offset: u64, len: u64) -> Result<u64, FsError> {
    let end = offset.checked_add(len);
    end.filter(|end| *end <= FILE_BYTES_MAX)
        .ok_or(FsError::FileTooLarge)
}

fn index(value: u64) -> usize {
    usize::try_from(value).expect("offsets are bounded by FILE_BYTES_MAX")
}

#[cfg(test)]
#[path = "dirty_ranges_test.rs"]
mod dirty_ranges_test;
