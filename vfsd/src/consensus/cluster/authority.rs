//! The cluster's certificate authority as this node has it, and this node's own certificate: in `tls/`, and live.
//!
//! Invariants: the authority's key is on voters only; a key or a certificate is kept only if it fits; what this node
//! trusts follows the replicated state, and is on disk before it is used. Not here: how a cluster gets from one
//! authority to the next (`authority_change.rs`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use crate::consensus::wire::AuthorityView;
use crate::state_machine::command::AuthorityState;
use crate::storage::atomic_file;
use crate::transport::identity::{self, ClusterCa, IdentityError, KeyRequest, NodeIdentity};
use crate::transport::tls::{LiveTls, TlsSettings, check_certificate};

const NODE: &str = "node.der";
const NODE_KEY: &str = "node.key";
const PRESENT: &str = "ca.der";
const PRESENT_KEY: &str = "ca.key";
const NEXT_KEY: &str = "ca-next.key";
/// The authority that is trusted beside the present one, while the cluster goes from one to the other.
pub const NEXT: &str = "ca-next.der";

/// See the module.
pub struct Authority {
    dir: PathBuf,
    node: u64,
    // None where nothing is encrypted.
    tls: Option<Arc<LiveTls>>,
    // Leaf lock. The small files of `tls/` are written under it, so that they and this are the same.
    held: Mutex<Held>,
    // Leaf lock. What the leader waits for before the next step, for people.
    waits_for: Mutex<String>,
}

struct Held {
    identity: NodeIdentity,
    present: Option<ClusterCa>,
    // It may be here before it is trusted.
    next: Option<ClusterCa>,
}

impl Authority {
    /// What `dir` holds for the node `node`, which connects with `tls`; without it, nothing is encrypted.
    ///
    /// # Errors
    /// If a file cannot be read or holds no key.
    pub fn open(
        dir: PathBuf,
        node: u64,
        identity: NodeIdentity,
        tls: Option<Arc<LiveTls>>,
    ) -> anyhow::Result<Self> {
        // The second one, if this node was stopped between the two files of the last step.
        let mut present = ca_with(&identity.ca, &dir, PRESENT_KEY)?;
        if present.is_none() {
            present = ca_with(&identity.ca, &dir, NEXT_KEY)?;
        }
        let next = match &identity.also_trusted {
            Some(certificate) => ca_with(certificate, &dir, NEXT_KEY)?,
            None => None,
        };
        Ok(Self {
            dir,
            node,
            tls,
            held: Mutex::new(Held {
                identity,
                present,
                next,
            }),
            waits_for: Mutex::default(),
        })
    }

