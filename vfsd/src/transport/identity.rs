//! Certificates: the cluster's own authority, and who a node is.
//!
//! Invariants: a node's id stands in its certificate as the DNS name `node-<id>` and nowhere else; the authority signs
//! only the id that the cluster gave out, whatever a request asks for. Not here: where the files lie.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
};
use rustls_pki_types::{
    CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer,
};
use x509_parser::extensions::GeneralName;
use zeroize::Zeroizing;

/// Name that every node's certificate has beside its own: a joining node knows no ids yet.
pub const ANY_NODE: &str = "vfsd";
const NODE_PREFIX: &str = "node-";

/// Why a certificate or key cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The generator refused.
    #[error("cannot make a certificate")]
    Make(#[from] rcgen::Error),
    /// It cannot be parsed.
    #[error("the peer's certificate cannot be parsed: {0}")]
    Parse(String),
    /// The key is another one's.
    #[error("the key does not belong to the authority's certificate")]
    ForeignKey,
    /// It names no node.
    #[error("the peer's certificate does not name exactly one node (node-<id>)")]
    NoNode,
}

/// The cluster's certificate authority, on voters.
pub struct ClusterCa {
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

impl std::fmt::Debug for ClusterCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterCa").finish_non_exhaustive()
    }
}

impl ClusterCa {
    /// Makes a new authority for the cluster `cluster`.
    ///
    /// # Errors
    /// [`IdentityError::Make`].
    pub fn generate(cluster: &str) -> Result<Self, IdentityError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, format!("vfsd cluster {cluster}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?.der().clone();
        Ok(Self { certificate, key })
    }

    /// The authority with this certificate and key.
    ///
    /// # Errors
    /// [`IdentityError::Make`] if the key is no key, [`IdentityError::ForeignKey`] if it is not the certificate's.
    pub fn from_parts(
        certificate: CertificateDer<'static>,
        key_pem: &str,
    ) -> Result<Self, IdentityError> {
        let key = KeyPair::from_pem(key_pem)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate)
            .map_err(|error| IdentityError::Parse(error.to_string()))?;
        if *parsed.public_key().subject_public_key.data != *key.public_key_raw() {
            return Err(IdentityError::ForeignKey);
        }
        Ok(Self { certificate, key })
    }

    /// Its certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Its private key. Whoever has it can admit nodes.
    pub fn key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.key.serialize_pem())
    }

    /// Signs the key of a request as node `node`. Nothing else of the request is taken over.
    ///
    /// # Errors
    /// [`IdentityError::Make`] if the request is not well-formed or not signed by its own key.
    pub fn sign(
        &self,
        request: &[u8],
        node: u64,
    ) -> Result<CertificateDer<'static>, IdentityError> {
        let request = CertificateSigningRequestDer::from(request);
        let mut request = CertificateSigningRequestParams::from_der(&request)?;
        request.params = node_params(node)?;
        let issuer = Issuer::from_ca_cert_der(&self.certificate, &self.key)?;
        Ok(request.signed_by(&issuer)?.der().clone())
    }
}

/// Digest of the public key that a signing request asks for, after its signature was checked.
///
/// # Errors
/// [`IdentityError::Make`] if the request is not well-formed or not signed by its own key.
pub fn requested_key(request: &[u8]) -> Result<[u8; 32], IdentityError> {
    let request = CertificateSigningRequestDer::from(request);
    let request = CertificateSigningRequestParams::from_der(&request)?;
    Ok(blake3::hash(&request.public_key.subject_public_key_info()).into())
}

