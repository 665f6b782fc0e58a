//! Snapshots as files: `magic | head length u32 | head | manifest | blake3`, one file a snapshot, and the contents that
//! the manifest names beside it.
//!
//! Invariants: a snapshot has its name only when it is whole and flushed, all contents that it names included; one
//! whose digest is wrong is never used; the newest is kept, older ones and the contents that only they name are removed
//! after it is durable. Not here: how the state is encoded (`state_machine/snapshot.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::consensus::raft::blob_store::BlobStore;
use crate::consensus::raft::entry_format::StoredMembershipImage;
use crate::consensus::raft::types::{self, Snapshot, SnapshotMeta};
use crate::state_machine::blob::BlobDigest;
use crate::state_machine::content::Content;
use crate::state_machine::snapshot::{StateImage, named_in};
use crate::storage::atomic_file;
use crate::storage::disk::{self, Disk};
use crate::storage::record::Position;
use crate::trouble::Trouble;

const MAGIC: &[u8; 8] = b"vfsnap1\n";
const DIGEST_LEN: usize = 32;

/// What a snapshot covers, on disk and on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotHead {
    /// Last entry in it.
    pub last: Option<Position>,
    /// Members as of then.
    pub membership: StoredMembershipImage,
}

impl SnapshotHead {
    /// The stored form of `meta`.
    pub fn of(meta: &SnapshotMeta) -> Self {
        Self {
            last: meta.last_log_id.as_ref().map(types::position),
            membership: StoredMembershipImage::of(&meta.last_membership),
        }
    }

    /// What openraft knows of it.
    ///
    /// # Errors
    /// If the membership is not one.
    pub fn into_meta(self) -> io::Result<SnapshotMeta> {
        Ok(SnapshotMeta {
            last_log_id: self.last.map(types::log_id),
            last_membership: self.membership.into_stored()?,
        })
    }
}

/// The directory with the snapshots of this node.
#[derive(Debug, Clone)]
pub struct SnapshotStore {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    blobs: BlobStore,
    // One writer at a time: contents that one has just stored must not be taken away by another.
    writing: Arc<Mutex<()>>,
    // Leaf lock.
    trouble: Arc<Mutex<Trouble>>,
}

