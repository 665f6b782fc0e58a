//! Why a command was refused: part of the answer, so the same on every replica, and of the format of snapshots.

use serde::{Deserialize, Serialize};

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
