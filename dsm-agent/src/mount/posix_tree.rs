//! The tree through ordinary file calls on its mount point.
//!
//! Invariants: reads go through `/.vfs/now`; a content change is committed and its error known when the call returns,
//! because the descriptor is closed by hand. The root is found by path in each call, so a new mount at the same place
//! is used at once; only marks are asked of a descriptor that is kept (`mark_directory.rs`).

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::IntoRawFd;
use std::os::unix::fs::{DirBuilderExt, DirEntryExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::lock_file::{GUARD, LockFiles, LockKeeper};
use super::mark_directory::MarkDirectory;
use super::paths;
use super::shared_tree::{
    Committed, EntryKind, LockAttempt, SharedTree, TreeCondition, TreeEntry, TreeError, TreeMark,
};
use super::xattr;
use crate::engine::view::LockView;
use crate::limits::RECORD_BYTES_MAX;

const REVISION: &str = "user.vfs.rev";
const INODE: &str = "user.vfs.ino";
const TREE_REVISION: &str = "user.vfs.tree_rev";
const HISTORY: &str = "user.vfs.history";

/// See the head of this file.
#[derive(Debug)]
pub struct PosixTree {
    root: PathBuf,
    committed: PathBuf,
    is_plain: bool,
    locks: LockFiles,
    marks: MarkDirectory,
}

impl PosixTree {
    /// The tree that vfsd has mounted at `root`.
    pub fn mounted(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            committed: root.join(".vfs/now"),
            is_plain: false,
            locks: LockFiles::new(root, LockKeeper::Filesystem),
            marks: MarkDirectory::default(),
        }
    }

    /// A plain directory that stands in for the tree: for tests and for trying the agent on one machine without vfsd.
    /// Guards are kept as attributes but not enforced.
    pub fn plain(root: &Path, node: &str) -> Self {
        Self {
            root: root.to_owned(),
            committed: root.to_owned(),
            is_plain: true,
            locks: LockFiles::new(
                root,
                LockKeeper::PlainDirectory {
                    node: node.to_owned(),
                },
            ),
            marks: MarkDirectory::default(),
        }
    }

    /// The mount point.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where `path` is read: `/.vfs` itself has no committed view.
    fn reading_path(&self, path: &str) -> PathBuf {
        if path.starts_with(".vfs/") {
            self.root.join(path)
        } else {
            self.committed.join(path)
        }
    }

    fn make_one_dir(&self, path: &Path, name: &str) -> Result<bool, TreeError> {
        // The top directories of the tree always exist: one that is missing means that the tree is not mounted, and
        // nothing may be made on the disk below the mount point.
        if !self.is_plain && path.parent() == Some(&self.root) && !path.is_dir() {
            let why = format!("the tree is not mounted on {}", self.root.display());
            return Err(failure(
                "mkdir",
                name,
                std::io::Error::new(ErrorKind::NotFound, why),
            ));
        }
        match DirBuilder::new().mode(0o755).create(path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let parent = path
                    .parent()
                    .filter(|parent| parent.starts_with(&self.root));
                let Some(parent) = parent.filter(|parent| *parent != path) else {
                    return Err(failure("mkdir", name, error));
                };
                self.make_one_dir(parent, name)?;
                match DirBuilder::new().mode(0o755).create(path) {
                    Ok(()) => Ok(true),
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
                    Err(error) => Err(failure("mkdir", name, error)),
                }
            }
            Err(error) => Err(failure("mkdir", name, error)),
        }
    }

    fn open_for_writing(&self, path: &str, options: &OpenOptions) -> Result<File, TreeError> {
        let full = self.root.join(path);
        match options.open(&full) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if let Some((directory, _)) = path.rsplit_once('/') {
                    self.make_dir(directory)?;
                }
                options
                    .open(&full)
                    .map_err(|error| failure("open", path, error))
            }
            other => other.map_err(|error| failure("open", path, error)),
        }
    }
}

impl SharedTree for PosixTree {
    fn read(&self, path: &str) -> Result<Option<Committed>, TreeError> {
        let full = self.reading_path(path);
        let mut file = match File::open(&full) {
            Ok(file) => file,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(failure("open", path, error)),
        };
        let fail = |error| failure("read", path, error);
        let meta = file.metadata().map_err(fail)?;
        if meta.len() > RECORD_BYTES_MAX {
            return Err(TreeError::TooLarge {
                path: path.to_owned(),
                bytes: meta.len(),
            });
        }
        let mut bytes = Vec::with_capacity(usize::try_from(meta.len()).unwrap_or(0));
        // An open pins one version, so its size is exact and no second read has to find the end.
        let is_pinned = !self.is_plain && !path.starts_with(".vfs/");
        let most = if is_pinned {
            meta.len()
        } else {
            RECORD_BYTES_MAX
        };
        (&mut file)
            .take(most)
            .read_to_end(&mut bytes)
            .map_err(fail)?;
        // Each attribute is a request to the filesystem, and only wishes are asked for them.
        let is_wish = paths::WISH_ROOTS.iter().any(|root| path.starts_with(root));
        let number = |name| -> Result<Option<u64>, TreeError> {
            let raw = if self.is_plain || !is_wish {
                None
            } else {
                xattr::read_file(&file, name).map_err(fail)?
            };
            Ok(raw.and_then(xattr::number))
        };
        // Without the filesystem's marks (records, plain directories) the change time stands for the revision.
        let changed =
            meta.ctime().unsigned_abs() * 1_000_000_000 + meta.ctime_nsec().unsigned_abs();
        let revision = number(REVISION)?.unwrap_or(changed);
        let inode = number(INODE)?.unwrap_or_else(|| meta.ino());
        Ok(Some(Committed {
            bytes,
            revision,
            inode,
            uid: meta.uid(),
        }))
    }

