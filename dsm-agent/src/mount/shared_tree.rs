//! The tree as the agent uses it: ordinary file calls, and nothing that a shell script could not do.
//!
//! Invariants: paths are relative to the mount point, without a leading `/`; reads see committed content only; a write
//! that returned is committed. Calls may block as long as the filesystem's own bound (`write_timeout`).

use crate::engine::view::LockView;

/// Content as committed, with its marks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Revision of the content; of wishes only, elsewhere some number that changes with it.
    pub revision: u64,
    /// The file's inode, never reused; of wishes only.
    pub inode: u64,
    /// Owner.
    pub uid: u32,
}

/// What a directory entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// Anything else.
    Other,
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeEntry {
    /// The name.
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
    /// Its inode.
    pub inode: u64,
}

/// How an attempt to take a lock ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockAttempt {
    /// It is held now, under this fence.
    Granted(u64),
    /// Someone else has it.
    Denied,
}

/// What the tree says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeCondition {
    /// It is the mounted filesystem and not an empty directory.
    pub is_mounted: bool,
    /// The node sees a majority.
    pub has_quorum: bool,
}

/// Stands still as long as nothing has changed that the members share: names, contents, locks, members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeMark {
    /// Which opening of the tree it was asked of: marks of two mounts are never the same.
    pub opened: u64,
    /// The last entry that is applied on this node.
    pub applied: u64,
}

/// While it is the same, reading again would find the same: the mark, and the fence under which this node's presence
/// still holds. Its session, and with it what it can see of its own locks, ends by time alone and moves no mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// What the members share.
    pub mark: TreeMark,
    /// This node's part in it.
    pub presence: u64,
}

/// Why a call on the tree failed.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The lock that guards the place, or the lock asked about, is not held any more.
    #[error("{path}: the lock that allows this is not held any more")]
    Revoked {
        /// The place.
        path: String,
    },
    /// The file is larger than any record.
    #[error("{path} has {bytes} bytes, more than a record may have")]
    TooLarge {
        /// The file.
        path: String,
        /// Its size.
        bytes: u64,
    },
    /// Any other refusal.
    #[error("{op} {path} failed")]
    Io {
        /// What was tried.
        op: &'static str,
        /// Where.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// See the head of this file.
pub trait SharedTree: Send + Sync {
    /// Committed content of a file; `None` if there is none.
    ///
    /// # Errors
    /// [`TreeError`] when it is there and cannot be read.
    fn read(&self, path: &str) -> Result<Option<Committed>, TreeError>;

    /// Names in a directory, sorted; none if it is absent.
    ///
    /// # Errors
    /// [`TreeError`] when it is there and cannot be read.
    fn list(&self, path: &str) -> Result<Vec<TreeEntry>, TreeError>;

    /// Replaces a file's content in place, as one commit; makes the file if needed.
    ///
    /// # Errors
    /// [`TreeError`]; nothing was committed then.
    fn write(&self, path: &str, bytes: &[u8]) -> Result<(), TreeError>;

    /// Makes a file that must not exist; false if it does.
    ///
    /// # Errors
    /// [`TreeError`].
    fn create(&self, path: &str, bytes: &[u8]) -> Result<bool, TreeError>;

    /// Appends by one `write()`, so that the bytes stay together; makes the file if needed.
    ///
    /// # Errors
    /// [`TreeError`]; nothing was committed then.
    fn append(&self, path: &str, bytes: &[u8]) -> Result<(), TreeError>;

    /// Makes a directory and those above it; false if it was there.
    ///
    /// # Errors
    /// [`TreeError`].
    fn make_dir(&self, path: &str) -> Result<bool, TreeError>;

    /// Makes or replaces a symbolic link, as one commit.
    ///
    /// # Errors
    /// [`TreeError`].
    fn link(&self, target: &str, path: &str) -> Result<(), TreeError>;

    /// Renames to a name that must not exist; false if it does.
    ///
    /// # Errors
    /// [`TreeError`].
    fn rename_new(&self, from: &str, to: &str) -> Result<bool, TreeError>;

    /// Removes a file, or a directory with all in it; nothing happens if it is absent.
    ///
    /// # Errors
    /// [`TreeError`].
    fn remove(&self, path: &str) -> Result<(), TreeError>;

    /// The lock that guards a directory.
    ///
    /// # Errors
    /// [`TreeError`].
    fn guard(&self, directory: &str) -> Result<Option<String>, TreeError>;

    /// Lets only the holder of the lock change what is below the directory.
    ///
    /// # Errors
    /// [`TreeError::Revoked`] if the lock is not held here.
    fn set_guard(&self, directory: &str, lock: &str) -> Result<(), TreeError>;

    /// Keeps the content of files below the directory out of the history.
    ///
    /// # Errors
    /// [`TreeError`].
    fn keep_out_of_history(&self, directory: &str) -> Result<(), TreeError>;

    /// Tries to take a lock file, without waiting. It is held until released, lost, or the process ends.
    ///
    /// # Errors
    /// [`TreeError`].
    fn try_lock(&self, path: &str) -> Result<LockAttempt, TreeError>;

    /// Who holds a lock file.
    ///
    /// # Errors
    /// [`TreeError`].
    fn lock_view(&self, path: &str) -> Result<LockView, TreeError>;

    /// Fence of any lock file, whoever holds it; `None` if it is void or there is no such file.
    ///
    /// # Errors
    /// [`TreeError`].
    fn fence(&self, path: &str) -> Result<Option<u64>, TreeError>;

    /// Lets a lock of this process go.
    ///
    /// # Errors
    /// [`TreeError`].
    fn release(&self, path: &str) -> Result<(), TreeError>;

    /// Drops what keeps a lock that is lost, without touching the file.
    fn forget(&self, path: &str);

    /// The mark of now; `None` if the tree tells none. It is told before what is read under it.
    ///
    /// # Errors
    /// [`TreeError`] when the tree does not answer.
    fn mark(&self) -> Result<Option<TreeMark>, TreeError>;

    /// Stands still as long as nothing has changed at or beneath a directory, but for locks that end without going
    /// away; `None` if the tree tells none, or there is no such directory.
    ///
    /// # Errors
    /// [`TreeError`].
    fn tree_revision(&self, directory: &str) -> Result<Option<u64>, TreeError>;

    /// Lets go of what marks are asked of: another mount has taken the tree's place.
    fn forget_mark(&self);

    /// Returns when all that was committed anywhere before the call is applied on this node.
    ///
    /// # Errors
    /// [`TreeError`] without a majority.
    fn barrier(&self) -> Result<(), TreeError>;

    /// What the tree says of itself.
    ///
    /// # Errors
    /// [`TreeError`].
    fn condition(&self) -> Result<TreeCondition, TreeError>;
}
