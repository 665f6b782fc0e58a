//! A member that lost its state: it gets a new id, and its old directory is kept beside the new one.
//!
//! Invariants: nothing of the old directory is changed before the new one is sealed; whatever step was interrupted, the
//! same command goes on from there. Not here: what the cluster does (`consensus/cluster/enrolment.rs`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use tokio::time::Instant;

use super::setup::{NewMember, age_identity, begin_key, load_identity, settle_in};
use crate::clock;
use crate::config::NodeConfig;
use crate::consensus::cluster::peers::{Peers, Purpose};
use crate::consensus::cluster::peers_file::{self, Addresses};
use crate::consensus::wire::{ClusterChange, Reply, Request};
use crate::limits::{ENROL_TIMEOUT, HEARTBEAT_INTERVAL, REJOIN_WAIT_MAX};
use crate::storage::data_dir::DataDir;
use crate::storage::disk::RealDisk;
use crate::transport::client::{ANY_MEMBER, CallError};
use crate::transport::enrol::Enrolled;
use crate::transport::tls::{LiveTls, TlsSettings};

const DAMAGED: &str = "damaged-";

/// What came of it.
#[derive(Debug)]
pub struct Rejoined {
    /// The new id.
    pub node: u64,
    /// Id of the cluster.
    pub cluster: String,
    /// Where the old directory is now.
    pub old: PathBuf,
}

/// Gives the member whose state in `data_dir` is lost or damaged a new id as learner. Its certificate proves who it is.
/// `waiting` is told what is waited for, whenever that changes.
///
/// # Errors
/// If the directory has no certificate, no other member answers, or the cluster refuses.
pub async fn rejoin(
    data_dir: &Path,
    peer: Option<&str>,
    log_segment_bytes: u64,
    waiting: &mut dyn FnMut(&str),
) -> anyhow::Result<Rejoined> {
    let new_dir = sibling(data_dir, "new");
    if !new_dir.join("FORMAT").exists() {
        let old = DataDir::open(data_dir)?;
        let config = NodeConfig::load(&old.config_file())?;
        let fresh = NewMember {
            data_dir: new_dir.clone(),
            log_segment_bytes,
            ..NewMember::new(&config.node, &config.listen, data_dir)?
        };
        let members = others(&old, config.id, peer)?;
        let tls = TlsSettings::new(&load_identity(&old.tls())?)?;
        let dir = DataDir::create(&fresh.data_dir)?;
        let key = begin_key(&dir)?;
        let change = ClusterChange::Rejoin {
            address: config.listen.clone(),
            age_public: age_identity(&dir)?,
            signing_request: key.request.clone(),
        };
        let peers = Peers::new(LiveTls::new(tls));
        let enrolled = ask(&peers, &members, &change, waiting).await?;
        settle_in(&dir, &fresh, &key, &enrolled)?;
    }
    move_in(data_dir, &new_dir)
}

/// The members to ask.
fn others(old: &DataDir, own: u64, peer: Option<&str>) -> anyhow::Result<Addresses> {
    let mut members = peers_file::load(&RealDisk, &old.peers_file());
    members.retain(|(id, _)| *id != own);
    members.extend(peer.map(|peer| (ANY_MEMBER, peer.to_owned())));
    if members.is_empty() {
        bail!(
            "no other member is known in {}; give one with --peer IP:PORT",
            old.peers_file().display()
        );
    }
    Ok(members)
}

/// Puts the sealed `new_dir` in the place of `data_dir`.
fn move_in(data_dir: &Path, new_dir: &Path) -> anyhow::Result<Rejoined> {
    let config = {
        let dir = DataDir::open(new_dir)?;
        NodeConfig::load(&dir.config_file())?
    };
    let old = if data_dir.exists() {
        // Not while a daemon runs on it.
        drop(DataDir::open(data_dir)?);
        let aside = sibling(data_dir, &format!("{DAMAGED}{}", clock::wall().secs));
        rename(data_dir, &aside)?;
        aside
    } else {
        last_aside(data_dir)
    };
    rename(new_dir, data_dir)?;
    Ok(Rejoined {
        node: config.id,
        cluster: config.cluster,
        old,
    })
}

