//! The listening side: accepts members and joining nodes, checks who they are, hands their requests on.
//!
//! Invariants: no request is handled before the peer's certificate was checked; a member that was removed is refused at
//! its next request and its connection closed; members, strangers and requests under way are bounded, each by itself,
//! and requests by their bytes, too.
//! Not here: what a request means; which stranger has to make room (`strangers.rs`).

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{SinkExt, StreamExt};
use rustls::server::Acceptor;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::codec::{FramedRead, FramedWrite};

use super::client::tune;
use super::frame::{Frame, FrameKind, codec};
use super::identity;
use super::strangers::{Seat, Strangers};
use super::tls::{ALPN_ENROL, LiveTls, TlsSettings};
use crate::limits::{
    ACCEPT_RETRY_EVERY, CONNECTIONS_MAX, ENROL_BYTES_MAX, ENROL_TIMEOUT, FRAME_BYTES_MAX,
    HANDSHAKE_TIMEOUT, REQUEST_BYTES_UNDER_WAY_MAX, REQUESTS_UNDER_WAY_MAX,
};

/// A future of a service.
pub type ServiceFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Why a service has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceError {
    /// It is told to the peer.
    Refused(String),
    /// The body is no request: the connection is closed.
    BadBytes(String),
}

impl From<String> for ServiceError {
    fn from(reason: String) -> Self {
        Self::Refused(reason)
    }
}

/// Who answers requests.
pub trait Service: Send + Sync + 'static {
    /// Whether node `node` may talk to this one; the error says why not.
    ///
    /// # Errors
    /// The reason as text.
    fn admit(&self, node: u64) -> Result<(), String>;

    /// A connection of a member has ended.
    fn left(&self, node: u64);

    /// Answers a member.
    fn call(&self, node: u64, body: Bytes) -> ServiceFuture<Result<Bytes, ServiceError>>;

    /// Answers a node that is no member yet and has shown nothing but bytes.
    fn enrol(&self, body: Bytes) -> ServiceFuture<Result<Bytes, ServiceError>>;
}

/// Accepts connections until it is dropped.
#[derive(Debug)]
pub struct Server {
    task: tokio::task::JoinHandle<()>,
    address: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Listens on `address` and answers with `service`.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub async fn start(
        address: &str,
        tls: Arc<LiveTls>,
        service: Arc<dyn Service>,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(accept(listener, tls, service));
        Ok(Self { task, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn accept(listener: TcpListener, tls: Arc<LiveTls>, service: Arc<dyn Service>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let strangers = Arc::new(Strangers::default());
    // Dropping the set with the server closes all connections.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let (tcp, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_RETRY_EVERY).await;
                continue;
            }
        };
        let seat = strangers.seat(from.ip()).await;
        let (tls, service, room) = (Arc::clone(&tls), Arc::clone(&service), Arc::clone(&room));
        let strangers = Arc::clone(&strangers);
        connections.spawn(async move {
            let Err(error) = serve(tcp, &tls, &service, seat, room).await else {
                return;
            };
            if is_foreign(&error) && strangers.is_newly_foreign(from.ip()) {
                tracing::warn!(
                    %from,
                    %error,
                    "a node that connects and this one do not know each other's authority: one of them belongs to \
                     another cluster, or missed a change of the authority; stop it there, or have it join"
                );
            } else {
                tracing::debug!(%from, %error, "connection ended");
            }
        });
    }
}

/// Serves one connection: on a stranger's seat until its peer has shown that it is a member.
async fn serve(
    tcp: TcpStream,
    tls: &LiveTls,
    service: &Arc<dyn Service>,
    seat: Seat,
    room: Arc<Semaphore>,
) -> io::Result<()> {
    let mut void = tls.subscribe();
    let now = tls.now();
    let met = tokio::select! {
        met = meet(tcp, &now, service, &mut void) => met?,
        () = seat.ended() => return Err(io::Error::other("it had to make room for a newer one")),
    };
    let Some((stream, node)) = met else {
        return Ok(());
    };
    let Ok(_permit) = room.try_acquire_owned() else {
        tracing::warn!(
            node,
            limit = CONNECTIONS_MAX,
            "refused a member's connection: there are too many"
        );
        return Ok(());
    };
    drop(seat);
    let ended = answer_requests(stream, Peer::Member(node), service, &mut void).await;
    service.left(node);
    ended
}

/// Finds out who the peer is. Whoever is no member is answered here, within a time, and is then gone.
async fn meet(
    tcp: TcpStream,
    tls: &TlsSettings,
    service: &Arc<dyn Service>,
    void: &mut watch::Receiver<u64>,
) -> io::Result<Option<(TlsStream<TcpStream>, u64)>> {
    tune(&tcp)?;
    let (stream, joining) = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake(tcp, tls)).await??;
    if joining {
        let answered = answer_requests(stream, Peer::Joining, service, void);
        return tokio::time::timeout(ENROL_TIMEOUT, answered)
            .await?
            .map(|()| None);
    }
    let certificates = stream.get_ref().1.peer_certificates();
    let certificate = certificates
        .and_then(<[_]>::first)
        .ok_or(io::ErrorKind::PermissionDenied)?;
    let node = identity::node_of(certificate).map_err(io::Error::other)?;
    if service.admit(node).is_ok() {
        return Ok(Some((stream, node)));
    }
    // It is told why at its first request.
    let told = answer_requests(stream, Peer::Member(node), service, void);
    tokio::time::timeout(HANDSHAKE_TIMEOUT, told)
        .await?
        .map(|()| None)
}

