//! Secrets of deployments: sealed to the nodes that may open them (age, X25519), plaintext never in the tree.
//!
//! Invariants: a node's identity is read from vfsd's data directory and never leaves the process; the public halves are
//! those in `/.vfs/members.json`; the first value of a key wins (`O_EXCL`), whoever generates it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use drivers::driver::{Secret, Secrets};
use drivers::error::DriverError;
use rand::RngExt;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::engine::id::DeploymentId;
use crate::engine::record::{FORMAT, SealedSecret};
use crate::limits::{SECRET_BYTES_MAX, SECRETS_MAX};
use crate::mount::paths;
use crate::mount::performer::json_bytes;
use crate::mount::run_store::{RecordError, RunStore, error_text, text};

/// The sealed secrets of one deployment.
pub struct DeploymentSecrets {
    store: Arc<RunStore>,
    identity: PathBuf,
    deployment: DeploymentId,
    /// Nodes that a new secret is sealed to.
    nodes: Vec<String>,
}

/// Why a secret could not be opened or sealed.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The record or the tree.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// There is none.
    #[error("{deployment} has no secret {key}")]
    Missing {
        /// Whose.
        deployment: DeploymentId,
        /// Which.
        key: String,
    },
    /// The node's identity cannot be read.
    #[error("this node's identity {path} cannot be used: {reason}")]
    Identity {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A member has no usable public key.
    #[error("node {node} has no usable age_public in /.vfs/members.json")]
    Recipient {
        /// Which.
        node: String,
    },
    /// The sealed form is broken, or not for this node.
    #[error("secret {key} of {deployment} cannot be opened on this node: {reason}")]
    Closed {
        /// Whose.
        deployment: DeploymentId,
        /// Which.
        key: String,
        /// Why.
        reason: String,
    },
    /// The key or value is not acceptable.
    #[error("{0}")]
    Refused(String),
}

impl DeploymentSecrets {
    /// Secrets of `deployment`; new ones are sealed to `nodes`.
    pub fn new(
        store: Arc<RunStore>,
        identity: PathBuf,
        deployment: DeploymentId,
        nodes: Vec<String>,
    ) -> Self {
        Self {
            store,
            identity,
            deployment,
            nodes,
        }
    }

    /// Opens a secret.
    ///
    /// # Errors
    /// [`SecretError`].
    pub fn open(&self, key: &str) -> Result<Secret, SecretError> {
        check_key(key)?;
        let sealed: Option<SealedSecret> =
            self.store.json(&paths::secret(&self.deployment, key))?;
        let sealed = sealed.ok_or_else(|| SecretError::Missing {
            deployment: self.deployment.clone(),
            key: key.to_owned(),
        })?;
        let identity = self.identity()?;
        let closed = |reason: String| SecretError::Closed {
            deployment: self.deployment.clone(),
            key: key.to_owned(),
            reason,
        };
        let bytes = STANDARD
            .decode(&sealed.sealed)
            .map_err(|error| closed(error.to_string()))?;
        let decryptor =
            age::Decryptor::new(bytes.as_slice()).map_err(|error| closed(error.to_string()))?;
        let mut reader = decryptor
            .decrypt(std::iter::once(&identity as &dyn age::Identity))
            .map_err(|error| {
                let to = sealed
                    .recipients
                    .keys()
                    .cloned()
                    .collect::<Vec<_>>()
                    .join(", ");
                closed(format!("{error}; it is sealed to {to}"))
            })?;
        let mut plaintext = Zeroizing::new(String::new());
        reader
            .read_to_string(&mut plaintext)
            .map_err(|error| closed(error.to_string()))?;
        Ok(Secret::new(plaintext.as_str().to_owned()))
    }

