//! What the parts of this node's consensus share, and how they reach the leader.
//!
//! Invariants: only the leader of its own term writes, and it stamps what it writes; whoever asks the leader asks again
//! when the leadership has moved. Not here: what is asked (`proposer.rs`, `session_keeper.rs`, `barrier.rs`).

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, ForwardToLeader, RaftError};
use openraft::impls::ProgressResponder;
use openraft::{RaftMetrics, ReadPolicy, ServerState};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::consensus::beat::Beat;
use crate::consensus::cluster::authority::Authority;
use crate::consensus::cluster::confirmation::Confirmation;
use crate::consensus::cluster::peers::{Peers, Purpose};
use crate::consensus::cluster::quorum::QuorumWatch;
use crate::consensus::proposals::request_numbers::RequestNumbers;
use crate::consensus::raft::snapshot_store::SnapshotStore;
use crate::consensus::raft::state_machine::Published;
use crate::consensus::raft::types::{EntryBytes, Raft, TypeConfig};
use crate::consensus::request_handler;
use crate::consensus::sessions::cell::SessionCell;
use crate::consensus::sessions::lease_table::LeaseTable;
use crate::consensus::sessions::stamp_clock::StampClock;
use crate::consensus::wire::{Reply, Request};
use crate::limits::{ENTRY_BYTES_MAX, LEADER_RETRY_EVERY, WRITE_TIMEOUT};
use crate::state_machine::StateMachine;
use crate::state_machine::command::{Author, Command, Entry, Grant};
use crate::state_machine::ids::{LogIndex, NodeId};
use crate::state_machine::outcome::Outcome;
use crate::storage::append_log::AppendLog;
use crate::transport::client::CallError;

/// Shared by all parts of a node's consensus.
pub struct Core {
    /// This node.
    pub id: u64,
    /// Raft.
    pub raft: Raft,
    /// The log under it.
    pub log: Arc<AppendLog>,
    /// Snapshots of the state.
    pub snapshots: SnapshotStore,
    /// The applied state and who waits for it.
    pub published: Arc<Published>,
    /// Ways to the other members.
    pub peers: Arc<Peers>,
    /// Whether a majority answers.
    pub quorum: Arc<QuorumWatch>,
    /// The leader, as this node knows it.
    pub leader: watch::Sender<Option<u64>>,
    /// Rings when a connection that the leader had made has ended.
    pub leader_left: tokio::sync::Notify,
    /// When to look at what needs a look now and then.
    pub beat: Arc<Beat>,
    /// Stamps while this node leads.
    pub clock: StampClock,
    /// Whether a majority's confirmation is still one.
    pub confirmation: Confirmation,
    /// Renewals while this node leads.
    pub leases: LeaseTable,
    /// This node's session.
    pub session: SessionCell,
    /// Numbers of this node's proposals.
    pub numbers: RequestNumbers,
    /// Rings when a number was given up.
    pub abandoned: tokio::sync::Notify,
    /// The cluster's authority, on voters.
    pub authority: Authority,
    /// Held while this node, as leader, changes the members.
    pub changing: Arc<tokio::sync::Mutex<()>>,
    /// Cancelled when the node stops.
    pub stopping: CancellationToken,
}

/// Why the leader did not write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// This node does not lead (any more); try the other one, or later.
    #[error("this node does not lead")]
    NotLeader(Option<u64>),
    /// The entry has more bytes than the log takes.
    #[error("an entry of {0} bytes is longer than {ENTRY_BYTES_MAX}")]
    TooLong(usize),
    /// No majority has it yet; it may still come.
    #[error("no majority has confirmed it within {} ms", .0.as_millis())]
    TimedOut(Duration),
    /// Raft has stopped.
    #[error("Raft has stopped: {0}")]
    Stopped(String),
}

/// Why there is no answer of a leader.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// Nobody leads, as far as known.
    #[error("no leader is known")]
    NoLeader,
    /// It does not answer.
    #[error("the leader does not answer: {0}")]
    Call(String),
    /// It answers that it cannot now.
    #[error("{0}")]
    NotReady(String),
    /// It refused; asking again changes nothing.
    #[error("{0}")]
    Refused(String),
}

