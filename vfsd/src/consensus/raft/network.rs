//! openraft's network on our transport.
//!
//! Invariants: a peer that cannot be reached is an error, never a granted pre-vote; heartbeats and snapshots have
//! connections of their own. Not here: the answering side (`request_handler.rs`).

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use openraft::OptionalSend;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::impls::BasicNode;
use openraft::network::{RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};

use crate::consensus::cluster::peers::{Peers, Purpose, Way};
use crate::consensus::cluster::pledges::{Known, Pledges};
use crate::consensus::cluster::quorum::QuorumWatch;
use crate::consensus::raft::entry_format::stored_entry;
use crate::consensus::raft::snapshot_store::SnapshotHead;
use crate::consensus::raft::types::{self, Snapshot, TypeConfig, Vote};
use crate::consensus::wire::{
    Append, AppendEntry, AppendReply, Ballot, Reply, Request, SnapshotPart, Transfer,
    TransferReply, VoteReply,
};
use crate::limits::{
    APPENDS_UNDER_WAY_MAX, HEARTBEAT_INTERVAL, REPLICATION_TIMEOUT, SNAPSHOT_PART_BYTES,
    SNAPSHOT_PART_TIMEOUT, SNAPSHOT_PART_TRIES, SNAPSHOT_TIMEOUT,
};
use crate::state_machine::blob::{self, BlobDigest};
use crate::state_machine::snapshot::StateImage;
use crate::transport::client::CallError;

type Rpc<T> = Result<T, RPCError<TypeConfig>>;

/// Makes the connections that openraft asks for.
pub struct Network {
    own: u64,
    peers: Arc<Peers>,
    quorum: Arc<QuorumWatch>,
    pledges: Arc<Pledges>,
}

impl Network {
    /// The network of node `own`.
    pub fn new(
        own: u64,
        peers: Arc<Peers>,
        quorum: Arc<QuorumWatch>,
        pledges: Arc<Pledges>,
    ) -> Self {
        Self {
            own,
            peers,
            quorum,
            pledges,
        }
    }