    fn list(&self, path: &str) -> Result<Vec<TreeEntry>, TreeError> {
        // Names are committed at once in either view; the real tree also tells the real inodes.
        let entries = match std::fs::read_dir(self.root.join(path)) {
            Ok(entries) => entries,
            Err(error) if is_absent(&error) => return Ok(Vec::new()),
            Err(error) => return Err(failure("list", path, error)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| failure("list", path, error))?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let kind = match entry.file_type() {
                Ok(kind) if kind.is_dir() => EntryKind::Directory,
                Ok(kind) if kind.is_file() => EntryKind::File,
                Ok(_) => EntryKind::Other,
                Err(_) => continue,
            };
            found.push(TreeEntry {
                name,
                kind,
                inode: entry.ino(),
            });
        }
        found.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(found)
    }

    fn write(&self, path: &str, bytes: &[u8]) -> Result<(), TreeError> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o644);
        let file = self.open_for_writing(path, &options)?;
        write_and_close(file, path, bytes)
    }

    fn create(&self, path: &str, bytes: &[u8]) -> Result<bool, TreeError> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o644);
        match self.open_for_writing(path, &options) {
            Ok(file) => write_and_close(file, path, bytes).map(|()| true),
            Err(TreeError::Io { source, .. }) if source.kind() == ErrorKind::AlreadyExists => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn append(&self, path: &str, bytes: &[u8]) -> Result<(), TreeError> {
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o644);
        let mut file = self.open_for_writing(path, &options)?;
        let written = file
            .write(bytes)
            .map_err(|error| failure("append to", path, error))?;
        if written != bytes.len() {
            let error = std::io::Error::new(ErrorKind::WriteZero, "the line was cut");
            return Err(failure("append to", path, error));
        }
        if self.is_plain {
            file.sync_data()
                .map_err(|error| failure("append to", path, error))?;
        }
        close(file, path)
    }

    fn make_dir(&self, path: &str) -> Result<bool, TreeError> {
        self.make_one_dir(&self.root.join(path), path)
    }

    fn link(&self, target: &str, path: &str) -> Result<(), TreeError> {
        let full = self.root.join(path);
        if std::fs::read_link(&full).is_ok_and(|now| now == Path::new(target)) {
            return Ok(());
        }
        match std::os::unix::fs::symlink(target, &full) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failure("link", path, error)),
        }
        let draft = self.root.join(format!("{path}.tmp"));
        let fail = |error| failure("link", path, error);
        match std::fs::remove_file(&draft) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(fail(error)),
            _ => {}
        }
        std::os::unix::fs::symlink(target, &draft).map_err(fail)?;
        std::fs::rename(&draft, &full).map_err(fail)
    }

    fn rename_new(&self, from: &str, to: &str) -> Result<bool, TreeError> {
        let renamed = nix::fcntl::renameat2(
            nix::fcntl::AT_FDCWD,
            &self.root.join(from),
            nix::fcntl::AT_FDCWD,
            &self.root.join(to),
            nix::fcntl::RenameFlags::RENAME_NOREPLACE,
        );
        match renamed {
            Ok(()) => Ok(true),
            Err(nix::errno::Errno::EEXIST) => Ok(false),
            Err(errno) => Err(failure("rename", from, errno.into())),
        }
    }

    fn remove(&self, path: &str) -> Result<(), TreeError> {
        let full = self.root.join(path);
        let removed = match std::fs::symlink_metadata(&full) {
            Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(&full),
            Ok(_) => std::fs::remove_file(&full),
            Err(error) => Err(error),
        };
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(failure("remove", path, error))
            }
            _ => Ok(()),
        }
    }

    fn guard(&self, directory: &str) -> Result<Option<String>, TreeError> {
        match xattr::read(&self.root.join(directory), GUARD) {
            Ok(raw) => Ok(raw.and_then(|raw| String::from_utf8(raw).ok())),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(failure("read the guard of", directory, error)),
        }
    }

    fn set_guard(&self, directory: &str, lock: &str) -> Result<(), TreeError> {
        xattr::write(&self.root.join(directory), GUARD, lock.as_bytes())
            .map_err(|error| failure("guard", directory, error))
    }

    fn keep_out_of_history(&self, directory: &str) -> Result<(), TreeError> {
        xattr::write(&self.root.join(directory), HISTORY, b"never")
            .map_err(|error| failure("set history of", directory, error))
    }

    fn try_lock(&self, path: &str) -> Result<LockAttempt, TreeError> {
        match self.locks.try_lock(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if let Some((directory, _)) = path.rsplit_once('/') {
                    self.make_dir(directory)?;
                }
                self.locks
                    .try_lock(path)
                    .map_err(|error| failure("lock", path, error))
            }
            other => other.map_err(|error| failure("lock", path, error)),
        }
    }

    fn lock_view(&self, path: &str) -> Result<LockView, TreeError> {
        match self.locks.view(path) {
            Err(error) if is_absent(&error) => Ok(LockView::Free),
            other => other.map_err(|error| failure("look at lock", path, error)),
        }
    }

    fn fence(&self, path: &str) -> Result<Option<u64>, TreeError> {
        match self.locks.fence(path) {
            Err(error) if is_absent(&error) => Ok(None),
            other => other.map_err(|error| failure("read the fence of", path, error)),
        }
    }

    fn release(&self, path: &str) -> Result<(), TreeError> {
        self.locks
            .release(path)
            .map_err(|error| failure("release", path, error))
    }

    fn forget(&self, path: &str) {
        self.locks.forget(path);
    }

    fn mark(&self) -> Result<Option<TreeMark>, TreeError> {
        if self.is_plain {
            return Ok(None);
        }
        self.marks
            .mark(&self.root.join(".vfs"))
            .map_err(|error| failure("read the mark of", ".vfs", error))
    }

    fn tree_revision(&self, directory: &str) -> Result<Option<u64>, TreeError> {
        if self.is_plain {
            return Ok(None);
        }
        match xattr::read_number(&self.root.join(directory), TREE_REVISION) {
            Err(error) if is_absent(&error) => Ok(None),
            other => other.map_err(|error| failure("read the revision of", directory, error)),
        }
    }

    fn forget_mark(&self) {
        self.marks.forget();
    }

    fn barrier(&self) -> Result<(), TreeError> {
        let fail = |error| failure("barrier on", ".vfs", error);
        let directory = File::open(self.root.join(".vfs")).map_err(fail)?;
        directory.sync_all().map_err(fail)
    }

    fn condition(&self) -> Result<TreeCondition, TreeError> {
        let kind = nix::sys::statfs::statfs(&self.root)
            .map_err(|errno| failure("statfs", "", errno.into()))?
            .filesystem_type();
        let status = self.read(paths::STATUS)?;
        let quorum = status
            .and_then(|status| serde_json::from_slice::<Value>(&status.bytes).ok())
            .and_then(|status| status.get("quorum")?.as_bool());
        Ok(TreeCondition {
            is_mounted: (self.is_plain || kind == nix::sys::statfs::FUSE_SUPER_MAGIC)
                && quorum.is_some(),
            has_quorum: quorum == Some(true),
        })
    }
}

