//! The answering side: what this node does for other members, and for itself when it leads.
//!
//! Invariants: author node and grant of a proposal come from the peer's certificate and the members' table, never from
//! the request; bytes that cannot be decoded end the connection. Not here: changes of the cluster (`membership.rs`).

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest,
    VoteRequest,
};
use parking_lot::Mutex;

use super::core::{Core, WriteError};
use super::entry_format::raft_entry;
use super::membership;
use super::snapshot_store::SnapshotHead;
use super::types::{self, Snapshot};
use super::wire::{
    self, Append, AppendReply, Ballot, MemberHealth, Renewal, Reply, Request, SnapshotPart,
    Transfer, TransferReply, VoteReply,
};
use crate::clock;
use crate::limits::{QUORUM_SILENCE_MAX, SNAPSHOT_BYTES_MAX, WRITE_TIMEOUT};
use crate::state_machine::command::{Command, Entry};
use crate::state_machine::ids::{NodeId, SessionId};
use crate::storage::record::{Position, StoredEntry};
use crate::transport::enrol::{EnrolRefusal, EnrolReply, EnrolRequest};
use crate::transport::server::{Service, ServiceError, ServiceFuture};

/// Answers members and joining nodes.
pub struct RequestHandler {
    core: Arc<Core>,
    // Leaf lock. Snapshots that are being received, by sender.
    incoming: Arc<Mutex<HashMap<u64, IncomingSnapshot>>>,
}

struct IncomingSnapshot {
    last: Option<Position>,
    bytes: Vec<u8>,
}

impl RequestHandler {
    /// Answers for `core`.
    pub fn new(core: Arc<Core>) -> Self {
        Self {
            core,
            incoming: Arc::default(),
        }
    }
}

impl Service for RequestHandler {
    fn admit(&self, node: u64) -> Result<(), String> {
        let state = self.core.published.state.load();
        // Ids are log indexes: one beyond what is applied here may be a member that this node has not heard of yet.
        if state.member(NodeId(node)).is_some() || node > state.applied().0 {
            self.core.peers.heard(node);
            Ok(())
        } else {
            Err(format!(
                "node {node} is not a member of this cluster any more"
            ))
        }
    }

    fn call(&self, node: u64, body: Bytes) -> ServiceFuture<Result<Bytes, ServiceError>> {
        let (core, incoming) = (Arc::clone(&self.core), Arc::clone(&self.incoming));
        Box::pin(async move {
            let request = wire::decode_request(&body).map_err(ServiceError::BadBytes)?;
            let reply = match request {
                Request::Append(append) => answer_append(&core, &body, append).await?,
                Request::Snapshot(part) => answer_snapshot(&core, node, &incoming, part).await?,
                other => answer(&core, node, other).await?,
            };
            Ok(reply.encode())
        })
    }

    fn enrol(&self, body: Bytes) -> ServiceFuture<Result<Bytes, ServiceError>> {
        let core = Arc::clone(&self.core);
        Box::pin(async move {
            let request: EnrolRequest = postcard::from_bytes(&body)
                .map_err(|error| ServiceError::BadBytes(error.to_string()))?;
            let reply = core
                .ask_leader_until(WRITE_TIMEOUT, || Request::Enrol(request.clone()))
                .await;
            let reply: EnrolReply = match reply {
                Ok(Reply::Enrolled(reply)) => reply,
                Ok(_) => Err(EnrolRefusal {
                    message: "the leader gave an answer to another question".into(),
                    hint: "upgrade the older of the two nodes".into(),
                }),
                Err(error) => Err(EnrolRefusal {
                    message: format!("the cluster cannot admit a node now: {error}"),
                    hint: "see on a member: vfsd status; the token is not used up".into(),
                }),
            };
            let reply = postcard::to_stdvec(&reply);
            Ok(reply.map_err(|error| error.to_string())?.into())
        })
    }
}

