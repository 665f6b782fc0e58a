//! The two builds in a node, and changing from one to the other as an operator does: stop, replace the program, start.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use system_tests::cluster::Node;
use system_tests::formation;
use system_tests::limits;
use system_tests::mounted::barrier;
use system_tests::wait::{wait_for, wait_until};

/// Where a node keeps both builds: `/opt/earlier` and `/opt/this`.
const PROGRAM: &str = "/usr/bin/vfsd";
const UNIT: &str = "/usr/lib/systemd/system/vfsd.service";
const DATA: &str = "/var/lib/vfsd";

/// A build of vfsd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Build {
    /// The one that clusters come from.
    Earlier,
    /// The one that is tested.
    This,
}

impl Build {
    fn folder(self) -> &'static str {
        match self {
            Self::Earlier => "/opt/earlier",
            Self::This => "/opt/this",
        }
    }

    /// Its program, beside the one that is installed.
    fn program(self) -> String {
        format!("{}/vfsd", self.folder())
    }

    /// Installs it; whatever runs goes on running.
    fn install(self, node: &Node) -> Result<()> {
        let folder = self.folder();
        node.sh(&format!(
            "install -m 755 {folder}/vfsd {PROGRAM} && install -m 644 {folder}/vfsd.service {UNIT} &&
             systemctl daemon-reload"
        ))
        .map(drop)
    }
}

/// Puts both builds into a node and installs the earlier one.
pub fn prepare(node: &Node, earlier: &Path, unit: &Path) -> Result<()> {
    node.sh(&format!(
        "mkdir -p /opt/earlier /opt/this && cp {PROGRAM} {UNIT} /opt/this/"
    ))?;
    for (path, name) in [(earlier, "vfsd"), (unit, "vfsd.service")] {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        node.write(&format!("/opt/earlier/{name}"), &bytes)?;
    }
    node.sh("chmod 755 /opt/earlier/vfsd")?;
    Build::Earlier.install(node)
}

/// Stops the member, replaces its program, starts it, and waits until it has caught up.
pub fn change(node: &Node, build: Build) -> Result<()> {
    node.sh("systemctl stop vfsd")?;
    build.install(node)?;
    start(node)
}

fn start(node: &Node) -> Result<()> {
    node.sh_within("systemctl start vfsd", limits::CLUSTER_READY_MAX * 3)?;
    formation::wait_for_leader(node)?;
    wait_until("the member to catch up", limits::CLUSTER_READY_MAX, || {
        Ok(barrier(node).is_ok())
    })
}

/// The level by whose rules the member applies entries, and the newest that its build knows.
pub fn levels(node: &Node) -> Result<(u64, u64)> {
    let status: Value = serde_json::from_str(&node.sh("vfsd status --json")?)?;
    // A build from before there were levels says nothing of them.
    let number = |name: &str| status[name].as_u64().unwrap_or(0);
    Ok((number("level"), number("level_known")))
}

/// Waits until all `nodes` have applied the same entry, and refuses to go on if their states differ then. Gives the
/// entry. Nothing may be written meanwhile but what the cluster itself writes.
pub fn require_equal_states(nodes: &[&Node]) -> Result<u64> {
    // This build's command line asks daemons of either build.
    let ask = format!("{} digest --json", Build::This.program());
    let digest = |node: &&Node| -> Result<(u64, String)> {
        let answer: Value = serde_json::from_str(&node.sh(&ask)?)?;
        let applied = answer["applied"].as_u64().context("a digest of no entry")?;
        Ok((applied, answer["digest"].to_string()))
    };
    let what = "all members to have applied the same entry";
    let states = wait_for(what, limits::CLUSTER_READY_MAX, || {
        nodes.iter().try_for_each(|node| barrier(node))?;
        let states = nodes.iter().map(digest).collect::<Result<Vec<_>>>()?;
        let is_one = states.iter().all(|(applied, _)| *applied == states[0].0);
        Ok(is_one.then_some(states))
    })?;
    let (applied, first) = &states[0];
    ensure!(
        states.iter().all(|(_, digest)| digest == first),
        "states differ at entry {applied}: {states:?}"
    );
    Ok(*applied)
}

/// Starts the earlier build on the data directory of a member that applies by the rules of `level`: it must refuse it
/// by the number of its format, and change nothing. Gives what it said.
pub fn require_refusal_of_earlier(node: &Node, level: u64) -> Result<String> {
    let format = format!("vfsd data directory {}", level + 1);
    wait_until("the data to be marked", limits::CLUSTER_READY_MAX, || {
        Ok(node.sh(&format!("cat {DATA}/FORMAT"))?.trim() == format)
    })?;
    node.sh("systemctl stop vfsd")?;
    let contents = format!("cd {DATA} && find . -type f -exec sha256sum {{}} + | sort");
    let before = node.sh(&contents)?;
    // One that does not refuse is ended.
    let run = format!(
        "mkdir -p /run/earlier && timeout --signal=KILL {} {} run --runtime-dir /run/earlier",
        limits::CLUSTER_READY_MAX.as_secs(),
        Build::Earlier.program()
    );
    let finished = node.run(&["sh", "-c", &run])?;
    let after = node.sh(&contents)?;
    let said = format!("{}{}", finished.stdout_text(), finished.stderr_text());
    start(node)?;
    let refused = finished.status.code() == Some(1) && said.contains(&format);
    ensure!(
        refused,
        "the earlier build does not refuse {format:?}: {} {said}",
        finished.status
    );
    ensure!(
        before == after,
        "the earlier build has changed the data: {said}\n{before}\n{after}"
    );
    Ok(said)
}
