//! What members say to each other. Positional (postcard), so variants and fields are only ever appended, together with
//! a new `transport::frame::WIRE_VERSION`.
//!
//! Invariant: no type of openraft is in here; every decoder is bounded by the frame that it reads from.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::consensus::cluster::pledges::Known;
use crate::consensus::raft::snapshot_store::SnapshotHead;
use crate::state_machine::blob::BlobDigest;
use crate::state_machine::ids::{LogIndex, SessionId};
use crate::state_machine::lineage::Lineage;
use crate::state_machine::outcome::Outcome;
use crate::storage::record::{Position, Vote};
use crate::transport::enrol::{EnrolReply, EnrolRequest};

/// A request of one member to another.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request<'a> {
    /// Entries, or the leader's sign of life.
    #[serde(borrow)]
    Append(Append<'a>),
    /// Asks for a vote.
    Vote(Ballot),
    /// Asks whether a vote would be given.
    PreVote(Ballot),
    /// Asks to take over the leadership.
    TransferLeader(Transfer),
    /// A part of a snapshot.
    Snapshot(SnapshotPart<'a>),
    /// An encoded entry for the leader to stamp and propose.
    Propose(&'a [u8]),
    /// Asks the leader for an index that covers everything committed before.
    ReadIndex,
    /// Renews a session at the leader.
    Renew(SessionId),
    /// Hands a joining node's request to the leader.
    Enrol(EnrolRequest),
    /// Asks the leader to change the cluster.
    Change(ClusterChange),
    /// Gives a node that becomes a voter the authority's key.
    TakeAuthority(String),
    /// Asks the leader what it knows of the members.
    Overview,
    /// Asks for the lineage at an index.
    Lineage(LogIndex),
    /// Tells which lineage at an index is that of a majority; `None` if none is.
    LineageVerdict(LogIndex, Option<Lineage>),
    /// Brings a member along on the way to another authority.
    Authority(AuthorityRequest),
    /// Says what the sender's disk holds, and what it remembers of the receiver's.
    Greet(Greeting),
}

/// What members tell each other of their disks, both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// What the sender's disk holds.
    pub own: Known,
    /// What the sender remembers of the receiver, if anything.
    pub yours: Option<Known>,
}

/// What the leader asks of a member on the way to another authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuthorityRequest {
    /// How far are you?
    View,
    /// Keep the key of the next authority, as a voter.
    TakeKey {
        /// DER of the next authority's certificate.
        certificate: Vec<u8>,
        /// PEM of its key.
        key: String,
    },
    /// Show this certificate of the next authority (DER) from now on.
    TakeCertificate(Vec<u8>),
}

/// How far a member is on the way to another authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityView {
    /// Digest of the authority that it trusts beside the present one.
    pub trusts: Option<[u8; 32]>,
    /// Digest of the authority whose key it has beside that of the present one.
    pub holds: Option<[u8; 32]>,
    /// Whether it shows a certificate of the one that it trusts beside the present one.
    pub is_certified: bool,
    /// DER of a signing request for its key.
    pub request: Vec<u8>,
}

/// See the Raft paper, AppendEntries.
#[derive(Debug, Serialize, Deserialize)]
pub struct Append<'a> {
    /// The leader's vote.
    pub vote: Vote,
    /// Position before the first entry.
    pub previous: Option<Position>,
    /// The entries.
    #[serde(borrow)]
    pub entries: Vec<AppendEntry<'a>>,
    /// What is committed.
    pub committed: Option<Position>,
    /// Whether the leader hears from a majority.
    pub quorum: bool,
}

/// An entry on the wire.
#[derive(Debug, Serialize, Deserialize)]
pub struct AppendEntry<'a> {
    /// Where it stands.
    pub position: Position,
    /// Kind of the payload.
    pub kind: u8,
    /// The bytes.
    pub payload: &'a [u8],
}

/// See the Raft paper, RequestVote.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Ballot {
    /// The candidate's vote.
    pub vote: Vote,
    /// Its last entry.
    pub last: Option<Position>,
    /// Whether the leader asked for this election.
    pub transfer: bool,
}

/// Takes over the leadership.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Transfer {
    /// The leader that steps down.
    pub from: Vote,
    /// The node that takes over.
    pub to: u64,
    /// What that node must have.
    pub last: Option<Position>,
}

/// A part of a snapshot: of its manifest, then of each content that the receiver lacks. They come in order, on one
/// connection.
#[derive(Debug, Serialize, Deserialize)]
pub struct SnapshotPart<'a> {
    /// The leader's vote.
    pub vote: Vote,
    /// What the snapshot covers.
    pub head: SnapshotHead,
    /// Size of the manifest or content.
    pub total: u64,
    /// Where this part begins.
    pub offset: u64,
    /// The bytes.
    pub data: &'a [u8],
    /// The content that this belongs to; `None` for the manifest.
    pub blob: Option<BlobDigest>,
}

/// A change of the cluster, decided and made by the leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClusterChange {
    /// Remembers a join token.
    TokenCreate(crate::state_machine::command::JoinToken),
    /// Makes a learner a voter.
    Promote {
        /// Its name.
        name: String,
    },
    /// Removes a member for good.
    Remove {
        /// Its name.
        name: String,
    },
    /// Gives the asking member a new id: it lost its state.
    Rejoin {
        /// Where it listens.
        address: String,
        /// Public half of its sealing identity.
        age_public: String,
        /// DER of its signing request.
        signing_request: Vec<u8>,
    },
    /// Goes to another certificate authority. Asked again, it does not go on to a third one.
    RotateAuthority {
        /// Digest of the authority to be left.
        from: [u8; 32],
    },
}