impl Core {
    /// What openraft says of itself now.
    pub fn metrics(&self) -> RaftMetrics<TypeConfig> {
        // Cloned at once: holding the guard would block the core.
        self.raft.metrics().borrow_watched().clone()
    }

    /// The applied state.
    pub fn state(&self) -> Arc<StateMachine> {
        self.published.state.load_full()
    }

    /// The term in which this node leads and has applied everything of its predecessors, if it does.
    pub fn leading_term(&self) -> Option<u64> {
        let metrics = self.metrics();
        let caught_up = metrics
            .last_applied
            .is_some_and(|id| id.leader_id.term == metrics.current_term);
        (metrics.state == ServerState::Leader && caught_up).then_some(metrics.current_term)
    }

    /// Whether a majority has confirmed this leader within `RENEW_CONFIRMED_MAX`.
    pub fn is_confirmed(&self) -> bool {
        let metrics = self.metrics();
        let is_alone = metrics.membership_config.voter_ids().eq([self.id]);
        let acked = metrics.last_quorum_acked;
        is_alone || acked.is_some_and(|at| self.confirmation.is_fresh(at.into_inner()))
    }

    /// Whether `node` votes in the effective membership, as far as this node knows.
    pub fn is_voter(&self, node: u64) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.voter_ids().any(|id| id == node)
    }

    /// Address of `node` in the membership.
    pub fn address_of(&self, node: u64) -> Option<String> {
        let metrics = self.metrics();
        let membership = metrics.membership_config.membership();
        membership.get_node(&node).map(|node| node.addr.clone())
    }

    /// Stamps an entry, writes it, and waits until it is applied here, at most `WRITE_TIMEOUT`.
    ///
    /// # Errors
    /// [`WriteError`].
    pub async fn write(&self, entry: Entry) -> Result<(LogIndex, Option<Outcome>), WriteError> {
        let term = self.raft.metrics().borrow_watched().current_term;
        let bytes = self.stamped(term, entry)?;
        let room = self.log.wait_for_room().await;
        room.map_err(|error| WriteError::Stopped(error.to_string()))?;
        let written = tokio::time::timeout(WRITE_TIMEOUT, self.raft.client_write(bytes)).await;
        match written.map_err(|_| WriteError::TimedOut(WRITE_TIMEOUT))? {
            Ok(written) => Ok((LogIndex(written.log_id.index), written.data.0)),
            Err(RaftError::APIError(error)) => Err(not_leader(&error)),
            Err(RaftError::Fatal(fatal)) => Err(WriteError::Stopped(fatal.to_string())),
        }
    }

    fn stamped(&self, term: u64, mut entry: Entry) -> Result<EntryBytes, WriteError> {
        let applied = self.published.state.load().log_time();
        entry.stamp = self.clock.stamp(term, applied);
        let bytes = entry.encode();
        if bytes.len() > ENTRY_BYTES_MAX {
            return Err(WriteError::TooLong(bytes.len()));
        }
        Ok(EntryBytes(bytes.into()))
    }

    /// Writes a command of the leader itself.
    ///
    /// # Errors
    /// [`WriteError`].
    pub async fn write_own(
        &self,
        command: Command,
    ) -> Result<(LogIndex, Option<Outcome>), WriteError> {
        self.write(self.own(command)).await
    }

    /// Writes a command that the leader of `term` has decided on, unless another term has begun.
    ///
    /// # Errors
    /// [`WriteError`].
    pub async fn write_own_in_term(&self, term: u64, command: Command) -> Result<(), WriteError> {
        let bytes = self.stamped(term, self.own(command))?;
        let stopped = || WriteError::Stopped("it is shutting down".into());
        let (responder, written) = ProgressResponder::complete_only();
        let sent = self
            .raft
            .write(bytes)
            .with_leader(term)
            .responder(responder);
        sent.await.map_err(|_| stopped())?;
        let written = tokio::time::timeout(WRITE_TIMEOUT, written).await;
        let written = written.map_err(|_| WriteError::TimedOut(WRITE_TIMEOUT))?;
        match written.map_err(|_| stopped())? {
            Ok(_) => Ok(()),
            Err(error) => Err(not_leader(&error)),
        }
    }

    fn own(&self, command: Command) -> Entry {
        let author = Author {
            node: NodeId(self.id),
            grant: Grant::Writer,
            comm: "vfsd".into(),
            ..Author::default()
        };
        Entry {
            stamp: Default::default(),
            author,
            origin: None,
            fence: None,
            command,
        }
    }

    /// An index that covers everything committed before the call, confirmed by a majority.
    ///
    /// # Errors
    /// [`WriteError`] if this node does not lead or no majority answers.
    pub async fn read_index(&self) -> Result<LogIndex, WriteError> {
        match self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
            Ok(linearizer) => Ok(LogIndex(linearizer.read_log_id().index())),
            Err(RaftError::Fatal(fatal)) => Err(WriteError::Stopped(fatal.to_string())),
            Err(RaftError::APIError(_)) => Err(WriteError::NotLeader(None)),
        }
    }

    /// Asks the leader once; it may be this node.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn ask_leader(
        self: &Arc<Self>,
        request: Request<'_>,
        timeout: Duration,
    ) -> Result<Reply, AskError> {
        let leader = (*self.leader.borrow()).ok_or(AskError::NoLeader)?;
        let reply = if leader == self.id {
            let answer = request_handler::answer_own(self, request);
            let answer = tokio::time::timeout(timeout, answer).await;
            let late = format!(
                "this node leads and has no answer within {} ms",
                timeout.as_millis()
            );
            answer
                .map_err(|_| AskError::NotReady(late))?
                .map_err(AskError::Refused)?
        } else {
            let address = self.address_of(leader).ok_or(AskError::NoLeader)?;
            self.ask(leader, &address, request, timeout).await?
        };
        match reply {
            Reply::NotLeader(_) => Err(AskError::NoLeader),
            Reply::NotReady(reason) => Err(AskError::NotReady(reason)),
            reply => Ok(reply),
        }
    }

    /// Asks the member `node` once.
    ///
    /// # Errors
    /// [`AskError::Call`], [`AskError::Refused`].
    pub async fn ask(
        &self,
        node: u64,
        address: &str,
        request: Request<'_>,
        timeout: Duration,
    ) -> Result<Reply, AskError> {
        let channel = self.peers.channel(node, address, Purpose::Control);
        let answer = self
            .peers
            .call(node, &*channel, request.encode(), timeout)
            .await;
        match answer {
            Ok(bytes) => Reply::decode(&bytes).map_err(AskError::Call),
            Err(CallError::Refused(reason)) => Err(AskError::Refused(reason)),
            Err(error) => Err(AskError::Call(error.to_string())),
        }
    }

    /// Asks the leader until it answers, at most `timeout`; `make` makes the request anew each time.
    ///
    /// # Errors
    /// The last [`AskError`].
    pub async fn ask_leader_until<'a>(
        self: &Arc<Self>,
        timeout: Duration,
        make: impl Fn() -> Request<'a>,
    ) -> Result<Reply, AskError> {
        let deadline = tokio::time::Instant::now() + timeout;
        let mut before = None;
        loop {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            let error = match self.ask_leader(make(), left).await {
                Ok(reply) => return Ok(reply),
                Err(AskError::Refused(reason)) => return Err(AskError::Refused(reason)),
                Err(error) => error,
            };
            if tokio::time::Instant::now() >= deadline {
                // The last try had little time: what was answered before says more than that there was no answer.
                return Err(before.unwrap_or(error));
            }
            before = Some(error);
            tokio::time::sleep(LEADER_RETRY_EVERY).await;
        }
    }

    /// Waits until the entry at `index` is applied here.
    pub async fn wait_applied(&self, index: LogIndex) {
        let mut applied = self.published.applied.subscribe();
        // The sender lives as long as this node.
        let _ = applied.wait_for(|&applied| applied >= index.0).await;
    }
}

fn not_leader(error: &ClientWriteError<TypeConfig>) -> WriteError {
    match error {
        ClientWriteError::ForwardToLeader(ForwardToLeader { leader_id, .. })
        | ClientWriteError::LogEntryDiscarded(ForwardToLeader { leader_id, .. }) => {
            WriteError::NotLeader(*leader_id)
        }
        // Neither is asked of a plain write.
        ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_) => {
            WriteError::NotLeader(None)
        }
    }
}
