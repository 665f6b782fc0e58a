//! Every failure of the filesystem and the one table that gives its errno.

use super::proposer::ProposeError;
use crate::state_machine::fs_error::FsError;

/// Why an operation failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The state machine refuses it, here or on every replica.
    #[error(transparent)]
    Refused(#[from] FsError),
    /// Consensus gave no answer.
    #[error(transparent)]
    NotProposed(#[from] ProposeError),
    /// The place cannot be written by anybody (`/.vfs`).
    #[error("this part of the tree is read-only")]
    ReadOnly,
    /// The handle is not open, or not for this.
    #[error("the file handle is not open for this")]
    BadHandle,
    /// The offset lies where nothing can be found (`SEEK_DATA` past the end).
    #[error("there is nothing at this offset")]
    NoSuchOffset,
    /// The name stands for another inode than the caller's kernel has looked up and checked; it looks again.
    #[error("the name stands for another file by now")]
    Stale,
    /// The caller was killed while it waited.
    #[error("the caller was killed")]
    Interrupted,
}

/// The result of an operation.
pub type FsResult<T> = Result<T, Failure>;

/// The errno that a caller sees. Exhaustive on purpose: a new failure must be placed here.
pub fn errno(failure: &Failure) -> i32 {
    match failure {
        Failure::Refused(refused) => refused_errno(*refused),
        Failure::NotProposed(error) => match error {
            ProposeError::NoQuorum(_) => libc::EROFS,
            // As for what `apply` refuses to a node's grant: there is a majority, and it says no.
            ProposeError::Refused(_) => libc::EACCES,
            ProposeError::TimedOut(_) | ProposeError::Stopping => libc::EIO,
            ProposeError::SessionExpired => libc::EKEYREVOKED,
        },
        Failure::ReadOnly => libc::EROFS,
        Failure::BadHandle => libc::EBADF,
        Failure::NoSuchOffset => libc::ENXIO,
        // The kernel answers it by another lookup, once, and never shows the first.
        Failure::Stale => libc::ESTALE,
        Failure::Interrupted => libc::EINTR,
    }
}

fn refused_errno(refused: FsError) -> i32 {
    match refused {
        FsError::AlreadyExists => libc::EEXIST,
        FsError::NotFound => libc::ENOENT,
        FsError::NotDirectory => libc::ENOTDIR,
        FsError::IsDirectory => libc::EISDIR,
        FsError::NotEmpty => libc::ENOTEMPTY,
        FsError::NameTooLong => libc::ENAMETOOLONG,
        FsError::Invalid => libc::EINVAL,
        FsError::NotPermitted => libc::EPERM,
        FsError::AccessDenied => libc::EACCES,
        FsError::FileTooLarge => libc::EFBIG,
        FsError::NoSpace => libc::ENOSPC,
        FsError::TooManyLinks => libc::EMLINK,
        FsError::NoAttribute => libc::ENODATA,
        FsError::AttributeTooLarge => libc::E2BIG,
        FsError::NotSupported => libc::EOPNOTSUPP,
        FsError::FenceRevoked => libc::EKEYREVOKED,
        FsError::RevisionChanged => libc::EKEYREJECTED,
        // An ordinary handle goes on under the node's new session; whoever still sees this held a lock.
        FsError::SessionExpired => libc::EKEYREVOKED,
        FsError::Abandoned | FsError::OutcomeForgotten => libc::EIO,
        FsError::TokenInvalid => libc::EACCES,
        FsError::CrossBoundary => libc::EXDEV,
        FsError::NameMoved => libc::ESTALE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_of_the_leader_is_not_taken_for_a_lost_quorum() {
        let errno_of = |error: ProposeError| errno(&Failure::from(error));
        assert_eq!(errno_of(ProposeError::NoQuorum(String::new())), libc::EROFS);
        assert_eq!(errno_of(ProposeError::Refused(String::new())), libc::EACCES);
        let same = errno(&Failure::Refused(FsError::AccessDenied));
        assert_eq!(errno_of(ProposeError::Refused(String::new())), same);
    }
}