impl std::fmt::Display for ClusterChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TokenCreate(token) => {
                let expires = token.expires.secs;
                write!(f, "a join token that expires at {expires} (Unix time)")
            }
            Self::Promote { name } => write!(f, "promotion of {name}"),
            Self::Remove { name } => write!(f, "removal of {name}"),
            Self::RotateAuthority { .. } => write!(f, "another certificate authority"),
            Self::Rejoin { address, .. } => write!(f, "a new id for the node at {address}"),
        }
    }
}

/// An answer.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// To [`Request::Append`].
    Append(AppendReply),
    /// To [`Request::Vote`] and [`Request::PreVote`].
    Vote(VoteReply),
    /// To [`Request::TransferLeader`].
    Transfer(TransferReply),
    /// To the last [`Request::Snapshot`]: the vote of the receiver.
    SnapshotInstalled(Vote),
    /// To the other ones.
    SnapshotGoOn,
    /// To [`Request::Propose`]: committed, and applied on the leader.
    Proposed {
        /// Where.
        index: LogIndex,
        /// The leader's answer.
        outcome: Option<Outcome>,
    },
    /// To [`Request::ReadIndex`].
    ReadIndex(LogIndex),
    /// To [`Request::Renew`].
    Renewed(Renewal),
    /// To [`Request::Enrol`] and [`ClusterChange::Rejoin`].
    Enrolled(EnrolReply),
    /// To [`Request::Change`]: what was done, in words.
    Changed(Result<String, ChangeRefusal>),
    /// To [`Request::TakeAuthority`] and whatever else is taken of an authority.
    AuthorityTaken,
    /// To [`Request::Overview`].
    Overview(Vec<MemberHealth>),
    /// This node does not lead; it believes that the other one does.
    NotLeader(Option<u64>),
    /// The leader cannot answer now.
    NotReady(String),
    /// To the last part of a manifest: the contents to send next.
    SnapshotLacks(Vec<BlobDigest>),
    /// To [`Request::Lineage`]; `None` if this node does not have that index at hand.
    Lineage(Option<Lineage>),
    /// To [`Request::LineageVerdict`].
    VerdictHeard,
    /// To [`AuthorityRequest::View`].
    AuthorityView(AuthorityView),
    /// To [`Request::Greet`].
    Greeted(Greeting),
}

/// See the Raft paper.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub enum AppendReply {
    /// All entries are on disk.
    Success,
    /// The entries up to here are.
    Partial(Option<Position>),
    /// The previous entry is another one.
    Conflict,
    /// There is a newer vote.
    HigherVote(Vote),
}

/// See the Raft paper.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct VoteReply {
    /// The voter's vote.
    pub vote: Vote,
    /// Whether it was given.
    pub granted: bool,
    /// The voter's last entry.
    pub last: Option<Position>,
}

/// Whether the leadership is taken over.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub enum TransferReply {
    /// Yes.
    Accepted,
    /// There is another vote by now.
    VoteChanged {
        /// What the leader said.
        expected: Vote,
        /// What is.
        actual: Vote,
    },
    /// Entries are missing.
    LogNotFlushed {
        /// What the leader said.
        expected: Option<Position>,
        /// What is.
        actual: Option<Position>,
    },
}

/// What the leader says to a renewal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Renewal {
    /// The session lives on for one TTL.
    Lives {
        /// Voters that do not answer the leader.
        missing: Vec<u64>,
    },
    /// There is no such session any more.
    Gone,
}

/// What the leader knows of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberHealth {
    /// The member.
    pub id: u64,
    /// Whether it answered of late.
    pub answers: bool,
    /// Entries that it lacks, as far as known.
    pub behind: Option<u64>,
    /// Microseconds of the last round trip.
    pub round_trip_us: Option<u64>,
}

/// Why the cluster is not changed, for a person to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ChangeRefusal {
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: String,
}

impl Request<'_> {
    /// The request as bytes.
    pub fn encode(&self) -> Bytes {
        postcard::to_stdvec(self)
            .expect("plain data always encodes into memory")
            .into()
    }
}

impl Reply {
    /// The reply as bytes.
    pub fn encode(&self) -> Bytes {
        postcard::to_stdvec(self)
            .expect("plain data always encodes into memory")
            .into()
    }

    /// Reads a reply.
    ///
    /// # Errors
    /// What the decoder said.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        postcard::from_bytes(bytes).map_err(|error| error.to_string())
    }
}

/// Reads a request; payloads are borrowed from `bytes`.
///
/// # Errors
/// What the decoder said.
pub fn decode_request(bytes: &[u8]) -> Result<Request<'_>, String> {
    postcard::from_bytes(bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = decode_request(&bytes);
            let _ = Reply::decode(&bytes);
        }
    }

    #[test]
    fn payloads_are_borrowed_from_the_frame() {
        let position = Position { term: 3, index: 9 };
        let append = Append {
            vote: Vote {
                term: 3,
                node: 1,
                committed: true,
            },
            previous: None,
            entries: vec![AppendEntry {
                position,
                kind: 1,
                payload: b"payload",
            }],
            committed: Some(position),
            quorum: true,
        };
        let bytes = Request::Append(append).encode();
        let Ok(Request::Append(read)) = decode_request(&bytes) else {
            panic!("not an append")
        };
        assert_eq!(bytes.slice_ref(read.entries[0].payload), b"payload"[..]);
    }
}
