//! A connection to a peer, made when it is needed, on which many requests are under way at once.
//!
//! Invariants: the peer's certificate names the node that is meant; a connection that failed or fell silent is dropped
//! and made anew by the next request; a dropped request is forgotten. Not here: when to try again.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use nix::sys::socket::{setsockopt, sockopt};
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsConnector;
use tokio_util::codec::{FramedRead, FramedWrite};

use super::frame::{Frame, FrameKind, codec};
use super::tls::LiveTls;
use super::{identity, tls};
use crate::limits::{
    CONNECT_TIMEOUT, CONNECTION_SILENCE_MAX, REQUESTS_UNDER_WAY_MAX, TCP_PROBE_EVERY,
    TCP_SILENCE_MAX,
};

/// Id for a channel to whatever member is at the address.
pub const ANY_MEMBER: u64 = 0;

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No connection, or it broke; the request may have arrived.
    #[error("{0}")]
    Unreachable(String),
    /// No answer came in time; the request may have arrived.
    #[error("no answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
    /// The peer understood the frame and refused it.
    #[error("the peer refused: {0}")]
    Refused(String),
}

/// The right to send the next request.
type Turn = tokio::sync::OwnedMutexGuard<Option<Arc<Live>>>;

/// A way to one peer.
pub struct Channel {
    node: u64,
    address: String,
    tls: Arc<LiveTls>,
    // Held while connecting, so that requests which come meanwhile share the connection, and until a request is on its
    // way: they leave in the order in which they were made.
    live: Arc<tokio::sync::Mutex<Option<Arc<Live>>>>,
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel")
            .field("node", &self.node)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Channel {
    /// A way to node `node` at `address` (`ip:port`). Does not connect.
    pub fn new(node: u64, address: String, tls: Arc<LiveTls>) -> Self {
        Self {
            node,
            address,
            tls,
            live: Arc::default(),
        }
    }

    /// The newest rules that the peer and this node know, as they agreed on when they connected, while they are
    /// connected: whoever answers at the address the next time may be of another build.
    pub fn rules(&self) -> Option<u32> {
        // One that is being connected has said nothing yet.
        let live = self.live.try_lock().ok()?;
        let open = live.as_ref().filter(|live| live.is_open())?;
        Some(open.rules)
    }

    /// Where it leads.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Asks and waits for the answer, at most `timeout`, connecting included.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call(&self, body: Bytes, timeout: Duration) -> Result<Bytes, CallError> {
        match tokio::time::timeout(timeout, self.call_on_connection(body)).await {
            Ok(answer) => answer,
            Err(_) => {
                // It may be half dead; TCP alone would keep it for minutes.
                if let Ok(mut current) = self.live.try_lock() {
                    current.take_if(|live| live.silent_for() > CONNECTION_SILENCE_MAX);
                }
                Err(CallError::TimedOut(timeout))
            }
        }
    }

    /// Connects unless there is a connection, and says what was agreed on.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn reach(&self, timeout: Duration) -> Result<u32, CallError> {
        let reached = tokio::time::timeout(timeout, self.live()).await;
        let (live, _) = reached.map_err(|_| CallError::TimedOut(timeout))??;
        Ok(live.rules)
    }

    async fn call_on_connection(&self, body: Bytes) -> Result<Bytes, CallError> {
        let (live, turn) = self.live().await?;
        let answer = live.call(body, turn).await;
        if matches!(answer, Err(CallError::Unreachable(_))) {
            let mut current = self.live.lock().await;
            current.take_if(|current| Arc::ptr_eq(current, &live));
        }
        answer
    }

    /// The connection, made if there is none, and the turn: who came later gets neither before this caller's request
    /// is on its way. Whoever connects learns of it later than those who wait for him, and would be overtaken.
    async fn live(&self) -> Result<(Arc<Live>, Turn), CallError> {
        let mut current = Arc::clone(&self.live).lock_owned().await;
        if let Some(live) = current.as_ref().filter(|live| live.is_open()) {
            return Ok((Arc::clone(live), current));
        }
        let (address, node) = (self.address.clone(), self.node);
        let tls = Arc::clone(&self.tls.now().client);
        // A task of its own: a heartbeat waits only milliseconds, and a connection that its caller gave up waiting for
        // must still come to be.
        let connecting = tokio::spawn(async move {
            let connected = tokio::time::timeout(CONNECT_TIMEOUT, connect(&address, &tls, node));
            let stream = match connected.await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return Err(CallError::Unreachable(reason(&error))),
                Err(_) => {
                    let reason = format!("no connection within {} ms", CONNECT_TIMEOUT.as_millis());
                    return Err(CallError::Unreachable(reason));
                }
            };
            let rules = tls::rules_of(stream.get_ref().1.alpn_protocol());
            let live = Arc::new(Live::start(stream, rules));
            *current = Some(Arc::clone(&live));
            Ok((live, current))
        });
        connecting
            .await
            .unwrap_or_else(|_| Err(CallError::Unreachable("the node is stopping".into())))
    }
}

/// The system's own words without "os error N".
pub(super) fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            "no route to it".into()
        }
        io::ErrorKind::TimedOut => "connection timed out".into(),
        io::ErrorKind::ConnectionReset => "connection reset".into(),
        _ => error.to_string(),
    }
}

async fn connect(
    address: &str,
    tls: &Arc<ClientConfig>,
    node: u64,
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let name = if node == ANY_MEMBER {
        identity::ANY_NODE.to_owned()
    } else {
        identity::node_name(node)
    };
    let name = ServerName::try_from(name).map_err(io::Error::other)?;
    connect_as(address, tls, name).await
}

