//! How many starts of this member have come so far that it took part in the cluster: a file with one number.
//!
//! Invariant: the number on disk is that of a start whose proposals others may have seen, or of a later one; so a start
//! that goes on from the next number uses none again. Not here: when a start counts (`consensus/cluster`).

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::disk::Disk;
use super::{StorageError, atomic_file};

/// See the module.
#[derive(Debug, Clone)]
pub struct StartCount {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    noted: u32,
}

impl StartCount {
    /// The count in the file `path`; 0 if there is none.
    ///
    /// # Errors
    /// [`StorageError::Io`], also when the file holds no number.
    pub fn open(disk: Arc<dyn Disk>, path: PathBuf) -> Result<Self, StorageError> {
        let noted = match disk.read(&path) {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                text.trim().parse().map_err(|error| {
                    StorageError::io("parse", &path)(io::Error::new(
                        io::ErrorKind::InvalidData,
                        error,
                    ))
                })?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(StorageError::io("read", &path)(error)),
        };
        Ok(Self { disk, path, noted })
    }

    /// The starts before this one.
    pub fn before(&self) -> u32 {
        self.noted
    }

    /// The number of this start.
    pub fn this(&self) -> u32 {
        self.noted + 1
    }

    /// Makes the number of this start durable.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn note(&self) -> Result<(), StorageError> {
        let text = format!("{}\n", self.this());
        atomic_file::write_on(&*self.disk, &self.path, text.as_bytes(), 0o600)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::disk::RealDisk;

    #[test]
    fn a_start_that_took_part_is_counted_and_one_that_did_not_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("incarnation");
        let open = || StartCount::open(RealDisk::shared(), path.clone()).unwrap();
        assert_eq!((open().before(), open().this()), (0, 1));
        open().note().unwrap();
        assert_eq!((open().before(), open().this()), (1, 2));
        std::fs::write(&path, "nonsense").unwrap();
        assert!(StartCount::open(RealDisk::shared(), path).is_err());
    }
}
