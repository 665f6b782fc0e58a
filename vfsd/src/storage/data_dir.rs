//! The data directory of a member: where each file lies, and that only one daemon uses it.
//!
//! Invariants: mode 0700; one daemon at a time (`flock` on `lock`); an unknown format is refused before anything is
//! written, and so are data of a level that this build does not know. Not here: what is in the files.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::{StorageError, atomic_file};
use crate::limits::RULES_KNOWN;

/// Content of the file `FORMAT`, before its number: 1 and the level of the entries in the log. So a build that cannot
/// apply them refuses them by number, also one from before there were levels.
const FORMAT: &str = "vfsd data directory ";
/// The number of a new directory.
const FORMAT_FIRST: u32 = 1;
/// The highest number that this build reads.
const FORMAT_KNOWN: u32 = FORMAT_FIRST + RULES_KNOWN;

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
        self.write_format(FORMAT_FIRST)
    }

    fn write_format(&self, number: u32) -> Result<(), StorageError> {
        let text = format!("{FORMAT}{number}\n");
        atomic_file::write(&self.format_file(), text.as_bytes(), 0o600)
    }

    /// Marks the directory as one whose entries are applied by the rules of `level`, if it is not yet.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn raise_level(&self, level: u32) -> Result<(), StorageError> {
        let number = FORMAT_FIRST + level;
        if self.format()? >= number {
            return Ok(());
        }
        self.write_format(number)
    }

    /// The number in the format file.
    fn format(&self) -> Result<u32, StorageError> {
        let path = self.format_file();
        let found = fs::read_to_string(&path).map_err(StorageError::io("read", &path))?;
        let number = found
            .strip_prefix(FORMAT)
            .and_then(|rest| rest.trim_end().parse().ok());
        match number {
            Some(number @ FORMAT_FIRST..=FORMAT_KNOWN) => Ok(number),
            _ => Err(StorageError::Format {
                path,
                found: found.trim().into(),
                known: format!("{FORMAT}{FORMAT_KNOWN}"),
            }),
        }
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
        dir.format()?;
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

    /// How many starts of this member took part in the cluster.
    pub fn incarnation_file(&self) -> PathBuf {
        self.root.join("incarnation")
    }

    /// Addresses of the other members, for `vfsd rejoin`.
    pub fn peers_file(&self) -> PathBuf {
        self.root.join("peers.json")
    }

    /// What the others have said that their disks hold.
    pub fn pledges_file(&self) -> PathBuf {
        self.root.join("pledges.json")
    }

    /// Why this member must not start any more, once it was found not to be what the others know.
    pub fn differs_file(&self) -> PathBuf {
        self.root.join("differs")
    }

    fn format_file(&self) -> PathBuf {
        self.root.join("FORMAT")
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

/// Locks a directory for this process, for as long as the value lives.
///
/// # Errors
/// [`StorageError::InUse`] if another process has it.
pub fn lock(root: &Path) -> Result<Flock<File>, StorageError> {
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

    fn sealed(root: &Path) -> DataDir {
        let dir = DataDir::create(root).unwrap();
        dir.seal().unwrap();
        dir
    }

    #[test]
    fn an_unknown_format_is_refused() {
        for unknown in [
            "vfsd data directory 9\n",
            "vfsd data directory 0\n",
            "vfsd data directory\n",
            "1\n",
            "",
        ] {
            let temp = tempfile::tempdir().unwrap();
            drop(sealed(temp.path()));
            fs::write(temp.path().join("FORMAT"), unknown).unwrap();
            let refused = DataDir::open(temp.path());
            assert!(
                matches!(refused, Err(StorageError::Format { .. })),
                "{unknown:?}"
            );
        }
    }

    #[test]
    fn a_directory_of_a_newer_level_is_refused_by_its_number_and_stays_as_it_is() {
        let temp = tempfile::tempdir().unwrap();
        let newer = format!("vfsd data directory {}\n", FORMAT_KNOWN + 1);
        drop(sealed(temp.path()));
        fs::write(temp.path().join("FORMAT"), &newer).unwrap();
        let said = DataDir::open(temp.path()).unwrap_err().to_string();
        assert!(
            said.contains(newer.trim_end()) && said.contains(&FORMAT_KNOWN.to_string()),
            "{said}"
        );
        assert_eq!(
            fs::read_to_string(temp.path().join("FORMAT")).unwrap(),
            newer
        );
    }

    #[test]
    fn the_level_of_a_directory_rises_and_never_falls() {
        let temp = tempfile::tempdir().unwrap();
        let format = || fs::read_to_string(temp.path().join("FORMAT")).unwrap();
        let dir = sealed(temp.path());
        dir.raise_level(0).unwrap();
        assert_eq!(
            format(),
            "vfsd data directory 1\n",
            "as builds from before levels write it"
        );
        dir.raise_level(RULES_KNOWN).unwrap();
        dir.raise_level(0).unwrap();
        assert_eq!(format(), format!("vfsd data directory {FORMAT_KNOWN}\n"));
        drop(dir);
        DataDir::open(temp.path()).unwrap();
    }
}
