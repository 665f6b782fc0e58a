//! Lock files that this process holds: the open handles that keep them, and what their extended attributes say.
//!
//! Invariants: a lock is held while its handle is open (`user.lk.hold=handle`), so it ends with the process; its fence
//! is the number in `user.lk.fence`. On a plain directory (a test's stand-in for the tree) `flock` plays the
//! filesystem's part: who holds it holds the lock, and a counter file gives the fences.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::shared_tree::LockAttempt;
use super::xattr;
use crate::engine::view::LockView;

/// Extended attribute with the fencing token of a lock.
pub const FENCE: &str = "user.lk.fence";

/// Extended attribute with the node that holds a lock; `none` during the lock delay.
pub const OWNER: &str = "user.lk.owner";

/// Extended attribute that names the lock guarding a directory.
pub const GUARD: &str = "user.lk.guard";

/// How locks come about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LockKeeper {
    /// The filesystem grants them.
    Filesystem,
    /// A plain directory: this node's name stands in the locks.
    PlainDirectory {
        /// The node that this process plays.
        node: String,
    },
}

/// The handles of all locks that this process holds, by path relative to the root.
#[derive(Debug)]
pub struct LockFiles {
    root: PathBuf,
    keeper: LockKeeper,
    held: Mutex<BTreeMap<String, File>>,
}

impl LockFiles {
    /// No locks yet, below `root`.
    pub fn new(root: &Path, keeper: LockKeeper) -> Self {
        Self {
            root: root.to_owned(),
            keeper,
            held: Mutex::new(BTreeMap::new()),
        }
    }

    /// Tries to take a lock; its directory must exist.
    ///
    /// # Errors
    /// The operating system's error, but a lock that someone else has is no error.
    pub fn try_lock(&self, path: &str) -> std::io::Result<LockAttempt> {
        let taken = match &self.keeper {
            LockKeeper::Filesystem => self.take_granted(path),
            LockKeeper::PlainDirectory { node } => self.take_plain(path, node),
        }?;
        let Some((file, fence)) = taken else {
            return Ok(LockAttempt::Denied);
        };
        self.files().insert(path.to_owned(), file);
        Ok(LockAttempt::Granted(fence))
    }

    fn take_granted(&self, path: &str) -> std::io::Result<Option<(File, u64)>> {
        let file = match OpenOptions::new()
            .write(true)
            .create_new(true)
            .custom_flags(libc::O_CLOEXEC)
            .open(self.root.join(path))
        {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(None),
            Err(error) => return Err(error),
        };
        match xattr::read_file_number(&file, FENCE)? {
            Some(fence) => Ok(Some((file, fence))),
            // Granted and void already: the session ended in between.
            None => Ok(None),
        }
    }

    fn take_plain(&self, path: &str, node: &str) -> std::io::Result<Option<(File, u64)>> {
        let full = self.root.join(path);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&full)?;
        if !flock(&file, libc::LOCK_EX | libc::LOCK_NB) {
            return Ok(None);
        }
        // The file may have been unlinked by its last holder between open and flock.
        let current = std::fs::metadata(&full).map(|meta| meta.ino()).ok();
        if current != Some(file.metadata()?.ino()) {
            return Ok(None);
        }
        let fence = self.next_plain_fence()?;
        xattr::write(&full, FENCE, fence.to_string().as_bytes())?;
        xattr::write(&full, OWNER, node.as_bytes())?;
        Ok(Some((file, fence)))
    }

    fn next_plain_fence(&self) -> std::io::Result<u64> {
        let mut counter = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.root.join(".vfs/fence"))?;
        if !flock(&counter, libc::LOCK_EX) {
            return Err(std::io::Error::last_os_error());
        }
        let mut text = String::new();
        counter.read_to_string(&mut text)?;
        let next = text.trim().parse::<u64>().unwrap_or(0) + 1;
        counter.set_len(0)?;
        counter.seek(SeekFrom::Start(0))?;
        counter.write_all(next.to_string().as_bytes())?;
        Ok(next)
    }

    /// Fence of a lock file, whoever holds it.
    ///
    /// # Errors
    /// The operating system's error; a missing file or fence is none.
    pub fn fence(&self, path: &str) -> std::io::Result<Option<u64>> {
        if let Some(file) = self.files().get(path) {
            return xattr::read_file_number(file, FENCE);
        }
        // A lock that has ended has no fence in the filesystem; on a plain directory the last one's stands there still.
        if self.keeper != LockKeeper::Filesystem && !matches!(self.view(path)?, LockView::Held(_)) {
            return Ok(None);
        }
        xattr::read_number(&self.root.join(path), FENCE)
    }

    /// Who holds a lock file.
    ///
    /// # Errors
    /// The operating system's error; a missing file is none.
    pub fn view(&self, path: &str) -> std::io::Result<LockView> {
        let full = self.root.join(path);
        if let LockKeeper::PlainDirectory { .. } = self.keeper
            && !self.files().contains_key(path)
        {
            match File::open(&full) {
                Ok(file) if flock(&file, libc::LOCK_SH | libc::LOCK_NB) => {
                    return Ok(LockView::Free);
                }
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    return Ok(LockView::Free);
                }
                Err(error) => return Err(error),
            }
        }
        match std::fs::symlink_metadata(&full) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(LockView::Free);
            }
            Err(error) => return Err(error),
        }
        let owner = xattr::read(&full, OWNER)?.and_then(|raw| String::from_utf8(raw).ok());
        Ok(match owner.as_deref() {
            None | Some("none" | "") => LockView::Delayed,
            Some(owner) => LockView::Held(owner.to_owned()),
        })
    }

    /// Lets a lock go: only removing the file is a clean release, which hands over at once.
    ///
    /// # Errors
    /// The operating system's error. The handle is closed in any case.
    pub fn release(&self, path: &str) -> std::io::Result<()> {
        let Some(file) = self.files().remove(path) else {
            return Ok(());
        };
        let removed = std::fs::remove_file(self.root.join(path));
        drop(file);
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Closes the handle of a lock that is lost.
    pub fn forget(&self, path: &str) {
        self.files().remove(path);
    }

    fn files(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, File>> {
        // A panic elsewhere leaves the map as it was: whole entries only.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn flock(file: &File, operation: i32) -> bool {
    // SAFETY: flock takes a descriptor that `file` keeps open, and no pointer.
    unsafe { libc::flock(file.as_raw_fd(), operation) == 0 }
}
