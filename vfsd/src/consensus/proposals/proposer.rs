//! Proposals of this node: numbered, sent to the leader, repeated when it is lost, answered by the local apply.
//!
//! Invariants: a proposal has one effect however often it is sent; one that its caller was told has failed is
//! abandoned, and the cluster is told so. Not here: what a proposal does (`state_machine/`).

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::consensus::cluster::status::StatusBoard;
use crate::consensus::core::Core;
use crate::consensus::leader_link::AskError;
use crate::consensus::proposals::barrier::Barriers;
use crate::consensus::proposals::waiters::{ProposalId, Waiting};
use crate::consensus::request_handler;
use crate::consensus::wire::{Reply, Request};
use crate::fs::proposer::{
    Committed, NodeStatus, Proposal, ProposeError, Proposer, ProposerFuture,
};
use crate::limits::{ENTRY_BYTES_MAX, ENTRY_OVERHEAD_MAX, LEADER_RETRY_EVERY, WRITE_TIMEOUT};
use crate::state_machine::StateMachine;
use crate::state_machine::command::{
    Author, Checked, Command, ContentOp, ContentUpdate, Entry, Link, NameChange, Origin, Rename,
};
use crate::state_machine::fs_error::FsError;
use crate::state_machine::ids::{LogIndex, SessionId};

/// Consensus as the filesystem sees it.
pub struct RaftProposer {
    core: Arc<Core>,
    barriers: Arc<Barriers>,
    status: Arc<StatusBoard>,
}

impl RaftProposer {
    /// Proposes through `core`.
    pub fn new(core: Arc<Core>, barriers: Arc<Barriers>, status: Arc<StatusBoard>) -> Self {
        Self {
            core,
            barriers,
            status,
        }
    }
}

impl Proposer for RaftProposer {
    fn propose(&self, proposal: Proposal) -> ProposerFuture<Result<Committed, ProposeError>> {
        Box::pin(propose(Arc::clone(&self.core), proposal))
    }

    fn barrier(&self) -> ProposerFuture<Result<LogIndex, ProposeError>> {
        let barriers = Arc::clone(&self.barriers);
        Box::pin(async move { barriers.wait().await })
    }

    fn state(&self) -> Arc<StateMachine> {
        self.core.view.state()
    }

    fn status(&self) -> Arc<NodeStatus> {
        self.status.current()
    }

    fn is_in_contact(&self) -> bool {
        self.core.quorum.is_in_contact()
    }

    fn contact(&self) -> ProposerFuture<Result<(), ProposeError>> {
        let core = Arc::clone(&self.core);
        Box::pin(async move {
            let contact = core.quorum.wait_for_contact().await;
            contact.map_err(ProposeError::NoQuorum)
        })
    }

    fn session(&self) -> Option<SessionId> {
        self.core.session.live()
    }
}

async fn propose(core: Arc<Core>, proposal: Proposal) -> Result<Committed, ProposeError> {
    let started = Instant::now();
    if core.stopping.is_cancelled() {
        return Err(ProposeError::Stopping);
    }
    if !core.quorum.has() {
        return Err(ProposeError::NoQuorum(core.quorum.state().why));
    }
    if content_bytes(&proposal.command) + ENTRY_OVERHEAD_MAX > ENTRY_BYTES_MAX {
        // Nothing is proposed: the log could not take it.
        let index = core.view.state().applied();
        let outcome = Err(FsError::FileTooLarge);
        return Ok(Committed { index, outcome });
    }
    loop {
        let session = session_for(&core, &proposal, started).await?;
        let committed = Attempt::begin(&core, session, &proposal, started)
            .finish()
            .await?;
        if committed.outcome != Err(FsError::SessionExpired) {
            return Ok(committed);
        }
        core.session.ended(session);
        if proposal.bound_to.is_some() {
            return Err(ProposeError::SessionExpired);
        }
        // It had no effect; an ordinary proposal goes on under the node's next session.
    }
}

/// Bytes of content that a command carries, with what each operation costs in the encoding.
fn content_bytes(command: &Command) -> usize {
    const OPERATION_BYTES: usize = 24;
    let write = match command {
        Command::Write(write) => Some(write),
        Command::Link(Link { content, .. })
        | Command::Rename(Rename { content, .. })
        | Command::Checked(Checked {
            change: NameChange::Rename(Rename { content, .. }),
            ..
        }) => content.as_ref(),
        _ => None,
    };
    let operation = |operation: &ContentOp| match operation {
        ContentOp::Write { data, .. } => data.len() + OPERATION_BYTES,
        ContentOp::Truncate(_) | ContentOp::Extend(_) | ContentOp::Zero { .. } => OPERATION_BYTES,
    };
    match write.map(|write| &write.update) {
        Some(ContentUpdate::Replace(operations) | ContentUpdate::Patch(operations)) => {
            operations.iter().map(operation).sum()
        }
        Some(ContentUpdate::Append { data, .. }) => data.len(),
        None => 0,
    }
}

