//! Two identities of one cluster, and one of another, over real TLS on 127.0.0.1.

use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio_util::codec::Framed;

use super::*;
use crate::limits::{CONNECTIONS_MAX, RULES_KNOWN};
use crate::transport::client::{CallError, Channel, connect_as};
use crate::transport::identity::{ClusterCa, KeyRequest, NodeIdentity};
use crate::transport::tls::{LiveTls, TlsSettings, enrol_client};

const WAIT: Duration = Duration::from_secs(5);
/// More than there is room for members.
const CROWD: usize = CONNECTIONS_MAX + 44;

/// Answers, and notes whose connections have ended.
#[derive(Default)]
struct Echo {
    left: tokio::sync::watch::Sender<Vec<u64>>,
    asked: parking_lot::Mutex<Vec<Bytes>>,
}

impl Service for Echo {
    fn admit(&self, node: u64) -> Result<(), String> {
        if node == 66 {
            Err("node 66 was removed".into())
        } else {
            Ok(())
        }
    }

    fn left(&self, node: u64) {
        self.left.send_modify(|left| left.push(node));
    }

    fn call(&self, node: u64, body: Bytes) -> ServiceFuture<Result<Bytes, ServiceError>> {
        self.asked.lock().push(body.clone());
        Box::pin(async move {
            Ok(Bytes::from(
                [node.to_string().as_bytes(), b":", &body].concat(),
            ))
        })
    }

    fn enrol(&self, body: Bytes) -> ServiceFuture<Result<Bytes, ServiceError>> {
        Box::pin(async move { Ok(body) })
    }
}

fn settings(ca: &ClusterCa, node: u64) -> TlsSettings {
    let request = KeyRequest::generate().unwrap();
    let certificate = ca.sign(&request.request, node).unwrap();
    let identity =
        NodeIdentity::from_parts(certificate, &request.key_pem, ca.certificate().clone()).unwrap();
    TlsSettings::new(&identity).unwrap()
}

async fn server(ca: &ClusterCa) -> Server {
    serving(ca, Arc::default()).await
}

async fn serving(ca: &ClusterCa, echo: Arc<Echo>) -> Server {
    Server::start("127.0.0.1:0", LiveTls::new(settings(ca, 1)), echo)
        .await
        .unwrap()
}

fn channel(server: &Server, tls: TlsSettings, node: u64) -> Channel {
    Channel::new(node, server.address().to_string(), LiveTls::new(tls))
}

#[tokio::test]
async fn a_member_is_known_by_its_certificate() {
    let ca = ClusterCa::generate("a").unwrap();
    let server = server(&ca).await;
    let channel = channel(&server, settings(&ca, 2), 1);
    let answers = futures_util::future::join_all(
        (0..50).map(|_| channel.call(Bytes::from_static(b"hi"), WAIT)),
    )
    .await;
    assert!(answers.into_iter().all(|answer| answer.unwrap() == "2:hi"));
}

#[tokio::test]
async fn the_end_of_a_members_connection_is_told_and_a_strangers_is_not() {
    let ca = ClusterCa::generate("a").unwrap();
    let echo = Arc::<Echo>::default();
    let mut left = echo.left.subscribe();
    let server = serving(&ca, Arc::clone(&echo)).await;
    drop(TcpStream::connect(server.address()).await.unwrap());
    let channel = channel(&server, settings(&ca, 2), 1);
    channel.call(Bytes::new(), WAIT).await.unwrap();
    assert!(left.borrow_and_update().is_empty());
    drop(channel);
    let told = tokio::time::timeout(WAIT, left.changed()).await;
    told.unwrap().unwrap();
    assert_eq!(*left.borrow(), [2]);
}

