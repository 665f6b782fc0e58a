//! The port through which the filesystem reaches consensus. The filesystem knows this trait, never openraft.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::state_machine::StateMachine;
use crate::state_machine::command::{Author, Command};
use crate::state_machine::ids::{FencingToken, LogIndex, NodeId, SessionId};
use crate::state_machine::outcome::Outcome;

/// A future that a proposer returns.
pub type ProposerFuture<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;

/// A change to propose on behalf of a caller of this node.
#[derive(Debug, Clone)]
pub struct Proposal {
    /// Who asks; node and grant are filled in by consensus.
    pub author: Author,
    /// Fence of the guard that the call or handle began under.
    pub fence: Option<FencingToken>,
    /// What is asked.
    pub command: Command,
    /// The session that it must run under: lock and guarded proposals are never carried over to a new session.
    pub bound_to: Option<SessionId>,
}

/// A proposal that was committed and applied on this node.
#[derive(Debug, Clone)]
pub struct Committed {
    /// Its position: the revision that it made.
    pub index: LogIndex,
    /// The answer of `apply`.
    pub outcome: Outcome,
}

/// Why a proposal has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This node knows that no majority can be reached: nothing was proposed.
    #[error("no quorum: {0}")]
    NoQuorum(String),
    /// The leader does not take it from this node, however often it is asked.
    #[error("the leader refuses it: {0}")]
    Refused(String),
    /// No answer came in time; the number was abandoned, so it happens before that entry or never.
    #[error("no answer from a majority within {0} ms")]
    TimedOut(u64),
    /// The session that it was bound to has ended.
    #[error("the session has ended")]
    SessionExpired,
    /// The daemon is stopping.
    #[error("the daemon is stopping")]
    Stopping,
}

/// Consensus as the filesystem sees it. Every future ends within `write_timeout`.
pub trait Proposer: Send + Sync + 'static {
    /// Commits a change: done when a majority has it on disk and it is applied here. Dropping the future abandons it.
    fn propose(&self, proposal: Proposal) -> ProposerFuture<Result<Committed, ProposeError>>;

    /// Ends when this node has applied everything that was committed anywhere before the call.
    fn barrier(&self) -> ProposerFuture<Result<LogIndex, ProposeError>>;

    /// The applied state, as of now. Cheap.
    fn state(&self) -> Arc<StateMachine>;

    /// What this node knows of the cluster, as of now. Cheap.
    fn status(&self) -> Arc<NodeStatus>;

    /// Whether a majority was in contact a moment ago. Cheap.
    fn is_in_contact(&self) -> bool;

    /// Waits a moment for contact with a majority; [`ProposeError::NoQuorum`] if there is none.
    fn contact(&self) -> ProposerFuture<Result<(), ProposeError>>;

    /// The session of this node, if it holds one whose own deadline (`limits::SESSION_SELF_DEADLINE`) has not passed.
    fn session(&self) -> Option<SessionId>;
}

/// What this node knows of the cluster: the source of `/.vfs/status.json`.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct NodeStatus {
    /// Cluster id.
    pub cluster: String,
    /// This node's name.
    pub node: String,
    /// This node's id.
    pub id: NodeId,
    /// `leader`, `follower`, `candidate` or `learner`.
    pub role: &'static str,
    /// Name of the leader, if known.
    pub leader: Option<String>,
    /// Raft term.
    pub term: u64,
    /// Last applied index.
    pub applied: LogIndex,
    /// Last committed index known here.
    pub committed: LogIndex,
    /// Whether a majority answers.
    pub quorum: bool,
    /// Since when `quorum` has its value, RFC 3339.
    pub quorum_since: String,
    /// Ids of the voters.
    #[serde(skip)]
    pub voters: Vec<u64>,
    /// Voters that do not answer, by name, as far as known here.
    pub missing: Vec<String>,
    /// Why there is no quorum; empty when there is one.
    pub why: String,
    /// Reads may be older than the cluster: no barrier has succeeded since the start.
    pub stale: bool,
}
