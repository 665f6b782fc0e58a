//! What `apply` answers: the outcome for the proposer, and the changes for everybody who watches.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

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

/// Why a command was refused. `fs/errno.rs` maps each case to its errno, nowhere else does.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, thiserror::Error,
)]
pub enum FsError {
    /// The name is taken.
    #[error("the name exists")]
    AlreadyExists,
    /// There is no such name, inode or attribute holder.
    #[error("there is no such file or directory")]
    NotFound,
    /// A component that must be a directory is none.
    #[error("it is not a directory")]
    NotDirectory,
    /// It is a directory where none may be.
    #[error("it is a directory")]
    IsDirectory,
    /// The directory has entries.
    #[error("the directory is not empty")]
    NotEmpty,
    /// The name is longer than 255 bytes.
    #[error("the name is too long")]
    NameTooLong,
    /// The argument makes no sense here (a directory moved into itself, a bad value of an attribute).
    #[error("the argument is invalid")]
    Invalid,
    /// Not allowed whoever asks (a fixed directory, a link into `/lk`, another session's lock).
    #[error("the operation is not permitted")]
    NotPermitted,
    /// Not allowed for this node's grant or this owner.
    #[error("permission is denied")]
    AccessDenied,
    /// The file would exceed its maximum.
    #[error("the file is too large")]
    FileTooLarge,
    /// The tree is full: bytes or inodes.
    #[error("no space is left in the tree")]
    NoSpace,
    /// The file has too many names.
    #[error("the file has too many links")]
    TooManyLinks,
    /// There is no such extended attribute.
    #[error("there is no such attribute")]
    NoAttribute,
    /// The extended attribute is too large.
    #[error("the attribute is too large")]
    AttributeTooLarge,
    /// Extended attributes of this namespace are not kept.
    #[error("the operation is not supported")]
    NotSupported,
    /// The guard's lock is not held under the fence that this call or handle began with.
    #[error("the guard's lock is not held under this fence any more")]
    FenceRevoked,
    /// The file has another revision than the one expected.
    #[error("the file has changed since the expected revision")]
    RevisionChanged,
    /// The session has ended.
    #[error("the session has ended")]
    SessionExpired,
    /// The proposal was given up and reported as failed before.
    #[error("the proposal was abandoned before")]
    Abandoned,
    /// The outcome window no longer holds the answer of this old proposal.
    #[error("the proposal is older than the outcome window")]
    OutcomeForgotten,
    /// The join token is unknown, used, or for another name.
    #[error("the join token is not valid")]
    TokenInvalid,
    /// Crosses a boundary that a link or rename must not cross.
    #[error("the operation crosses a boundary")]
    CrossBoundary,
    /// A name stands for something else than the caller's kernel has checked.
    #[error("the name stands for another file by now")]
    NameMoved,
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
