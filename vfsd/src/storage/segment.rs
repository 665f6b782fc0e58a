//! Segment files: preallocated, zero-filled, numbered.
//!
//! Invariants: a segment appears under its name only when it has its full size on disk, so that writing into it
//! changes no metadata and one `fdatasync` is one flush. Not here: what is in them (`frame.rs`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{Disk, DiskFile, remove_if_there};
use super::{StorageError, atomic_file};

const SUFFIX: &str = "log";

/// Path of segment `number` in the log directory `dir`.
pub(super) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.{SUFFIX}"))
}

/// Numbers of the segments in `dir`, ascending. Other files (a half-made segment of a crash) are not listed.
pub(super) fn list(disk: &dyn Disk, dir: &Path) -> Result<Vec<u64>, StorageError> {
    let names = disk.list(dir).map_err(StorageError::io("list", dir))?;
    let number = |name: &String| {
        let (stem, suffix) = name.split_once('.')?;
        let is_segment = suffix == SUFFIX;
        is_segment.then(|| u64::from_str_radix(stem, 16).ok())?
    };
    let mut numbers: Vec<u64> = names.iter().filter_map(number).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Writes a zero-filled file of `size` bytes that [`activate`] can name; returns its path. One that cannot be finished
/// is removed.
pub(super) fn prepare(disk: &dyn Disk, dir: &Path, size: u64) -> Result<PathBuf, StorageError> {
    let path = dir.join("spare.tmp");
    // An interrupted one may have any size and content.
    remove_if_there(disk, &path).map_err(StorageError::io("remove", &path))?;
    let filled = fill(disk, &path, size);
    if filled.is_err() {
        // It would take the room that is missing. If even this fails, the next start removes it.
        let _ = disk.remove(&path);
    }
    filled.map(|()| path)
}

fn fill(disk: &dyn Disk, path: &Path, size: u64) -> Result<(), StorageError> {
    let file = disk
        .create(path, 0o600)
        .map_err(StorageError::io("create", path))?;
    // Zeros are written, not reserved: an extent that was only reserved costs a journal commit at its first flush.
    let zeros = vec![0; 1 << 20];
    let mut at = 0;
    while at < size {
        let part = (size - at).min(zeros.len() as u64);
        let bytes = usize::try_from(part).expect("at most a mebibyte");
        file.write_all_at(&zeros[..bytes], at)
            .map_err(StorageError::io("fill", path))?;
        // In small flushes: one large one would hold up the log's own flushes, which share the disk and the journal.
        file.sync_data().map_err(StorageError::io("flush", path))?;
        at += part;
    }
    file.sync_all().map_err(StorageError::io("flush", path))
}

/// Gives the prepared file its name and opens it for reading and writing.
pub(super) fn activate(
    disk: &dyn Disk,
    prepared: &Path,
    dir: &Path,
    number: u64,
) -> Result<Arc<dyn DiskFile>, StorageError> {
    let path = path(dir, number);
    atomic_file::publish(disk, prepared, &path)?;
    open(disk, dir, number)
}

/// Opens segment `number`.
pub(super) fn open(
    disk: &dyn Disk,
    dir: &Path,
    number: u64,
) -> Result<Arc<dyn DiskFile>, StorageError> {
    let path = path(dir, number);
    disk.open(&path).map_err(StorageError::io("open", &path))
}
