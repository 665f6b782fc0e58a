//! The listing of a directory: what a reader is told, from the place where it is.
//!
//! Not here: who reads it (`handles.rs`), how a page of it is answered (`file_system.rs`).

use std::ops::Bound;

use imbl::OrdMap;

use super::attr::FileKind;
use super::errno::FsResult;
use crate::state_machine::fs_error::FsError;
use crate::state_machine::ids::InodeNo;
use crate::state_machine::inode::Inode;
use crate::state_machine::name::Name;

/// A listing as it was when it began: shared with the tree, whatever size it has.
#[derive(Debug, Default)]
pub struct Listing {
    /// What comes first: `.` and `..`, and all of `/.vfs`.
    pub fixed: Vec<DirectoryEntry>,
    /// The names of a directory of the tree.
    pub names: OrdMap<Name, InodeNo>,
    /// The place of the name that was read last: readers go on there.
    pub last: Option<(u64, Name)>,
}

impl Listing {
    /// The names of a directory.
    ///
    /// # Errors
    /// [`FsError::NotDirectory`].
    pub fn of(directory: &Inode) -> FsResult<Self> {
        let directory = directory.directory().ok_or(FsError::NotDirectory)?;
        Ok(Self {
            names: directory.entries.clone(),
            ..Self::default()
        })
    }

    /// The names from place `place` on, each with its place.
    pub fn names_from(&self, place: u64) -> impl Iterator<Item = (u64, (&Name, &InodeNo))> {
        let first = self.fixed.len() as u64;
        // Places are file offsets, which have a sign.
        let place = place.clamp(first, i64::MAX as u64);
        // Somewhere else than where the reader was (seekdir(3)) they are counted from the start.
        let (at, skipped) = match &self.last {
            Some((last, name)) if last + 1 == place => (Bound::Excluded(name), 0),
            _ => (Bound::Unbounded, place - first),
        };
        let range = self.names.range::<_, Name>((at, Bound::Unbounded));
        (place..).zip(range.skip(usize::try_from(skipped).unwrap_or(usize::MAX)))
    }
}

/// One entry of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// The node that it names.
    pub node: u64,
    /// Its kind.
    pub kind: FileKind,
    /// Its name.
    pub name: Vec<u8>,
}

impl DirectoryEntry {
    /// `.` and `..`, with which the listing of the directory `node` below `above` begins.
    pub fn own(node: u64, above: u64) -> [Self; 2] {
        let entry = |node, name: &[u8]| Self {
            node,
            kind: FileKind::Directory,
            name: name.to_vec(),
        };
        [entry(node, b"."), entry(above, b"..")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state_machine::StateMachine;

    /// A thousand programs that have a large directory open must not take a thousand copies of its names.
    #[test]
    fn a_listing_takes_no_copy_of_the_names() {
        let state = StateMachine::new();
        let lists = || Listing::of(state.tree().inode(InodeNo::ROOT).unwrap()).unwrap();
        let (one, other) = (lists(), lists());
        assert!(!one.names.is_empty());
        assert!(one.names.ptr_eq(&other.names));
    }

    #[test]
    fn a_listing_goes_on_where_its_reader_was_and_where_he_jumps_to() {
        let name = |number: u64| Name::new(format!("{number:04}").as_bytes()).unwrap();
        let mut listing = Listing {
            fixed: DirectoryEntry::own(1, 1).into(),
            names: (0..1_000).map(|n| (name(n), InodeNo(n))).collect(),
            last: None,
        };
        let read = |listing: &Listing, from: u64| -> Vec<(u64, u64)> {
            let names = listing.names_from(from).take(3);
            names.map(|(place, (_, inode))| (place, inode.0)).collect()
        };
        assert_eq!(read(&listing, 0), [(2, 0), (3, 1), (4, 2)]);
        assert_eq!(read(&listing, 2), [(2, 0), (3, 1), (4, 2)]);
        listing.last = Some((4, name(2)));
        assert_eq!(read(&listing, 5), [(5, 3), (6, 4), (7, 5)], "it goes on");
        assert_eq!(read(&listing, 3), [(3, 1), (4, 2), (5, 3)], "back");
        assert_eq!(read(&listing, 1_001), [(1_001, 999)], "far on");
        assert!(read(&listing, 1_002).is_empty());
        assert!(read(&listing, u64::MAX).is_empty());
    }
}
