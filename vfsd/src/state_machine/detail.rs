//! What describes the tree, in bytes: names, extended attributes, targets of links, and the pieces that contents lie
//! in. It is held in memory and written into snapshots as contents are, so it has a maximum as they have.
//!
//! Invariant: what counts is at least what it takes in a manifest; each thing counts a little more than its bytes, so
//! that many small ones cannot take much. Not here: the sum (`namespace.rs`), the maximum (`apply.rs`), inodes, which
//! are counted.

use std::sync::Arc;

use imbl::OrdMap;

use super::content::Content;
use super::inode::{Inode, Kind};
use super::name::Name;
use crate::limits::DETAIL_OVERHEAD_BYTES;

/// What one name takes.
pub(super) fn of_name(name: &Name) -> u64 {
    name.as_bytes().len() as u64 + DETAIL_OVERHEAD_BYTES
}

/// What the names of an inode take.
pub(super) fn of_names(inode: &Inode) -> u64 {
    inode.names.iter().map(|(_, name)| of_name(name)).sum()
}

/// What an inode takes without its names.
pub(super) fn of(inode: &Inode) -> u64 {
    of_kind(&inode.kind) + of_xattrs(&inode.xattrs)
}

fn of_kind(kind: &Kind) -> u64 {
    match kind {
        Kind::Regular(content) => of_content(content),
        Kind::Symlink(target) => target.len() as u64,
        Kind::Directory(_)
        | Kind::Fifo
        | Kind::Socket
        | Kind::CharDevice(_)
        | Kind::BlockDevice(_) => 0,
    }
}

fn of_content(content: &Content) -> u64 {
    content.pieces() * DETAIL_OVERHEAD_BYTES
}

fn of_xattrs(xattrs: &OrdMap<String, Arc<[u8]>>) -> u64 {
    let each = xattrs.iter();
    each.map(|(name, value)| (name.len() + value.len()) as u64 + DETAIL_OVERHEAD_BYTES)
        .sum()
}

/// What an inode took before an edit.
pub(super) struct Edited {
    kind: u64,
    xattrs: OrdMap<String, Arc<[u8]>>,
}

impl Edited {
    /// Notes what `inode` takes now.
    pub(super) fn of(inode: &Inode) -> Self {
        Self {
            kind: of_kind(&inode.kind),
            xattrs: inode.xattrs.clone(),
        }
    }

    /// What it takes since, and what it took before. Most edits leave attributes alone: those are not counted then.
    pub(super) fn difference(&self, inode: &Inode) -> (u64, u64) {
        let now = of_kind(&inode.kind);
        if self.xattrs.ptr_eq(&inode.xattrs) {
            return (now, self.kind);
        }
        (
            now + of_xattrs(&inode.xattrs),
            self.kind + of_xattrs(&self.xattrs),
        )
    }
}
