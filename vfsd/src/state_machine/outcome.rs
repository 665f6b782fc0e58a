//! What `apply` answers: the outcome for the proposer, and the changes for everybody who watches.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::fs_error::FsError;
use super::ids::{InodeNo, LogIndex, NodeId, SessionId};
use super::inode::Inode;

/// The answer to a proposal. The same on every replica.
pub type Outcome = Result<Done, FsError>;

/// What a successful command made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Done {
    /// Nothing that needs a name.
    Unit,
    /// This inode was made, or found by a non-exclusive create.
    Inode {
        /// The inode.
        inode: InodeNo,
        /// Whether this command made it.
        created: bool,
    },
    /// This session was opened.
    Session(SessionId),
    /// This member joined.
    Member(NodeId),
    /// An append was placed here.
    Appended {
        /// Size of the file after it.
        end: u64,
    },
}

/// A change as watchers see it, in the order it happened within its entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A name appeared.
    Created {
        /// Directory.
        parent: InodeNo,
        /// Name.
        name: Vec<u8>,
        /// What it names.
        inode: InodeNo,
        /// Whether it is another name of an inode that existed.
        link: bool,
    },
    /// A name went.
    Removed {
        /// Directory.
        parent: InodeNo,
        /// Name.
        name: Vec<u8>,
        /// What it named.
        inode: InodeNo,
        /// Whether it was a directory.
        directory: bool,
        /// Names that the inode still has.
        links_left: u32,
    },
    /// The removal or rename before this took an inode's last name: this is how it was. Who has it open keeps it.
    Gone(Arc<Inode>),
    /// A name moved; a replaced target is `replaced`.
    Renamed {
        /// Old directory.
        parent: InodeNo,
        /// Old name.
        name: Vec<u8>,
        /// New directory.
        new_parent: InodeNo,
        /// New name.
        new_name: Vec<u8>,
        /// What moved.
        inode: InodeNo,
        /// What the new name named before, and how many names that still has.
        replaced: Option<(InodeNo, u32)>,
        /// Whether the two names changed places; `replaced` is then the other inode.
        exchange: bool,
    },
    /// Bytes or size changed.
    Modified {
        /// The inode.
        inode: InodeNo,
        /// Whether a handle was closed with it.
        closed: bool,
        /// Whether it only changed the size by path (`truncate(2)`), or came from a handle.
        by_path: bool,
    },
    /// A handle that had committed before was closed.
    ClosedWrite {
        /// The inode.
        inode: InodeNo,
    },
    /// Attributes or extended attributes changed.
    Attributes {
        /// The inode.
        inode: InodeNo,
    },
}

/// An entry after `apply`: what the proposer waits for and what watchers replay.
#[derive(Debug, Clone)]
pub struct Applied {
    /// Its position.
    pub index: LogIndex,
    /// The node whose caller made it, and whose kernel has raised its events by itself; 0 if there was no caller.
    pub node: NodeId,
    /// The answer.
    pub outcome: Outcome,
    /// What changed; empty when it was refused or a repetition.
    pub changes: Vec<Change>,
    /// How many of the changes, from the first on, no call made whatever `node` says: locks that go because whoever
    /// asked for them was told of a failure.
    pub uncalled: usize,
}
