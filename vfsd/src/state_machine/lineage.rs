//! A digest of everything that has made the state: each entry with what it did, chained to the ones before. Replicas
//! that have the same at one index have applied the same and come to the same; it costs what the entry costs, not what
//! the tree does.
//!
//! Invariants: it goes on from a snapshot as it was there; it counts from the entry on that raised the level to
//! [`Level::LINEAGES`]. Not here: comparing it among members (`consensus/cluster/lineage_watch.rs`).

use super::StateMachine;
use super::command::Entry;
use super::ids::{InodeNo, LogIndex};
use super::inode::Inode;
use super::level::Level;
use super::outcome::{Change, Outcome};

/// The digest at one index.
pub type Lineage = [u8; 32];

impl StateMachine {
    /// The lineage of the last applied entry; all zeros in a cluster whose rules do not have it yet.
    pub fn lineage(&self) -> Lineage {
        self.lineage
    }

    /// Chains an index that carries no entry of ours.
    pub(super) fn chain_pass(&mut self, index: LogIndex) {
        if self.level >= Level::LINEAGES {
            self.lineage = link(self.lineage, index).finalize().into();
        }
    }

    /// Chains an entry and what it did.
    pub(super) fn chain(&mut self, entry: &Entry, outcome: &Outcome, changes: &[Change]) {
        if self.level < Level::LINEAGES {
            return;
        }
        let mut hasher = link(self.lineage, self.applied);
        add(&mut hasher, entry);
        add(&mut hasher, outcome);
        for inode in changes.iter().filter_map(changed) {
            if let Some(inode) = self.tree.inode(inode) {
                add(&mut hasher, &outline(inode));
            }
        }
        add(
            &mut hasher,
            &(
                self.log_time,
                self.tree.next_number(),
                self.tree.stored_bytes(),
            ),
        );
        self.lineage = hasher.finalize().into();
    }
}

fn link(before: Lineage, index: LogIndex) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&before);
    hasher.update(&index.0.to_le_bytes());
    hasher
}

fn add(hasher: &mut blake3::Hasher, part: &impl serde::Serialize) {
    postcard::to_io(part, hasher).expect("a hasher takes every byte");
}

fn changed(change: &Change) -> Option<InodeNo> {
    match change {
        Change::Created { inode, .. }
        | Change::Renamed { inode, .. }
        | Change::Modified { inode, .. }
        | Change::ClosedWrite { inode }
        | Change::Attributes { inode } => Some(*inode),
        Change::Removed { parent, .. } => Some(*parent),
        Change::Gone(_) => None,
    }
}

/// What an entry may have decided of an inode; its bytes are in the entries that wrote them.
fn outline(inode: &Inode) -> impl serde::Serialize {
    let owner = (
        inode.mode,
        inode.uid,
        inode.gid,
        inode.links(),
        inode.size(),
    );
    let times = [inode.atime, inode.mtime, inode.ctime, inode.born];
    let revisions = [inode.revision, inode.content_revision, inode.rewritten];
    (
        inode.number,
        owner,
        times,
        revisions,
        inode.xattrs.len() as u64,
    )
}
