//! What is said on the admin socket.
//!
//! Invariant: fields are only ever added; an unknown request is refused.

use serde::{Deserialize, Serialize};

use crate::state_machine::command::Grant;

/// A request, one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum AdminRequest {
    /// What this node knows of the cluster.
    Status,
    /// The members.
    Members,
    /// Digest of the applied state; takes time in proportion to the tree.
    Digest,
    /// Makes a join token.
    TokenCreate {
        /// What a node that joins with it may change.
        role: Grant,
        /// Seconds that it is valid.
        expires_secs: u64,
        /// Name that the node must have, if it is fixed.
        name: Option<String>,
    },
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
    /// Goes to another certificate authority.
    RotateAuthority,
    /// Ends a lock as if its session had expired.
    LockBreak {
        /// Path of the lock, within the mount or from the root of the tree.
        path: String,
    },
}

/// An answer, one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdminReply {
    /// Done; what came of it.
    Ok(serde_json::Value),
    /// Refused or failed.
    Error {
        /// What is wrong.
        message: String,
        /// What to do; empty if nothing helps.
        hint: String,
    },
}

/// Answer to [`AdminRequest::Status`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusReport {
    /// Id of the cluster.
    pub cluster: String,
    /// Name of this node.
    pub node: String,
    /// Its id.
    pub id: u64,
    /// `leader`, `follower`, `candidate` or `learner`.
    pub role: String,
    /// Name of the leader, if known.
    pub leader: Option<String>,
    /// Raft term.
    pub term: u64,
    /// Last applied index.
    pub applied: u64,
    /// Last committed index known here.
    pub committed: u64,
    /// Whether a majority answers.
    pub quorum: bool,
    /// Since when, RFC 3339.
    pub quorum_since: String,
    /// Seconds of it.
    pub quorum_age_secs: i64,
    /// Voters that do not answer.
    pub missing: Vec<String>,
    /// Why there is no quorum.
    pub why: String,
    /// Whether reads may be older than the cluster.
    pub stale: bool,
    /// How many voters there are.
    pub voters: usize,
    /// The members.
    pub members: Vec<MemberReport>,
    /// Bytes of the log on disk.
    pub log_bytes: u64,
    /// Inodes of the tree.
    pub tree_inodes: u64,
    /// Bytes of content.
    pub tree_bytes: u64,
    /// Locks that exist.
    pub locks: usize,
    /// This node's session, if it may rely on it.
    pub session: Option<u64>,
    /// The level by whose rules this node applies entries.
    #[serde(default)]
    pub level: u32,
    /// The newest level that its build knows.
    #[serde(default)]
    pub level_known: u32,
}

/// A member in a [`StatusReport`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemberReport {
    /// Its id.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// `voter` or `learner`.
    pub role: String,
    /// `leader`, `following`, `missing` or `unknown`.
    pub state: String,
    /// Entries that it lacks, if the leader said so.
    pub behind: Option<u64>,
    /// Milliseconds of the leader's last round trip to it.
    pub round_trip_ms: Option<f64>,
    /// `ip:port`.
    pub address: String,
    /// What it may change.
    pub grant: Grant,
    /// Public half of its sealing identity.
    pub age_public: String,
}
