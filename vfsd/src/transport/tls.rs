//! TLS settings: 1.3 only, ring, mutual between members, pinned for joining nodes.
//!
//! Invariants: a member connection is authenticated on both sides; the enrolment connection authenticates the server
//! against the digest in the token. Not here: certificates (`identity.rs`).

use std::sync::Arc;

use arc_swap::ArcSwap;
use data_encoding::HEXLOWER;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore,
    ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::sync::watch;

use super::identity::{self, NodeIdentity};
use crate::limits::RULES_KNOWN;

/// Protocol between members; behind a slash may stand the newest rules that the speaker knows.
const ALPN_MEMBER: &str = "ctx/1";
/// Protocol of a joining node.
pub const ALPN_ENROL: &[u8] = b"ctx-enrol/1";

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The library refused the certificate or key.
    #[error("the node's certificate or key cannot be used")]
    Rustls(#[from] Error),
    /// The authority's certificate cannot check others.
    #[error("the cluster's authority cannot be used: {0}")]
    Verifier(String),
}

/// The other side's certificate is not of the authority that a token names: digests, as a person compares them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the token names the authority {expected}, that one's is {found}")]
pub struct OtherAuthority {
    /// What the token names.
    pub expected: String,
    /// What the other side has shown.
    pub found: String,
}

/// What a member offers and accepts, the newest first. A build from before levels says [`ALPN_MEMBER`] alone.
fn member_protocols() -> Vec<Vec<u8>> {
    let levels = (1..=RULES_KNOWN).rev();
    let with_level = levels.map(|level| format!("{ALPN_MEMBER}/{level}"));
    with_level
        .chain([ALPN_MEMBER.to_owned()])
        .map(String::into_bytes)
        .collect()
}

/// The newest rules that both sides of a connection know, by the protocol that they agreed on.
pub fn rules_of(protocol: Option<&[u8]>) -> u32 {
    let text = protocol.and_then(|protocol| std::str::from_utf8(protocol).ok());
    let rest = text.and_then(|text| text.strip_prefix(ALPN_MEMBER)?.strip_prefix('/'));
    rest.and_then(|level| level.parse().ok()).unwrap_or(0)
}

/// The settings of a member.
#[derive(Debug, Clone)]
pub struct TlsSettings {
    /// For members that connect here.
    pub members: Arc<ServerConfig>,
    /// For nodes that join.
    pub enrol: Arc<ServerConfig>,
    /// For connecting to other members.
    pub client: Arc<ClientConfig>,
}

impl TlsSettings {
    /// The settings for a node with this identity.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn new(identity: &NodeIdentity) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(identity.ca.clone())?;
        if let Some(other) = &identity.also_trusted {
            roots.add(other.clone())?;
        }
        let roots = Arc::new(roots);
        // The authority travels with the certificate: a joining node knows it only by its digest.
        let mut chain = vec![identity.certificate.clone(), identity.ca.clone()];
        chain.extend(identity.also_trusted.iter().cloned());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
                .build()
                .map_err(|error| TlsError::Verifier(error.to_string()))?;
        let mut members = server(&provider)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), identity.key.clone_key())?;
        members.alpn_protocols = member_protocols();
        let mut enrol = server(&provider)?
            .with_no_client_auth()
            .with_single_cert(chain.clone(), identity.key.clone_key())?;
        enrol.alpn_protocols = vec![ALPN_ENROL.to_vec()];
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, identity.key.clone_key())?;
        client.alpn_protocols = member_protocols();
        Ok(Self {
            members: Arc::new(members),
            enrol: Arc::new(enrol),
            client: Arc::new(client),
        })
    }
}

/// The settings as they are now: a member's certificate and what it trusts may change while it runs.
#[derive(Debug)]
pub struct LiveTls {
    settings: ArcSwap<TlsSettings>,
    void: watch::Sender<u64>,
}

impl LiveTls {
    /// Begins with `settings`.
    pub fn new(settings: TlsSettings) -> Arc<Self> {
        Arc::new(Self {
            settings: ArcSwap::from_pointee(settings),
            void: watch::Sender::new(0),
        })
    }

    /// The settings for a connection that is made now.
    pub fn now(&self) -> Arc<TlsSettings> {
        self.settings.load_full()
    }

    /// Takes `settings` for every connection from now on; those that there are go on.
    pub fn replace(&self, settings: TlsSettings) {
        self.settings.store(Arc::new(settings));
    }

    /// Ends the connections that others have made to this node: something that was trusted is not any more.
    pub fn void_connections(&self) {
        self.void.send_modify(|number| *number += 1);
    }

    /// Changes when the connections that there are have to end.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.void.subscribe()
    }
}

/// Whether `certificate` was signed by `authority` for the node `node`.
///
/// # Errors
/// What is wrong with it.
pub fn check_certificate(
    certificate: &CertificateDer<'_>,
    authority: &CertificateDer<'static>,
    node: u64,
) -> Result<(), Error> {
    let name = ServerName::try_from(identity::node_name(node));
    let name = name.map_err(|error| Error::General(error.to_string()))?;
    let verifier = verifier_of(authority.clone(), Arc::new(ring::default_provider()))?;
    verifier
        .verify_server_cert(certificate, &[], &name, &[], UnixTime::now())
        .map(drop)
}

fn verifier_of(
    authority: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(authority)?;
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| Error::General(error.to_string()))
}

fn server(
    provider: &Arc<CryptoProvider>,
) -> Result<rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier>, Error> {
    ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
}

/// Settings of a joining node: it accepts only the authority with this digest.
///
/// # Errors
/// [`TlsError::Rustls`].
pub fn enrol_client(ca_digest: [u8; 32]) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let verifier = PinnedAuthority {
        digest: ca_digest,
        algorithms: provider.signature_verification_algorithms,
        provider: Arc::clone(&provider),
    };
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    client.alpn_protocols = vec![ALPN_ENROL.to_vec()];
    Ok(client)
}

/// The beginning of a digest: enough to tell two authorities apart.
fn short(digest: &[u8; 32]) -> String {
    HEXLOWER.encode(&digest[..8])
}

/// Accepts servers whose certificate was signed by the authority with a known digest.
#[derive(Debug)]
struct PinnedAuthority {
    digest: [u8; 32],
    algorithms: WebPkiSupportedAlgorithms,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedAuthority {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let pinned = intermediates
            .iter()
            .find(|certificate| identity::digest(certificate) == self.digest);
        let authority = pinned.ok_or_else(|| {
            let shown = intermediates.last().map(|last| identity::digest(last));
            let other = OtherAuthority {
                expected: short(&self.digest),
                found: shown.map_or_else(|| "not shown".into(), |digest| short(&digest)),
            };
            CertificateError::Other(OtherError(Arc::new(other)))
        })?;
        let authority = authority.clone().into_owned();
        let verifier = verifier_of(authority, Arc::clone(&self.provider))?;
        verifier.verify_server_cert(end_entity, &[], server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_protocol_says_which_rules_both_sides_know() {
        let offered = member_protocols();
        assert_eq!(rules_of(offered.first().map(Vec::as_slice)), RULES_KNOWN);
        assert_eq!(offered.last().unwrap(), b"ctx/1", "what earlier builds say");
        assert_eq!(rules_of(Some(b"ctx/1")), 0);
        assert_eq!(rules_of(Some(b"ctx/1/")), 0);
        assert_eq!(rules_of(None), 0);
    }
}
