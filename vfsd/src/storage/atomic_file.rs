//! Small files that are replaced as a whole.
//!
//! Invariant: after a crash the file holds its old content or its new one, never a part: the new content is written
//! beside it, flushed, renamed over it, and the directory is flushed.

use std::path::{Path, PathBuf};

use super::StorageError;
use super::disk::{Disk, RealDisk, remove_if_there};

/// Ending of the file beside, until it is renamed.
const BESIDE: &str = ".tmp";

/// Replaces the content of `path` on this machine's disk; the file gets the permission bits `mode`.
///
/// # Errors
/// [`StorageError::Io`] naming the step that failed; the old content then still stands.
pub fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), StorageError> {
    write_on(&RealDisk, path, content, mode)
}

/// As [`write`] on another disk.
///
/// # Errors
/// As there.
pub fn write_on(
    disk: &dyn Disk,
    path: &Path,
    content: &[u8],
    mode: u32,
) -> Result<(), StorageError> {
    write_unlisted(disk, path, content, mode)?;
    sync_parent(disk, path)
}

/// As [`write_on`], but the name is durable only after a [`sync_parent`] that follows: one for many files.
///
/// # Errors
/// As there.
pub fn write_unlisted(
    disk: &dyn Disk,
    path: &Path,
    content: &[u8],
    mode: u32,
) -> Result<(), StorageError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(BESIDE);
    let beside = PathBuf::from(beside);
    // A left-over of an earlier crash may have other permission bits, so it is made anew.
    remove_if_there(disk, &beside).map_err(StorageError::io("remove", &beside))?;
    let written = write_beside(disk, &beside, content, mode).and_then(|()| {
        disk.rename(&beside, path)
            .map_err(StorageError::io("rename", &beside))
    });
    if written.is_err() {
        // On a full disk it would take the room that is missing. If even this fails, the next start removes it.
        let _ = disk.remove(&beside);
    }
    written
}

fn write_beside(
    disk: &dyn Disk,
    beside: &Path,
    content: &[u8],
    mode: u32,
) -> Result<(), StorageError> {
    let file = disk
        .create(beside, mode)
        .map_err(StorageError::io("create", beside))?;
    file.write_all_at(content, 0)
        .map_err(StorageError::io("write", beside))?;
    file.sync_all().map_err(StorageError::io("flush", beside))
}

/// Removes what interrupted replacements of files in `dir` have left. The directory need not be there.
///
/// # Errors
/// [`StorageError::Io`] if one cannot be removed.
pub fn remove_left_overs(disk: &dyn Disk, dir: &Path) -> Result<(), StorageError> {
    let names = match disk.list(dir) {
        Ok(names) => names,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(StorageError::io("list", dir)(error)),
    };
    for name in names.iter().filter(|name| name.ends_with(BESIDE)) {
        let path = dir.join(name);
        tracing::info!(file = %path.display(), "removed what an interrupted write has left");
        disk.remove(&path)
            .map_err(StorageError::io("remove", &path))?;
    }
    Ok(())
}

/// Renames the flushed file `from` over `to` and makes the new name durable.
///
/// # Errors
/// [`StorageError::Io`] if the rename or the flush of the directory fails.
pub fn publish(disk: &dyn Disk, from: &Path, to: &Path) -> Result<(), StorageError> {
    disk.rename(from, to)
        .map_err(StorageError::io("rename", from))?;
    sync_parent(disk, to)
}

/// Makes the names in the directory of `path` durable.
///
/// # Errors
/// [`StorageError::Io`] if the directory cannot be opened or flushed.
pub fn sync_parent(disk: &dyn Disk, path: &Path) -> Result<(), StorageError> {
    let parent = path.parent().unwrap_or_else(|| Path::new("/"));
    disk.sync_dir(parent)
        .map_err(StorageError::io("flush", parent))
}

#[cfg(test)]
mod tests {
    use std::fs;
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
