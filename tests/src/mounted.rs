//! A test cluster with the filesystem mounted on every node, and agents where a test asks for them.
//!
//! Invariant: the daemons' journals outlive their nodes: `target/system-tests/<test>/<node>.log` holds those of the
//! test's last run.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cluster::{Node, Product, TestCluster};
use crate::formation;
use crate::limits;
use crate::wait::wait_until;

/// Nodes that form one filesystem.
#[derive(Debug)]
pub struct Mounted {
    nodes: Vec<Node>,
    cluster: TestCluster,
}

impl Mounted {
    /// Boots `count` nodes that form one filesystem; no agents.
    ///
    /// # Errors
    /// If a program is not built, a node does not boot, or the members do not agree.
    pub fn boot(count: u8) -> Result<Self> {
        Self::boot_prepared(count, |_| Ok(()))
    }

    /// As [`Mounted::boot`]; `prepare` changes each node before anything of the product runs there.
    ///
    /// # Errors
    /// As [`Mounted::boot`], or if `prepare` fails.
    pub fn boot_prepared(count: u8, prepare: impl Fn(&Node) -> Result<()>) -> Result<Self> {
        formation::require_product(&Product::of_this_build()?)?;
        let cluster = TestCluster::boot(count)?;
        let mounted = Self {
            nodes: cluster.nodes()?,
            cluster,
        };
        mounted.nodes.iter().try_for_each(prepare)?;
        formation::form(&mounted.nodes)?;
        Ok(mounted)
    }

    /// As [`Mounted::boot`], with an agent on each node.
    ///
    /// # Errors
    /// As [`Mounted::boot`], or if an agent does not become ready.
    pub fn boot_with_agents(count: u8) -> Result<Self> {
        let mounted = Self::boot(count)?;
        formation::start_agents(&mounted.nodes)?;
        Ok(mounted)
    }

    /// The nodes, in order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The first three nodes.
    ///
    /// # Errors
    /// If there are fewer.
    pub fn three(&self) -> Result<[&Node; 3]> {
        let [first, second, third, ..] = self.nodes.as_slice() else {
            bail!("fewer than three nodes")
        };
        Ok([first, second, third])
    }

    /// The cluster of nodes below.
    pub fn cluster(&self) -> &TestCluster {
        &self.cluster
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = self.keep_journals() {
            eprintln!("the journals are lost: {error:#}");
        }
    }
}

/// What is worth keeping of a node: the daemons' journals, and the record as the node reads it.
const KEPT: &str = "journalctl --no-pager -o short-precise -u vfsd -u dsm-agent
                    timeout 5 tail -n +1 /vfs/run/*/*/status.txt /vfs/run/*/*/log/*/*.jsonl 2>&1
                    exit 0";

impl Mounted {
    fn keep_journals(&self) -> Result<()> {
        let thread = std::thread::current();
        let build = Product::of_this_build()?.build;
        let target = build.parent().context("the build folder has no parent")?;
        let folder = target
            .join("system-tests")
            .join(thread.name().unwrap_or("unnamed"));
        fs::create_dir_all(&folder)?;
        for node in &self.nodes {
            let kept = node.sh(KEPT).unwrap_or_else(|error| format!("{error:#}"));
            fs::write(folder.join(format!("{}.log", node.name())), kept)?;
        }
        Ok(())
    }
}

/// Waits until `node` has applied everything that was committed anywhere before the call.
///
/// # Errors
/// If the barrier fails.
pub fn barrier(node: &Node) -> Result<()> {
    node.sh("sync /vfs/.vfs")
        .map(drop)
        .with_context(|| format!("no barrier on {}", node.name()))
}

/// Waits until somebody's unmount of the tree on `node` is healed.
///
/// # Errors
/// If it is not within its time.
pub fn wait_for_tree(node: &Node) -> Result<()> {
    wait_until(
        "the tree to be mounted again",
        limits::CLUSTER_READY_MAX,
        || {
            let seen = node.run(&["test", "-e", "/vfs/.vfs/status.json"])?;
            Ok(seen.status.success())
        },
    )
}

/// What a node's daemon said last, and what it knows, for the message of a test that fails.
pub fn last_words(node: &Node) -> String {
    let asked = "date +%T.%N; cat /vfs/.vfs/status.json; journalctl --no-pager -o short-precise -u vfsd -n 60";
    let said = node.run(&["sh", "-c", asked]);
    said.map_or_else(|error| error.to_string(), |said| said.stdout_text())
}

/// Waits until `nodes` have one state at one entry, which a line of `vfsd digest` names both.
///
/// # Errors
/// If they do not come to that.
pub fn wait_for_equal_digests(nodes: &[&Node]) -> Result<()> {
    let mut digests = Vec::new();
    wait_until("equal digests", limits::CLUSTER_READY_MAX, || {
        let told = nodes.iter().map(|node| node.sh("vfsd digest"));
        digests = told.collect::<Result<Vec<_>>>()?;
        Ok(digests.windows(2).all(|pair| pair[0] == pair[1]))
    })
    .with_context(|| format!("{digests:?}"))
}

/// Kills the vfsd of `node` without warning, and waits until its service manager has brought it back.
///
/// # Errors
/// If it does not come back.
pub fn kill_vfsd(node: &Node) -> Result<()> {
    let pid = || node.sh("systemctl show -P MainPID vfsd");
    let before = pid()?;
    node.sh("systemctl kill --signal=KILL vfsd")?;
    wait_until(
        "vfsd to be started again",
        limits::CLUSTER_READY_MAX,
        || {
            let now = pid()?;
            Ok(now != before && now.trim() != "0" && is_ready(node)?)
        },
    )?;
    formation::wait_for_leader(node).map(drop)
}

fn is_ready(node: &Node) -> Result<bool> {
    let state = node.run(&["systemctl", "is-active", "vfsd"])?;
    Ok(state.stdout_text().trim() == "active")
}

/// Runs a script that must fail with `message` on its standard error, within `limit`.
///
/// # Errors
/// If it succeeds, says something else, or takes longer.
pub fn refused(node: &Node, script: &str, message: &str, limit: Duration) -> Result<()> {
    let finished = node.run_within(&["bash", "-c", script], &[], limit)?;
    let said = finished.stderr_text();
    if finished.status.success() || !said.contains(message) {
        bail!(
            "{script:?} on {} ended with {} and said {said:?}, not {message:?}",
            node.name(),
            finished.status
        );
    }
    Ok(())
}
