//! Of each directory the newest revision of anything beneath it, itself included: who looks whether anything changed
//! in a tree reads one number instead of the tree.
//!
//! Invariants: it equals the maximum over the directory and everything beneath it, through every name of a file with
//! several; a directory's is never below that of one beneath it, so a walk up may end at the first that is new enough.
//! It follows from the tree alone: no format holds it, and it is made anew when a snapshot is read. Not here: when an
//! inode counts as changed (`namespace.rs`).

use std::sync::Arc;

use imbl::OrdMap;

use super::ids::{InodeNo, LogIndex};
use super::inode::Inode;

/// Beside the inodes rather than in them: a change costs a number for each directory above it, not a copy of that
/// directory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct TreeRevisions {
    newest: OrdMap<InodeNo, LogIndex>,
}

impl TreeRevisions {
    /// Those of a tree that was read.
    pub(super) fn of(inodes: &OrdMap<InodeNo, Arc<Inode>>) -> Self {
        let mut all: Vec<(LogIndex, InodeNo)> = inodes
            .values()
            .map(|inode| (inode.revision, inode.number))
            .collect();
        // The newest first: what was reached once has its number, and each directory is walked over once.
        all.sort_unstable_by(|one, other| other.cmp(one));
        let mut made = Self::default();
        for (revision, number) in all {
            made.raise(inodes, number, revision);
        }
        made
    }

    /// Notes that `number` has changed in `revision`, which no other is newer than.
    pub(super) fn raise(
        &mut self,
        inodes: &OrdMap<InodeNo, Arc<Inode>>,
        number: InodeNo,
        revision: LogIndex,
    ) {
        let mut way = vec![number];
        while let Some(at) = way.pop() {
            let Some(inode) = inodes.get(&at) else {
                continue;
            };
            if inode.is_directory() {
                match self.newest.get_mut(&at) {
                    Some(known) if *known >= revision => continue,
                    Some(known) => *known = revision,
                    None => drop(self.newest.insert(at, revision)),
                }
            }
            way.extend(inode.names.iter().map(|(parent, _)| *parent));
        }
    }

    /// Forgets a directory that is gone.
    pub(super) fn forget(&mut self, directory: InodeNo) {
        self.newest.remove(&directory);
    }

    /// That of a directory.
    pub(super) fn of_directory(&self, directory: InodeNo) -> Option<LogIndex> {
        self.newest.get(&directory).copied()
    }

    /// How many directories it knows.
    pub(super) fn len(&self) -> usize {
        self.newest.len()
    }
}
