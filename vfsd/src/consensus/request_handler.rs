//! The answering side: what this node does for other members, and for itself when it leads.
//!
//! Invariants: nothing is done before `permissions.rs` was asked; author node and grant of a proposal come from the
//! peer's certificate and the members' table, never from the request; bytes that cannot be decoded end the connection.
//! Not here: who may ask what (`permissions.rs`); changes of the cluster (`membership.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Instant;

use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest,
    VoteRequest,
};
use parking_lot::Mutex;

use crate::clock;
use crate::consensus::cluster::authority_change;
use crate::consensus::cluster::lineage_watch;
use crate::consensus::cluster::membership;
use crate::consensus::cluster::pledge_keeper;
use crate::consensus::cluster::pledges::Known;
use crate::consensus::core::Core;
use crate::consensus::leader_link::{OwnAnswer, OwnAnswers};
use crate::consensus::permissions::{self, Peer, Refusal, Standing};
use crate::consensus::raft::entry_format::raft_entry;
use crate::consensus::raft::incoming_snapshot::{Progress, Receiving};
use crate::consensus::raft::snapshot_store::SnapshotHead;
use crate::consensus::raft::types::{self, Snapshot};
use crate::consensus::sessions::lease_table::Renewed;
use crate::consensus::standing::peer_of;
use crate::consensus::wire::{
    self, Append, AppendReply, Ballot, ChangeRefusal, ClusterChange, MemberHealth, Renewal, Reply,
    Request, SnapshotPart, Transfer, TransferReply, VoteReply,
};
use crate::consensus::writer::WriteError;
use crate::limits::{
    COMMAND_NAME_BYTES_MAX, LOG_QUEUE_BYTES_MAX, LOG_ROOM_WAIT_MAX, WRITE_TIMEOUT,
};
use crate::state_machine::blob::BlobDigest;
use crate::state_machine::command::Entry;
use crate::state_machine::content::Content;
use crate::state_machine::ids::{NodeId, SessionId};
use crate::storage::append_log::AppendLog;
use crate::storage::record::{StoredEntry, Vote};
use crate::transport::enrol::{EnrolRefusal, EnrolReply, EnrolRequest};
use crate::transport::server::{Service, ServiceError, ServiceFuture};

