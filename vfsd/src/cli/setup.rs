//! Makes data directories: of the first member, and of a joining one.
//!
//! Invariants: a directory is sealed last, so that one which was made half way is never started; its key is on disk
//! before the cluster hears of it, so that an attempt that was interrupted can be made again. Not here: a member that
//! lost its state (`rejoin.rs`).

use std::path::{Path, PathBuf};

use age::secrecy::ExposeSecret;
use anyhow::{Context, bail};
use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use crate::clock;
use crate::config::NodeConfig;
use crate::consensus::cluster::authority;
use crate::consensus::cluster::node_name::{NAME_HINT, is_valid_name};
use crate::consensus::cluster::peers_file;
use crate::consensus::node::NodeSettings;
use crate::consensus::raft::entry_format::first_entries;
use crate::state_machine::command::{Author, Command, Entry, Grant, Member};
use crate::state_machine::ids::NodeId;
use crate::state_machine::level::Level;
use crate::state_machine::log_time::{LogTime, Stamp};
use crate::storage::append_log::AppendLog;
use crate::storage::atomic_file;
use crate::storage::data_dir::DataDir;
use crate::storage::disk::RealDisk;
use crate::transport::enrol::{EnrolRequest, Enrolled, enrol};
use crate::transport::identity::{ClusterCa, KeyRequest, NodeIdentity};
use crate::transport::token::Token;

/// Id of the member that founds a cluster. Later ids are log indexes, which are larger: the log begins with entries.
const FOUNDER: u64 = 1;

/// Who a new member is.
#[derive(Debug, Clone)]
pub struct NewMember {
    /// Its name.
    pub name: String,
    /// `ip:port` that it listens on.
    pub listen: String,
    /// Where its data goes.
    pub data_dir: PathBuf,
    /// Size of its log segments.
    pub log_segment_bytes: u64,
}

impl NewMember {
    /// A member with segments of the usual size.
    ///
    /// # Errors
    /// If the name or the address cannot be one.
    pub fn new(name: &str, listen: &str, data_dir: &Path) -> anyhow::Result<Self> {
        check_name("node", name)?;
        match listen.parse::<std::net::SocketAddr>() {
            Ok(address) if !address.ip().is_unspecified() && address.port() != 0 => {}
            _ => bail!(
                "--listen {listen:?} is no address that other members can reach; use IP:PORT of this machine, \
                 for example 10.77.0.1:7601"
            ),
        }
        Ok(Self {
            name: name.into(),
            listen: listen.into(),
            data_dir: data_dir.into(),
            log_segment_bytes: NodeSettings::SEGMENT_BYTES,
        })
    }
}

/// Checks the name of a node, or of a cluster, whichever `whose` says.
///
/// # Errors
/// If it cannot have this name.
pub fn check_name(whose: &str, name: &str) -> anyhow::Result<()> {
    if !is_valid_name(name) {
        bail!("{name:?} cannot be a {whose}'s name; {NAME_HINT}");
    }
    Ok(())
}

/// Makes the data directory of the only member of a new cluster called `name`. Returns the cluster's id.
///
/// # Errors
/// If a cluster cannot have this name, if there is a member's data already, or the disk refuses.
pub fn found_cluster(member: &NewMember, name: &str) -> anyhow::Result<String> {
    check_name("cluster", name)?;
    let random: [u8; 2] = rand::random();
    let cluster = format!("{}-{name}", hex::encode(random));
    let dir = DataDir::create(&member.data_dir)?;
    let ca = ClusterCa::generate(&cluster)?;
    let request = KeyRequest::generate()?;
    let certificate = ca.sign(&request.request, FOUNDER)?;
    write_tls(&dir, &certificate, ca.certificate(), &request.key_pem)?;
    atomic_file::write(&dir.tls().join("ca.key"), ca.key_pem().as_bytes(), 0o600)?;
    let age_public = age_identity(&dir)?;
    let first = Member {
        node: NodeId(FOUNDER),
        name: member.name.clone(),
        address: member.listen.clone(),
        grant: Grant::Writer,
        age_public,
    };
    let founding = |command| {
        let stamp = Stamp {
            log_time: LogTime(0),
            wall: clock::wall(),
        };
        let author = Author {
            node: NodeId(FOUNDER),
            ..Author::daemon()
        };
        let entry = Entry {
            stamp,
            ..Entry::new(author, command)
        };
        entry.encode().into()
    };
    let init = Command::ClusterInit {
        cluster: cluster.clone(),
        first,
    };
    let commands = vec![founding(init), founding(Command::RaiseLevel(Level::KNOWN))];
    AppendLog::create_with(&dir.log(), member.log_segment_bytes)?;
    let log = AppendLog::open_with(&dir.log(), member.log_segment_bytes)?;
    let (sender, written) = std::sync::mpsc::channel();
    let entries = first_entries(FOUNDER, &member.listen, commands);
    log.append(
        entries,
        Box::new(move |result| {
            // Nobody waits any more only if this function has failed.
            let _ = sender.send(result);
        }),
    );
    written.recv().context("the log's writer has stopped")??;
    log.close();
    finish(&dir, member, FOUNDER, &cluster)?;
    Ok(cluster)
}

