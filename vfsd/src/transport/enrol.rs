//! What a joining node asks, and what it is told. Both sides of the enrolment connection.
//!
//! Invariant: the secret is sent only to a server whose authority the token pins.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use rustls::CertificateError;
use rustls_pki_types::ServerName;
use serde::{Deserialize, Serialize};
use tokio_util::codec::Framed;

use super::client::{connect_as, reason};
use super::frame::{Frame, FrameKind, codec};
use super::identity::ANY_NODE;
use super::tls::{OtherAuthority, TlsError, enrol_client};
use crate::limits::ENROL_TIMEOUT;

/// A joining node's request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EnrolRequest {
    /// Secret of the join token.
    pub secret: [u8; 16],
    /// Expiry of the token as its text says; only for a good error.
    pub expires_secs: i64,
    /// Name that the node wants.
    pub name: String,
    /// `ip:port` that it listens on.
    pub address: String,
    /// Public half of its sealing identity.
    pub age_public: String,
    /// DER of its signing request.
    pub signing_request: Vec<u8>,
}

/// What a node gets that was let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolled {
    /// Its id.
    pub node: u64,
    /// Id of the cluster.
    pub cluster: String,
    /// DER of its certificate.
    pub certificate: Vec<u8>,
    /// DER of the authority's certificate.
    pub ca: Vec<u8>,
    /// The members: id and address.
    pub members: Vec<(u64, String)>,
}

/// Why a node is not let in, for a person to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct EnrolRefusal {
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: String,
}

/// Answer of the cluster.
pub type EnrolReply = Result<Enrolled, EnrolRefusal>;

/// Why a join fails.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// No connection.
    #[error("cannot reach {peer}: {reason}")]
    Unreachable {
        /// The address.
        peer: String,
        /// What the system said.
        reason: String,
    },
    /// The server's authority is not the one that the token names.
    #[error("the join token is for another cluster than the one at {peer}: {authorities}")]
    OtherCluster {
        /// The address.
        peer: String,
        /// Whose token it is, and who answered.
        authorities: OtherAuthority,
    },
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The answer makes no sense.
    #[error("{peer} gave an answer that cannot be read: {reason}")]
    BadAnswer {
        /// The address.
        peer: String,
        /// Why.
        reason: String,
    },
    /// The cluster said no.
    #[error(transparent)]
    Refused(#[from] EnrolRefusal),
}

/// Asks the member at `peer` to let this node in.
///
/// # Errors
/// [`EnrolError`].
pub async fn enrol(
    peer: &str,
    ca_digest: [u8; 32],
    request: &EnrolRequest,
) -> Result<Enrolled, EnrolError> {
    let bad = |reason: String| EnrolError::BadAnswer {
        peer: peer.to_owned(),
        reason,
    };
    let answered = tokio::time::timeout(ENROL_TIMEOUT, ask(peer, ca_digest, request)).await;
    let frame = answered.unwrap_or_else(|_| {
        Err(EnrolError::Unreachable {
            peer: peer.to_owned(),
            reason: reason(&io::ErrorKind::TimedOut.into()),
        })
    })?;
    let frame = Frame::decode(frame).map_err(|error| bad(error.to_string()))?;
    if frame.kind != FrameKind::Reply {
        return Err(bad(String::from_utf8_lossy(&frame.body).into_owned()));
    }
    let reply: EnrolReply =
        postcard::from_bytes(&frame.body).map_err(|error| bad(error.to_string()))?;
    Ok(reply?)
}

async fn ask(peer: &str, ca_digest: [u8; 32], request: &EnrolRequest) -> Result<Bytes, EnrolError> {
    let unreachable = |error: io::Error| EnrolError::Unreachable {
        peer: peer.to_owned(),
        reason: reason(&error),
    };
    let tls = Arc::new(enrol_client(ca_digest)?);
    let name =
        ServerName::try_from(ANY_NODE).map_err(|error| unreachable(io::Error::other(error)))?;
    let stream = connect_as(peer, &tls, name).await.map_err(|error| {
        let inner = error.get_ref();
        let authorities = match inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(CertificateError::Other(other))) => {
                other.0.downcast_ref::<OtherAuthority>().cloned()
            }
            _ => None,
        };
        match authorities {
            Some(authorities) => EnrolError::OtherCluster {
                peer: peer.to_owned(),
                authorities,
            },
            None => unreachable(error),
        }
    })?;
    let mut framed = Framed::new(stream, codec());
    let body =
        postcard::to_stdvec(request).map_err(|error| unreachable(io::Error::other(error)))?;
    let frame = Frame {
        kind: FrameKind::Request,
        id: 0,
        body: body.into(),
    };
    framed.send(frame.encode()).await.map_err(unreachable)?;
    match framed.next().await {
        Some(Ok(bytes)) => Ok(bytes.freeze()),
        Some(Err(error)) => Err(unreachable(error)),
        None => Err(unreachable(io::ErrorKind::ConnectionReset.into())),
    }
}