/// Answers members and joining nodes.
pub struct RequestHandler {
    core: Arc<Core>,
    // Leaf lock.
    incoming: Arc<Mutex<Receiving>>,
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
        if peer_of(&self.core, node).standing != Standing::Gone {
            self.core.link.peers.heard(node);
            Ok(())
        } else {
            Err(format!(
                "node {node} is not a member of this cluster any more"
            ))
        }
    }

    fn left(&self, node: u64) {
        if *self.core.link.leader.borrow() == Some(node) {
            self.core.link.leader_left.notify_one();
        }
    }

    fn call(&self, node: u64, body: Bytes) -> ServiceFuture<Result<Bytes, ServiceError>> {
        let (core, incoming) = (Arc::clone(&self.core), Arc::clone(&self.incoming));
        Box::pin(async move {
            let request = wire::decode_request(&body).map_err(ServiceError::BadBytes)?;
            let peer = peer_of(&core, node);
            if let Err(refusal) = permissions::check(&peer, &request) {
                return Ok(refused(&core, &peer, &request, refusal)?.encode());
            }
            if is_of_raft(&request)
                && let Some(why) = core.why_apart()
            {
                return Ok(Reply::NotReady(why).encode());
            }
            let reply = match request {
                Request::Append(append) => {
                    // The leader's heartbeat: the one thing that comes whether a snapshot goes on or not.
                    incoming.lock().forget_old(Instant::now());
                    answer_append(&core, &body, append).await?
                }
                Request::Snapshot(part) => answer_snapshot(&core, node, &incoming, part).await?,
                other => dispatch(&core, node, other).await?,
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
                .link
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

/// Answers what this node asks of the leader while it leads itself: by the same table as anybody's request.
pub struct OwnRequests(pub Weak<Core>);

impl OwnAnswers for OwnRequests {
    fn answer<'a>(&'a self, request: Request<'a>) -> OwnAnswer<'a> {
        Box::pin(async move {
            let core = self.0.upgrade().ok_or("this node is stopping")?;
            let own = core.view.id;
            let peer = peer_of(&core, own);
            match permissions::check(&peer, &request) {
                Ok(()) => dispatch(&core, own, request).await,
                Err(refusal) => refused(&core, &peer, &request, refusal),
            }
        })
    }
}

/// Whether it elects, or is to be acknowledged: a member that may have forgotten what it promised must not answer.
fn is_of_raft(request: &Request<'_>) -> bool {
    matches!(
        request,
        Request::Append(_)
            | Request::Vote(_)
            | Request::PreVote(_)
            | Request::TransferLeader(_)
            | Request::Snapshot(_)
    )
}

/// The answer to a request that is not allowed.
///
/// # Errors
/// The refusal as text, where no reply can carry it.
fn refused(
    core: &Core,
    peer: &Peer,
    request: &Request<'_>,
    refusal: Refusal,
) -> Result<Reply, String> {
    let is_final = is_of_raft(request)
        || matches!(
            request,
            Request::TakeAuthority(_) | Request::Authority(_) | Request::Greet(_)
        );
    // The table may lag behind on a node that does not lead; the leader's is complete.
    if !is_final && core.view.leading_term().is_none() {
        return Ok(Reply::NotLeader(None));
    }
    // One that this node has yet to hear of asks again.
    if peer.standing != Standing::Unheard {
        tracing::warn!(node = %peer.node, %refusal, "refused what a node may not ask");
    }
    let Refusal { message, hint } = refusal;
    let hint = hint.to_owned();
    match request {
        Request::Change(ClusterChange::Rejoin { .. }) => {
            Ok(Reply::Enrolled(Err(EnrolRefusal { message, hint })))
        }
        Request::Change(_) => Ok(Reply::Changed(Err(ChangeRefusal { message, hint }))),
        _ => Err(message),
    }
}

/// Does what was found to be allowed.
async fn dispatch(core: &Arc<Core>, node: u64, request: Request<'_>) -> Result<Reply, String> {
    match request {
        Request::Vote(ballot) => answer_vote(core, ballot, false).await,
        Request::PreVote(ballot) => answer_vote(core, ballot, true).await,
        Request::TransferLeader(transfer) => answer_transfer(core, transfer).await,
        Request::Propose(bytes) => {
            let entry = Entry::decode(bytes).map_err(|error| error.to_string())?;
            propose(core, node, entry).await
        }
        Request::ReadIndex => Ok(match core.writer.read_index().await {
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
        Request::Lineage(index) => Ok(Reply::Lineage(lineage_watch::answer(core, index).await)),
        Request::LineageVerdict(index, said) => {
            lineage_watch::hear(core, index.0, said);
            Ok(Reply::VerdictHeard)
        }
        Request::Authority(request) => authority_change::answer(core, request),
        Request::Greet(greeting) => Ok(pledge_keeper::answer(core, node, greeting)),
        Request::Append(_) | Request::Snapshot(_) => {
            Err("a node does not replicate to itself".into())
        }
    }
}

fn write_failed(error: WriteError) -> Reply {
    match error {
        WriteError::NotLeader(leader) => Reply::NotLeader(leader),
        WriteError::TooLong(_) | WriteError::TimedOut(_) | WriteError::Stopped(_) => {
            Reply::NotReady(error.to_string())
        }
    }
}

/// Writes a member's proposal, if it may ask for that.
///
/// # Errors
/// Why it may not.
pub async fn propose(core: &Arc<Core>, node: u64, mut entry: Entry) -> Result<Reply, String> {
    let peer = peer_of(core, node);
    let checked = permissions::check_proposal(&peer, &entry, |session| {
        core.view.state().session(session).map(|found| found.node)
    });
    let grant = match (checked, peer.standing) {
        (Ok(()), Standing::Member(grant)) => grant,
        (Err(refusal), _) => return refused(core, &peer, &Request::Propose(&[]), refusal),
        (Ok(()), Standing::Replaced | Standing::Unheard | Standing::Gone) => {
            return Err(format!("node {node} is not a member of this cluster"));
        }
    };
    entry.author.node = NodeId(node);
    entry.author.grant = grant;
    while entry.author.comm.len() > COMMAND_NAME_BYTES_MAX {
        entry.author.comm.pop();
    }
    Ok(match core.writer.write(entry).await {
        Ok((index, outcome)) => Reply::Proposed { index, outcome },
        Err(error @ WriteError::TooLong(_)) => return Err(error.to_string()),
        Err(error) => write_failed(error),
    })
}

/// A renewal counts only while this node surely leads: it hears from a majority, and has applied what came before.
fn renew(core: &Core, node: u64, session: SessionId) -> Reply {
    let Some(term) = core.view.leading_term() else {
        return Reply::NotLeader(None);
    };
    if !core.view.is_confirmed() {
        return Reply::NotReady("the leader does not hear from a majority".into());
    }
    let is_open = core
        .view
        .state()
        .session(session)
        .is_some_and(|found| found.node == NodeId(node));
    if !is_open {
        return Reply::Renewed(Renewal::Gone);
    }
    match core.leases.renew(term, session, clock::boottime()) {
        Renewed::Noted => Reply::Renewed(Renewal::Lives {
            missing: core.quorum.state().missing,
        }),
        Renewed::Ending => Reply::Renewed(Renewal::Gone),
        Renewed::OldTerm => Reply::NotLeader(None),
    }
}

fn overview(core: &Core) -> Reply {
    let metrics = core.view.metrics();
    let Some(matched) = &metrics.replication else {
        return Reply::NotLeader(metrics.current_leader);
    };
    let last = metrics.last_log_index.unwrap_or(0);
    let members = metrics.membership_config.nodes().map(|(&id, _)| {
        let health = core.link.peers.health(id);
        let is_own = id == core.view.id;
        let matched = matched.get(&id).copied().flatten();
        let behind = matched.map(|id| last.saturating_sub(id.index));
        MemberHealth {
            id,
            answers: is_own || core.link.peers.is_heard(id),
            behind: if is_own { None } else { behind },
            round_trip_us: health
                .round_trip
                .map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX)),
        }
    });
    Reply::Overview(members.collect())
}

/// Whoever stands for election has voted for itself before, durably.
fn note_candidate(core: &Core, vote: Vote) {
    let voted = Vote {
        committed: false,
        ..vote
    };
    core.pledges.remember(vote.node, Known::of(voted, None));
}

async fn answer_append(core: &Core, body: &Bytes, append: Append<'_>) -> Result<Reply, String> {
    note_candidate(core, append.vote);
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
    if !request.entries.is_empty() {
        // Not in Raft's own loop: a heartbeat must not wait for a slow disk.
        wait_for_room(&core.log).await?;
    }
    let response = core
        .view
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

/// A request that nobody waits for any more takes no room here, however long the disk hangs.
async fn wait_for_room(log: &AppendLog) -> Result<(), String> {
    match tokio::time::timeout(LOG_ROOM_WAIT_MAX, log.wait_for_room()).await {
        Ok(room) => room.map_err(|error| error.to_string()),
        Err(_) => Err(format!(
            "the log's queue of {LOG_QUEUE_BYTES_MAX} bytes had no room within {LOG_ROOM_WAIT_MAX:?}, the disk has \
             been busy with one batch for {:?}: look at the disk of this member",
            log.stalled_for()
        )),
    }
}

async fn answer_vote(core: &Core, ballot: Ballot, pre: bool) -> Result<Reply, String> {
    if !pre {
        note_candidate(core, ballot.vote);
    }
    let request = VoteRequest {
        vote: types::vote(ballot.vote),
        last_log_id: ballot.last.map(types::log_id),
        leadership_transfer: ballot.transfer,
    };
    let answered = if pre {
        core.view.raft.pre_vote(request).await
    } else {
        core.view.raft.vote(request).await
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
        .view
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

/// Takes a part; the last one installs the whole.
async fn answer_snapshot(
    core: &Core,
    node: u64,
    incoming: &Mutex<Receiving>,
    part: SnapshotPart<'_>,
) -> Result<Reply, String> {
    let (mut snapshot, progress) = incoming.lock().take(node, &part)?;
    let keep = |snapshot| {
        let mut incoming = incoming.lock();
        incoming.keep(node, part.vote, snapshot, Instant::now());
    };
    core.quorum.leader_heard(core.quorum.has());
    let image = match progress {
        Progress::GoOn => {
            keep(snapshot);
            return Ok(Reply::SnapshotGoOn);
        }
        Progress::Whole(image) => image,
        Progress::Names(named) => {
            let here = contents_here(core, named.clone()).await?;
            match snapshot.lack(named, here) {
                Ok(image) => image,
                Err(lacking) => {
                    keep(snapshot);
                    return Ok(Reply::SnapshotLacks(lacking));
                }
            }
        }
    };
    let SnapshotHead { last, .. } = part.head;
    let (manifest_bytes, contents) = (image.manifest.len(), image.blobs.len());
    tracing::info!(node, ?last, manifest_bytes, contents, "received a snapshot");
    let snapshot = Snapshot {
        meta: part.head.into_meta().map_err(|error| error.to_string())?,
        snapshot: image,
    };
    let response = core
        .view
        .raft
        .install_full_snapshot(types::vote(part.vote), snapshot)
        .await
        .map_err(|error| error.to_string())?;
    Ok(Reply::SnapshotInstalled(types::stored_vote(&response.vote)))
}

/// What of `named` this node has on its disk.
async fn contents_here(
    core: &Core,
    named: BTreeSet<BlobDigest>,
) -> Result<BTreeMap<BlobDigest, Content>, String> {
    let found = core
        .snapshots
        .run_blocking(move |snapshots| snapshots.contents_of(&named));
    found
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::consensus::lone_member_test::{found, start};
    use crate::limits::{ENTRY_BYTES_MAX, SESSION_TTL};
    use crate::storage::disk::Disk;
    use crate::storage::disk::fake::{FakeDisk, Faults};
    use crate::storage::record::Position;

    /// A node that was told that it lives would trust its locks while the entry that ends it is on its way.
    /// The leader asks again after a while; each request that goes on to wait would hold its megabytes here.
    #[tokio::test(start_paused = true)]
    async fn a_request_that_finds_no_room_in_the_log_ends_while_the_disk_hangs() {
        let disk = FakeDisk::new(1, Faults::default());
        let dir = Path::new("/log");
        disk.create_dir(dir).unwrap();
        AppendLog::create_on(&disk, dir, 64 * 1024).unwrap();
        let log = AppendLog::open_on(Arc::new(disk.clone()), dir, 64 * 1024).unwrap();
        assert_eq!(wait_for_room(&log).await, Ok(()));
        disk.set_hanging(true);
        let entries = (0..).map(|index| StoredEntry {
            position: Position { term: 1, index },
            kind: 0,
            payload: vec![0; ENTRY_BYTES_MAX].into(),
        });
        let more_than_fit = 2 + LOG_QUEUE_BYTES_MAX / ENTRY_BYTES_MAX;
        log.append(entries.take(more_than_fit), Box::new(drop));
        let waits = tokio::time::timeout(2 * LOG_ROOM_WAIT_MAX, wait_for_room(&log)).await;
        let refusal = waits.expect("it waits on").unwrap_err();
        assert!(refusal.contains("no room within 5s"), "{refusal}");
    }

    #[tokio::test]
    async fn a_session_whose_end_is_on_its_way_is_answered_as_gone() {
        let temp = tempfile::tempdir().unwrap();
        let node = start(temp.path(), &found(temp.path())).await;
        let core = node.core();
        let session = core.session.wait().await;
        let term = core.view.leading_term().unwrap();
        let renewed = || renew(core, core.view.id, session);
        assert!(matches!(renewed(), Reply::Renewed(Renewal::Lives { .. })));
        // One thread runs all of it: nothing is written between these lines.
        let late = clock::boottime() + 2 * SESSION_TTL;
        let ending = core.leases.expired(term, [session].into_iter(), late);
        assert_eq!(ending, [session]);
        assert!(core.view.state().session(session).is_some(), "still open");
        assert!(matches!(renewed(), Reply::Renewed(Renewal::Gone)));
        node.stop().await;
    }
}
