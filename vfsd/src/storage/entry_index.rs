//! What the log contains, in memory: votes, bounds, and where each entry lies.
//!
//! Invariants: entries are consecutive; the newest are cached, and one that is not on disk yet always is. Not here: how
//! it gets to disk (`log_writer.rs`) and back (`recovery.rs`).

use std::collections::VecDeque;

use bytes::Bytes;

use super::record::{Position, StoredEntry, Vote};
use crate::limits::LOG_CACHE_BYTES_MAX;

/// Where a payload lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub segment: u64,
    pub offset: u64,
}

/// An entry without its payload, or with it while it is cached.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub term: u64,
    pub kind: u8,
    pub len: u32,
    pub checksum: u32,
    pub payload: Option<Bytes>,
    pub place: Option<Place>,
}

/// The state of the log.
#[derive(Debug, Default)]
pub(super) struct EntryIndex {
    pub vote: Option<Vote>,
    pub purged: Option<Position>,
    pub committed: Option<Position>,
    first: u64,
    slots: VecDeque<Slot>,
    cached_from: u64,
    cached_bytes: u64,
    appended_bytes: u64,
}

impl EntryIndex {
    /// The last entry, or the last purged one if there is none.
    pub(super) fn last(&self) -> Option<Position> {
        let entry = self.slots.back().map(|slot| Position {
            term: slot.term,
            index: self.next() - 1,
        });
        entry.or(self.purged)
    }

    /// Index of the first entry, if there is one.
    pub(super) fn first_index(&self) -> Option<u64> {
        (!self.slots.is_empty()).then_some(self.first)
    }

    /// Bytes of all payloads that were ever appended, for measuring how much came since some moment.
    pub(super) fn appended_bytes(&self) -> u64 {
        self.appended_bytes
    }

    /// Index of the oldest of the last entries whose payloads have at most `bytes` together.
    pub(super) fn first_within(&self, bytes: u64) -> u64 {
        let mut left = bytes;
        let mut first = self.next();
        for slot in self.slots.iter().rev() {
            match left.checked_sub(u64::from(slot.len)) {
                Some(rest) => left = rest,
                None => break,
            }
            first -= 1;
        }
        first
    }

    /// Bytes of all payloads above `index`.
    pub(super) fn bytes_above(&self, index: u64) -> u64 {
        let covered = (index + 1).saturating_sub(self.first);
        let covered = usize::try_from(covered).unwrap_or(usize::MAX);
        self.slots
            .iter()
            .skip(covered)
            .map(|slot| u64::from(slot.len))
            .sum()
    }