/// Connects to `address`, whose certificate must have `name`.
///
/// # Errors
/// What the system or TLS said.
pub async fn connect_as(
    address: &str,
    tls: &Arc<ClientConfig>,
    name: ServerName<'static>,
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await?;
    tune(&tcp)?;
    TlsConnector::from(Arc::clone(tls)).connect(name, tcp).await
}

/// Sets what every connection needs: no waiting for more bytes, and an end when the peer's machine falls silent, also
/// while nothing is sent and an answer is waited for.
///
/// # Errors
/// What the system said.
pub fn tune(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let silence_ms = u32::try_from(TCP_SILENCE_MAX.as_millis()).map_err(io::Error::other)?;
    setsockopt(tcp, sockopt::TcpUserTimeout, &silence_ms)?;
    let every = u32::try_from(TCP_PROBE_EVERY.as_secs()).map_err(io::Error::other)?;
    setsockopt(tcp, sockopt::KeepAlive, &true)?;
    setsockopt(tcp, sockopt::TcpKeepIdle, &every)?;
    setsockopt(tcp, sockopt::TcpKeepInterval, &every)?;
    Ok(())
}

type Waiting = Mutex<HashMap<u64, oneshot::Sender<Result<Bytes, CallError>>>>;

/// An established connection: one task writes, one reads.
struct Live {
    outgoing: mpsc::Sender<Frame>,
    // Leaf lock: nothing is awaited while it is held.
    waiting: Arc<Waiting>,
    next_id: AtomicU64,
    last_reply: Arc<Mutex<Instant>>,
    reader: tokio::task::JoinHandle<()>,
    /// The newest that both sides know.
    rules: u32,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Forgets a request whose caller went away.
struct Forget<'a> {
    waiting: &'a Waiting,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.waiting.lock().remove(&self.id);
    }
}

impl Live {
    fn start<S>(stream: S, rules: u32) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (read, write) = tokio::io::split(stream);
        let (outgoing, queue) = mpsc::channel(REQUESTS_UNDER_WAY_MAX);
        let waiting = Arc::new(Waiting::default());
        tokio::spawn(write_frames(
            FramedWrite::new(write, codec()),
            queue,
            Arc::clone(&waiting),
        ));
        let last_reply = Arc::new(Mutex::new(Instant::now()));
        let reader = tokio::spawn(read_replies(
            FramedRead::new(read, codec()),
            Arc::clone(&waiting),
            Arc::clone(&last_reply),
        ));
        Self {
            outgoing,
            waiting,
            next_id: AtomicU64::new(0),
            last_reply,
            reader,
            rules,
        }
    }

    /// Whether neither side has ended it, as far as this one has heard.
    fn is_open(&self) -> bool {
        !self.outgoing.is_closed() && !self.reader.is_finished()
    }

    fn silent_for(&self) -> Duration {
        self.last_reply.lock().elapsed()
    }

    async fn call(&self, body: Bytes, turn: Turn) -> Result<Bytes, CallError> {
        let gone = || CallError::Unreachable("the connection was closed".into());
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        self.waiting.lock().insert(id, sender);
        let _forget = Forget {
            waiting: &self.waiting,
            id,
        };
        if self.reader.is_finished() {
            return Err(gone());
        }
        let frame = Frame {
            kind: FrameKind::Request,
            id,
            body,
        };
        self.outgoing.send(frame).await.map_err(|_| gone())?;
        drop(turn);
        receiver.await.unwrap_or_else(|_| Err(gone()))
    }
}

async fn write_frames<W: AsyncWrite + Unpin>(
    mut sink: FramedWrite<W, tokio_util::codec::LengthDelimitedCodec>,
    mut queue: mpsc::Receiver<Frame>,
    waiting: Arc<Waiting>,
) {
    while let Some(frame) = queue.recv().await {
        let mut written = sink.feed(frame.encode()).await;
        // What has queued up meanwhile shares the flush.
        while written.is_ok()
            && let Ok(frame) = queue.try_recv()
        {
            written = sink.feed(frame.encode()).await;
        }
        if written.is_ok() {
            written = SinkExt::<Bytes>::flush(&mut sink).await;
        }
        if let Err(error) = written {
            queue.close();
            fail_all(&waiting, &reason(&error));
            return;
        }
    }
}

async fn read_replies<R: AsyncRead + Unpin>(
    mut frames: FramedRead<R, tokio_util::codec::LengthDelimitedCodec>,
    waiting: Arc<Waiting>,
    last_reply: Arc<Mutex<Instant>>,
) {
    let end = loop {
        let bytes = match frames.next().await {
            None => break "the connection was closed".to_owned(),
            Some(Err(error)) => break reason(&error),
            Some(Ok(bytes)) => bytes.freeze(),
        };
        let frame = match Frame::decode(bytes) {
            Ok(frame) => frame,
            Err(error) => {
                tracing::warn!(%error, "closed a connection that sent bad bytes");
                break error.to_string();
            }
        };
        let answer = match frame.kind {
            FrameKind::Reply => Ok(frame.body),
            FrameKind::Refusal => Err(CallError::Refused(
                String::from_utf8_lossy(&frame.body).into_owned(),
            )),
            FrameKind::Request => {
                tracing::warn!("closed a connection on which the asked side asked");
                break "the peer does not follow the protocol".to_owned();
            }
        };
        *last_reply.lock() = Instant::now();
        let waiter = waiting.lock().remove(&frame.id);
        if let Some(waiter) = waiter {
            // A caller that went away a moment ago needs no answer.
            let _ = waiter.send(answer);
        }
    };
    fail_all(&waiting, &end);
}

fn fail_all(waiting: &Waiting, reason: &str) {
    let waiters = std::mem::take(&mut *waiting.lock());
    for (_, waiter) in waiters {
        let _ = waiter.send(Err(CallError::Unreachable(reason.to_owned())));
    }
}
