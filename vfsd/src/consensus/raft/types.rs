//! The types that openraft is instantiated with, and how they map to our own plain ones.
//!
//! Invariant: no type of openraft is ever serialised; disk and wire have formats of their own (`entry_format.rs`,
//! `wire.rs`), so that an upgrade of the library changes neither.

use bytes::Bytes;
use openraft::vote::RaftLeaderId;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::state_machine::outcome::Outcome;
use crate::state_machine::snapshot::StateImage;
use crate::storage::record;

openraft::declare_raft_types!(
    /// Raft over encoded entries.
    pub TypeConfig:
        D = EntryBytes,
        R = Response,
        NodeId = u64,
        Node = openraft::impls::BasicNode,
        LeaderId = openraft::impls::leader_id_std::LeaderId<Self::Term, Self::NodeId>,
);

/// Raft's own clock: `CLOCK_MONOTONIC`.
pub type Instant = openraft::type_config::alias::InstantOf<TypeConfig>;
/// A place in the log.
pub type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
type LeaderId = openraft::type_config::alias::LeaderIdOf<TypeConfig>;
/// A vote.
pub type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
/// An entry.
pub type RaftEntry = openraft::type_config::alias::EntryOf<TypeConfig>;
/// A membership with the entry that set it.
pub type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
/// What a snapshot covers.
pub type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;
/// A snapshot: what it covers and the state.
pub type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, StateImage>;

/// An encoded [`crate::state_machine::command::Entry`].
#[derive(Clone, PartialEq, Eq)]
pub struct EntryBytes(pub Bytes);

impl std::fmt::Debug for EntryBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EntryBytes({} bytes)", self.0.len())
    }
}

impl std::fmt::Display for EntryBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

// openraft asks for these bounds; nothing of ours calls them.
impl Serialize for EntryBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for EntryBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::<u8>::deserialize(deserializer).map(|bytes| Self(bytes.into()))
    }
}

/// The answer of `apply` on the leader; `None` for entries that are not ours.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Response(pub Option<Outcome>);

impl std::fmt::Display for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// The log's own form of a log id.
pub fn position(id: &LogId) -> record::Position {
    record::Position {
        term: id.leader_id.term,
        index: id.index,
    }
}

/// The log id at a position.
pub fn log_id(position: record::Position) -> LogId {
    LogId {
        // The node does not count: there is one leader a term.
        leader_id: <LeaderId as RaftLeaderId>::new(position.term, 0).to_committed(),
        index: position.index,
    }
}

/// The log's own form of a vote.
pub fn stored_vote(vote: &Vote) -> record::Vote {
    record::Vote {
        term: vote.leader_id.term,
        node: vote.leader_id.voted_for,
        committed: vote.committed,
    }
}

/// The vote that was stored or received.
pub fn vote(stored: record::Vote) -> Vote {
    Vote {
        leader_id: RaftLeaderId::new(stored.term, stored.node),
        committed: stored.committed,
    }
}
