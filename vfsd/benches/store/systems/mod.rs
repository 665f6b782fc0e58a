//! What is measured and what it is compared with: all of it lives at once, and what is not called idles.
//!
//! Invariant: every process and every mount ends with its value, also when measuring fails.

pub mod agents;
pub mod cluster;
pub mod daemon;
pub mod etcd;
pub mod floor;
pub mod processes;
pub mod raw_round;

use anyhow::Context;

use self::cluster::Cluster;
use self::etcd::Etcd;
use self::floor::Floor;
use self::raw_round::RawRound;
use crate::figures::Build;
use crate::plan::Plan;

/// What lives while the main part is measured.
pub struct Systems {
    /// Three voters of this build, and three of the other one if there is one.
    pub clusters: Vec<Cluster>,
    /// `None` where it is not installed.
    pub etcd: Option<Etcd>,
    /// Three members of Raft without a filesystem.
    pub raw: RawRound,
    /// A mount that stores nothing.
    pub floor: Floor,
}

impl Systems {
    /// Starts all of them.
    pub fn start(plan: &Plan) -> anyhow::Result<Self> {
        let mut clusters = vec![Cluster::start(
            Build::This,
            &plan.vfsd,
            &plan.dir.join("three"),
            3,
        )?];
        if let Some(other) = &plan.against {
            let cluster = Cluster::start(Build::Other, other, &plan.dir.join("other"), 3);
            let why = || format!("three voters of {}", other.display());
            clusters.push(cluster.with_context(why)?);
        }
        Ok(Self {
            clusters,
            etcd: Etcd::start(&plan.dir)?,
            raw: RawRound::start(&plan.dir.join("raw"))?,
            floor: Floor::start(&plan.dir.join("floor"))?,
        })
    }
}
