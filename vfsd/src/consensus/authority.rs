//! The cluster's certificate authority as this node has it: the certificate always, the key only on voters.

use std::path::PathBuf;

use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use crate::storage::atomic_file;
use crate::transport::identity::ClusterCa;

/// See the module.
pub struct Authority {
    key_file: PathBuf,
    certificate: CertificateDer<'static>,
    // Leaf lock.
    ca: Mutex<Option<ClusterCa>>,
}

impl Authority {
    /// The authority with this certificate, whose key is in `key_file` if this node has it.
    ///
    /// # Errors
    /// If the file exists and holds no key.
    pub fn open(key_file: PathBuf, certificate: CertificateDer<'static>) -> anyhow::Result<Self> {
        let ca = match std::fs::read_to_string(&key_file).map(Zeroizing::new) {
            Ok(pem) => Some(ClusterCa::from_parts(certificate.clone(), &pem)?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Self {
            key_file,
            certificate,
            ca: Mutex::new(ca),
        })
    }

    /// The certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The key, if this node has it.
    pub fn key_pem(&self) -> Option<Zeroizing<String>> {
        self.ca.lock().as_ref().map(ClusterCa::key_pem)
    }

    /// Keeps the key that another voter sent: this node becomes one.
    ///
    /// # Errors
    /// If it is no key or cannot be stored.
    pub fn take(&self, key_pem: &str) -> anyhow::Result<()> {
        let ca = ClusterCa::from_parts(self.certificate.clone(), key_pem)?;
        atomic_file::write(&self.key_file, key_pem.as_bytes(), 0o600)?;
        *self.ca.lock() = Some(ca);
        Ok(())
    }

    /// Signs a request as `node`.
    ///
    /// # Errors
    /// If this node has no key, or the request is malformed.
    pub fn sign(&self, request: &[u8], node: u64) -> anyhow::Result<CertificateDer<'static>> {
        let ca = self.ca.lock();
        let ca = ca
            .as_ref()
            .ok_or_else(|| anyhow::anyhow!("this node has no key of the authority"))?;
        Ok(ca.sign(request, node)?)
    }
}