fn node_params(node: u64) -> Result<CertificateParams, IdentityError> {
    let own_name = format!("{NODE_PREFIX}{node}");
    let mut params = CertificateParams::new(vec![own_name.clone(), ANY_NODE.to_owned()])?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, own_name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// A node's private key and the request to have it signed.
pub struct KeyRequest {
    /// PEM of the private key; it never leaves the node.
    pub key_pem: Zeroizing<String>,
    /// DER of the signing request.
    pub request: Vec<u8>,
}

impl KeyRequest {
    /// Makes a new key.
    ///
    /// # Errors
    /// [`IdentityError::Make`].
    pub fn generate() -> Result<Self, IdentityError> {
        Self::of(&KeyPair::generate()?)
    }

    /// A request for a key that was made before.
    ///
    /// # Errors
    /// [`IdentityError::Make`] if it is no key.
    pub fn from_pem(key_pem: &str) -> Result<Self, IdentityError> {
        Self::of(&KeyPair::from_pem(key_pem)?)
    }

    fn of(key: &KeyPair) -> Result<Self, IdentityError> {
        let request = CertificateParams::default().serialize_request(key)?;
        Ok(Self {
            key_pem: Zeroizing::new(key.serialize_pem()),
            request: request.der().to_vec(),
        })
    }
}

/// What a node shows to its peers.
#[derive(Debug)]
pub struct NodeIdentity {
    /// Its certificate.
    pub certificate: CertificateDer<'static>,
    /// The key of it.
    pub key: PrivateKeyDer<'static>,
    /// The authority of its cluster.
    pub ca: CertificateDer<'static>,
    /// Another one that is on its way in.
    pub also_trusted: Option<CertificateDer<'static>>,
}

impl NodeIdentity {
    /// The identity with these parts.
    ///
    /// # Errors
    /// [`IdentityError::Make`] if the key is no key.
    pub fn from_parts(
        certificate: CertificateDer<'static>,
        key_pem: &str,
        ca: CertificateDer<'static>,
    ) -> Result<Self, IdentityError> {
        let key = KeyPair::from_pem(key_pem)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(Self {
            certificate,
            key,
            ca,
            also_trusted: None,
        })
    }
}

impl NodeIdentity {
    /// The same once more.
    pub fn copy(&self) -> Self {
        Self {
            certificate: self.certificate.clone(),
            key: self.key.clone_key(),
            ca: self.ca.clone(),
            also_trusted: self.also_trusted.clone(),
        }
    }
}

/// The DNS name under which node `node` is known.
pub fn node_name(node: u64) -> String {
    format!("{NODE_PREFIX}{node}")
}

/// The node that a certificate names. The chain was checked by TLS before.
///
/// # Errors
/// [`IdentityError::Parse`] or [`IdentityError::NoNode`].
pub fn node_of(certificate: &CertificateDer<'_>) -> Result<u64, IdentityError> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|error| IdentityError::Parse(error.to_string()))?;
    let names = parsed
        .subject_alternative_name()
        .map_err(|error| IdentityError::Parse(error.to_string()))?
        .ok_or(IdentityError::NoNode)?;
    let mut nodes = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => name.strip_prefix(NODE_PREFIX)?.parse().ok(),
            _ => None,
        });
    match (nodes.next(), nodes.next()) {
        (Some(node), None) => Ok(node),
        _ => Err(IdentityError::NoNode),
    }
}

/// BLAKE3 of a certificate, by which a join token pins the authority.
pub fn digest(certificate: &CertificateDer<'_>) -> [u8; 32] {
    blake3::hash(certificate).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signed_certificate_names_the_node_that_the_cluster_chose() {
        let ca = ClusterCa::generate("test").unwrap();
        let again = ClusterCa::from_parts(ca.certificate().clone(), &ca.key_pem()).unwrap();
        let request = KeyRequest::generate().unwrap();
        let certificate = again.sign(&request.request, 42).unwrap();
        assert_eq!(node_of(&certificate).unwrap(), 42);
    }

    #[test]
    fn a_key_of_another_authority_is_refused() {
        let [ca, other] = ["a", "b"].map(|name| ClusterCa::generate(name).unwrap());
        let mixed = ClusterCa::from_parts(ca.certificate().clone(), &other.key_pem());
        assert!(matches!(mixed, Err(IdentityError::ForeignKey)), "{mixed:?}");
    }

    #[test]
    fn a_key_asks_for_the_same_however_often_its_request_is_made() {
        let first = KeyRequest::generate().unwrap();
        let again = KeyRequest::from_pem(&first.key_pem).unwrap();
        let key = requested_key(&first.request).unwrap();
        assert_eq!(requested_key(&again.request).unwrap(), key);
        let other = KeyRequest::generate().unwrap();
        assert_ne!(requested_key(&other.request).unwrap(), key);
    }

    #[test]
    fn a_request_that_is_not_one_is_refused() {
        let ca = ClusterCa::generate("test").unwrap();
        let mut request = KeyRequest::generate().unwrap().request;
        let last = request.len() - 1;
        request[last] ^= 1;
        assert!(ca.sign(&request, 1).is_err());
        assert!(ca.sign(b"nonsense", 1).is_err());
    }
}