#[tokio::test]
async fn the_wrong_node_behind_an_address_is_noticed() {
    let ca = ClusterCa::generate("a").unwrap();
    let server = server(&ca).await;
    let answer = channel(&server, settings(&ca, 2), 3)
        .call(Bytes::new(), WAIT)
        .await;
    assert!(
        matches!(answer, Err(CallError::Unreachable(_))),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_removed_member_and_another_cluster_are_refused() {
    let ca = ClusterCa::generate("a").unwrap();
    let other = ClusterCa::generate("b").unwrap();
    let server = server(&ca).await;
    let answer = channel(&server, settings(&ca, 66), 1)
        .call(Bytes::new(), WAIT)
        .await;
    assert_eq!(
        answer,
        Err(CallError::Refused("node 66 was removed".into()))
    );
    let answer = channel(&server, settings(&other, 2), 1)
        .call(Bytes::new(), WAIT)
        .await;
    assert!(
        matches!(answer, Err(CallError::Unreachable(_))),
        "{answer:?}"
    );
}

/// The journal names a member of another cluster, and nobody whose connection ends for another reason.
#[tokio::test]
async fn a_member_of_another_cluster_is_told_from_a_connection_that_ends() {
    let ca = ClusterCa::generate("a").unwrap();
    let other = settings(&ClusterCa::generate("b").unwrap(), 2).client;
    let own = settings(&ca, 1);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let name = ServerName::try_from(identity::node_name(1)).unwrap();
    let (_, refused) = tokio::join!(connect_as(&address, &other, name), async {
        handshake(listener.accept().await.unwrap().0, &own).await
    });
    assert!(is_foreign(&refused.unwrap_err()));
    let (_, ended) = tokio::join!(
        async { drop(TcpStream::connect(&address).await.unwrap()) },
        async { handshake(listener.accept().await.unwrap().0, &own).await }
    );
    assert!(!is_foreign(&ended.unwrap_err()));
}

/// A host that the cluster does not know can open connections and be silent in each of them.
#[tokio::test]
async fn many_idle_strangers_do_not_keep_a_member_out() {
    let ca = ClusterCa::generate("a").unwrap();
    let server = server(&ca).await;
    let address = server.address().to_string();
    let joining = Arc::new(enrol_client(identity::digest(ca.certificate())).unwrap());
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        // They show that they want to join, which gives them more time, and say no more.
        let name = ServerName::try_from(identity::ANY_NODE).unwrap();
        if let Ok(stream) = connect_as(&address, &joining, name).await {
            crowd.push(Idle::Joining(Box::new(stream)));
        } else {
            crowd.push(Idle::Silent(TcpStream::connect(&address).await.unwrap()));
        }
    }
    let member = channel(&server, settings(&ca, 2), 1);
    let deadline = tokio::time::Instant::now() + WAIT;
    while let Err(error) = member.call(Bytes::new(), WAIT).await {
        assert!(tokio::time::Instant::now() < deadline, "{error}");
    }
    assert_eq!(crowd.len(), CROWD);
}

#[allow(dead_code, reason = "only held open")]
enum Idle {
    Silent(TcpStream),
    Joining(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

#[tokio::test]
async fn a_removed_members_connection_is_closed() {
    let ca = ClusterCa::generate("a").unwrap();
    let server = server(&ca).await;
    let name = ServerName::try_from(identity::node_name(1)).unwrap();
    let tls = settings(&ca, 66).client;
    let address = server.address().to_string();
    let stream = connect_as(&address, &tls, name);
    let mut framed = Framed::new(stream.await.unwrap(), codec());
    let frame = Frame {
        kind: FrameKind::Request,
        id: 7,
        body: Bytes::new(),
    };
    framed.send(frame.encode()).await.unwrap();
    let refusal = framed.next().await.unwrap().unwrap();
    assert_eq!(
        Frame::decode(refusal.freeze()).unwrap().kind,
        FrameKind::Refusal
    );
    let end = tokio::time::timeout(WAIT, framed.next()).await;
    assert!(!matches!(end.unwrap(), Some(Ok(_))));
}

fn identity_of(ca: &ClusterCa, node: u64, also: Option<&ClusterCa>) -> NodeIdentity {
    let request = KeyRequest::generate().unwrap();
    let certificate = ca.sign(&request.request, node).unwrap();
    let own = ca.certificate().clone();
    NodeIdentity {
        also_trusted: also.map(|other| other.certificate().clone()),
        ..NodeIdentity::from_parts(certificate, &request.key_pem, own).unwrap()
    }
}

/// The old one is trusted until the new one is everywhere; then what it has signed is good for nothing.
#[tokio::test]
async fn an_authority_can_be_changed_while_connections_are_open() {
    let (old, new) = (
        ClusterCa::generate("a").unwrap(),
        ClusterCa::generate("a").unwrap(),
    );
    let tls = LiveTls::new(settings(&old, 1));
    let server = Server::start("127.0.0.1:0", Arc::clone(&tls), Arc::<Echo>::default());
    let server = server.await.unwrap();
    let settings_of = |ca, node, also| TlsSettings::new(&identity_of(ca, node, also)).unwrap();
    let former = channel(&server, settings_of(&old, 2, Some(&new)), 1);
    former.call(Bytes::new(), WAIT).await.unwrap();

    tls.replace(settings_of(&new, 1, Some(&old)));
    let member = channel(&server, settings_of(&new, 2, None), 1);
    for channel in [&former, &member] {
        channel.call(Bytes::new(), WAIT).await.unwrap();
    }
    tls.replace(settings_of(&new, 1, None));
    tls.void_connections();
    let deadline = tokio::time::Instant::now() + WAIT;
    while former.call(Bytes::new(), WAIT).await.is_ok() {
        assert!(tokio::time::Instant::now() < deadline, "it is still heard");
    }
    while let Err(error) = member.call(Bytes::new(), WAIT).await {
        assert!(tokio::time::Instant::now() < deadline, "{error}");
    }
}

#[tokio::test]
async fn a_connection_is_made_anew_after_the_server_restarted() {
    let ca = ClusterCa::generate("a").unwrap();
    let first = server(&ca).await;
    let address = first.address().to_string();
    let channel = channel(&first, settings(&ca, 2), 1);
    channel.call(Bytes::new(), WAIT).await.unwrap();
    drop(first);
    let deadline = tokio::time::Instant::now() + WAIT;
    let _second = loop {
        match Server::start(
            &address,
            LiveTls::new(settings(&ca, 1)),
            Arc::<Echo>::default(),
        )
        .await
        {
            Ok(server) => break server,
            Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error}"),
        }
        tokio::task::yield_now().await;
    };
    while let Err(error) = channel.call(Bytes::new(), WAIT).await {
        assert!(tokio::time::Instant::now() < deadline, "{error}");
    }
}

/// A follower that is told of entry 17 before it was given 16 has a conflict, and the leader cannot explain it.
#[tokio::test]
async fn requests_arrive_in_the_order_in_which_they_were_made_also_while_it_connects() {
    let ca = ClusterCa::generate("a").unwrap();
    let echo = Arc::new(Echo::default());
    let server = serving(&ca, Arc::clone(&echo)).await;
    let channel = channel(&server, settings(&ca, 2), 1);
    // As replication does: several under way, each with a waker of its own.
    let calls = (0..8u8).map(|number| channel.call(Bytes::from(vec![number]), WAIT));
    let answers = futures_util::stream::iter(calls).buffered(8);
    let answers: Vec<_> = answers.collect().await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    let asked: Vec<u8> = echo.asked.lock().iter().map(|body| body[0]).collect();
    assert_eq!(asked, [0, 1, 2, 3, 4, 5, 6, 7]);
}

/// The next daemon at an address may be of another build: what the one before has said counts no more. A way that
/// nobody has used since would keep the cluster on its level for ever.
#[tokio::test]
async fn what_a_peer_knows_is_known_while_it_is_connected() {
    let ca = ClusterCa::generate("a").unwrap();
    let server = server(&ca).await;
    let channel = channel(&server, settings(&ca, 2), 1);
    assert_eq!(channel.rules(), None);
    channel.call(Bytes::new(), WAIT).await.unwrap();
    assert_eq!(channel.rules(), Some(RULES_KNOWN));
    drop(server);
    let deadline = tokio::time::Instant::now() + WAIT;
    while channel.rules().is_some() {
        assert!(tokio::time::Instant::now() < deadline, "it is still known");
        tokio::task::yield_now().await;
    }
}

/// Answers when it is told to, and remembers how many waited at once.
struct Slow {
    waiting: watch::Sender<usize>,
    most: std::sync::atomic::AtomicUsize,
    answers: Semaphore,
}

impl Slow {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            waiting: watch::Sender::new(0),
            most: Default::default(),
            answers: Semaphore::new(0),
        })
    }
}