fn rename(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::rename(from, to)
        .with_context(|| format!("cannot move {} to {}", from.display(), to.display()))
}

fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// Where an attempt that was interrupted has put the old directory.
fn last_aside(data_dir: &Path) -> PathBuf {
    let prefix = sibling(data_dir, DAMAGED);
    let beside = data_dir.parent().map(std::fs::read_dir);
    let paths = beside.into_iter().flatten().flatten().flatten();
    let aside = paths
        .map(|entry| entry.path())
        .filter(|path| {
            path.as_os_str()
                .as_encoded_bytes()
                .starts_with(prefix.as_os_str().as_encoded_bytes())
        })
        .max();
    aside.unwrap_or(prefix)
}

/// Asks one member after the other until the leader among them answers: an election, or a voter that is being started,
/// takes some seconds.
async fn ask(
    peers: &Peers,
    members: &Addresses,
    change: &ClusterChange,
    waiting: &mut dyn FnMut(&str),
) -> anyhow::Result<Enrolled> {
    let deadline = Instant::now() + REJOIN_WAIT_MAX;
    let mut said = String::new();
    loop {
        let mut answers = BTreeMap::new();
        let mut refused = 0;
        for (id, address) in members {
            let channel = peers.channel(*id, address, Purpose::Control);
            let request = Request::Change(change.clone()).encode();
            let left = deadline.saturating_duration_since(Instant::now());
            let answer = peers
                .call(*id, &*channel, request, ENROL_TIMEOUT.min(left))
                .await;
            let why_not = match answer {
                Ok(bytes) => match Reply::decode(&bytes).map_err(anyhow::Error::msg)? {
                    Reply::Enrolled(reply) => return Ok(reply?),
                    Reply::NotLeader(_) => "does not lead".to_owned(),
                    Reply::NotReady(reason) => format!("leads, but {reason}"),
                    other => bail!("{address} gave an unexpected answer: {other:?}"),
                },
                Err(error) => {
                    refused += usize::from(matches!(error, CallError::Refused(_)));
                    error.to_string()
                }
            };
            answers.insert(address, why_not);
        }
        let answers: Vec<_> = answers
            .iter()
            .map(|(address, why_not)| format!("{address}: {why_not}"))
            .collect();
        let answers = answers.join("; ");
        if refused == members.len() {
            bail!("no member takes this node's certificate: {answers}");
        }
        if Instant::now() + HEARTBEAT_INTERVAL >= deadline {
            let waited = REJOIN_WAIT_MAX.as_secs();
            bail!("no leader that has a majority has answered within {waited} s: {answers}");
        }
        if answers != said {
            waiting(&format!("a leader that has a majority ({answers})"));
            said = answers;
        }
        tokio::time::sleep(HEARTBEAT_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::setup::found_cluster;

    /// The old directory moves away and the new one in: a crash may come between any two of these.
    #[tokio::test]
    async fn an_interrupted_rejoin_goes_on_where_it_was() {
        let temp = tempfile::tempdir().unwrap();
        let data = temp.path().join("data");
        let sealed = |path: &Path| {
            let member = NewMember::new("n1", "127.0.0.1:1", path).unwrap();
            found_cluster(&member, "test").unwrap()
        };
        sealed(&data);
        let second = sealed(&sibling(&data, "new"));
        let again = rejoin(&data, None, 0, &mut |_| ()).await.unwrap();
        assert_eq!(again.cluster, second);
        assert!(again.old.join("FORMAT").exists() && data.join("FORMAT").exists());

        std::fs::rename(&data, sibling(&data, "new")).unwrap();
        let last = rejoin(&data, None, 0, &mut |_| ()).await.unwrap();
        assert_eq!((last.cluster, &last.old), (second, &again.old));
        assert!(data.join("FORMAT").exists());
    }
}