async fn handshake(tcp: TcpStream, tls: &TlsSettings) -> io::Result<(TlsStream<TcpStream>, bool)> {
    let start = LazyConfigAcceptor::new(Acceptor::default(), tcp).await?;
    let joining = start
        .client_hello()
        .alpn()
        .is_some_and(|mut protocols| protocols.any(|name| name == ALPN_ENROL));
    let config = if joining { &tls.enrol } else { &tls.members };
    Ok((start.into_stream(Arc::clone(config)).await?, joining))
}

/// Whether a connection ended because one side does not know the other's authority. The connecting side sees this one's
/// certificate first, and says so by an alert (RFC 8446, section 6.2); it has others for a wrong node of this cluster.
fn is_foreign(error: &io::Error) -> bool {
    use rustls::AlertDescription::UnknownCA;
    use rustls::Error::{AlertReceived, InvalidCertificate};
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    matches!(
        cause,
        Some(InvalidCertificate(_) | AlertReceived(UnknownCA))
    )
}

#[derive(Clone, Copy)]
enum Peer {
    Member(u64),
    Joining,
}

async fn answer_requests(
    stream: TlsStream<TcpStream>,
    peer: Peer,
    service: &Arc<dyn Service>,
    void: &mut watch::Receiver<u64>,
) -> io::Result<()> {
    let (read, write) = tokio::io::split(stream);
    let frame_bytes_max = match peer {
        Peer::Member(_) => FRAME_BYTES_MAX,
        Peer::Joining => ENROL_BYTES_MAX,
    };
    let mut frames = FramedRead::new(read, codec());
    frames.decoder_mut().set_max_frame_length(frame_bytes_max);
    let mut replies = FramedWrite::new(write, codec());
    let mut under_way = FuturesUnordered::new();
    let mut bytes_under_way = 0;
    let mut is_void = false;
    while !is_void || !under_way.is_empty() {
        tokio::select! {
            // What is under way is answered: it may be the very request that has voided the connection.
            _ = void.changed(), if !is_void => is_void = true,
            frame = frames.next(), if !is_void
                && under_way.len() < REQUESTS_UNDER_WAY_MAX
                && bytes_under_way < REQUEST_BYTES_UNDER_WAY_MAX =>
            {
                let Some(bytes) = frame.transpose()? else { return Ok(()) };
                let frame = Frame::decode(bytes.freeze()).map_err(|error| bad_bytes(peer, &error))?;
                if frame.kind != FrameKind::Request {
                    return Err(bad_bytes(peer, &"an answer to nothing"));
                }
                bytes_under_way += frame.body.len();
                under_way.push(answer(frame, peer, service));
            }
            Some(reply) = under_way.next(), if !under_way.is_empty() => {
                let (reply, next, asked) = reply.map_err(|error| bad_bytes(peer, &error))?;
                bytes_under_way -= asked;
                replies.send(reply.encode()).await?;
                if let Next::Close = next {
                    break;
                }
            }
        }
    }
    SinkExt::<Bytes>::close(&mut replies).await
}

fn bad_bytes(peer: Peer, error: &dyn std::fmt::Display) -> io::Error {
    match peer {
        Peer::Member(node) => {
            tracing::warn!(node, %error, "closed a connection that sent bad bytes")
        }
        Peer::Joining => {
            tracing::warn!(%error, "closed a joining node's connection that sent bad bytes")
        }
    }
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

/// What becomes of a connection after an answer.
enum Next {
    Read,
    Close,
}

/// The answering frame, and how many bytes it answers; the error says why the body is no request.
async fn answer(
    frame: Frame,
    peer: Peer,
    service: &Arc<dyn Service>,
) -> Result<(Frame, Next, usize), String> {
    let mut next = Next::Read;
    let asked = frame.body.len();
    let answer = match peer {
        Peer::Joining => service.enrol(frame.body).await,
        Peer::Member(node) => match service.admit(node) {
            Ok(()) => service.call(node, frame.body).await,
            Err(reason) => {
                // It has no business here any more, and must not keep a member's place.
                next = Next::Close;
                Err(ServiceError::Refused(reason))
            }
        },
    };
    let (kind, body) = match answer {
        Ok(body) => (FrameKind::Reply, body),
        Err(ServiceError::Refused(reason)) => (FrameKind::Refusal, Bytes::from(reason)),
        Err(ServiceError::BadBytes(reason)) => return Err(reason),
    };
    let id = frame.id;
    Ok((Frame { kind, id, body }, next, asked))
}

#[cfg(test)]
#[path = "server/transport_test.rs"]
mod transport_test;
