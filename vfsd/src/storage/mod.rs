//! Durable bytes: the log, atomic files, the data directory.
//!
//! Invariants: what was reported durable survives `kill -9` and power loss; torn tails are cut, a damaged middle is
//! refused. Not here: what the bytes mean to Raft (`consensus/`).

pub mod append_log;
pub mod atomic_file;
pub mod data_dir;
pub mod disk;
mod entry_index;
mod frame;
mod log_queue;
mod log_writer;
pub mod record;
mod recovery;
mod segment;
pub mod start_count;

use std::io;
use std::path::{Path, PathBuf};

/// Why durable bytes cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The operating system refused.
    #[error("cannot {action} {}: {cause}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// Bytes in the middle of the log do not match their checksum although later ones do.
    #[error(
        "the log is damaged: {} at byte {offset}: {reason}. Valid records follow it, so this is no interrupted write. \
         This node must not go on with it; run: vfsd rejoin",
        path.display()
    )]
    Corrupt {
        /// The segment.
        path: PathBuf,
        /// Where the bad frame begins.
        offset: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no log where there must be one.
    #[error(
        "there is no log in {}: this node has lost its state and must not vote with an empty one; run: vfsd rejoin",
        .0.display()
    )]
    LogMissing(PathBuf),
    /// An earlier write or flush failed; nothing is written any more.
    #[error(
        "the log is closed since a write failed: {0}. Make room on the disk, or replace it; the next start goes on"
    )]
    Poisoned(String),
    /// Another daemon uses the directory.
    #[error("{} is in use by another vfsd; stop it first", .0.display())]
    InUse(PathBuf),
    /// The directory was written by another version.
    #[error(
        "{} has format {found:?}; this version reads up to {known:?}: install the one that wrote it, or a newer one",
        path.display()
    )]
    Format {
        /// The format file.
        path: PathBuf,
        /// What it says.
        found: String,
        /// The newest that this version knows.
        known: String,
    },
    /// There is something where a new data directory should go.
    #[error("{} holds a member's data already; use another --data-dir, or move it away", .0.display())]
    NotEmpty(PathBuf),
    /// There is no data directory.
    #[error("{} holds no member's data; make it first with: vfsd init, or: vfsd join", .0.display())]
    NotADataDir(PathBuf),
}

impl StorageError {
    /// Wraps an error of the system with what was tried.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |cause| Self::Io {
            action,
            path,
            cause,
        }
    }
}

impl From<StorageError> for io::Error {
    fn from(error: StorageError) -> Self {
        match &error {
            StorageError::Io { cause, .. } => Self::new(cause.kind(), error.to_string()),
            other => Self::other(other.to_string()),
        }
    }
}