impl SnapshotStore {
    /// Uses the existing directory `dir` on `disk`. Blocks on the disk: what interrupted saves have left is removed.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn open(disk: Arc<dyn Disk>, dir: PathBuf) -> io::Result<Self> {
        let blobs = BlobStore::new(Arc::clone(&disk), dir.join("blobs"));
        atomic_file::remove_left_overs(&*disk, &dir)?;
        blobs.remove_left_overs()?;
        Ok(Self {
            disk,
            dir,
            blobs,
            writing: Arc::default(),
            trouble: Arc::default(),
        })
    }

    /// Takes down whether the last snapshot of this node's own state came to the disk, and tells of it if it did not.
    pub fn note_outcome<T>(&self, saved: &io::Result<T>) {
        let mut trouble = self.trouble.lock();
        match saved {
            Ok(_) => trouble.end(),
            Err(error) if trouble.is_new(error) => tracing::error!(
                dir = %self.dir.display(),
                %error,
                "a snapshot cannot be written: this member goes on while the log has room, and tries again; make room \
                 on the disk"
            ),
            Err(_) => {}
        }
    }

    /// Whether it did not.
    pub fn has_failed(&self) -> bool {
        self.trouble.lock().is_there()
    }

    /// Runs `job` on the store where it blocks nobody else.
    ///
    /// # Errors
    /// If the job panicked or the runtime is stopping.
    pub async fn run_blocking<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> io::Result<T> {
        let store = self.clone();
        disk::run_blocking(&*self.disk, move || job(&store)).await
    }

    /// Writes a snapshot and removes older ones; does nothing if a newer one is there. Blocks on the disk.
    ///
    /// # Errors
    /// If the disk refuses; the snapshots before it are then still there.
    pub fn save(&self, meta: &SnapshotMeta, image: &StateImage) -> io::Result<()> {
        let head = SnapshotHead::of(meta);
        let path = self.path(head.last);
        let bytes = framed(&head, &image.manifest)?;
        let _writing = self.writing.lock();
        if self.list()?.last().is_some_and(|newest| *newest > path) {
            return Ok(());
        }
        self.blobs.insert(&image.blobs)?;
        atomic_file::write_on(&*self.disk, &path, &bytes, 0o600)?;
        for older in self.list()?.into_iter().filter(|other| *other != path) {
            self.disk.remove(&older)?;
        }
        self.blobs.retain(&image.blobs)
    }

    /// The newest snapshot, if there is one. Blocks on the disk.
    ///
    /// # Errors
    /// If it cannot be read or is damaged: what came before it is gone from the log, so nothing can stand in for it.
    pub fn load(&self) -> io::Result<Option<Snapshot>> {
        let _writing = self.writing.lock();
        let Some(path) = self.list()?.pop() else {
            return Ok(None);
        };
        let (meta, manifest) = read(&path, &self.disk.read(&path)?)?;
        let damaged = |reason: String| damaged(&path, &reason);
        let mut blobs = BTreeMap::new();
        for digest in named_in(&manifest).map_err(|error| damaged(error.to_string()))? {
            let content = self.blobs.get(digest);
            let content = content.map_err(|error| damaged(error.to_string()))?;
            let gone = || damaged(format!("the content {digest} is gone"));
            blobs.insert(digest, content.ok_or_else(gone)?);
        }
        let blobs = Arc::new(blobs);
        let snapshot = StateImage { manifest, blobs };
        Ok(Some(Snapshot { meta, snapshot }))
    }

    /// Those of the `named` contents that this node has. A damaged one counts as missing, and is made to be stored
    /// anew. Blocks on the disk.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn contents_of(
        &self,
        named: &BTreeSet<BlobDigest>,
    ) -> io::Result<BTreeMap<BlobDigest, Content>> {
        let _writing = self.writing.lock();
        let mut contents = BTreeMap::new();
        for &digest in named {
            match self.blobs.get(digest) {
                Ok(Some(content)) => drop(contents.insert(digest, content)),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "a stored content is damaged; the leader sends it again");
                    self.blobs.remove(digest)?;
                }
            }
        }
        Ok(contents)
    }

    /// Size of the newest snapshot in bytes, without the contents that it names; 0 if there is none.
    pub fn size(&self) -> u64 {
        let newest = self.list().ok().and_then(|mut paths| paths.pop());
        newest
            .and_then(|path| self.disk.size(&path).ok())
            .unwrap_or(0)
    }

    /// Snapshots, oldest first; left-overs of a crash are not among them.
    fn list(&self) -> io::Result<Vec<PathBuf>> {
        let names = self.disk.list(&self.dir)?.into_iter();
        let mut paths: Vec<_> = names
            .filter(|name| name.ends_with(".snap"))
            .map(|name| self.dir.join(name))
            .collect();
        // Names begin with the index in fixed width.
        paths.sort();
        Ok(paths)
    }

    fn path(&self, last: Option<Position>) -> PathBuf {
        let (index, term) = last.map_or((0, 0), |last| (last.index, last.term));
        self.dir.join(format!("{index:016x}-{term:016x}.snap"))
    }
}

/// The bytes of a snapshot file.
fn framed(head: &SnapshotHead, manifest: &[u8]) -> io::Result<Vec<u8>> {
    let encoded = postcard::to_stdvec(head).map_err(io::Error::other)?;
    let head_len = u32::try_from(encoded.len()).map_err(io::Error::other)?;
    let mut bytes = Vec::with_capacity(manifest.len() + encoded.len() + 64);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&head_len.to_le_bytes());
    bytes.extend_from_slice(&encoded);
    bytes.extend_from_slice(manifest);
    let digest = blake3::hash(&bytes);
    bytes.extend_from_slice(digest.as_bytes());
    Ok(bytes)
}

fn damaged(path: &Path, reason: &str) -> io::Error {
    let path = path.display();
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("snapshot {path} is damaged: {reason}; run: vfsd rejoin"),
    )
}