/// Answers a request that needs no connection: of a peer, or of this node to itself.
///
/// # Errors
/// Why the request is refused.
pub async fn answer(core: &Arc<Core>, node: u64, request: Request<'_>) -> Result<Reply, String> {
    match request {
        Request::Vote(ballot) => answer_vote(core, ballot, false).await,
        Request::PreVote(ballot) => answer_vote(core, ballot, true).await,
        Request::TransferLeader(transfer) => answer_transfer(core, transfer).await,
        Request::Propose(bytes) => {
            let entry = Entry::decode(bytes).map_err(|error| error.to_string())?;
            propose(core, node, entry).await
        }
        Request::ReadIndex => Ok(match core.read_index().await {
            Ok(index) => Reply::ReadIndex(index),
            Err(error) => write_failed(error),
        }),
        Request::Renew(session) => Ok(renew(core, node, session)),
        Request::Enrol(request) => membership::enrol(core, request).await,
        Request::Change(change) => membership::change(core, node, change).await,
        Request::TakeAuthority(key) => {
            core.authority
                .take(&key)
                .map_err(|error| format!("{error:#}"))?;
            Ok(Reply::AuthorityTaken)
        }
        Request::Overview => Ok(overview(core)),
        Request::Append(_) | Request::Snapshot(_) => {
            Err("a node does not replicate to itself".into())
        }
    }
}

fn write_failed(error: WriteError) -> Reply {
    match error {
        WriteError::NotLeader(leader) => Reply::NotLeader(leader),
        WriteError::TooLong(_) | WriteError::Stopped(_) => Reply::NotReady(error.to_string()),
    }
}

/// Writes a member's proposal, if it may ask for that.
///
/// # Errors
/// Why it may not.
pub async fn propose(core: &Arc<Core>, node: u64, mut entry: Entry) -> Result<Reply, String> {
    let Some(grant) = core.state().member(NodeId(node)).map(|member| member.grant) else {
        // The table may lag behind on a node that does not lead; the leader's is complete.
        return match core.leading_term() {
            Some(_) => Err(format!("node {node} is not a member of this cluster")),
            None => Ok(Reply::NotLeader(None)),
        };
    };
    entry.author.node = NodeId(node);
    entry.author.grant = grant;
    authorize(core, &entry)?;
    Ok(match core.write(entry).await {
        Ok((index, outcome)) => Reply::Proposed { index, outcome },
        Err(error @ WriteError::TooLong(_)) => return Err(error.to_string()),
        Err(error) => write_failed(error),
    })
}

fn authorize(core: &Core, entry: &Entry) -> Result<(), String> {
    let node = entry.author.node;
    let own_session = |session: SessionId| {
        let state = core.state();
        let belongs = state
            .session(session)
            .is_none_or(|found| found.node == node);
        belongs
            .then_some(())
            .ok_or_else(|| format!("session {session} is not of node {node}"))
    };
    match &entry.command {
        Command::SessionOpen { node: of } if *of == node && entry.origin.is_none() => Ok(()),
        Command::SessionEnd { session, .. } | Command::HandleClosed { session, .. } => {
            own_session(*session)
        }
        Command::SessionOpen { .. }
        | Command::LockDelayEnd { .. }
        | Command::MemberPut(_)
        | Command::MemberRemove { .. }
        | Command::TokenCreate(_)
        | Command::TokenUse { .. }
        | Command::ClusterInit { .. } => Err("only the leader proposes this".into()),
        _ if entry.origin.is_none() => Err("a proposal without a number cannot be retried".into()),
        _ => Ok(()),
    }
}

/// A renewal counts only while this node surely leads: it hears from a majority, and has applied what came before.
fn renew(core: &Core, node: u64, session: SessionId) -> Reply {
    let Some(term) = core.leading_term() else {
        return Reply::NotLeader(None);
    };
    if !core.is_confirmed() {
        return Reply::NotReady("the leader does not hear from a majority".into());
    }
    let is_open = core
        .state()
        .session(session)
        .is_some_and(|found| found.node == NodeId(node));
    if !is_open {
        return Reply::Renewed(Renewal::Gone);
    }
    core.leases.renew(term, session, clock::boottime());
    Reply::Renewed(Renewal::Lives {
        missing: core.quorum.state().missing,
    })
}

