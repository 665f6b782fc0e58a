//! Who may ask what: one table over every request and every command, looked at before anything is done.
//!
//! Invariants: what a peer may do follows from its certificate, the members' table and Raft's membership, never from
//! what it says of itself; a new request or command does not compile until it stands here. Not here: what a grant
//! means for a place of the tree (`state_machine/apply/rules.rs` decides it again, on every replica).

use crate::consensus::wire::{ClusterChange, Request};
use crate::state_machine::command::{Command, Entry, Grant};
use crate::state_machine::ids::{NodeId, SessionId};

/// What this node knows of whoever asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The node that its certificate names.
    pub node: NodeId,
    /// Whether it belongs to the cluster.
    pub standing: Standing,
    /// Whether it votes in the effective membership, as far as this node knows.
    pub is_voter: bool,
}

/// Whether a node belongs to the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is a member that may change this much.
    Member(Grant),
    /// It is a member under a new id by now; with this one it may only ask once more for what it has been given.
    Replaced,
    /// Its id lies beyond what is applied here: it may have joined in an entry that this node has not seen yet.
    Unheard,
    /// It was removed, or was never let in.
    Gone,
}

/// Why a request is not answered, for a person to read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: &'static str,
}

/// Whether `peer` may ask for `request`. What a proposal holds is judged by [`check_proposal`].
///
/// # Errors
/// Why it may not.
pub fn check(peer: &Peer, request: &Request<'_>) -> Result<(), Refusal> {
    match request {
        Request::Append(append) => check_raft(peer, append.vote.node),
        Request::Vote(ballot) | Request::PreVote(ballot) => check_raft(peer, ballot.vote.node),
        Request::TransferLeader(transfer) => check_raft(peer, transfer.from.node),
        Request::Snapshot(part) => check_raft(peer, part.vote.node),
        Request::Propose(_)
        | Request::ReadIndex
        | Request::Renew(_)
        | Request::Enrol(_)
        | Request::Lineage(_)
        | Request::Overview => check_member(peer),
        // Whoever may send Raft's messages may say what it remembers; what it says counts by `may_end_others`.
        Request::Greet(_) => match peer.standing {
            Standing::Unheard => Ok(()),
            _ => check_member(peer),
        },
        Request::LineageVerdict(..) => {
            check_writer(peer, "telling others that they differ")?;
            if peer.is_voter {
                return Ok(());
            }
            Err(refuse(
                format!("node {} is no voter: it cannot have led", peer.node),
                "see: vfsd member list",
            ))
        }
        Request::Change(change) => match change {
            ClusterChange::TokenCreate(_)
            | ClusterChange::Promote { .. }
            | ClusterChange::RotateAuthority { .. }
            | ClusterChange::Remove { .. } => check_writer(peer, "changing the cluster"),
            // It concerns the asking node alone, which keeps its name and its grant.
            ClusterChange::Rejoin { .. } if peer.standing == Standing::Replaced => Ok(()),
            ClusterChange::Rejoin { .. } => check_member(peer),
        },
        Request::TakeAuthority(_) | Request::Authority(_) => {
            check_writer(peer, "handing out keys and certificates")?;
            if peer.is_voter {
                return Ok(());
            }
            Err(refuse(
                format!("node {} is no voter: it has no key to hand out", peer.node),
                "see: vfsd member list",
            ))
        }
    }
}

