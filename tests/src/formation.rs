//! How nodes become one cluster: what an operator types, in the same order.
//!
//! Invariants: every step looks first whether it is done; only command lines and files of the product are used.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cluster::{Change, Node, Product};
use crate::limits;
use crate::wait::{wait_for, wait_until};

/// TCP port of vfsd in every node.
const PORT: u16 = 7601;

/// Refuses a build that lacks a program of the product.
///
/// # Errors
/// If one is missing; the message says how to build it.
pub fn require_product(product: &Product) -> Result<()> {
    let missing = product.missing();
    if missing.is_empty() {
        return Ok(());
    }
    let folder = product.build.display();
    bail!(
        "{} not in {folder}: run cargo build --workspace first",
        missing.join(" and ")
    )
}

/// Makes one filesystem of all `nodes`: the first founds it, the others join and become voters.
///
/// # Errors
/// If a step fails or the members do not agree in time.
pub fn form(nodes: &[Node]) -> Result<Change> {
    let Some((first, others)) = nodes.split_first() else {
        bail!("a cluster needs a node")
    };
    let mut change = found(first)?;
    for node in others {
        let steps = [join(node, first)?, promote(node, first)?];
        if steps.contains(&Change::Changed) {
            change = Change::Changed;
        }
    }
    wait_for_members(nodes)?;
    Ok(change)
}

/// Starts an agent on each of `nodes`.
///
/// # Errors
/// If one does not become ready.
pub fn start_agents(nodes: &[Node]) -> Result<()> {
    nodes.iter().try_for_each(|node| start(node, "dsm-agent"))
}

/// Makes a filesystem of one member on `node`, and mounts it.
///
/// # Errors
/// If vfsd refuses.
pub fn found(node: &Node) -> Result<Change> {
    let change = if is_member(node)? {
        Change::Unchanged
    } else {
        let (name, listen) = (node.name(), format!("{}:{PORT}", node.address()));
        node.sh(&format!(
            "vfsd init --node {name} --listen {listen} --cluster demo"
        ))?;
        Change::Changed
    };
    start(node, "vfsd")?;
    wait_for_leader(node)?;
    Ok(change)
}

/// Lets `node` join the filesystem of `member` as a learner, by a token, and mounts it.
///
/// # Errors
/// If either refuses.
pub fn join(node: &Node, member: &Node) -> Result<Change> {
    let change = if is_member(node)? {
        Change::Unchanged
    } else {
        let token = node_token(member)?;
        let (name, address, peer) = (node.name(), node.address(), member.address());
        node.sh(&format!(
            "vfsd join --node {name} --listen {address}:{PORT} --peer {peer}:{PORT} --token {token}"
        ))?;
        Change::Changed
    };
    start(node, "vfsd")?;
    Ok(change)
}

fn node_token(member: &Node) -> Result<String> {
    let token = member
        .sh("vfsd token create")
        .context("no join token")?
        .trim()
        .to_owned();
    if token.is_empty() || token.contains(char::is_whitespace) {
        bail!("vfsd token create said {token:?}, which is no token");
    }
    Ok(token)
}

/// Makes the learner `node` a voter, if it is none.
///
/// # Errors
/// If `member` refuses.
pub fn promote(node: &Node, member: &Node) -> Result<Change> {
    if voters(member)?.iter().any(|name| name == node.name()) {
        return Ok(Change::Unchanged);
    }
    member.sh(&format!("vfsd member promote {}", node.name()))?;
    Ok(Change::Changed)
}

/// Starts `unit` now and at every boot.
///
/// # Errors
/// If it does not become ready; the message holds the end of its journal.
pub fn start(node: &Node, unit: &str) -> Result<()> {
    // Enabling makes systemd read all units again, which is slow when nothing is to do.
    let is_running =
        format!("systemctl --quiet is-active {unit} && systemctl --quiet is-enabled {unit}");
    if node.run(&["sh", "-c", &is_running])?.status.success() {
        return Ok(());
    }
    let finished = node.run(&["systemctl", "enable", "--now", "--quiet", unit])?;
    if finished.status.success() {
        return Ok(());
    }
    let journal = node
        .sh(&format!("journalctl --no-pager -o cat -n 10 -u {unit}"))
        .unwrap_or_default();
    let said = finished.stderr_text();
    bail!(
        "{unit} does not start on {}: {}\n{journal}",
        node.name(),
        said.trim()
    )
}

/// The state that the filesystem of `node` tells of itself.
///
/// # Errors
/// If `/vfs` is not mounted there.
pub fn status(node: &Node) -> Result<Value> {
    Ok(serde_json::from_str(
        &node.sh("cat /vfs/.vfs/status.json")?,
    )?)
}

/// Waits until `node` is mounted, knows a leader and has a majority.
///
/// # Errors
/// If that does not come within [`limits::CLUSTER_READY_MAX`].
pub fn wait_for_leader(node: &Node) -> Result<String> {
    let what = format!("a leader that {} knows", node.name());
    wait_for(&what, limits::CLUSTER_READY_MAX, || {
        let Ok(status) = status(node) else {
            return Ok(None);
        };
        let leader = status["leader"].as_str().map(str::to_owned);
        Ok(leader.filter(|_| status["quorum"] == Value::Bool(true)))
    })
}

/// Waits until each of `nodes` lists them all as voters and has a majority.
///
/// # Errors
/// If that does not come within [`limits::CLUSTER_READY_MAX`].
pub fn wait_for_members(nodes: &[Node]) -> Result<()> {
    for node in nodes {
        wait_for_leader(node)?;
        let what = format!("{} voters on {}", nodes.len(), node.name());
        wait_until(&what, limits::CLUSTER_READY_MAX, || {
            Ok(voters(node)?.len() >= nodes.len())
        })?;
    }
    Ok(())
}

/// Names of the voters that `node` knows.
fn voters(node: &Node) -> Result<Vec<String>> {
    let text = node.sh("cat /vfs/.vfs/members.json")?;
    let document: Value = serde_json::from_str(&text)?;
    let members = document["members"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    let voters = members.iter().filter(|member| member["role"] == "voter");
    Ok(voters
        .filter_map(|member| member["name"].as_str().map(str::to_owned))
        .collect())
}

fn is_member(node: &Node) -> Result<bool> {
    Ok(node
        .run(&["test", "-e", "/var/lib/vfsd/config.toml"])?
        .status
        .success())
}
