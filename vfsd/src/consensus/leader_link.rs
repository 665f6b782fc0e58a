//! The way to the leader, wherever it is, and to any other member.
//!
//! Invariants: whoever asks the leader asks again when the leadership has moved; a node that takes no part asks for
//! nothing. Not here: what is asked, and who answers (`request_handler.rs`).

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::consensus::cluster::peers::{Peers, Purpose};
use crate::consensus::cluster::pledges::Pledges;
use crate::consensus::view::View;
use crate::consensus::wire::{Reply, Request};
use crate::limits::LEADER_RETRY_EVERY;
use crate::transport::client::CallError;

/// An answer of this node to itself.
pub type OwnAnswer<'a> = Pin<Box<dyn Future<Output = Result<Reply, String>> + Send + 'a>>;

/// Answers what this node asks of the leader while it leads itself.
pub trait OwnAnswers: Send + Sync {
    /// The answer, or why the request is refused.
    fn answer<'a>(&'a self, request: Request<'a>) -> OwnAnswer<'a>;
}

/// See the module.
pub struct LeaderLink {
    /// Ways to the other members.
    pub peers: Arc<Peers>,
    /// The leader, as this node knows it.
    pub leader: watch::Sender<Option<u64>>,
    /// Rings when a connection that the leader had made has ended.
    pub leader_left: Notify,
    view: Arc<View>,
    pledges: Arc<Pledges>,
    own: OnceLock<Arc<dyn OwnAnswers>>,
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

impl LeaderLink {
    /// Links the node that `view` shows with the members that `peers` reach.
    pub fn new(view: Arc<View>, peers: Arc<Peers>, pledges: Arc<Pledges>) -> Self {
        Self {
            peers,
            leader: watch::Sender::new(None),
            leader_left: Notify::new(),
            view,
            pledges,
            own: OnceLock::new(),
        }
    }

    /// Whoever answers while this node leads. Only the first counts.
    pub fn answer_with(&self, own: Arc<dyn OwnAnswers>) {
        // A second one would be the same: there is one handler of a node.
        let _ = self.own.set(own);
    }

    /// Asks the leader once; it may be this node.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn ask_leader(
        &self,
        request: Request<'_>,
        timeout: Duration,
    ) -> Result<Reply, AskError> {
        if !self.pledges.takes_part() {
            let reason = "this node takes no part yet: it asks the others whether its disk is the one that they know";
            return Err(AskError::NotReady(reason.into()));
        }
        let leader = (*self.leader.borrow()).ok_or(AskError::NoLeader)?;
        let reply = if leader == self.view.id {
            let own = self.own.get().ok_or(AskError::NoLeader)?;
            let answer = own.answer(request);
            let answer = tokio::time::timeout(timeout, answer).await;
            let late = format!(
                "this node leads and has no answer within {} ms",
                timeout.as_millis()
            );
            answer
                .map_err(|_| AskError::NotReady(late))?
                .map_err(AskError::Refused)?
        } else {
            let address = self.view.address_of(leader).ok_or(AskError::NoLeader)?;
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
        &self,
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
}