fn read(path: &Path, bytes: &[u8]) -> io::Result<(SnapshotMeta, Arc<[u8]>)> {
    let damaged = |reason: &str| damaged(path, reason);
    let (body, digest) = bytes
        .split_last_chunk::<DIGEST_LEN>()
        .ok_or_else(|| damaged("it is cut off"))?;
    if blake3::hash(body).as_bytes() != digest {
        return Err(damaged("its digest does not match its bytes"));
    }
    let rest = body
        .strip_prefix(MAGIC.as_slice())
        .ok_or_else(|| damaged("it does not begin as one"))?;
    let (len, rest) = rest
        .split_first_chunk::<4>()
        .ok_or_else(|| damaged("it is cut off"))?;
    let head_len = u32::from_le_bytes(*len) as usize;
    let (head, manifest) = rest
        .split_at_checked(head_len)
        .ok_or_else(|| damaged("its head is cut off"))?;
    let head: SnapshotHead =
        postcard::from_bytes(head).map_err(|error| damaged(&error.to_string()))?;
    Ok((head.into_meta()?, manifest.into()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::consensus::raft::images_test::image;
    use crate::storage::disk::RealDisk;
    use crate::storage::disk::fake::{FakeDisk, Faults};

    fn open(dir: &Path) -> SnapshotStore {
        SnapshotStore::open(RealDisk::shared(), dir.to_path_buf()).unwrap()
    }

    fn meta(index: u64) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: Some(types::log_id(Position { term: 3, index })),
            last_membership: types::StoredMembership::default(),
        }
    }

    fn blobs_in(dir: &Path) -> usize {
        fs::read_dir(dir.join("blobs")).map_or(0, Iterator::count)
    }

    #[test]
    fn the_newest_whole_snapshot_is_loaded_and_older_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        assert!(store.load().unwrap().is_none());
        store.save(&meta(9), &image(&[1, 2])).unwrap();
        assert_eq!(blobs_in(dir.path()), 2);
        store.save(&meta(300), &image(&[2, 3, 4])).unwrap();
        fs::write(dir.path().join("ffffffffffffffff-0.snap.tmp"), b"torn").unwrap();
        let loaded = store.load().unwrap().unwrap();
        assert_eq!(loaded.snapshot, image(&[2, 3, 4]));
        assert_eq!(loaded.meta, meta(300));
        assert_eq!((store.list().unwrap().len(), blobs_in(dir.path())), (1, 3));
    }

    #[test]
    fn what_interrupted_saves_have_left_is_removed_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        store.save(&meta(9), &image(&[1])).unwrap();
        let left =
            ["0000000000000063-0.snap.tmp", "blobs/ab12.tmp"].map(|name| dir.path().join(name));
        for path in &left {
            fs::write(path, b"torn").unwrap();
        }
        let store = open(dir.path());
        assert!(!left.iter().any(|path| path.exists()));
        assert_eq!(store.load().unwrap().unwrap().snapshot, image(&[1]));
    }

    #[test]
    fn a_save_that_meets_a_full_disk_takes_no_room_and_leaves_the_one_before() {
        let disk = FakeDisk::new(1, Faults::default());
        let dir = PathBuf::from("/snapshots");
        disk.create_dir(&dir).unwrap();
        let store = SnapshotStore::open(Arc::new(disk.clone()), dir.clone()).unwrap();
        store.save(&meta(9), &image(&[1])).unwrap();
        let names = || {
            (
                disk.list(&dir).unwrap(),
                disk.list(&dir.join("blobs")).unwrap(),
            )
        };
        let before = names();
        disk.set_faults(Faults {
            capacity: Some(0),
            ..Faults::default()
        });
        assert!(store.save(&meta(300), &image(&[1, 2])).is_err());
        assert_eq!(names(), before);
        assert_eq!(store.load().unwrap().unwrap().meta, meta(9));
    }

    #[test]
    fn an_older_snapshot_that_is_ready_later_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        store.save(&meta(300), &image(&[3])).unwrap();
        store.save(&meta(9), &image(&[1])).unwrap();
        let loaded = store.load().unwrap().unwrap();
        assert_eq!((loaded.meta, loaded.snapshot), (meta(300), image(&[3])));
    }

    #[test]
    fn a_flipped_bit_anywhere_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        store.save(&meta(1), &image(&[1])).unwrap();
        let path = store.path(Some(Position { term: 3, index: 1 }));
        let whole = fs::read(&path).unwrap();
        for byte in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[byte] ^= 4;
            fs::write(&path, bytes).unwrap();
            assert!(store.load().is_err(), "byte {byte}");
        }
    }

    #[test]
    fn a_damaged_content_stops_the_start_and_is_asked_for_again_by_a_receiver() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let image = image(&[1, 2]);
        let named: BTreeSet<_> = image.blobs.keys().copied().collect();
        store.save(&meta(1), &image).unwrap();
        let damaged = dir
            .path()
            .join("blobs")
            .join(named.first().unwrap().to_string());
        fs::write(&damaged, b"rotten").unwrap();
        let error = store.load().unwrap_err().to_string();
        assert!(error.ends_with("run: vfsd rejoin"), "{error}");
        let name = damaged.file_name().and_then(|name| name.to_str());
        assert!(error.contains(name.unwrap()), "{error}");
        assert_eq!(store.contents_of(&named).unwrap().len(), 1);
        assert!(!damaged.exists(), "it is stored anew by the next save");
        store.save(&meta(2), &image).unwrap();
        assert_eq!(store.load().unwrap().unwrap().snapshot, image);
    }
}