fn overview(core: &Core) -> Reply {
    let metrics = core.metrics();
    let Some(matched) = &metrics.replication else {
        return Reply::NotLeader(metrics.current_leader);
    };
    let last = metrics.last_log_index.unwrap_or(0);
    let members = metrics.membership_config.nodes().map(|(&id, _)| {
        let health = core.peers.health(id);
        let is_own = id == core.id;
        let matched = matched.get(&id).copied().flatten();
        let behind = matched.map(|id| last.saturating_sub(id.index));
        MemberHealth {
            id,
            answers: is_own
                || health
                    .answered
                    .is_some_and(|at| at.elapsed() < QUORUM_SILENCE_MAX),
            behind: if is_own { None } else { behind },
            round_trip_us: health
                .round_trip
                .map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX)),
        }
    });
    Reply::Overview(members.collect())
}

async fn answer_append(core: &Core, body: &Bytes, append: Append<'_>) -> Result<Reply, String> {
    let entries: Result<Vec<_>, _> = append
        .entries
        .iter()
        .map(|entry| {
            raft_entry(StoredEntry {
                position: entry.position,
                kind: entry.kind,
                payload: body.slice_ref(entry.payload),
            })
        })
        .collect();
    let request = AppendEntriesRequest {
        vote: types::vote(append.vote),
        prev_log_id: append.previous.map(types::log_id),
        entries: entries.map_err(|error| error.to_string())?,
        leader_commit: append.committed.map(types::log_id),
    };
    let response = core
        .raft
        .append_entries(request)
        .await
        .map_err(|error| error.to_string())?;
    let reply = match response {
        AppendEntriesResponse::Success => AppendReply::Success,
        AppendEntriesResponse::PartialSuccess(id) => {
            AppendReply::Partial(id.as_ref().map(types::position))
        }
        AppendEntriesResponse::Conflict => AppendReply::Conflict,
        AppendEntriesResponse::HigherVote(vote) => {
            AppendReply::HigherVote(types::stored_vote(&vote))
        }
    };
    if !matches!(reply, AppendReply::HigherVote(_)) {
        core.quorum.leader_heard(append.quorum);
    }
    Ok(Reply::Append(reply))
}

async fn answer_vote(core: &Core, ballot: Ballot, pre: bool) -> Result<Reply, String> {
    let request = VoteRequest {
        vote: types::vote(ballot.vote),
        last_log_id: ballot.last.map(types::log_id),
        leadership_transfer: ballot.transfer,
    };
    let answered = if pre {
        core.raft.pre_vote(request).await
    } else {
        core.raft.vote(request).await
    };
    let response = answered.map_err(|error| error.to_string())?;
    Ok(Reply::Vote(VoteReply {
        vote: types::stored_vote(&response.vote),
        granted: response.vote_granted,
        last: response.last_log_id.as_ref().map(types::position),
    }))
}

async fn answer_transfer(core: &Core, transfer: Transfer) -> Result<Reply, String> {
    let request = TransferLeaderRequest::new(
        types::vote(transfer.from),
        transfer.to,
        transfer.last.map(types::log_id),
    );
    let answered = core
        .raft
        .handle_transfer_leader(request)
        .await
        .map_err(|error| error.to_string())?;
    Ok(Reply::Transfer(match answered {
        Ok(()) => TransferReply::Accepted,
        Err(TransferLeaderError::VoteChanged { expected, actual }) => TransferReply::VoteChanged {
            expected: types::stored_vote(&expected),
            actual: types::stored_vote(&actual),
        },
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            TransferReply::LogNotFlushed {
                expected: expected.as_ref().map(types::position),
                actual: actual.as_ref().map(types::position),
            }
        }
    }))
}

