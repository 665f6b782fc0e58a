//! The data directory of a member: where each file lies, and that only one daemon uses it.
//!
//! Invariants: mode 0700; one daemon at a time (`flock` on `lock`); an unknown format is refused. Not here: what is in
//! the files.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::{StorageError, atomic_file};

/// Content of the file `FORMAT`.
const FORMAT: &str = "vfsd data directory 1\n";

/// An existing data directory, locked for this process.
#[derive(Debug)]
pub struct DataDir {
    root: PathBuf,
    // Held for its lifetime: the kernel drops the lock when the process ends, however it ends.
    _lock: Flock<File>,
}

impl DataDir {
    /// Makes a new data directory and locks it. The format file is written by [`DataDir::seal`], last.
    ///
    /// # Errors
    /// [`StorageError::NotEmpty`] if a member lives there already, [`StorageError::InUse`] if one is being made there.
    pub fn create(root: &Path) -> Result<Self, StorageError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .map_err(StorageError::io("create directory", root))?;
        let dir = Self {
            root: root.to_path_buf(),
            _lock: lock(root)?,
        };
        if dir.format_file().exists() {
            return Err(StorageError::NotEmpty(root.to_path_buf()));
        }
        // An attempt that was interrupted before `seal` never became a member here: its files are void, but for the
        // key. The cluster may have let the holder of that key in, and lets in nobody else for it.
        for sub in [dir.log(), dir.snapshots(), dir.tls()] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&sub)
                .map_err(StorageError::io("create directory", &sub))?;
            remove_all_but(&sub, &dir.key_file())?;
        }
        Ok(dir)
    }

    /// Marks the directory as complete. A crash before this leaves nothing that a daemon would start with.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn seal(&self) -> Result<(), StorageError> {
        atomic_file::write(&self.format_file(), FORMAT.as_bytes(), 0o600)
    }

    /// Opens and locks the directory of an existing member.
    ///
    /// # Errors
    /// [`StorageError::NotADataDir`], [`StorageError::Format`] or [`StorageError::InUse`].
    pub fn open(root: &Path) -> Result<Self, StorageError> {
        if !root.join("FORMAT").exists() {
            return Err(StorageError::NotADataDir(root.to_path_buf()));
        }
        let dir = Self {
            root: root.to_path_buf(),
            _lock: lock(root)?,
        };
        let path = dir.format_file();
        let found = fs::read_to_string(&path).map_err(StorageError::io("read", &path))?;
        if found != FORMAT {
            return Err(StorageError::Format {
                path,
                found: found.trim().into(),
                known: FORMAT.trim_end(),
            });
        }
        Ok(dir)
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The node's settings.
    pub fn config_file(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// Segments of the log.
    pub fn log(&self) -> PathBuf {
        self.root.join("log")
    }

    /// Snapshots of the state.
    pub fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    /// Certificates and keys.
    pub fn tls(&self) -> PathBuf {
        self.root.join("tls")
    }

    /// The node's private key.
    pub fn key_file(&self) -> PathBuf {
        self.tls().join("node.key")
    }

    /// The node's sealing identity.
    pub fn identity_file(&self) -> PathBuf {
        self.root.join("identity.age")
    }

    /// How many times this member was started.
    pub fn incarnation_file(&self) -> PathBuf {
        self.root.join("incarnation")
    }

    /// Addresses of the other members, for `vfsd rejoin`.
    pub fn peers_file(&self) -> PathBuf {
        self.root.join("peers.json")
    }

    /// Why this member must not start any more, once its state was found to differ from that of the majority.
    pub fn differs_file(&self) -> PathBuf {
        self.root.join("differs")
    }

    fn format_file(&self) -> PathBuf {
        self.root.join("FORMAT")
    }

    /// Raises the count of starts and returns the new value, durable before it is used: request numbers of this start
    /// begin above all of the earlier ones.
    ///
    /// # Errors
    /// [`StorageError::Io`], also when the file holds no number.
    pub fn raise_incarnation(&self) -> Result<u32, StorageError> {
        let path = self.incarnation_file();
        let last: u32 = match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().map_err(|error| {
                StorageError::io("parse", &path)(std::io::Error::new(
                    std::io::ErrorKind::InvalidData,
                    error,
                ))
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
            Err(error) => return Err(StorageError::io("read", &path)(error)),
        };
        let next = last + 1;
        atomic_file::write(&path, format!("{next}\n").as_bytes(), 0o600)?;
        Ok(next)
    }
}

fn remove_all_but(dir: &Path, kept: &Path) -> Result<(), StorageError> {
    for entry in fs::read_dir(dir).map_err(StorageError::io("read", dir))? {
        let path = entry.map_err(StorageError::io("read", dir))?.path();
        let removed = if path == kept {
            Ok(())
        } else if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.map_err(StorageError::io("remove", &path))?;
    }
    Ok(())
}

fn lock(root: &Path) -> Result<Flock<File>, StorageError> {
    let path = root.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(StorageError::io("open", &path))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(StorageError::InUse(root.to_path_buf())),
        Err((_, errno)) => Err(StorageError::io("lock", &path)(errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_daemons_cannot_share_a_directory() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("vfsd");
        let first = DataDir::create(&root).unwrap();
        first.seal().unwrap();
        assert!(matches!(DataDir::open(&root), Err(StorageError::InUse(_))));
        drop(first);
        DataDir::open(&root).unwrap();
    }

    #[test]
    fn a_directory_without_seal_is_made_again_and_never_started() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("vfsd");
        let half = DataDir::create(&root).unwrap();
        fs::write(half.log().join("torn"), b"x").unwrap();
        fs::write(half.tls().join("ca.key"), b"of another cluster").unwrap();
        fs::write(half.key_file(), b"the cluster may know it").unwrap();
        drop(half);
        assert!(matches!(
            DataDir::open(&root),
            Err(StorageError::NotADataDir(_))
        ));
        let whole = DataDir::create(&root).unwrap();
        assert_eq!(fs::read_dir(whole.log()).unwrap().count(), 0);
        assert_eq!(fs::read_dir(whole.tls()).unwrap().count(), 1);
        assert!(whole.key_file().exists());
        whole.seal().unwrap();
        drop(whole);
        assert!(matches!(
            DataDir::create(&root),
            Err(StorageError::NotEmpty(_))
        ));
    }

    #[test]
    fn an_unknown_format_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::create(temp.path()).unwrap();
        dir.seal().unwrap();
        drop(dir);
        fs::write(temp.path().join("FORMAT"), "vfsd data directory 9\n").unwrap();
        assert!(matches!(
            DataDir::open(temp.path()),
            Err(StorageError::Format { .. })
        ));
    }

    #[test]
    fn the_incarnation_grows_with_each_start() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::create(temp.path()).unwrap();
        assert_eq!(dir.raise_incarnation().unwrap(), 1);
        assert_eq!(dir.raise_incarnation().unwrap(), 2);
    }
}
