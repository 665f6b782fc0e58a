//! A network that delays, reorders, loses and cuts, also one way only.
//!
//! Invariants: requests of one way arrive in order, as on one connection; what a machine that is down sends or gets
//! vanishes. What is lost is told to its sender when TCP gives up; what breaks a connection at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use vfsd::consensus::cluster::peers::{Answer, Dialer, Purpose, Reached, Way};
use vfsd::limits::RULES_KNOWN;
use vfsd::storage::disk::fake::FakeDisk;
use vfsd::transport::client::CallError;
use vfsd::transport::server::{Service, ServiceError};

use super::trace;

/// What is not confirmed for this long ends its connection, as TCP_USER_TIMEOUT does.
const SILENCE_MAX: Duration = vfsd::limits::TCP_SILENCE_MAX;

type Answered = Result<Bytes, CallError>;

/// How bad the network is.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    /// Share of messages that vanish.
    pub loss: f64,
    /// Share of requests that break their connection.
    pub breaks: f64,
    /// Longest delay of most messages.
    pub delay: Duration,
    /// Longest delay of one in fifty.
    pub delay_max: Duration,
}

impl Weather {
    /// A local network on a good day.
    pub const FAIR: Self = Self {
        loss: 0.0,
        breaks: 0.0,
        delay: Duration::from_millis(2),
        delay_max: Duration::from_millis(5),
    };
}

struct State {
    rng: StdRng,
    weather: Weather,
    ends: BTreeMap<u64, (Arc<dyn Service>, FakeDisk)>,
    cuts: BTreeSet<(u64, u64)>,
    /// Members of an earlier build, with the newest rules that they know.
    earlier: BTreeMap<u64, u32>,
}

enum Fate {
    Arrives(Duration),
    Lost,
    Breaks,
}

/// The network between all machines.
#[derive(Clone)]
pub struct Network {
    // Leaf lock.
    state: Arc<Mutex<State>>,
}