    /// The present authority's certificate.
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.held.lock().identity.ca.clone()
    }

    /// Digest of the present authority's certificate.
    pub fn digest(&self) -> [u8; 32] {
        identity::digest(&self.held.lock().identity.ca)
    }

    /// The present authority's key, if this node has it.
    pub fn key_pem(&self) -> Option<Zeroizing<String>> {
        self.held.lock().present.as_ref().map(ClusterCa::key_pem)
    }

    /// Keeps the key that another voter sent: this node becomes one.
    ///
    /// # Errors
    /// If it is not the authority's key or cannot be stored.
    pub fn take(&self, key_pem: &str) -> anyhow::Result<()> {
        let mut held = self.held.lock();
        let ca = ClusterCa::from_parts(held.identity.ca.clone(), key_pem)?;
        self.write(PRESENT_KEY, key_pem.as_bytes())?;
        held.present = Some(ca);
        Ok(())
    }

    /// Signs a request as `node`.
    ///
    /// # Errors
    /// If this node has no key, or the request is malformed.
    pub fn sign(&self, request: &[u8], node: u64) -> anyhow::Result<CertificateDer<'static>> {
        let held = self.held.lock();
        let ca = held.present.as_ref();
        let ca = ca.context("this node has no key of the authority")?;
        Ok(ca.sign(request, node)?)
    }

    /// Makes an authority that may follow the present one of `cluster`: its certificate and its key.
    ///
    /// # Errors
    /// If it cannot be made or stored.
    pub fn prepare_next(&self, cluster: &str) -> anyhow::Result<(Vec<u8>, Zeroizing<String>)> {
        let next = ClusterCa::generate(cluster)?;
        let (certificate, key) = (next.certificate().to_vec(), next.key_pem());
        self.take_next(&certificate, &key)?;
        Ok((certificate, key))
    }

    /// Keeps the key of the authority that may follow.
    ///
    /// # Errors
    /// If it does not fit the certificate, another one is on its way in, or it cannot be stored.
    pub fn take_next(&self, certificate: &[u8], key_pem: &str) -> anyhow::Result<()> {
        let certificate = CertificateDer::from(certificate.to_vec());
        let next = ClusterCa::from_parts(certificate.clone(), key_pem)?;
        let mut held = self.held.lock();
        if held.identity.ca == certificate {
            bail!("it is the present authority");
        }
        self.write(NEXT_KEY, key_pem.as_bytes())?;
        held.next = Some(next);
        Ok(())
    }

    /// The key of the authority that may follow, if it is the one with this certificate.
    pub fn next_key_pem(&self, certificate: &[u8]) -> Option<Zeroizing<String>> {
        let held = self.held.lock();
        let next = held.next.as_ref();
        let next = next.filter(|next| next.certificate().as_ref() == certificate);
        next.map(ClusterCa::key_pem)
    }

    /// Signs a request as `node` for the authority that follows.
    ///
    /// # Errors
    /// If this node has no key, or the request is malformed.
    pub fn sign_next(&self, request: &[u8], node: u64) -> anyhow::Result<CertificateDer<'static>> {
        let held = self.held.lock();
        let next = held.next.as_ref();
        let next = next.context("this node has no key of the next authority")?;
        Ok(next.sign(request, node)?)
    }

    /// How far this node is on the way to the next authority.
    ///
    /// # Errors
    /// If this node's key cannot be read.
    pub fn view(&self) -> anyhow::Result<AuthorityView> {
        let held = self.held.lock();
        let trusted = held.identity.also_trusted.as_ref();
        let own = &held.identity.certificate;
        let is_certified =
            trusted.is_some_and(|next| check_certificate(own, next, self.node).is_ok());
        let path = self.dir.join(NODE_KEY);
        let key = std::fs::read_to_string(&path).map(Zeroizing::new);
        let key = key.with_context(|| format!("cannot read {}", path.display()))?;
        Ok(AuthorityView {
            trusts: trusted.map(|next| identity::digest(next)),
            holds: held
                .next
                .as_ref()
                .map(|next| identity::digest(next.certificate())),
            is_certified,
            request: KeyRequest::from_pem(&key)?.request,
        })
    }

    /// Shows a certificate of the next authority from now on.
    ///
    /// # Errors
    /// If it is not one of this node, or cannot be stored.
    pub fn take_certificate(&self, certificate: Vec<u8>) -> anyhow::Result<()> {
        let certificate = CertificateDer::from(certificate);
        let mut held = self.held.lock();
        let next = held.identity.also_trusted.as_ref();
        let next = next.context("no other authority is on its way in")?;
        check_certificate(&certificate, next, self.node)?;
        let identity = NodeIdentity {
            certificate,
            ..held.identity.copy()
        };
        // It refuses a certificate for another key.
        let settings = TlsSettings::new(&identity)?;
        self.write(NODE, &identity.certificate)?;
        held.identity = identity;
        if let Some(tls) = &self.tls {
            tls.replace(settings);
        }
        Ok(())
    }

    /// Does what the replicated state says of the authority.
    ///
    /// # Errors
    /// If the disk refuses; asked again, it goes on.
    pub fn follow(&self, state: &AuthorityState) -> anyhow::Result<()> {
        let mut held = self.held.lock();
        let next = state.next.as_ref();
        let next = next.map(|next| CertificateDer::from(next.certificate.clone()));
        let mut identity = held.identity.copy();
        // Only forwards: a state that this node had before may be applied again after a start.
        let arrived = identity
            .also_trusted
            .take_if(|next| next.as_ref() == state.present);
        if let Some(present) = &arrived {
            self.write(PRESENT, present)?;
            let key = ca_with(present, &self.dir, NEXT_KEY)?;
            match &key {
                Some(ca) => self.write(PRESENT_KEY, ca.key_pem().as_bytes())?,
                None => self.remove(PRESENT_KEY)?,
            }
            held.present = key;
            identity.ca = present.clone();
        }
        identity.also_trusted = next.filter(|next| *next != identity.ca);
        if identity.also_trusted == held.identity.also_trusted {
            return Ok(());
        }
        match &identity.also_trusted {
            Some(next) => {
                self.write(NEXT, next)?;
                let fits = held
                    .next
                    .as_ref()
                    .is_some_and(|ca| ca.certificate() == next);
                if !fits {
                    held.next = ca_with(next, &self.dir, NEXT_KEY)?;
                }
            }
            None => {
                self.remove(NEXT)?;
                held.next = None;
            }
        }
        if arrived.is_some() && identity.also_trusted.is_none() {
            self.remove(NEXT_KEY)?;
        }
        if let Some(tls) = &self.tls {
            tls.replace(TlsSettings::new(&identity)?);
            if arrived.is_some() {
                tls.void_connections();
            }
        }
        held.identity = identity;
        if arrived.is_some() {
            tracing::info!("the new certificate authority is the only one that is trusted");
        }
        Ok(())
    }

    /// What the next step waits for, as the leader knows it.
    pub fn waits_for(&self) -> String {
        self.waits_for.lock().clone()
    }

    /// Notes what the next step waits for.
    pub fn note_waits_for(&self, lacking: String) {
        *self.waits_for.lock() = lacking;
    }

    fn write(&self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        Ok(atomic_file::write(&self.dir.join(name), bytes, 0o600)?)
    }

    fn remove(&self, name: &str) -> anyhow::Result<()> {
        let path = self.dir.join(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }
}

