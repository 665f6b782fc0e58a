//! Operations on one node of the demo, and taking it all away.

use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use system_tests::cluster::{Change, Cluster, Node, preconditions};
use system_tests::formation;

use crate::demo::CLUSTER;
use crate::phase;

/// The demo's cluster.
///
/// # Errors
/// If it is not up.
pub fn cluster() -> Result<Cluster> {
    Cluster::open(CLUSTER)?.context("no nodes are up. Start them: scripts/demo.sh up")
}

/// A node of the demo.
///
/// # Errors
/// If it was never made; the message names those that were.
pub fn node(name: &str) -> Result<Node> {
    let cluster = cluster()?;
    let node = cluster.node(name)?;
    if !node.exists() {
        let nodes = cluster.nodes()?;
        let names: Vec<&str> = nodes.iter().map(Node::name).collect();
        bail!("there is no node {name}; there are {}", names.join(" "));
    }
    Ok(node)
}

/// Replaces this process by a shell in the node.
pub fn shell(name: &str) -> Result<ExitCode> {
    let prompt = format!("PS1={name}# ");
    exec(name, &["env", &prompt, "bash", "--norc"].map(str::to_owned))
}

/// Replaces this process by a command in the node.
pub fn exec(name: &str, command: &[String]) -> Result<ExitCode> {
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let error = node(name)?.command(&words)?.exec();
    Err(error).context("cannot start nsenter")
}

/// Cuts the node's power.
pub fn kill(name: &str) -> Result<()> {
    let node = node(name)?;
    phase::run(&format!("power of {name} cut"), || {
        Ok(remark(node.power_cut()?, "it was off already"))
    })
}

/// Boots the node.
pub fn boot(name: &str) -> Result<()> {
    let node = node(name)?;
    phase::run(&format!("node {name} up"), || {
        Ok(remark(node.boot()?, "it was up already"))
    })
}

/// Makes an empty node that joins by a token.
pub fn add(name: &str) -> Result<()> {
    let cluster = cluster()?;
    let node = cluster.node(name)?;
    phase::run(&format!("node {name} up"), || {
        Ok(remark(node.boot()?, "it was up already"))
    })?;
    phase::run(&format!("{name} joined"), || {
        let change = formation::join(&node, &living_member(&cluster, name)?)?;
        formation::wait_for_leader(&node)?;
        formation::start(&node, "dsm-agent")?;
        Ok(remark(change, "it was a member already"))
    })?;
    println!("{name} is a learner with a full mount. To let it vote:");
    println!("  scripts/demo.sh exec n1 vfsd member promote {name}");
    Ok(())
}

fn living_member(cluster: &Cluster, except: &str) -> Result<Node> {
    for node in cluster.nodes()? {
        if node.name() != except && node.init()?.is_some() && !node.is_cut()? {
            return Ok(node);
        }
    }
    bail!("no other node runs: boot one first, for example scripts/demo.sh boot n1")
}

/// Cuts the node's cable.
pub fn cut(name: &str) -> Result<()> {
    node(name)?.cut()?;
    println!("{name} is cut off. To mend it: scripts/demo.sh heal {name}");
    Ok(())
}

/// Mends the node's cable.
pub fn heal(name: &str) -> Result<()> {
    node(name)?.heal()?;
    println!("{name} is connected.");
    Ok(())
}

/// Freezes the node.
pub fn freeze(name: &str) -> Result<()> {
    node(name)?.set_frozen(true)?;
    println!("{name} is frozen. To let it go on: scripts/demo.sh thaw {name}");
    Ok(())
}

/// Thaws the node.
pub fn thaw(name: &str) -> Result<()> {
    node(name)?.set_frozen(false)?;
    println!("{name} goes on.");
    Ok(())
}

/// Takes the demo away.
pub fn down() -> Result<()> {
    let Some(cluster) = Cluster::open(CLUSTER)? else {
        println!("No nodes are up.");
        return Ok(());
    };
    phase::run("nodes taken away", || cluster.down().map(|()| ""))
}

/// Says whether this machine can hold nodes.
pub fn check() -> Result<()> {
    preconditions::check()?;
    println!("This machine can hold nodes.");
    Ok(())
}

/// The remark of a phase that had nothing to do.
pub fn remark(change: Change, unchanged: &'static str) -> &'static str {
    if change == Change::Unchanged {
        unchanged
    } else {
        ""
    }
}
