//! The records of the log, as they stand on disk.
//!
//! Invariants: variants are only ever appended and a released one never changes (postcard is positional); records hold
//! plain numbers and bytes, never a type of the Raft library. Not here: frames and checksums (`frame.rs`).

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Format of the records, written into the checkpoint that begins each segment.
pub(super) const RECORD_VERSION: u8 = 1;

/// A place in the Raft log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// Term of the leader that proposed the entry.
    pub term: u64,
    /// Its index; the first one is 0.
    pub index: u64,
}

/// The vote that this node has given, and whether a majority gave the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    /// Term.
    pub term: u64,
    /// The node voted for.
    pub node: u64,
    /// Whether that node became leader.
    pub committed: bool,
}

/// An entry as the log keeps it. What `kind` and `payload` mean is decided by its user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEntry {
    /// Where it stands.
    pub position: Position,
    /// Kind of the payload.
    pub kind: u8,
    /// The bytes.
    pub payload: Bytes,
}

/// State of the log at the beginning of a segment, so that older segments can go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Checkpoint {
    pub version: u8,
    pub vote: Option<Vote>,
    pub purged: Option<Position>,
    pub committed: Option<Position>,
    /// Index of the last entry before the segment, for noticing that one is missing.
    pub last_index: Option<u64>,
}

/// One record of a frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Record<'a> {
    /// First record of a segment.
    Checkpoint(Checkpoint),
    Vote(Vote),
    Entry {
        position: Position,
        kind: u8,
        payload: &'a [u8],
    },
    /// Drops all entries above the index; `None` drops all.
    TruncateAfter(Option<u64>),
    /// Drops all entries up to the position, inclusive.
    Purge(Position),
    Committed(Position),
}

impl Record<'_> {
    /// Appends the record to a frame's body.
    pub(super) fn encode_to(&self, body: Vec<u8>) -> Vec<u8> {
        postcard::to_extend(self, body).expect("plain data always encodes into a growing buffer")
    }
}

/// Takes the first record off `body`.
pub(super) fn decode_first(body: &[u8]) -> Result<(Record<'_>, &[u8]), postcard::Error> {
    postcard::take_from_bytes(body)
}
