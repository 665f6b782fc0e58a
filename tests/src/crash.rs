//! Crashes exactly at a step's boundary: the agent is held there by its failpoint, then something dies.
//!
//! Invariants: a failpoint is used up before anything dies, also on disk, so that it never fires twice; every crash
//! says what it was.

use anyhow::Result;

use crate::cluster::Node;
use crate::deployment::Deployment;
use crate::limits;
use crate::wait::wait_for;

/// Where an agent can be held, in the words of its failpoints.
pub const BOUNDARIES: [&str; 4] = [
    "before-started",
    "after-started",
    "after-effect",
    "after-succeeded",
];

/// What dies.
pub const KINDS: [Kind; 3] = [Kind::Agent, Kind::Vfsd, Kind::Power];

/// What dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The agent, by SIGKILL.
    Agent,
    /// The filesystem's daemon, by SIGKILL.
    Vfsd,
    /// The node, by a power cut.
    Power,
}

impl Kind {
    /// Its word on command lines and in reports.
    pub fn word(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Vfsd => "vfsd",
            Self::Power => "power",
        }
    }
}

/// Whether a crash took place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Struck {
    /// Something died at the boundary.
    Yes,
    /// The deployment was Active before the node came to such a boundary.
    NotReached,
}

/// Holds the agent of `node` once at each of `places`, which are steps (`*` for any) and boundaries.
///
/// # Errors
/// If the node does not run.
pub fn arm(node: &Node, places: &[(&str, &str)]) -> Result<()> {
    release(node)?;
    let order: String = places
        .iter()
        .map(|(step, boundary)| format!("{step}:{boundary}:hold\n"))
        .collect();
    node.write(&format!("{STATE}/crash-at"), order.as_bytes())
}

/// Takes back what was armed, and lets a held agent go on.
///
/// # Errors
/// If the node does not run.
pub fn release(node: &Node) -> Result<()> {
    let files = ["crash-at", "crash-held", "crash-fired"].map(|file| format!("{STATE}/{file}"));
    node.sh(&format!("rm -f {}", files.join(" "))).map(drop)
}

/// Whether the agent of `node` is held.
///
/// # Errors
/// If the node does not run.
pub fn is_held(node: &Node) -> Result<bool> {
    let held = node.run(&["test", "-e", &format!("{STATE}/crash-held")])?;
    Ok(held.status.success())
}

/// Steps and boundaries at which the agent of `node` was held since it was armed.
///
/// # Errors
/// If the node does not run.
pub fn fired(node: &Node) -> Result<Vec<(String, String)>> {
    let lines = node.sh(&format!("cat {STATE}/crash-fired"))?;
    let place = |line: &str| {
        let mut words = line.split(' ').skip(1).map(str::to_owned);
        Some((words.next()?, words.next()?))
    };
    Ok(lines.lines().filter_map(place).collect())
}

/// Lets `kind` die on `node`, whose agent is held, and brings it back.
///
/// # Errors
/// If the node does not come back.
pub fn take(node: &Node, kind: Kind) -> Result<()> {
    // What ends the hold must not let the agent go on before it is dead.
    let blow = match kind {
        Kind::Agent => "systemctl kill --signal=KILL dsm-agent",
        Kind::Vfsd => "systemctl kill --signal=KILL vfsd",
        Kind::Power => "systemctl kill --signal=STOP dsm-agent",
    };
    // On disk too, or the hold comes back with the power.
    node.sh(&format!("{blow}; rm -f {STATE}/crash-held; sync {STATE}"))?;
    if kind == Kind::Power {
        node.power_cut()?;
        node.boot()?;
    }
    Ok(())
}

/// Waits until the agent of `node`, which was armed, is held at its boundary, and lets `kind` die there.
///
/// # Errors
/// If neither the boundary nor `Active` is reached in time, or the node does not come back.
pub fn strike(
    node: &Node,
    kind: Kind,
    deployment: Deployment<'_>,
    generation_min: u64,
) -> Result<Struck> {
    let what = format!(
        "the agent of {} to be held, or the deployment to be done",
        node.name()
    );
    let held = wait_for(&what, limits::DEPLOYMENT_MAX, || {
        if is_held(node)? {
            return Ok(Some(true));
        }
        let done = deployment.is_active(node, generation_min)?;
        Ok(done.then_some(false))
    })?;
    if !held {
        release(node)?;
        return Ok(Struck::NotReached);
    }
    for (step, boundary) in fired(node)? {
        println!(
            "{} of {} dies at {step} {boundary}",
            kind.word(),
            node.name()
        );
    }
    take(node, kind)?;
    Ok(Struck::Yes)
}

/// Where the agent keeps what is of its node only.
const STATE: &str = "/var/lib/dsm-agent";
