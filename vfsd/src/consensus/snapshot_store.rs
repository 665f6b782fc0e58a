//! Snapshots as files: `magic | head length u32 | head | state | blake3`, one file a snapshot.
//!
//! Invariants: a snapshot has its name only when it is whole and flushed; one whose digest is wrong is never used; the
//! newest is kept, older ones are removed after it is durable. Not here: how the state is encoded
//! (`state_machine/snapshot.rs`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::entry_format::StoredMembershipImage;
use super::types::{self, Snapshot, SnapshotMeta};
use crate::storage::atomic_file;
use crate::storage::record::Position;

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
    dir: PathBuf,
}

impl SnapshotStore {
    /// Uses the existing directory `dir`.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Writes a snapshot and removes older ones. Blocks on the disk.
    ///
    /// # Errors
    /// If the disk refuses; the snapshots before it are then still there.
    pub fn save(&self, meta: &SnapshotMeta, state: &[u8]) -> io::Result<()> {
        let head = SnapshotHead::of(meta);
        let encoded = postcard::to_stdvec(&head).map_err(io::Error::other)?;
        let head_len = u32::try_from(encoded.len()).map_err(io::Error::other)?;
        let mut bytes = Vec::with_capacity(state.len() + encoded.len() + 64);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&head_len.to_le_bytes());
        bytes.extend_from_slice(&encoded);
        bytes.extend_from_slice(state);
        let digest = blake3::hash(&bytes);
        bytes.extend_from_slice(digest.as_bytes());
        let path = self.path(head.last);
        atomic_file::write(&path, &bytes, 0o600)?;
        for older in self.list()?.into_iter().filter(|other| *other != path) {
            fs::remove_file(&older)?;
        }
        Ok(())
    }

    /// The newest snapshot, if there is one. Blocks on the disk.
    ///
    /// # Errors
    /// If it cannot be read or is damaged: what came before it is gone from the log, so nothing can stand in for it.
    pub fn load(&self) -> io::Result<Option<Snapshot>> {
        self.list()?.pop().map(|path| read(&path)).transpose()
    }

    /// Size of the newest snapshot in bytes; 0 if there is none.
    pub fn size(&self) -> u64 {
        let newest = self.list().ok().and_then(|mut paths| paths.pop());
        newest
            .and_then(|path| fs::metadata(path).ok())
            .map_or(0, |metadata| metadata.len())
    }

    /// Snapshots, oldest first; left-overs of a crash are not among them.
    fn list(&self) -> io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "snap")
            {
                paths.push(path);
            }
        }
        // Names begin with the index in fixed width.
        paths.sort();
        Ok(paths)
    }

    fn path(&self, last: Option<Position>) -> PathBuf {
        let (index, term) = last.map_or((0, 0), |last| (last.index, last.term));
        self.dir.join(format!("{index:016x}-{term:016x}.snap"))
    }
}

fn read(path: &Path) -> io::Result<Snapshot> {
    let damaged = |reason: &str| {
        let path = path.display();
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("snapshot {path} is damaged: {reason}; run: vfsd rejoin"),
        )
    };
    let bytes = Bytes::from(fs::read(path)?);
    let body_len = bytes
        .len()
        .checked_sub(DIGEST_LEN)
        .ok_or_else(|| damaged("it is cut off"))?;
    let (body, digest) = bytes.split_at(body_len);
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
    let (head, state) = rest
        .split_at_checked(head_len)
        .ok_or_else(|| damaged("its head is cut off"))?;
    let head: SnapshotHead =
        postcard::from_bytes(head).map_err(|error| damaged(&error.to_string()))?;
    Ok(Snapshot {
        meta: head.into_meta()?,
        snapshot: bytes.slice_ref(state),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(index: u64) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: Some(types::log_id(Position { term: 3, index })),
            last_membership: types::StoredMembership::default(),
        }
    }

    #[test]
    fn the_newest_whole_snapshot_is_loaded_and_older_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let store = SnapshotStore::new(dir.path().to_path_buf());
        assert!(store.load().unwrap().is_none());
        store.save(&meta(9), b"nine").unwrap();
        store.save(&meta(300), b"three hundred").unwrap();
        fs::write(dir.path().join("ffffffffffffffff-0.snap.tmp"), b"torn").unwrap();
        let loaded = store.load().unwrap().unwrap();
        assert_eq!(loaded.snapshot, b"three hundred"[..]);
        assert_eq!(loaded.meta, meta(300));
        assert_eq!(store.list().unwrap().len(), 1);
    }

    #[test]
    fn a_flipped_bit_anywhere_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let store = SnapshotStore::new(dir.path().to_path_buf());
        store.save(&meta(1), b"state").unwrap();
        let path = store.path(Some(Position { term: 3, index: 1 }));
        let whole = fs::read(&path).unwrap();
        for byte in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[byte] ^= 4;
            fs::write(&path, bytes).unwrap();
            assert!(store.load().is_err(), "byte {byte}");
        }
    }
}