    /// Seals a new value, in place of an old one if `replace`; false if there was one and it stays.
    ///
    /// # Errors
    /// [`SecretError`].
    pub fn seal(&self, key: &str, value: &str, replace: bool) -> Result<bool, SecretError> {
        check_key(key)?;
        if value.len() > SECRET_BYTES_MAX {
            return Err(SecretError::Refused(format!(
                "the value has {} bytes, more than {SECRET_BYTES_MAX}",
                value.len()
            )));
        }
        let tree = self.store.tree();
        let directory = paths::secrets(&self.deployment);
        let record = |error| SecretError::Record(RecordError::Tree(error));
        if tree.make_dir(&directory).map_err(record)? {
            tree.keep_out_of_history(&directory).map_err(record)?;
        }
        let bytes = json_bytes(&self.sealed(value)?);
        let path = paths::secret(&self.deployment, key);
        if tree.create(&path, &bytes).map_err(record)? {
            return Ok(true);
        }
        // An empty file is a creation whose content never came.
        let is_empty = tree
            .read(&path)
            .map_err(record)?
            .is_none_or(|found| found.bytes.is_empty());
        if replace || is_empty {
            tree.write(&path, &bytes).map_err(record)?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Seals every secret to the nodes given at the start. Returns the keys whose recipients changed.
    ///
    /// # Errors
    /// [`SecretError`].
    pub fn reseal(&self) -> Result<Vec<String>, SecretError> {
        let directory = paths::secrets(&self.deployment);
        let entries = self
            .store
            .tree()
            .list(&directory)
            .map_err(RecordError::Tree)?;
        let mut changed = Vec::new();
        for entry in entries.into_iter().take(SECRETS_MAX) {
            let path = paths::secret(&self.deployment, &entry.name);
            let Some(sealed) = self.store.json::<SealedSecret>(&path)? else {
                continue;
            };
            if sealed.recipients == self.recipients()? {
                continue;
            }
            let value = self.open(&entry.name)?;
            self.seal(&entry.name, value.expose(), true)?;
            changed.push(entry.name);
        }
        Ok(changed)
    }

    fn sealed(&self, value: &str) -> Result<SealedSecret, SecretError> {
        let recipients = self.recipients()?;
        let mut keys = Vec::new();
        for (node, key) in &recipients {
            let key = age::x25519::Recipient::from_str(key)
                .map_err(|_| SecretError::Recipient { node: node.clone() })?;
            keys.push(key);
        }
        let refused = |error: String| SecretError::Refused(format!("sealing failed: {error}"));
        let encryptor =
            age::Encryptor::with_recipients(keys.iter().map(|key| key as &dyn age::Recipient))
                .map_err(|error| refused(error.to_string()))?;
        let mut bytes = Vec::new();
        let mut writer = encryptor
            .wrap_output(&mut bytes)
            .map_err(|error| refused(error.to_string()))?;
        writer
            .write_all(value.as_bytes())
            .map_err(|error| refused(error.to_string()))?;
        writer
            .finish()
            .map_err(|error| refused(error.to_string()))?;
        Ok(SealedSecret {
            format: FORMAT,
            recipients,
            sealed: STANDARD.encode(bytes),
        })
    }

    fn recipients(&self) -> Result<BTreeMap<String, String>, SecretError> {
        let members = self.store.json_any(paths::MEMBERS)?.unwrap_or(Value::Null);
        let listed = members
            .get("members")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        let mut recipients = BTreeMap::new();
        for node in &self.nodes {
            let member = listed.iter().find(|member| &text(member, "name") == node);
            let key = member
                .map(|member| text(member, "age_public"))
                .unwrap_or_default();
            if key.is_empty() {
                return Err(SecretError::Recipient { node: node.clone() });
            }
            recipients.insert(node.clone(), key);
        }
        Ok(recipients)
    }

    fn identity(&self) -> Result<age::x25519::Identity, SecretError> {
        let fail = |reason: String| SecretError::Identity {
            path: self.identity.clone(),
            reason,
        };
        let content = std::fs::read_to_string(&self.identity)
            .map(Zeroizing::new)
            .map_err(|error| fail(error.to_string()))?;
        let line = content
            .lines()
            .map(str::trim)
            .find(|line| line.starts_with("AGE-SECRET-KEY-"));
        let line = line.ok_or_else(|| fail("it holds no AGE-SECRET-KEY line".to_owned()))?;
        age::x25519::Identity::from_str(line).map_err(|error| fail(error.to_owned()))
    }
}

impl Secrets for DeploymentSecrets {
    fn reveal(&self, key: &str) -> Result<Secret, DriverError> {
        self.open(key).map_err(|error| match error {
            SecretError::Record(RecordError::Tree(_)) => DriverError::Retryable {
                code: "secret-unreadable",
                message: error_text(&error),
            },
            _ => DriverError::Permanent {
                code: "secret-closed",
                message: error_text(&error),
                hint: format!("see: dsm-agent secret list {}", self.deployment),
            },
        })
    }

    fn ensure_generated(&self, key: &str, len: usize) -> Result<(), DriverError> {
        const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
        let mut random = rand::rng();
        let value: Zeroizing<String> = Zeroizing::new(
            (0..len)
                .map(|_| char::from(LETTERS[random.random_range(0..LETTERS.len())]))
                .collect(),
        );
        self.seal(key, &value, false)
            .map(|_| ())
            .map_err(|error| DriverError::Retryable {
                code: "secret-not-sealed",
                message: error_text(&error),
            })
    }
}

/// A key is a file name.
fn check_key(key: &str) -> Result<(), SecretError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if key.is_empty() || key.len() > 64 || key.starts_with('.') || !key.chars().all(plain) {
        return Err(SecretError::Refused(format!(
            "{key:?} cannot be the name of a secret; use up to 64 of a-z A-Z 0-9 - _ ."
        )));
    }
    Ok(())
}