/// Gathers the parts; the last one installs the whole.
async fn answer_snapshot(
    core: &Core,
    node: u64,
    incoming: &Mutex<HashMap<u64, IncomingSnapshot>>,
    part: SnapshotPart<'_>,
) -> Result<Reply, String> {
    if part.total > SNAPSHOT_BYTES_MAX {
        let total = part.total;
        return Err(format!(
            "a snapshot of {total} bytes is larger than {SNAPSHOT_BYTES_MAX}"
        ));
    }
    let whole = gather(&mut incoming.lock(), node, &part)?;
    core.quorum.leader_heard(core.quorum.has());
    let Some(bytes) = whole else {
        return Ok(Reply::SnapshotGoOn);
    };
    let SnapshotHead { last, .. } = part.head;
    tracing::info!(node, ?last, bytes = bytes.len(), "received a snapshot");
    let snapshot = Snapshot {
        meta: part.head.into_meta().map_err(|error| error.to_string())?,
        snapshot: bytes.into(),
    };
    let response = core
        .raft
        .install_full_snapshot(types::vote(part.vote), snapshot)
        .await
        .map_err(|error| error.to_string())?;
    Ok(Reply::SnapshotInstalled(types::stored_vote(&response.vote)))
}

fn gather(
    incoming: &mut HashMap<u64, IncomingSnapshot>,
    node: u64,
    part: &SnapshotPart<'_>,
) -> Result<Option<Vec<u8>>, String> {
    if part.offset == 0 {
        let last = part.head.last;
        incoming.insert(
            node,
            IncomingSnapshot {
                last,
                bytes: Vec::new(),
            },
        );
    }
    let known = incoming
        .get_mut(&node)
        .filter(|known| known.last == part.head.last && known.bytes.len() as u64 == part.offset);
    let Some(known) = known else {
        return Err(format!(
            "the part at {} does not follow the ones before",
            part.offset
        ));
    };
    known.bytes.extend_from_slice(part.data);
    match (known.bytes.len() as u64).cmp(&part.total) {
        std::cmp::Ordering::Less => Ok(None),
        std::cmp::Ordering::Equal => Ok(incoming.remove(&node).map(|whole| whole.bytes)),
        std::cmp::Ordering::Greater => {
            incoming.remove(&node);
            Err(format!(
                "the parts are longer than the whole of {} bytes",
                part.total
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::record::Vote;

    fn part(index: u64, offset: u64, data: &[u8]) -> SnapshotPart<'_> {
        let head = SnapshotHead {
            last: Some(Position { term: 1, index }),
            membership: Default::default(),
        };
        SnapshotPart {
            vote: Vote {
                term: 1,
                node: 1,
                committed: true,
            },
            head,
            total: 6,
            offset,
            data,
        }
    }

    #[test]
    fn parts_of_a_snapshot_are_joined_in_order() {
        let mut incoming = HashMap::new();
        assert_eq!(gather(&mut incoming, 1, &part(9, 0, b"abc")), Ok(None));
        let whole = gather(&mut incoming, 1, &part(9, 3, b"def"));
        assert_eq!(whole, Ok(Some(b"abcdef".to_vec())));
        assert!(incoming.is_empty());
    }

    #[test]
    fn a_part_that_does_not_follow_is_refused_and_a_first_one_begins_anew() {
        let mut incoming = HashMap::new();
        assert!(gather(&mut incoming, 1, &part(9, 3, b"def")).is_err());
        gather(&mut incoming, 1, &part(9, 0, b"abc")).unwrap();
        assert!(
            gather(&mut incoming, 1, &part(10, 3, b"def")).is_err(),
            "of another snapshot"
        );
        assert!(
            gather(&mut incoming, 2, &part(9, 3, b"def")).is_err(),
            "of another sender"
        );
        gather(&mut incoming, 1, &part(10, 0, b"xyz")).unwrap();
        assert!(gather(&mut incoming, 1, &part(10, 3, b"too long")).is_err());
        assert!(incoming.is_empty());
    }
}
