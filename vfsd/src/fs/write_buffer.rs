//! What one handle has written and not committed: dirty ranges, gathered until they travel as one entry.
//!
//! Invariants: ranges never overlap or touch; committing them gives the same bytes as the calls did one by one.
//! Not here: when they are committed (`file_io.rs`).

use std::collections::BTreeMap;

use crate::limits::FILE_BYTES_MAX;
use crate::state_machine::command::{ContentOp, ContentUpdate};
use crate::state_machine::content::Content;
use crate::state_machine::outcome::FsError;

/// The uncommitted changes of one handle.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DirtyRanges {
    /// The handle was truncated to 0 before: the ranges are the whole content.
    replaces: bool,
    /// The smallest size that it was truncated to since; what the file held beyond is gone.
    cut: Option<u64>,
    /// The size that the last truncation gave.
    size_at_least: Option<u64>,
    ranges: BTreeMap<u64, Vec<u8>>,
}

impl DirtyRanges {
    /// Whether there is nothing to commit.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the handle rewrites the file from the start.
    pub fn replaces(&self) -> bool {
        self.replaces
    }

    /// Whether bytes were written, not only cut off.
    pub fn has_bytes(&self) -> bool {
        !self.ranges.is_empty()
    }

    /// Adds bytes at `offset`.
    ///
    /// # Errors
    /// [`FsError::FileTooLarge`] past [`FILE_BYTES_MAX`].
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), FsError> {
        let end = offset
            .checked_add(data.len() as u64)
            .filter(|end| *end <= FILE_BYTES_MAX);
        let end = end.ok_or(FsError::FileTooLarge)?;
        if data.is_empty() {
            return Ok(());
        }
        let before = self.ranges.range(..=offset).next_back();
        let reaches = before
            .filter(|(start, bytes)| **start + bytes.len() as u64 >= offset)
            .map(|(start, _)| *start);
        let start = reaches.unwrap_or(offset);
        let range = self.ranges.entry(start).or_default();
        let (from, to) = (index(offset - start), index(end - start));
        range.resize(range.len().max(to), 0);
        range[from..to].copy_from_slice(data);
        self.absorb_after(start);
        Ok(())
    }

    /// Sets the size (`ftruncate`, or `O_TRUNC` with 0).
    ///
    /// # Errors
    /// As [`DirtyRanges::write`].
    pub fn truncate(&mut self, size: u64) -> Result<(), FsError> {
        if size > FILE_BYTES_MAX {
            return Err(FsError::FileTooLarge);
        }
        if size == 0 {
            *self = Self {
                replaces: true,
                ..Self::default()
            };
            return Ok(());
        }
        self.ranges.split_off(&size);
        if let Some((start, bytes)) = self.ranges.range_mut(..size).next_back() {
            bytes.truncate(index(size - start));
        }
        if !self.replaces {
            self.cut = Some(self.cut.map_or(size, |cut| cut.min(size)));
        }
        self.size_at_least = Some(size);
        Ok(())
    }

    /// Makes the file at least `size` bytes long (`fallocate`).
    ///
    /// # Errors
    /// As [`DirtyRanges::write`].
    pub fn extend(&mut self, size: u64) -> Result<(), FsError> {
        if size > FILE_BYTES_MAX {
            return Err(FsError::FileTooLarge);
        }
        self.size_at_least = Some(self.size_at_least.map_or(size, |old| old.max(size)));
        Ok(())
    }

    /// Takes in what was written after this.
    pub fn followed_by(&mut self, later: Self) {
        if later.replaces {
            *self = later;
            return;
        }
        if let Some(cut) = later.cut {
            // Sizes within `later` are below the maximum already.
            self.truncate(cut)
                .expect("a size that was accepted once is accepted again");
        }
        if let Some(size) = later.size_at_least {
            self.extend(size)
                .expect("a size that was accepted once is accepted again");
        }
        for (offset, bytes) in later.ranges {
            self.write(offset, &bytes)
                .expect("a range that was accepted once is accepted again");
        }
    }

    /// As an entry carries it.
    pub fn to_update(&self) -> ContentUpdate {
        let cut = self.cut.map(ContentOp::Truncate);
        let size = self.size_at_least.map(ContentOp::Extend);
        let writes = self.ranges.iter().map(|(offset, data)| ContentOp::Write {
            offset: *offset,
            data: data.clone(),
        });
        let ops = cut.into_iter().chain(size).chain(writes).collect();
        if self.replaces {
            ContentUpdate::Replace(ops)
        } else {
            ContentUpdate::Patch(ops)
        }
    }

    /// The content as it looks with these changes on top.
    pub fn over(&self, content: &Content) -> Content {
        let mut seen = content.clone();
        // Every size in here was checked when it was written, so the update fits.
        seen.apply(&self.to_update())
            .expect("accepted ranges fit a file");
        seen
    }

    /// Joins the range at `start` with those that it overlaps or touches; its own bytes win.
    fn absorb_after(&mut self, start: u64) {
        let mut range = self.ranges.remove(&start).unwrap_or_default();
        while let Some(entry) = self.ranges.range(start..=start + range.len() as u64).next() {
            let next = *entry.0;
            let bytes = self.ranges.remove(&next).unwrap_or_default();
            let known = index(start + range.len() as u64 - next);
            if known < bytes.len() {
                range.extend_from_slice(&bytes[known..]);
            }
        }
        self.ranges.insert(start, range);
    }
}