    fn connection(&self, target: u64, node: &BasicNode, purpose: Purpose) -> Connection {
        Connection {
            own: self.own,
            target,
            purpose,
            channel: self.peers.channel(target, &node.addr, purpose),
            peers: Arc::clone(&self.peers),
            quorum: Arc::clone(&self.quorum),
            pledges: Arc::clone(&self.pledges),
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Connection {
        self.connection(target, node, Purpose::Replication)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &BasicNode) -> Connection {
        self.connection(target, node, Purpose::Heartbeat)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &BasicNode) -> Connection {
        self.connection(target, node, Purpose::Snapshot)
    }
}

/// A way to one peer for one purpose.
pub struct Connection {
    own: u64,
    target: u64,
    purpose: Purpose,
    channel: Arc<dyn Way>,
    peers: Arc<Peers>,
    quorum: Arc<QuorumWatch>,
    pledges: Arc<Pledges>,
}

impl Connection {
    async fn ask(&self, request: Bytes, what: RPCTypes, timeout: Duration) -> Rpc<Reply> {
        let answer = self
            .peers
            .call(self.target, &*self.channel, request, timeout)
            .await;
        let unreachable = |reason: String| RPCError::Unreachable(Unreachable::from_string(reason));
        match answer {
            Ok(bytes) => Reply::decode(&bytes).map_err(unreachable),
            Err(CallError::TimedOut(timeout)) => Err(RPCError::Timeout(Timeout {
                action: what,
                id: self.own,
                target: self.target,
                timeout,
            })),
            // A refusal is backed off from, too: nothing gets better by asking again at once.
            Err(error) => Err(unreachable(error.to_string())),
        }
    }

    async fn append(
        &self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: &RPCOption,
    ) -> Rpc<AppendEntriesResponse<TypeConfig>> {
        let stored: Vec<_> = rpc.entries.iter().map(stored_entry).collect();
        let entries = stored
            .iter()
            .map(|entry| AppendEntry {
                position: entry.position,
                kind: entry.kind,
                payload: &entry.payload,
            })
            .collect();
        let vote = types::stored_vote(&rpc.vote);
        let last = stored.last().map(|entry| entry.position);
        let append = Append {
            vote,
            previous: rpc.prev_log_id.as_ref().map(types::position),
            entries,
            committed: rpc.leader_commit.as_ref().map(types::position),
            quorum: self.quorum.has(),
        };
        // openraft's own time for an append is that of a heartbeat, too short for a large entry and its flush.
        let timeout = match self.purpose {
            Purpose::Heartbeat => option.soft_ttl(),
            _ => REPLICATION_TIMEOUT,
        };
        let request = Request::Append(append).encode();
        match self.ask(request, RPCTypes::AppendEntries, timeout).await? {
            Reply::Append(reply) => Ok(match reply {
                AppendReply::Success => {
                    if last.is_some() {
                        self.pledges.remember(self.target, Known::of(vote, last));
                    }
                    AppendEntriesResponse::Success
                }
                AppendReply::Partial(position) => {
                    AppendEntriesResponse::PartialSuccess(position.map(types::log_id))
                }
                AppendReply::Conflict => AppendEntriesResponse::Conflict,
                AppendReply::HigherVote(vote) => {
                    AppendEntriesResponse::HigherVote(types::vote(vote))
                }
            }),
            other => Err(unexpected(&other)),
        }
    }

    async fn append_of_stream(
        &self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: &RPCOption,
    ) -> Rpc<StreamAppendResult<TypeConfig>> {
        let previous = rpc.prev_log_id;
        let last = rpc.entries.last().map(|entry| entry.log_id).or(previous);
        match self.append(rpc, option).await? {
            // What follows in the stream would leave a hole; the stream begins anew after the error.
            AppendEntriesResponse::PartialSuccess(id) if id != last => {
                let reason = "the peer took only a part of the entries";
                Err(RPCError::Unreachable(Unreachable::from_string(reason)))
            }
            response => Ok(response.into_stream_result(previous, last)),
        }
    }

    async fn ask_for_vote(
        &self,
        rpc: VoteRequest<TypeConfig>,
        pre: bool,
        option: RPCOption,
    ) -> Rpc<VoteResponse<TypeConfig>> {
        let asked_for = types::stored_vote(&rpc.vote);
        let ballot = Ballot {
            vote: asked_for,
            last: rpc.last_log_id.as_ref().map(types::position),
            transfer: rpc.leadership_transfer,
        };
        let request = if pre {
            Request::PreVote(ballot)
        } else {
            Request::Vote(ballot)
        };
        match self
            .ask(request.encode(), RPCTypes::Vote, option.soft_ttl())
            .await?
        {
            Reply::Vote(VoteReply {
                vote,
                granted,
                last,
            }) => {
                if granted && !pre {
                    self.pledges
                        .remember(self.target, Known::of(asked_for, None));
                }
                Ok(VoteResponse {
                    vote: types::vote(vote),
                    vote_granted: granted,
                    last_log_id: last.map(types::log_id),
                })
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Sends the manifest and then what the receiver lacks of the contents.
    async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: &Snapshot,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let head = SnapshotHead::of(&snapshot.meta);
        let StateImage { manifest, blobs } = &snapshot.snapshot;
        let mut reply = self.send_parts(vote, &head, None, manifest).await?;
        if let Reply::SnapshotLacks(lacking) = reply {
            reply = Reply::SnapshotGoOn;
            for digest in lacking {
                let content = blobs.get(&digest).ok_or_else(|| {
                    unreachable(format!("the peer asks for {digest}, which is not named"))
                })?;
                let bytes = blob::encode(content);
                reply = self.send_parts(vote, &head, Some(digest), &bytes).await?;
            }
        }
        match reply {
            Reply::SnapshotInstalled(vote) => Ok(SnapshotResponse::new(types::vote(vote))),
            other => Err(unexpected(&other).into()),
        }
    }

    /// Sends a part that others follow, again if its answer is lost: the receiver knows the part that it took last.
    async fn send_part(&self, request: Bytes) -> Rpc<Reply> {
        for _ in 1..SNAPSHOT_PART_TRIES {
            let asked = self.ask(
                request.clone(),
                RPCTypes::InstallSnapshot,
                SNAPSHOT_PART_TIMEOUT,
            );
            if let Ok(reply) = asked.await {
                return Ok(reply);
            }
            tokio::time::sleep(HEARTBEAT_INTERVAL).await;
        }
        self.ask(request, RPCTypes::InstallSnapshot, SNAPSHOT_PART_TIMEOUT)
            .await
    }

    /// Sends the manifest or a content; the answer is that to the last part.
    async fn send_parts(
        &self,
        vote: Vote,
        head: &SnapshotHead,
        blob: Option<BlobDigest>,
        bytes: &[u8],
    ) -> Result<Reply, StreamingError<TypeConfig>> {
        let mut offset = 0;
        loop {
            let end = bytes.len().min(offset + SNAPSHOT_PART_BYTES);
            let part = SnapshotPart {
                vote: types::stored_vote(&vote),
                head: head.clone(),
                blob,
                total: bytes.len() as u64,
                offset: offset as u64,
                data: &bytes[offset..end],
            };
            let request = Request::Snapshot(part).encode();
            let reply = if end < bytes.len() {
                self.send_part(request).await?
            } else {
                self.ask(request, RPCTypes::InstallSnapshot, SNAPSHOT_TIMEOUT)
                    .await?
            };
            match reply {
                Reply::SnapshotGoOn if end < bytes.len() => offset = end,
                reply => return Ok(reply),
            }
        }
    }
}

fn unreachable(reason: String) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::from_string(reason))
}

fn unexpected(reply: &Reply) -> RPCError<TypeConfig> {
    let reason = match reply {
        Reply::NotReady(reason) => reason.clone(),
        other => format!("the peer gave an answer to another question: {other:?}"),
    };
    unreachable(reason)
}

impl RaftNetworkV2<TypeConfig> for Connection {
    type SnapshotData = StateImage;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<TypeConfig>> {
        self.append(rpc, &option).await
    }

    /// Several requests are under way at once: an entry does not wait for the answer to the one before it, nor for that
    /// to the news of a commit. The connection keeps their order, and answers come in the order of the requests.
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Rpc<BoxStream<'s, Rpc<StreamAppendResult<TypeConfig>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let this: &'s Self = self;
        let answers = input
            .map(move |rpc| {
                let option = option.clone();
                async move { this.append_of_stream(rpc, &option).await }
            })
            .buffered(APPENDS_UNDER_WAY_MAX);
        // The first answer that is no success ends the stream: what was sent after it is void.
        let until_failure = answers.scan(false, |ended, answer| {
            let item = (!*ended).then_some(answer);
            *ended = !matches!(item, Some(Ok(Ok(_))));
            std::future::ready(item)
        });
        Box::pin(async move { Ok(until_failure.boxed()) })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<VoteResponse<TypeConfig>> {
        self.ask_for_vote(rpc, false, option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<VoteResponse<TypeConfig>> {
        self.ask_for_vote(rpc, true, option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        tokio::select! {
            sent = self.send_snapshot(vote, &snapshot) => sent,
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<TransferLeaderResponse<TypeConfig>> {
        let transfer = Transfer {
            from: types::stored_vote(request.from_leader()),
            to: *request.to_node_id(),
            last: request.last_log_id().map(types::position),
        };
        let bytes = Request::TransferLeader(transfer).encode();
        match self
            .ask(bytes, RPCTypes::TransferLeader, option.soft_ttl())
            .await?
        {
            Reply::Transfer(reply) => Ok(transfer_response(reply)),
            other => Err(unexpected(&other)),
        }
    }
}

fn transfer_response(reply: TransferReply) -> TransferLeaderResponse<TypeConfig> {
    use openraft::raft::TransferLeaderError;
    match reply {
        TransferReply::Accepted => Ok(()),
        TransferReply::VoteChanged { expected, actual } => Err(TransferLeaderError::VoteChanged {
            expected: types::vote(expected),
            actual: types::vote(actual),
        }),
        TransferReply::LogNotFlushed { expected, actual } => {
            Err(TransferLeaderError::LogNotFlushed {
                expected: expected.map(types::log_id),
                actual: actual.map(types::log_id),
            })
        }
    }
}
