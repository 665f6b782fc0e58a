//! Ways to the other members, and what is known of whether they answer.
//!
//! Invariant: replication, heartbeats, snapshots and everything else have a connection each, so that a long transfer
//! never delays a heartbeat. Not here: who the members are (Raft's membership says so).

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::limits::QUORUM_SILENCE_MAX;
use crate::state_machine::level::Level;
use crate::transport::client::{CallError, Channel};
use crate::transport::tls::LiveTls;

/// An answer that is on its way.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Result<Bytes, CallError>> + Send + 'a>>;

/// What a member knows, when it is reached.
pub type Reached<'a> = Pin<Box<dyn Future<Output = Result<u32, CallError>> + Send + 'a>>;

/// A way to one member.
pub trait Way: Send + Sync {
    /// Where it leads.
    fn address(&self) -> &str;

    /// Asks and waits for the answer, at most `timeout`. Requests arrive in the order of the calls.
    fn call(&self, body: Bytes, timeout: Duration) -> Answer<'_>;

    /// The newest rules for applying entries that the member has said it knows, if it was reached.
    fn rules(&self) -> Option<u32>;

    /// Connects unless there is a connection, and gives what [`Way::rules`] is then.
    fn reach(&self, timeout: Duration) -> Reached<'_>;
}

/// Makes ways: over the transport, or over the network of a simulation.
pub trait Dialer: Send + Sync + 'static {
    /// A way to `node` at `address`. Does not connect.
    fn way(&self, node: u64, address: &str, purpose: Purpose) -> Arc<dyn Way>;
}

impl Way for Channel {
    fn address(&self) -> &str {
        Self::address(self)
    }

    fn call(&self, body: Bytes, timeout: Duration) -> Answer<'_> {
        Box::pin(Self::call(self, body, timeout))
    }

    fn rules(&self) -> Option<u32> {
        Self::rules(self)
    }

    fn reach(&self, timeout: Duration) -> Reached<'_> {
        Box::pin(Self::reach(self, timeout))
    }
}

/// Connects with TLS, by the settings of the moment.
pub struct TlsDialer(pub Arc<LiveTls>);

impl Dialer for TlsDialer {
    fn way(&self, node: u64, address: &str, _purpose: Purpose) -> Arc<dyn Way> {
        Arc::new(Channel::new(node, address.into(), Arc::clone(&self.0)))
    }
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Entries and votes.
    Replication,
    /// The leader's sign of life.
    Heartbeat,
    /// Snapshots.
    Snapshot,
    /// Proposals, renewals, changes.
    Control,
}

/// What is known of a peer.
#[derive(Debug, Clone, Default)]
pub struct Health {
    /// When it answered last.
    pub answered: Option<Instant>,
    /// Why the last request after that failed.
    pub failure: Option<String>,
    /// How long the last answer took.
    pub round_trip: Option<Duration>,
}

/// The other members.
pub struct Peers {
    dialer: Arc<dyn Dialer>,
    // Leaf lock: nothing is awaited while it is held.
    channels: Mutex<HashMap<(u64, Purpose), Arc<dyn Way>>>,
    // Leaf lock.
    health: Mutex<HashMap<u64, Health>>,
}

impl Peers {
    /// Peers that are reached with `tls`.
    pub fn new(tls: Arc<LiveTls>) -> Self {
        Self::over(Arc::new(TlsDialer(tls)))
    }

    /// Peers that are reached by the ways that `dialer` makes.
    pub fn over(dialer: Arc<dyn Dialer>) -> Self {
        Self {
            dialer,
            channels: Mutex::default(),
            health: Mutex::default(),
        }
    }

    /// The way to `node` at `address`; another address than before makes it anew.
    pub fn channel(&self, node: u64, address: &str, purpose: Purpose) -> Arc<dyn Way> {
        let mut channels = self.channels.lock();
        let known = channels
            .get(&(node, purpose))
            .filter(|channel| channel.address() == address);
        if let Some(channel) = known {
            return Arc::clone(channel);
        }
        let channel = self.dialer.way(node, address, purpose);
        channels.insert((node, purpose), Arc::clone(&channel));
        channel
    }

    /// The newest rules that `node` has said it knows, while it answers.
    pub fn level(&self, node: u64) -> Option<Level> {
        if !self.is_heard(node) {
            return None;
        }
        let channels = self.channels.lock();
        let own = channels.iter().filter(|((id, _), _)| *id == node);
        own.filter_map(|(_, channel)| channel.rules())
            .min()
            .map(Level)
    }

    /// Asks `node` over `channel` and notes whether it answered.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call(
        &self,
        node: u64,
        channel: &dyn Way,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, CallError> {
        let sent = Instant::now();
        let answer = channel.call(body, timeout).await;
        let mut health = self.health.lock();
        let health = health.entry(node).or_default();
        match &answer {
            Ok(_) => {
                health.answered = Some(Instant::now());
                health.failure = None;
                health.round_trip = Some(sent.elapsed());
            }
            Err(error) => health.failure = Some(error.to_string()),
        }
        answer
    }

    /// Notes that `node` was heard, by a request of its own.
    pub fn heard(&self, node: u64) {
        self.health.lock().entry(node).or_default().answered = Some(Instant::now());
    }

    /// Whether `node` was heard lately, by an answer or by a request of its own.
    pub fn is_heard(&self, node: u64) -> bool {
        let heard = self.health(node).answered;
        heard.is_some_and(|at| at.elapsed() <= QUORUM_SILENCE_MAX)
    }

    /// What is known of `node`.
    pub fn health(&self, node: u64) -> Health {
        self.health.lock().get(&node).cloned().unwrap_or_default()
    }
}