async fn session_for(
    core: &Core,
    proposal: &Proposal,
    started: Instant,
) -> Result<SessionId, ProposeError> {
    if let Some(bound) = proposal.bound_to {
        return (core.session.live() == Some(bound))
            .then_some(bound)
            .ok_or(ProposeError::SessionExpired);
    }
    if let Some(session) = core.session.current() {
        return Ok(session);
    }
    let mut quorum = core.quorum.subscribe();
    tokio::select! {
        session = core.session.wait() => Ok(session),
        () = lost(&mut quorum) => Err(timed_out(started)),
        () = core.stopping.cancelled() => Err(ProposeError::Stopping),
        () = tokio::time::sleep_until(started + WRITE_TIMEOUT) => Err(timed_out(started)),
    }
}

async fn lost(quorum: &mut watch::Receiver<crate::consensus::cluster::quorum::QuorumState>) {
    // The sender lives as long as the node.
    let _ = quorum.wait_for(|state| !state.has).await;
}

fn timed_out(started: Instant) -> ProposeError {
    let elapsed = started.elapsed().as_millis();
    ProposeError::TimedOut(u64::try_from(elapsed).unwrap_or(u64::MAX))
}

/// One number under way. Dropping it gives the number up.
struct Attempt {
    core: Arc<Core>,
    entry: Entry,
    origin: Origin,
    waiter: Waiting,
    started: Instant,
    settled: bool,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.settled {
            let published = &self.core.view.published;
            published.waiters.forget(self.id());
            if let Some(entry) = self.waiter.give_up() {
                published.feed.give_up(&entry);
            }
            self.core.numbers.abandon(self.origin.request);
            self.core.abandoned.notify_one();
        }
    }
}

impl Attempt {
    fn begin(core: &Arc<Core>, session: SessionId, proposal: &Proposal, started: Instant) -> Self {
        let origin = core.numbers.begin(session);
        let waiter = core
            .view
            .published
            .waiters
            .wait_for((origin.session, origin.request));
        let entry = Entry {
            stamp: Default::default(),
            author: proposal.author.clone(),
            origin: Some(origin.clone()),
            fence: proposal.fence,
            command: proposal.command.clone(),
        };
        Self {
            core: Arc::clone(core),
            entry,
            origin,
            waiter,
            started,
            settled: false,
        }
    }

    fn id(&self) -> ProposalId {
        (self.origin.session, self.origin.request)
    }

    async fn finish(mut self) -> Result<Committed, ProposeError> {
        let core = Arc::clone(&self.core);
        let mut quorum = core.quorum.subscribe();
        let deadline = self.started + WRITE_TIMEOUT;
        tokio::select! {
            biased;
            committed = &mut self.waiter => {
                let committed = committed.ok_or(ProposeError::Stopping)?;
                core.numbers.settle(&self.origin);
                self.settled = true;
                Ok(committed)
            }
            refused = keep_sending(&core, &self.entry) => Err(ProposeError::Refused(refused)),
            () = lost(&mut quorum) => Err(timed_out(self.started)),
            () = core.stopping.cancelled() => Err(ProposeError::Stopping),
            () = tokio::time::sleep_until(deadline) => Err(timed_out(self.started)),
        }
    }
}

/// Sends the entry to the leader, and again whenever the leader is lost. Ends only when it is refused for good.
async fn keep_sending(core: &Arc<Core>, entry: &Entry) -> String {
    let mut bytes = None;
    let mut leader = core.link.leader.subscribe();
    loop {
        let to = *leader.borrow_and_update();
        let send = async {
            match to {
                None => Err(AskError::NoLeader),
                Some(to) if to == core.view.id => request_handler::propose(core, to, entry.clone())
                    .await
                    .map_err(AskError::Refused),
                Some(_) => {
                    let bytes = bytes.get_or_insert_with(|| entry.encode());
                    core.link
                        .ask_leader(Request::Propose(bytes), WRITE_TIMEOUT)
                        .await
                }
            }
        };
        let sent = tokio::select! {
            sent = send => sent,
            // Another leader than the one that was asked: that one may never answer.
            _ = leader.wait_for(|now| *now != to && now.is_some()) => continue,
        };
        match sent {
            // Committed; the local apply answers the caller.
            Ok(Reply::Proposed { .. }) => std::future::pending::<()>().await,
            Err(AskError::Refused(reason)) => return reason,
            Ok(_) | Err(_) => tokio::time::sleep(LEADER_RETRY_EVERY).await,
        }
    }
}

/// Tells the cluster of numbers that were given up, when no other proposal does.
pub async fn tell_of_abandoned(core: Arc<Core>) {
    loop {
        core.abandoned.notified().await;
        while core.numbers.owes_notice() {
            let mut quorum = core.quorum.subscribe();
            if quorum.wait_for(|state| state.has).await.is_err() {
                return;
            }
            let notice = Proposal {
                author: Author::daemon(),
                fence: None,
                command: Command::Nothing,
                bound_to: None,
            };
            if propose(Arc::clone(&core), notice).await.is_err() {
                tokio::time::sleep(LEADER_RETRY_EVERY).await;
            }
        }
    }
}