struct SlowService(Arc<Slow>);

impl Service for SlowService {
    fn admit(&self, _: u64) -> Result<(), String> {
        Ok(())
    }

    fn left(&self, _: u64) {}

    fn call(&self, _: u64, body: Bytes) -> ServiceFuture<Result<Bytes, ServiceError>> {
        let slow = Arc::clone(&self.0);
        Box::pin(async move {
            slow.waiting.send_modify(|waiting| *waiting += 1);
            let waiting = *slow.waiting.borrow();
            slow.most
                .fetch_max(waiting, std::sync::atomic::Ordering::SeqCst);
            slow.answers.acquire().await.unwrap().forget();
            slow.waiting.send_modify(|waiting| *waiting -= 1);
            Ok(body.slice(..1))
        })
    }

    fn enrol(&self, body: Bytes) -> ServiceFuture<Result<Bytes, ServiceError>> {
        Box::pin(async move { Ok(body) })
    }
}

/// A member that sends faster than it is answered would fill the memory with a thousand frames of 24 MiB.
#[tokio::test]
async fn requests_under_way_are_weighed_and_not_only_counted() {
    const LARGE: usize = 8 * 1024 * 1024;
    const ROOM: usize = REQUEST_BYTES_UNDER_WAY_MAX / LARGE;
    let ca = ClusterCa::generate("a").unwrap();
    let slow = Slow::new();
    let service = Arc::new(SlowService(Arc::clone(&slow)));
    let server = Server::start("127.0.0.1:0", LiveTls::new(settings(&ca, 1)), service);
    let server = server.await.unwrap();
    let channel = Arc::new(channel(&server, settings(&ca, 2), 1));
    let mut calls = JoinSet::new();
    for _ in 0..2 * ROOM {
        let channel = Arc::clone(&channel);
        let body = Bytes::from(vec![7; LARGE]);
        calls.spawn(async move { channel.call(body, 6 * WAIT).await });
    }
    let mut waiting = slow.waiting.subscribe();
    let full = waiting.wait_for(|waiting| *waiting >= ROOM);
    tokio::time::timeout(6 * WAIT, full).await.unwrap().unwrap();
    // The next ones are on their way: without a bound they would be there at once.
    let more = waiting.wait_for(|waiting| *waiting > ROOM);
    let more = tokio::time::timeout(WAIT / 10, more).await;
    assert!(more.is_err(), "more than there is room for");
    slow.answers.add_permits(2 * ROOM);
    while let Some(answer) = calls.join_next().await {
        assert_eq!(answer.unwrap().unwrap(), Bytes::from_static(&[7]));
    }
    let most = slow.most.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!(most, ROOM, "requests under way at once");
}