    /// Index of the entry after the last one.
    fn next(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    /// Index that an appended entry must have; `None` if the log is empty and any will do.
    pub(super) fn expected(&self) -> Option<u64> {
        let is_new = self.slots.is_empty() && self.purged.is_none() && self.first == 0;
        (!is_new).then(|| self.next())
    }

    /// Says of an empty log that its first entry will be the one at `index`: while it is read back, what was before may
    /// be gone although the record of its purge is still to come.
    pub(super) fn begin_at(&mut self, index: u64) {
        self.first = index;
        self.cached_from = index;
    }

    /// Whether entries are missing that were not purged.
    pub(super) fn has_hole(&self) -> bool {
        self.first > self.purged.map_or(0, |purged| purged.index + 1)
    }

    /// Appends an entry; `place` is set when it was read from disk, and the payload is not cached then.
    ///
    /// # Panics
    /// If the entry is not the next one: Raft takes a hole for entries that exist.
    pub(super) fn append(&mut self, entry: &StoredEntry, place: Option<Place>) {
        let index = entry.position.index;
        if let Some(expected) = self.expected() {
            assert_eq!(
                index, expected,
                "entry {index} would leave a hole after {expected}"
            );
        }
        if self.slots.is_empty() {
            self.begin_at(index);
        }
        let len =
            u32::try_from(entry.payload.len()).expect("bounded by ENTRY_BYTES_MAX, which fits");
        self.appended_bytes += u64::from(len);
        let payload = place.is_none().then(|| entry.payload.clone());
        if payload.is_some() {
            self.cached_bytes += u64::from(len);
        } else {
            self.cached_from = index + 1;
        }
        let checksum = crc32c::crc32c(&entry.payload);
        let slot = Slot {
            term: entry.position.term,
            kind: entry.kind,
            len,
            checksum,
            payload,
            place,
        };
        self.slots.push_back(slot);
    }

    /// Drops all entries above `index`, or all.
    pub(super) fn truncate_after(&mut self, index: Option<u64>) {
        let keep = index.map_or(0, |index| (index + 1).saturating_sub(self.first));
        while self.slots.len() as u64 > keep {
            let slot = self
                .slots
                .pop_back()
                .expect("not empty: it is longer than what is kept");
            self.forget_cached(&slot);
        }
        if self.slots.is_empty() {
            // Also below where the oldest segment begins, as long as it is not purged.
            let least = self.purged.map_or(0, |purged| purged.index + 1);
            let next = index.map_or(0, |index| index + 1).max(least);
            self.first = self.first.min(next);
        }
        self.cached_from = self.cached_from.min(self.next());
    }

    /// Drops all entries up to `position`, inclusive. A position beyond the end empties the log.
    pub(super) fn purge(&mut self, position: Position) {
        if self
            .purged
            .is_some_and(|purged| purged.index >= position.index)
        {
            return;
        }
        while self.first <= position.index
            && let Some(slot) = self.slots.pop_front()
        {
            self.forget_cached(&slot);
            self.first += 1;
        }
        self.purged = Some(position);
        self.first = self.first.max(position.index + 1);
        self.cached_from = self.cached_from.max(self.first);
    }

    fn forget_cached(&mut self, slot: &Slot) {
        if slot.payload.is_some() {
            self.cached_bytes -= u64::from(slot.len);
        }
    }

    /// The entry at `index`.
    pub(super) fn slot(&self, index: u64) -> Option<&Slot> {
        let offset = usize::try_from(index.checked_sub(self.first)?).ok()?;
        self.slots.get(offset)
    }

    /// Whether the log has this very entry, or had it before it was purged.
    pub(super) fn holds(&self, position: Position) -> bool {
        if self
            .purged
            .is_some_and(|purged| position.index <= purged.index)
        {
            return true;
        }
        self.slot(position.index)
            .is_some_and(|slot| slot.term == position.term)
    }

    /// Notes where an entry lies on disk, unless another one stands at its position by now.
    pub(super) fn set_place(&mut self, position: Position, place: Place) {
        let Some(offset) = position
            .index
            .checked_sub(self.first)
            .and_then(|offset| usize::try_from(offset).ok())
        else {
            return;
        };
        if let Some(slot) = self
            .slots
            .get_mut(offset)
            .filter(|slot| slot.term == position.term)
        {
            slot.place = Some(place);
        }
    }

    /// Forgets the oldest cached payloads that are on disk, down to the limit.
    pub(super) fn evict(&mut self) {
        while self.cached_bytes > LOG_CACHE_BYTES_MAX {
            let Some(offset) = usize::try_from(self.cached_from - self.first).ok() else {
                return;
            };
            let Some(slot) = self
                .slots
                .get_mut(offset)
                .filter(|slot| slot.place.is_some())
            else {
                return;
            };
            if slot.payload.take().is_some() {
                self.cached_bytes -= u64::from(slot.len);
            }
            self.cached_from += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(term: u64, index: u64, len: usize) -> StoredEntry {
        StoredEntry {
            position: Position { term, index },
            kind: 1,
            payload: Bytes::from(vec![7; len]),
        }
    }

    #[test]
    fn truncate_and_purge_leave_no_hole() {
        let mut log = EntryIndex::default();
        (5..10).for_each(|index| log.append(&entry(1, index, 1), None));
        log.truncate_after(Some(7));
        assert_eq!(log.last(), Some(Position { term: 1, index: 7 }));
        log.purge(Position { term: 1, index: 6 });
        assert_eq!(log.first_index(), Some(7));
        log.purge(Position { term: 2, index: 20 });
        assert_eq!((log.first_index(), log.expected()), (None, Some(21)));
    }

    #[test]
    #[should_panic(expected = "would leave a hole")]
    fn a_hole_is_refused() {
        let mut log = EntryIndex::default();
        log.append(&entry(1, 0, 1), None);
        log.append(&entry(1, 2, 1), None);
    }

    #[test]
    fn the_last_entries_are_counted_from_the_end() {
        let mut log = EntryIndex::default();
        (5..10).for_each(|index| log.append(&entry(1, index, 10), None));
        let firsts: Vec<_> = [0, 9, 10, 25, 1_000]
            .map(|bytes| log.first_within(bytes))
            .into();
        assert_eq!(firsts, [10, 10, 9, 8, 5]);
        let above: Vec<_> = [0, 4, 5, 8, 9, 20]
            .map(|index| log.bytes_above(index))
            .into();
        assert_eq!(above, [50, 50, 40, 10, 0, 0]);
    }

    #[test]
    fn eviction_never_drops_what_is_not_on_disk() {
        let mut log = EntryIndex::default();
        let big = usize::try_from(LOG_CACHE_BYTES_MAX).unwrap();
        (0..3).for_each(|index| log.append(&entry(1, index, big), None));
        log.evict();
        assert!((0..3).all(|index| log.slot(index).unwrap().payload.is_some()));
        log.set_place(
            Position { term: 1, index: 0 },
            Place {
                segment: 1,
                offset: 0,
            },
        );
        log.set_place(
            Position { term: 1, index: 1 },
            Place {
                segment: 1,
                offset: 0,
            },
        );
        log.evict();
        let cached: Vec<_> = (0..3)
            .map(|index| log.slot(index).unwrap().payload.is_some())
            .collect();
        assert_eq!(cached, [false, false, true]);
    }
}
