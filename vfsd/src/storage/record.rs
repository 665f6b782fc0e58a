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

/// What a member's disk holds for good. Whoever was told so may count on it, whatever the member goes through.
///
/// Under one vote it only grows: entries that came to the log under a leader's vote are that leader's, and only one of
/// a later term truncates them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Pledge {
    /// The vote that it has given.
    pub vote: Option<Vote>,
    /// The last entry that came to its log under that vote, as far as known.
    pub last: Option<Position>,
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

/// The version of the records of a segment whose first frame has `body`, if it begins with a checkpoint.
pub(super) fn version_of_segment(body: &[u8]) -> Option<u8> {
    // Kind and version are the first two bytes in every version.
    match body {
        [0, version, ..] => Some(*version),
        _ => None,
    }
}

/// Takes the first record off `body`.
pub(super) fn decode_first(body: &[u8]) -> Result<(Record<'_>, &[u8]), postcard::Error> {
    postcard::take_from_bytes(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One record of each kind, as it has been on disk since version 1.
    const GOLDEN: &[(&str, &str)] = &[
        ("checkpoint", "00010103070101020900010a"),
        ("vote", "01030701"),
        ("entry", "02ac0280080103616263"),
        ("truncate", "03012a"),
        ("truncate all", "0300"),
        ("purge", "040305"),
        ("committed", "050305"),
    ];

    fn samples() -> Vec<Record<'static>> {
        let vote = Vote {
            term: 3,
            node: 7,
            committed: true,
        };
        let position = Position { term: 3, index: 5 };
        vec![
            Record::Checkpoint(Checkpoint {
                version: 1,
                vote: Some(vote),
                purged: Some(Position { term: 2, index: 9 }),
                committed: None,
                last_index: Some(10),
            }),
            Record::Vote(vote),
            Record::Entry {
                position: Position {
                    term: 300,
                    index: 1024,
                },
                kind: 1,
                payload: b"abc",
            },
            Record::TruncateAfter(Some(42)),
            Record::TruncateAfter(None),
            Record::Purge(position),
            Record::Committed(position),
        ]
    }

    #[test]
    fn records_have_the_bytes_that_they_always_had() {
        let encoded: Vec<_> = samples()
            .iter()
            .map(|record| hex::encode(record.encode_to(Vec::new())))
            .collect();
        let golden: Vec<_> = GOLDEN.iter().map(|&(_, bytes)| bytes).collect();
        assert_eq!(encoded, golden);
    }

    #[test]
    fn records_are_read_one_after_the_other() {
        let body = samples()
            .iter()
            .fold(Vec::new(), |body, record| record.encode_to(body));
        let mut rest = body.as_slice();
        for sample in samples() {
            let (record, tail) = decode_first(rest).unwrap();
            assert_eq!(record, sample);
            rest = tail;
        }
        assert!(rest.is_empty());
    }
}
