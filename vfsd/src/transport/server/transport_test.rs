//! Two identities of one cluster, and one of another, over real TLS on 127.0.0.1.

use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio_util::codec::Framed;

use super::*;
use crate::limits::CONNECTIONS_MAX;
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
