//! Small files that are replaced as a whole.
//!
//! Invariant: after a crash the file holds its old content or its new one, never a part: the new content is written
//! beside it, flushed, renamed over it, and the directory is flushed.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::StorageError;

/// Replaces the content of `path`; the file gets the permission bits `mode`.
///
/// # Errors
/// [`StorageError::Io`] naming the step that failed; the old content then still stands.
pub fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), StorageError> {
    write_unlisted(path, content, mode)?;
    sync_parent(path)
}

/// As [`write`], but the name is durable only after a [`sync_parent`] that follows: one for many files.
///
/// # Errors
/// As there.
pub fn write_unlisted(path: &Path, content: &[u8], mode: u32) -> Result<(), StorageError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".tmp");
    let beside = Path::new(&beside);
    // A left-over of an earlier crash may have other permission bits, so it is made anew.
    match fs::remove_file(beside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(StorageError::io("remove", beside)(error));
        }
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(beside)
        .map_err(StorageError::io("create", beside))?;
    file.write_all(content)
        .map_err(StorageError::io("write", beside))?;
    file.sync_all().map_err(StorageError::io("flush", beside))?;
    fs::rename(beside, path).map_err(StorageError::io("rename", beside))
}

/// Renames the flushed file `from` over `to` and makes the new name durable.
///
/// # Errors
/// [`StorageError::Io`] if the rename or the flush of the directory fails.
pub fn publish(from: &Path, to: &Path) -> Result<(), StorageError> {
    fs::rename(from, to).map_err(StorageError::io("rename", from))?;
    sync_parent(to)
}

/// Makes the names in the directory of `path` durable.
///
/// # Errors
/// [`StorageError::Io`] if the directory cannot be opened or flushed.
pub fn sync_parent(path: &Path) -> Result<(), StorageError> {
    let parent = path.parent().unwrap_or_else(|| Path::new("/"));
    let directory = File::open(parent).map_err(StorageError::io("open", parent))?;
    directory
        .sync_all()
        .map_err(StorageError::io("flush", parent))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn write_replaces_the_whole_file_and_sets_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        write(&path, b"a longer first content", 0o644).unwrap();
        write(&path, b"second", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_left_over_of_a_crash_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("incarnation");
        fs::write(dir.path().join("incarnation.tmp"), b"torn").unwrap();
        write(&path, b"7", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"7");
    }
}