fn write_and_close(mut file: File, path: &str, bytes: &[u8]) -> Result<(), TreeError> {
    file.write_all(bytes)
        .map_err(|error| failure("write", path, error))?;
    close(file, path)
}

/// Closes by hand: the filesystem commits at close and says there whether it could.
fn close(file: File, path: &str) -> Result<(), TreeError> {
    // SAFETY: the descriptor is owned here and used by nobody after this call.
    let closed = unsafe { libc::close(file.into_raw_fd()) };
    if closed == 0 {
        return Ok(());
    }
    Err(failure("close", path, std::io::Error::last_os_error()))
}

fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR))
}

fn failure(op: &'static str, path: &str, source: std::io::Error) -> TreeError {
    if source.raw_os_error() == Some(libc::EKEYREVOKED) {
        return TreeError::Revoked {
            path: path.to_owned(),
        };
    }
    TreeError::Io {
        op,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_made_below_a_bare_mount_point() {
        let bare = tempfile::tempdir().unwrap();
        let tree = PosixTree::mounted(bare.path());
        let refused = tree.make_dir("lk/dsm/agents").unwrap_err();
        assert!(matches!(refused, TreeError::Io { .. }), "{refused}");
        assert!(tree.try_lock("lk/dsm/agents/n1").is_err());
        let left = std::fs::read_dir(bare.path()).unwrap().count();
        assert_eq!(left, 0, "the disk below the mount point stays as it was");
    }

    #[test]
    fn below_a_top_directory_that_is_there_directories_are_made() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("lk")).unwrap();
        let tree = PosixTree::mounted(root.path());
        assert!(tree.make_dir("lk/dsm/agents").unwrap());
        assert!(
            !tree.make_dir("lk/dsm/agents").unwrap(),
            "it is there already"
        );
    }
}
