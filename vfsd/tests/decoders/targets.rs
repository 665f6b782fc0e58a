//! Every decoder of bytes that come from a disk or a network, as a function of any bytes. Used by the tests beside it
//! and by the fuzz targets under `tests/fuzz`.
//!
//! A target panics only if a decoder is wrong: it must answer any bytes with a value or an error.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use vfsd::consensus::raft::entry_format::raft_entry;
use vfsd::consensus::raft::snapshot_store::SnapshotStore;
use vfsd::consensus::wire::{Reply, decode_request};
use vfsd::state_machine::StateMachine;
use vfsd::state_machine::blob::{self, BlobDigest};
use vfsd::state_machine::command::Entry;
use vfsd::state_machine::snapshot::{StateImage, named_in};
use vfsd::storage::append_log::AppendLog;
use vfsd::storage::disk::Disk;
use vfsd::storage::disk::fake::{FakeDisk, Faults};
use vfsd::storage::record::{Position, StoredEntry};
use vfsd::transport::enrol::{EnrolReply, EnrolRequest};
use vfsd::transport::frame::Frame;
use vfsd::transport::token::Token;

/// A decoder and its name.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("frame", frame),
    ("wire", wire),
    ("entry", entry),
    ("manifest", manifest),
    ("blob", blob),
    ("snapshot", snapshot),
    ("segment", segment),
    ("enrolment", enrolment),
    ("token", token),
];

/// A frame between nodes: what is read is written the same.
pub fn frame(bytes: &[u8]) {
    if let Ok(frame) = Frame::decode(Bytes::copy_from_slice(bytes)) {
        assert_eq!(frame.encode(), bytes);
    }
}

/// A request or a reply between nodes.
pub fn wire(bytes: &[u8]) {
    if let Ok(request) = decode_request(bytes) {
        drop(request.encode());
    }
    if let Ok(reply) = Reply::decode(bytes) {
        drop(reply.encode());
    }
}

/// The payload of an entry, and an entry as Raft takes it.
pub fn entry(bytes: &[u8]) {
    if let Ok(entry) = Entry::decode(bytes) {
        let again = Entry::decode(&entry.encode()).expect("what was written is read");
        assert_eq!(again, entry);
    }
    let Some((kind, payload)) = bytes.split_first() else {
        return;
    };
    drop(raft_entry(StoredEntry {
        position: Position { term: 1, index: 1 },
        kind: *kind,
        payload: Bytes::copy_from_slice(payload),
    }));
}

/// The state in a snapshot.
pub fn manifest(bytes: &[u8]) {
    if named_in(bytes).is_ok_and(|named| !named.is_empty()) {
        return;
    }
    let image = StateImage {
        manifest: Arc::from(bytes),
        blobs: Arc::new(BTreeMap::new()),
    };
    if let Ok(state) = StateMachine::from_image(&image) {
        drop(state.image());
    }
}

/// A content that lies by itself.
pub fn blob(bytes: &[u8]) {
    if let Ok(content) = blob::decode(BlobDigest::of(bytes), bytes) {
        drop(blob::encode(&content));
    }
}

fn disk_with(path: &str, bytes: &[u8]) -> FakeDisk {
    let disk = FakeDisk::new(0, Faults::default());
    disk.create_dir(Path::new("/d")).expect("an empty disk");
    let file = disk.create(Path::new(path), 0o600).expect("an empty disk");
    file.write_all_at(bytes, 0).expect("a disk with room");
    disk
}

/// A snapshot file, its digest made right so that what is in it is read.
pub fn snapshot(bytes: &[u8]) {
    let mut whole = bytes.to_vec();
    whole.extend_from_slice(blake3::hash(bytes).as_bytes());
    for bytes in [bytes, &whole] {
        let disk = disk_with("/d/0000000000000001-0000000000000001.snap", bytes);
        let store = SnapshotStore::open(Arc::new(disk), "/d".into()).expect("a disk that works");
        drop(store.load());
    }
}

/// The one segment of a log: it opens, or says what is damaged.
pub fn segment(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.expect("a runtime without anything");
    let _entered = runtime.enter();
    let disk = disk_with("/d/0000000000000001.log", bytes);
    let size = bytes.len() as u64 + 4_096;
    if let Ok(log) = AppendLog::open_on(Arc::new(disk), Path::new("/d"), size) {
        let read = log.entries_now(0..u64::MAX, u64::MAX);
        read.expect("what was recovered can be read");
    }
}

/// What a joining node asks and is told.
pub fn enrolment(bytes: &[u8]) {
    drop(postcard::from_bytes::<EnrolRequest>(bytes));
    drop(postcard::from_bytes::<EnrolReply>(bytes));
}

/// A token as somebody has typed it.
pub fn token(bytes: &[u8]) {
    if let Ok(token) = Token::parse(&String::from_utf8_lossy(bytes)) {
        assert_eq!(Token::parse(&token.to_text()).ok(), Some(token));
    }
}