/// Whether `peer` may propose `entry`; `owner` tells whose an open session is.
///
/// # Errors
/// Why it may not.
pub fn check_proposal(
    peer: &Peer,
    entry: &Entry,
    owner: impl Fn(SessionId) -> Option<NodeId>,
) -> Result<(), Refusal> {
    check_member(peer)?;
    match &entry.command {
        // What a grant allows depends on the place, so `apply` decides: the same on every replica.
        Command::Nothing
        | Command::Create(_)
        | Command::Mkdir(_)
        | Command::Symlink(_)
        | Command::Link(_)
        | Command::Unlink(_)
        | Command::Rmdir(_)
        | Command::Rename(_)
        | Command::Checked(_)
        | Command::SetAttr(_)
        | Command::SetXattr(_)
        | Command::RemoveXattr { .. }
        | Command::Write(_)
        | Command::CloseWrite { .. } => check_numbered(entry),
        Command::LockBreak { .. } => {
            check_writer(peer, "breaking a lock")?;
            check_numbered(entry)
        }
        Command::SessionOpen { node } if *node == peer.node && entry.origin.is_none() => Ok(()),
        Command::SessionEnd { session, .. } | Command::HandleClosed { session, .. } => {
            if owner(*session).is_none_or(|node| node == peer.node) {
                return Ok(());
            }
            let node = peer.node;
            Err(refuse(
                format!("session {session} is not of node {node}"),
                "",
            ))
        }
        Command::SessionOpen { .. }
        | Command::LockDelayEnd { .. }
        | Command::MemberPut(_)
        | Command::MemberRemove { .. }
        | Command::TokenCreate(_)
        | Command::TokenUse { .. }
        | Command::ClusterInit { .. }
        | Command::RaiseLevel(_)
        | Command::Admit { .. }
        | Command::Authority(_)
        | Command::Readmit { .. } => Err(refuse("only the leader proposes this", "")),
    }
}

/// Raft's own messages: the sender speaks for itself, and may lead.
///
/// A node that lags may not know yet that the sender has become a voter, or has joined at all; refusing it would keep
/// the node from ever learning of it (Raft, 6: servers accept a leader and a candidate outside their own
/// configuration). So a member with the grant writer is heard, too: it could promote itself at any time, and nobody
/// else is ever promoted.
fn check_raft(peer: &Peer, speaks_for: u64) -> Result<(), Refusal> {
    if speaks_for != peer.node.0 {
        return Err(refuse(
            format!("node {} speaks for node {speaks_for}", peer.node),
            "remove it, then find out who runs there: vfsd member remove NAME",
        ));
    }
    match peer.standing {
        _ if peer.is_voter => Ok(()),
        Standing::Member(Grant::Writer) | Standing::Unheard => Ok(()),
        Standing::Member(Grant::Reader | Grant::Agent) => Err(refuse(
            format!(
                "node {} is no voter: it can neither lead nor be elected",
                peer.node
            ),
            "see: vfsd member list",
        )),
        Standing::Replaced | Standing::Gone => check_member(peer),
    }
}

/// Whether this member stops for good when `peer` remembers more of it than it knows itself: who could lead it astray
/// in any other way as well.
pub fn may_end_others(peer: &Peer) -> bool {
    check_raft(peer, peer.node.0).is_ok()
}

fn check_member(peer: &Peer) -> Result<(), Refusal> {
    match peer.standing {
        Standing::Member(Grant::Reader | Grant::Agent | Grant::Writer) => Ok(()),
        Standing::Replaced | Standing::Unheard | Standing::Gone => Err(refuse(
            format!("node {} is not a member of this cluster", peer.node),
            "join it with a token: vfsd token create, then vfsd join",
        )),
    }
}

fn check_writer(peer: &Peer, what: &str) -> Result<(), Refusal> {
    check_member(peer)?;
    let grant = match peer.standing {
        Standing::Member(Grant::Reader) => "reader",
        Standing::Member(Grant::Agent) => "agent",
        Standing::Member(Grant::Writer)
        | Standing::Replaced
        | Standing::Unheard
        | Standing::Gone => return Ok(()),
    };
    let node = peer.node;
    Err(refuse(
        format!("node {node} has the grant {grant}; {what} needs the grant writer"),
        "run it on a member with the grant writer; see: vfsd member list --json",
    ))
}

/// Without a number a proposal that is sent again would have a second effect.
fn check_numbered(entry: &Entry) -> Result<(), Refusal> {
    if entry.origin.is_some() {
        return Ok(());
    }
    Err(refuse("a proposal without a number cannot be retried", ""))
}

fn refuse(message: impl Into<String>, hint: &'static str) -> Refusal {
    Refusal {
        message: message.into(),
        hint,
    }
}

#[cfg(test)]
#[path = "permissions/table_test.rs"]
mod table_test;