/// Makes the data directory of a learner that the cluster lets in by `token`, asking the member at `peer`.
///
/// # Errors
/// If the cluster refuses, cannot be reached, or the disk refuses.
pub async fn join_cluster(
    member: &NewMember,
    peer: &str,
    token: &Token,
) -> anyhow::Result<Enrolled> {
    let dir = DataDir::create(&member.data_dir)?;
    let key = begin_key(&dir)?;
    let request = EnrolRequest {
        secret: token.secret,
        expires_secs: token.expires_secs,
        name: member.name.clone(),
        address: member.listen.clone(),
        age_public: age_identity(&dir)?,
        signing_request: key.request.clone(),
    };
    let enrolled = enrol(peer, token.ca_digest, &request).await?;
    settle_in(&dir, member, &key, &enrolled)?;
    Ok(enrolled)
}

/// The key of an attempt that was interrupted, or a new one. It is on disk before the cluster hears of it: whoever asks
/// again with the same key gets what the first attempt may have got.
pub(super) fn begin_key(dir: &DataDir) -> anyhow::Result<KeyRequest> {
    let path = dir.key_file();
    match std::fs::read_to_string(&path).map(Zeroizing::new) {
        Ok(pem) => KeyRequest::from_pem(&pem)
            .with_context(|| format!("{} is no key; remove it", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let key = KeyRequest::generate()?;
            atomic_file::write(&path, key.key_pem.as_bytes(), 0o600)?;
            Ok(key)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

pub(super) fn settle_in(
    dir: &DataDir,
    member: &NewMember,
    key: &KeyRequest,
    enrolled: &Enrolled,
) -> anyhow::Result<()> {
    let certificate = CertificateDer::from(enrolled.certificate.clone());
    let ca = CertificateDer::from(enrolled.ca.clone());
    write_tls(dir, &certificate, &ca, &key.key_pem)?;
    AppendLog::create_with(&dir.log(), member.log_segment_bytes)?;
    peers_file::save(&*RealDisk::shared(), &dir.peers_file(), &enrolled.members)?;
    finish(dir, member, enrolled.node, &enrolled.cluster)
}

fn finish(dir: &DataDir, member: &NewMember, id: u64, cluster: &str) -> anyhow::Result<()> {
    let config = NodeConfig {
        cluster: cluster.into(),
        node: member.name.clone(),
        id,
        listen: member.listen.clone(),
    };
    config.save(&dir.config_file())?;
    Ok(dir.seal()?)
}

fn write_tls(
    dir: &DataDir,
    certificate: &CertificateDer<'_>,
    ca: &CertificateDer<'_>,
    key_pem: &str,
) -> anyhow::Result<()> {
    let tls = dir.tls();
    atomic_file::write(&tls.join("node.der"), certificate, 0o600)?;
    atomic_file::write(&tls.join("ca.der"), ca, 0o600)?;
    atomic_file::write(&dir.key_file(), key_pem.as_bytes(), 0o600)?;
    Ok(())
}

/// The identity with which secrets are sealed to this node, of an attempt that was interrupted or a new one; returns
/// its public half.
pub(super) fn age_identity(dir: &DataDir) -> anyhow::Result<String> {
    let begun = std::fs::read_to_string(dir.identity_file()).map(Zeroizing::new);
    if let Ok(text) = begun
        && let Ok(identity) = text.trim().parse::<age::x25519::Identity>()
    {
        return Ok(identity.to_public().to_string());
    }
    let identity = age::x25519::Identity::generate();
    let text = identity.to_string();
    let content = format!("{}\n", text.expose_secret());
    atomic_file::write(&dir.identity_file(), content.as_bytes(), 0o600)?;
    Ok(identity.to_public().to_string())
}

/// The identity in the data directory.
///
/// # Errors
/// If a file is missing or is not what it should be.
pub fn load_identity(tls: &Path) -> anyhow::Result<NodeIdentity> {
    let read = |name: &str| {
        let path = tls.join(name);
        std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let key = Zeroizing::new(String::from_utf8(read("node.key")?)?);
    let mut identity = NodeIdentity::from_parts(
        CertificateDer::from(read("node.der")?),
        &key,
        CertificateDer::from(read("ca.der")?),
    )?;
    if tls.join(authority::NEXT).exists() {
        identity.also_trusted = Some(CertificateDer::from(read(authority::NEXT)?));
    }
    Ok(identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_no_cluster_can_have_makes_no_data_directory() {
        let temp = tempfile::tempdir().unwrap();
        let data = temp.path().join("data");
        let member = NewMember::new("n1", "127.0.0.1:7601", &data).unwrap();
        for name in ["", "a/b", "two words", "line\n", &"x".repeat(3_000)] {
            let refusal = found_cluster(&member, name).unwrap_err().to_string();
            assert!(refusal.contains("cannot be a cluster's name"), "{refusal}");
            assert!(!data.exists());
        }
    }
}
