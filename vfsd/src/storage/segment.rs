//! Segment files: preallocated, zero-filled, numbered.
//!
//! Invariants: a segment appears under its name only when it has its full size on disk, so that writing into it
//! changes no metadata and one `fdatasync` is one flush. Not here: what is in them (`frame.rs`).

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{StorageError, atomic_file};

const SUFFIX: &str = "log";

/// Path of segment `number` in the log directory `dir`.
pub(super) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.{SUFFIX}"))
}

/// Numbers of the segments in `dir`, ascending. Other files (a half-made segment of a crash) are not listed.
pub(super) fn list(dir: &Path) -> Result<Vec<u64>, StorageError> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir).map_err(StorageError::io("list", dir))? {
        let entry = entry.map_err(StorageError::io("list", dir))?;
        let name = entry.file_name();
        let number = Path::new(&name)
            .file_stem()
            .filter(|_| {
                Path::new(&name)
                    .extension()
                    .is_some_and(|extension| extension == SUFFIX)
            })
            .and_then(|stem| u64::from_str_radix(stem.to_str()?, 16).ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Writes a zero-filled file of `size` bytes that [`activate`] can name; returns its path.
pub(super) fn prepare(dir: &Path, size: u64) -> Result<PathBuf, StorageError> {
    let path = dir.join("spare.tmp");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .map_err(StorageError::io("create", &path))?;
    // Zeros are written, not reserved: an extent that was only reserved costs a journal commit at its first flush.
    let zeros = vec![0; 1 << 20];
    let mut left = size;
    while left > 0 {
        let part = left.min(zeros.len() as u64);
        let bytes = usize::try_from(part).expect("at most a mebibyte");
        file.write_all(&zeros[..bytes])
            .map_err(StorageError::io("fill", &path))?;
        // In small flushes: one large one would hold up the log's own flushes, which share the disk and the journal.
        file.sync_data().map_err(StorageError::io("flush", &path))?;
        left -= part;
    }
    file.sync_all().map_err(StorageError::io("flush", &path))?;
    Ok(path)
}

/// Gives the prepared file its name and opens it for reading and writing.
pub(super) fn activate(prepared: &Path, dir: &Path, number: u64) -> Result<File, StorageError> {
    let path = path(dir, number);
    atomic_file::publish(prepared, &path)?;
    open(dir, number)
}

/// Opens segment `number`.
pub(super) fn open(dir: &Path, number: u64) -> Result<File, StorageError> {
    let path = path(dir, number);
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .map_err(StorageError::io("open", &path))
}