/// A peer whose build speaks other frames is not answered, and nothing of what it says is done.
#[tokio::test]
async fn a_peer_that_speaks_other_frames_is_not_heard() {
    let ca = ClusterCa::generate("a").unwrap();
    let slow = Slow::new();
    let service = Arc::new(SlowService(Arc::clone(&slow)));
    let server = Server::start("127.0.0.1:0", LiveTls::new(settings(&ca, 1)), service);
    let server = server.await.unwrap();
    let address = server.address().to_string();
    let (version, kind, request) = (9, 0, 0);
    let unknown_kind = [super::super::frame::WIRE_VERSION, 7];
    for (bytes, what) in [
        (vec![version, kind, 1, 0, 0, 0, 0, 0, 0, 0], "a version"),
        ([&unknown_kind[..], &[0; 8]].concat(), "a kind"),
        (vec![request; 3], "less than a header"),
    ] {
        let name = ServerName::try_from(identity::node_name(1)).unwrap();
        let tls = settings(&ca, 2).client;
        let stream = connect_as(&address, &tls, name).await.unwrap();
        let mut framed = Framed::new(stream, codec());
        framed.send(Bytes::from(bytes)).await.unwrap();
        let end = tokio::time::timeout(WAIT, framed.next()).await;
        assert!(!matches!(end.unwrap(), Some(Ok(_))), "answered {what}");
    }
    assert_eq!(
        *slow.waiting.borrow(),
        0,
        "nothing was asked of the service"
    );
}
