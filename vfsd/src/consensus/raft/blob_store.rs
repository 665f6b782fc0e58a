//! Large contents as files, named by their digest: what the snapshots on this node share.
//!
//! Invariants: a file has its name only when it is whole and flushed; it never changes; what was read was checked
//! against its name. Not here: which contents are needed (`snapshot_store.rs`).

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::state_machine::blob::{self, BlobDigest};
use crate::state_machine::content::Content;
use crate::storage::atomic_file;
use crate::storage::disk::Disk;

/// A directory of contents.
#[derive(Debug, Clone)]
pub struct BlobStore {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
}

impl BlobStore {
    /// Uses `dir` on `disk`, which is made when the first content is stored.
    pub fn new(disk: Arc<dyn Disk>, dir: PathBuf) -> Self {
        Self { disk, dir }
    }

    /// Stores those of `contents` that are not there yet. Blocks on the disk.
    ///
    /// # Errors
    /// If the disk refuses; contents that were stored before are then still there.
    pub fn insert(&self, contents: &BTreeMap<BlobDigest, Content>) -> io::Result<()> {
        let Some(&some) = contents.keys().next() else {
            return Ok(());
        };
        let disk = &*self.disk;
        match disk.create_dir(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            // Flushed in any case: whoever made it may have been interrupted before that.
            _ => atomic_file::sync_parent(disk, &self.dir)?,
        }
        for (&digest, content) in contents {
            let path = self.path(digest);
            match disk.size(&path) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    atomic_file::write_unlisted(disk, &path, &blob::encode(content), 0o600)?;
                }
                Err(error) => return Err(error),
            }
        }
        // One for all of them, also for those that a crash has left without.
        Ok(atomic_file::sync_parent(disk, &self.path(some))?)
    }

    /// The content with this digest, if it is there. Blocks on the disk.
    ///
    /// # Errors
    /// If it cannot be read, or its bytes have changed since it was stored (`InvalidData`).
    pub fn get(&self, digest: BlobDigest) -> io::Result<Option<Content>> {
        let bytes = match self.disk.read(&self.path(digest)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        blob::decode(digest, &bytes)
            .map(Some)
            .map_err(|reason| io::Error::new(io::ErrorKind::InvalidData, reason))
    }

    /// Takes away one content, so that the next [`BlobStore::insert`] stores it anew.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn remove(&self, digest: BlobDigest) -> io::Result<()> {
        self.disk.remove(&self.path(digest))
    }

    /// Takes away everything but `needed`: contents that no snapshot names any more, and what a crash left.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn retain(&self, needed: &BTreeMap<BlobDigest, Content>) -> io::Result<()> {
        let names = match self.disk.list(&self.dir) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        for name in names {
            let digest = BlobDigest::from_hex(&name);
            if !digest.is_some_and(|digest| needed.contains_key(&digest)) {
                self.disk.remove(&self.dir.join(name))?;
            }
        }
        Ok(())
    }

    /// Removes what an interrupted [`BlobStore::insert`] has left half written.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn remove_left_overs(&self) -> io::Result<()> {
        Ok(atomic_file::remove_left_overs(&*self.disk, &self.dir)?)
    }

    fn path(&self, digest: BlobDigest) -> PathBuf {
        self.dir.join(digest.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::state_machine::command::ContentOp;
    use crate::storage::disk::RealDisk;

    fn content(byte: u8) -> (BlobDigest, Content) {
        let mut content = Content::default();
        let write = ContentOp::Write {
            offset: 0,
            data: vec![byte; 100_000],
        };
        content.apply_op(&write).unwrap();
        (BlobDigest::of(&blob::encode(&content)), content)
    }

    #[test]
    fn contents_are_stored_once_and_only_the_needed_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        let store = BlobStore::new(RealDisk::shared(), dir.path().join("blobs"));
        let [one, two] = [content(1), content(2)];
        assert_eq!(store.get(one.0).unwrap(), None);
        store.retain(&BTreeMap::new()).unwrap();
        store
            .insert(&BTreeMap::from([one.clone(), two.clone()]))
            .unwrap();
        assert_eq!(store.get(one.0).unwrap().as_ref(), Some(&one.1));
        let first_written = fs::metadata(store.path(two.0)).unwrap().modified().unwrap();
        fs::write(dir.path().join("blobs/torn.tmp"), b"torn").unwrap();
        store.insert(&BTreeMap::from([two.clone()])).unwrap();
        store.retain(&BTreeMap::from([two.clone()])).unwrap();
        assert_eq!(fs::read_dir(dir.path().join("blobs")).unwrap().count(), 1);
        let written = fs::metadata(store.path(two.0)).unwrap().modified().unwrap();
        assert_eq!(written, first_written, "what is there is not written again");
    }

    #[test]
    fn a_changed_file_is_refused_until_it_is_stored_anew() {
        let dir = tempfile::tempdir().unwrap();
        let store = BlobStore::new(RealDisk::shared(), dir.path().join("blobs"));
        let (digest, content) = content(7);
        let one = BTreeMap::from([(digest, content)]);
        store.insert(&one).unwrap();
        let mut bytes = fs::read(store.path(digest)).unwrap();
        bytes[50_000] ^= 1;
        fs::write(store.path(digest), bytes).unwrap();
        let error = store.get(digest).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        store.remove(digest).unwrap();
        store.insert(&one).unwrap();
        assert!(store.get(digest).unwrap().is_some());
    }
}
