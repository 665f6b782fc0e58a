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

/// Holds the agent of `node` at the `boundary` of `step`, or of its next step if that is `*`.
///
/// # Errors
/// If the node does not run.
pub fn arm(node: &Node, step: &str, boundary: &str) -> Result<()> {
    node.sh(&format!("rm -f {STATE}/crash-held"))?;
    node.write(
        &format!("{STATE}/crash-at"),
        format!("{step}:{boundary}:hold\n").as_bytes(),
    )
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
        if node
            .run(&["test", "-e", &format!("{STATE}/crash-held")])?
            .status
            .success()
        {
            return Ok(Some(true));
        }
        let status = deployment.status(node)?.unwrap_or_default();
        let done =
            status["phase"] == "Active" && status["generation"].as_u64() >= Some(generation_min);
        Ok(done.then_some(false))
    })?;
    if !held {
        node.sh(&format!("rm -f {STATE}/crash-at"))?;
        return Ok(Struck::NotReached);
    }
    let fired = node.sh(&format!("tail -n 1 {STATE}/crash-fired"))?;
    println!(
        "{} of {} dies at {}",
        kind.word(),
        node.name(),
        fired.trim()
    );
    // The used failpoint must be gone on disk too, or it comes back with the power.
    node.sh(&format!("sync {STATE}"))?;
    match kind {
        Kind::Agent => node.sh(&format!(
            "systemctl kill --signal=KILL dsm-agent; rm {STATE}/crash-held"
        ))?,
        Kind::Vfsd => node.sh(&format!(
            "systemctl kill --signal=KILL vfsd; rm {STATE}/crash-held"
        ))?,
        Kind::Power => {
            node.power_cut()?;
            node.boot()?;
            String::new()
        }
    };
    Ok(Struck::Yes)
}

/// Where the agent keeps what is of its node only.
const STATE: &str = "/var/lib/dsm-agent";