impl Network {
    /// A fair one.
    pub fn new(seed: u64) -> Self {
        let state = State {
            rng: StdRng::seed_from_u64(seed),
            weather: Weather::FAIR,
            ends: BTreeMap::new(),
            cuts: BTreeSet::new(),
            earlier: BTreeMap::new(),
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Changes how bad it is.
    pub fn set_weather(&self, weather: Weather) {
        self.state.lock().weather = weather;
    }

    /// Nothing of `from` reaches `to` any more.
    pub fn cut(&self, from: u64, to: u64) {
        self.state.lock().cuts.insert((from, to));
    }

    /// `node` says that it knows `rules` and no newer ones.
    pub fn set_rules(&self, node: u64, rules: u32) {
        self.state.lock().earlier.insert(node, rules);
    }

    /// The newest rules that all know.
    pub fn rules_of_all(&self) -> u32 {
        let state = self.state.lock();
        state.earlier.values().copied().min().unwrap_or(RULES_KNOWN)
    }

    fn rules(&self, one: u64, other: u64) -> u32 {
        let state = self.state.lock();
        let of = |node| state.earlier.get(&node).copied().unwrap_or(RULES_KNOWN);
        of(one).min(of(other))
    }

    /// Takes all cuts away.
    pub fn heal(&self) {
        self.state.lock().cuts.clear();
    }

    /// `node` answers with `service` while the machine of `disk` runs.
    pub fn join(&self, node: u64, service: Arc<dyn Service>, disk: FakeDisk) {
        self.state.lock().ends.insert(node, (service, disk));
    }

    /// `node` answers no more.
    pub fn leave(&self, node: u64) {
        self.state.lock().ends.remove(&node);
    }

    /// The ways of `node`, which end with the machine of `disk`.
    pub fn dialer(&self, node: u64, disk: FakeDisk) -> Arc<dyn Dialer> {
        Arc::new(FakeDialer {
            network: self.clone(),
            node,
            disk,
        })
    }

    fn fate(&self, from: u64, to: u64) -> Fate {
        let mut state = self.state.lock();
        let weather = state.weather;
        let (lost, broken) = (
            state.rng.random_bool(weather.loss),
            state.rng.random_bool(weather.breaks),
        );
        let slow = state.rng.random_bool(0.02);
        let longest = if slow {
            weather.delay_max
        } else {
            weather.delay
        };
        let micros = u64::try_from(longest.as_micros()).unwrap();
        let delay = Duration::from_micros(state.rng.random_range(0..=micros));
        if lost || state.cuts.contains(&(from, to)) {
            Fate::Lost
        } else if broken {
            Fate::Breaks
        } else {
            Fate::Arrives(delay)
        }
    }

    fn end(&self, node: u64) -> Option<Arc<dyn Service>> {
        let state = self.state.lock();
        let (service, disk) = state.ends.get(&node)?;
        disk.is_up().then(|| Arc::clone(service))
    }
}

struct Letter {
    body: Bytes,
    sent: Instant,
    answer: oneshot::Sender<Answered>,
}

struct FakeDialer {
    network: Network,
    node: u64,
    disk: FakeDisk,
}

impl Dialer for FakeDialer {
    fn way(&self, node: u64, address: &str, _purpose: Purpose) -> Arc<dyn Way> {
        let (letters, to_carry) = mpsc::unbounded_channel();
        let carrier = Carrier {
            network: self.network.clone(),
            from: self.node,
            to: node,
        };
        tokio::spawn(carrier.run(to_carry));
        Arc::new(FakeWay {
            letters,
            network: self.network.clone(),
            between: (self.node, node),
            address: address.to_owned(),
            disk: self.disk.clone(),
        })
    }
}

struct FakeWay {
    network: Network,
    between: (u64, u64),
    letters: mpsc::UnboundedSender<Letter>,
    address: String,
    disk: FakeDisk,
}

fn unreachable(reason: &str) -> Answered {
    Err(CallError::Unreachable(reason.into()))
}

impl Way for FakeWay {
    fn address(&self) -> &str {
        &self.address
    }

    fn rules(&self) -> Option<u32> {
        let (from, to) = self.between;
        Some(self.network.rules(from, to))
    }

    fn reach(&self, _: Duration) -> Reached<'_> {
        let (from, to) = self.between;
        Box::pin(std::future::ready(Ok(self.network.rules(from, to))))
    }

    fn call(&self, body: Bytes, timeout: Duration) -> Answer<'_> {
        Box::pin(async move {
            if !self.disk.is_up() {
                return unreachable("this machine is down");
            }
            let (answer, answered) = oneshot::channel();
            let sent = Instant::now();
            let letter = Letter { body, sent, answer };
            if self.letters.send(letter).is_err() {
                return unreachable("this machine is down");
            }
            match tokio::time::timeout(timeout, answered).await {
                Ok(Ok(answered)) => answered,
                // Lost on the way: its sender learns that nobody has confirmed it, or gives up before.
                Ok(Err(_)) if timeout > SILENCE_MAX => {
                    sleep_until(sent + SILENCE_MAX).await;
                    unreachable("connection timed out")
                }
                Ok(Err(_)) => {
                    sleep_until(sent + timeout).await;
                    Err(CallError::TimedOut(timeout))
                }
                Err(_) => Err(CallError::TimedOut(timeout)),
            }
        })
    }
}

/// Carries the requests of one way, one after the other.
struct Carrier {
    network: Network,
    from: u64,
    to: u64,
}

impl Carrier {
    async fn run(self, mut letters: mpsc::UnboundedReceiver<Letter>) {
        while let Some(letter) = letters.recv().await {
            match self.network.fate(self.from, self.to) {
                Fate::Lost => {}
                Fate::Breaks => drop(letter.answer.send(unreachable("the connection broke"))),
                Fate::Arrives(delay) => {
                    sleep_until(letter.sent + delay).await;
                    self.deliver(letter);
                }
            }
        }
    }

    fn deliver(&self, letter: Letter) {
        let (network, from, to) = (self.network.clone(), self.from, self.to);
        let Some(service) = network.end(to) else {
            return drop(letter.answer.send(unreachable("connection refused")));
        };
        trace::line(&format!("{from} asks {to}: {} bytes", letter.body.len()));
        if let Err(reason) = service.admit(from) {
            return drop(letter.answer.send(Err(CallError::Refused(reason))));
        }
        let asked = service.call(from, letter.body);
        tokio::spawn(async move {
            let answer = match asked.await {
                Ok(bytes) => Ok(bytes),
                Err(ServiceError::Refused(reason)) => Err(CallError::Refused(reason)),
                Err(ServiceError::BadBytes(reason)) => panic!("{from} sent bad bytes: {reason}"),
            };
            if network
                .end(to)
                .is_none_or(|now| !Arc::ptr_eq(&now, &service))
            {
                // The machine went down before it answered.
                return;
            }
            match network.fate(to, from) {
                Fate::Lost => {}
                Fate::Breaks => drop(letter.answer.send(unreachable("the connection broke"))),
                Fate::Arrives(delay) => {
                    sleep_until(Instant::now() + delay).await;
                    drop(letter.answer.send(answer));
                }
            }
        });
    }
}