/// The authority with `certificate`, if its key is in the file `name`.
fn ca_with(
    certificate: &CertificateDer<'static>,
    dir: &Path,
    name: &str,
) -> anyhow::Result<Option<ClusterCa>> {
    let path = dir.join(name);
    let pem = match std::fs::read_to_string(&path).map(Zeroizing::new) {
        Ok(pem) => pem,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", path.display()));
        }
    };
    match ClusterCa::from_parts(certificate.clone(), &pem) {
        Ok(ca) => Ok(Some(ca)),
        Err(IdentityError::ForeignKey) => {
            tracing::warn!(path = %path.display(), "the key is of another authority; it is not used");
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("cannot use {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state_machine::command::NextAuthority;

    const OWN: u64 = 1;

    struct Voter {
        dir: tempfile::TempDir,
        key: KeyRequest,
    }

    impl Voter {
        fn new(ca: &ClusterCa) -> Self {
            let (dir, key) = (
                tempfile::tempdir().unwrap(),
                KeyRequest::generate().unwrap(),
            );
            let voter = Self { dir, key };
            voter.put(NODE, &ca.sign(&voter.key.request, OWN).unwrap());
            voter.put(NODE_KEY, voter.key.key_pem.as_bytes());
            voter.put(PRESENT, ca.certificate());
            voter.put(PRESENT_KEY, ca.key_pem().as_bytes());
            voter
        }

        fn put(&self, name: &str, bytes: &[u8]) {
            std::fs::write(self.dir.path().join(name), bytes).unwrap();
        }

        fn has(&self, name: &str) -> bool {
            self.dir.path().join(name).exists()
        }

        fn start(&self) -> Authority {
            let read = |name| std::fs::read(self.dir.path().join(name)).ok();
            let certificate = |name| read(name).map(CertificateDer::from);
            let (own, ca) = (certificate(NODE).unwrap(), certificate(PRESENT).unwrap());
            let identity = NodeIdentity {
                also_trusted: certificate(NEXT),
                ..NodeIdentity::from_parts(own, &self.key.key_pem, ca).unwrap()
            };
            let tls = LiveTls::new(TlsSettings::new(&identity).unwrap());
            Authority::open(self.dir.path().into(), OWN, identity, Some(tls)).unwrap()
        }
    }

    fn trusting(next: &ClusterCa) -> AuthorityState {
        AuthorityState {
            present: Vec::new(),
            next: Some(NextAuthority {
                certificate: next.certificate().to_vec(),
                is_issuing: true,
            }),
        }
    }

    fn arrived(next: &ClusterCa) -> AuthorityState {
        AuthorityState {
            present: next.certificate().to_vec(),
            next: None,
        }
    }

    /// A daemon may be killed between any two of the files, and starts with what there is.
    #[test]
    fn the_last_step_can_be_interrupted_anywhere() {
        let [old, new] = ["a", "a"].map(|name| ClusterCa::generate(name).unwrap());
        for files_written in 0..3 {
            let voter = Voter::new(&old);
            let before = voter.start();
            before.take_next(new.certificate(), &new.key_pem()).unwrap();
            before.follow(&trusting(&new)).unwrap();
            let request = before.view().unwrap().request;
            let certificate = before.sign_next(&request, OWN).unwrap();
            before.take_certificate(certificate.to_vec()).unwrap();
            assert!(before.view().unwrap().is_certified);
            drop(before);
            if files_written > 0 {
                voter.put(PRESENT, new.certificate());
            }
            if files_written > 1 {
                voter.put(PRESENT_KEY, new.key_pem().as_bytes());
            }
            let after = voter.start();
            after.follow(&arrived(&new)).unwrap();
            assert_eq!(after.certificate(), *new.certificate());
            assert_eq!(after.key_pem().unwrap(), new.key_pem());
            assert!(!voter.has(NEXT) && !voter.has(NEXT_KEY));
            // What it had applied before the start is applied again.
            after.follow(&trusting(&new)).unwrap();
            after.follow(&AuthorityState::default()).unwrap();
            assert_eq!(after.key_pem().unwrap(), new.key_pem());
        }
    }

    #[test]
    fn a_certificate_for_another_node_key_or_authority_is_not_taken() {
        let [old, new] = ["a", "a"].map(|name| ClusterCa::generate(name).unwrap());
        let authority = Voter::new(&old);
        let authority = (authority.start(), authority);
        authority.0.follow(&trusting(&new)).unwrap();
        let own = authority.0.view().unwrap().request;
        let other = KeyRequest::generate().unwrap().request;
        for certificate in [
            new.sign(&own, 2),
            new.sign(&other, OWN),
            old.sign(&own, OWN),
        ] {
            let taken = authority.0.take_certificate(certificate.unwrap().to_vec());
            assert!(taken.is_err());
        }
        let fits = new.sign(&own, OWN).unwrap();
        authority.0.take_certificate(fits.to_vec()).unwrap();
    }
}