fn index(value: u64) -> usize {
    usize::try_from(value).expect("offsets are bounded by FILE_BYTES_MAX")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Call {
        Write(u64, Vec<u8>),
        Truncate(u64),
        Extend(u64),
    }

    fn call() -> impl Strategy<Value = Call> {
        prop_oneof![
            3 => (0u64..200, prop::collection::vec(any::<u8>(), 0..60)).prop_map(|(o, d)| Call::Write(o, d)),
            1 => (0u64..200).prop_map(Call::Truncate),
            1 => (0u64..200).prop_map(Call::Extend),
        ]
    }

    proptest! {
        #[test]
        fn ranges_give_the_same_bytes_as_the_calls_one_by_one(
            base in prop::collection::vec(any::<u8>(), 0..150),
            calls in prop::collection::vec(call(), 0..20),
            split in 0usize..20,
        ) {
            let mut expected = Content::default();
            expected.apply_op(&ContentOp::Write { offset: 0, data: base }).unwrap();
            let old = expected.clone();
            let (mut first, mut later) = (DirtyRanges::default(), DirtyRanges::default());
            for (number, call) in calls.into_iter().enumerate() {
                let dirty = if number < split { &mut first } else { &mut later };
                match call {
                    Call::Write(offset, data) => {
                        dirty.write(offset, &data).unwrap();
                        expected.apply_op(&ContentOp::Write { offset, data }).unwrap();
                    }
                    Call::Truncate(size) => {
                        dirty.truncate(size).unwrap();
                        expected.apply_op(&ContentOp::Truncate(size)).unwrap();
                    }
                    Call::Extend(size) => {
                        dirty.extend(size).unwrap();
                        expected.apply_op(&ContentOp::Extend(size)).unwrap();
                    }
                }
            }
            prop_assert_eq!(later.over(&first.over(&old)).to_vec(), expected.to_vec());
            first.followed_by(later);
            prop_assert_eq!(first.over(&old).to_vec(), expected.to_vec());
        }
    }

    #[test]
    fn writes_in_a_row_are_one_range() {
        let mut dirty = DirtyRanges::default();
        dirty.truncate(0).unwrap();
        dirty.write(0, b"one ").unwrap();
        dirty.write(4, b"two").unwrap();
        let whole = ContentOp::Write {
            offset: 0,
            data: b"one two".to_vec(),
        };
        assert_eq!(dirty.to_update(), ContentUpdate::Replace(vec![whole]));
    }

    #[test]
    fn a_write_past_the_largest_file_is_refused() {
        let mut dirty = DirtyRanges::default();
        dirty.write(FILE_BYTES_MAX - 1, &[1]).unwrap();
        assert_eq!(
            dirty.write(FILE_BYTES_MAX, &[1]),
            Err(FsError::FileTooLarge)
        );
        assert_eq!(
            dirty.truncate(FILE_BYTES_MAX + 1),
            Err(FsError::FileTooLarge)
        );
    }
}
