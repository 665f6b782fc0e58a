//! The open directory `/.vfs`: the mark of the whole tree is one request to the filesystem when asked of a descriptor.
//!
//! Invariants: what answers no more (ENOTCONN of a daemon that is gone) is opened anew by its path, once a call; each
//! opening has a number of its own, so marks from before and after it differ; nothing is held while the tree is waited
//! for.

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::shared_tree::TreeMark;
use super::xattr;

/// Extended attribute of `/.vfs`: the last entry that is applied on this node.
const APPLIED: &str = "user.vfs.applied";

/// See the head of this file.
#[derive(Debug, Default)]
pub struct MarkDirectory {
    opened: Mutex<Opened>,
}

#[derive(Debug, Default)]
struct Opened {
    times: u64,
    directory: Option<Arc<File>>,
}

impl MarkDirectory {
    /// The mark that the directory at `path` tells; `None` if it tells none.
    ///
    /// # Errors
    /// The operating system's error of the second try.
    pub fn mark(&self, path: &Path) -> std::io::Result<Option<TreeMark>> {
        if let Some((opened, directory)) = self.kept() {
            match ask(opened, &directory) {
                Ok(mark) => return Ok(mark),
                Err(_) => self.forget_opening(opened),
            }
        }
        let directory = Arc::new(File::open(path)?);
        let opened = self.keep(Arc::clone(&directory));
        ask(opened, &directory)
    }

    /// Closes the directory.
    pub fn forget(&self) {
        let directory = self.opened().directory.take();
        drop(directory);
    }

    fn forget_opening(&self, opened: u64) {
        let mut now = self.opened();
        if now.times == opened {
            now.directory = None;
        }
    }

    fn kept(&self) -> Option<(u64, Arc<File>)> {
        let now = self.opened();
        let directory = now.directory.as_ref()?;
        Some((now.times, Arc::clone(directory)))
    }

    fn keep(&self, directory: Arc<File>) -> u64 {
        let mut now = self.opened();
        now.times += 1;
        now.directory = Some(directory);
        now.times
    }

    fn opened(&self) -> MutexGuard<'_, Opened> {
        // A panic elsewhere leaves both fields whole.
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ask(opened: u64, directory: &File) -> std::io::Result<Option<TreeMark>> {
    let applied = xattr::read_file_number(directory, APPLIED)?;
    Ok(applied.map(|applied| TreeMark { opened, applied }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_stands_still_until_an_entry_or_another_opening() {
        // On an ordinary directory the attribute is set by hand.
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        xattr::write(directory.path(), APPLIED, b"7").unwrap();
        let marks = MarkDirectory::default();
        let first = marks.mark(directory.path()).unwrap().unwrap();
        assert_eq!(first.applied, 7);
        assert_eq!(marks.mark(directory.path()).unwrap(), Some(first));
        xattr::write(directory.path(), APPLIED, b"8").unwrap();
        let second = marks.mark(directory.path()).unwrap().unwrap();
        assert_eq!((second.opened, second.applied), (first.opened, 8));
        marks.forget();
        let third = marks.mark(directory.path()).unwrap().unwrap();
        assert_eq!(third.applied, 8);
        assert_ne!(third, second, "it may be another tree by now");
    }

    #[test]
    fn a_directory_that_tells_no_mark_has_none_and_a_missing_one_is_an_error() {
        let plain = tempfile::tempdir().unwrap();
        let marks = MarkDirectory::default();
        assert_eq!(marks.mark(plain.path()).unwrap(), None);
        let missing = MarkDirectory::default().mark(&plain.path().join("none"));
        assert_eq!(missing.unwrap_err().kind(), std::io::ErrorKind::NotFound);
    }
}
