//! Memory of members.

use std::fs::{self, File};

use crate::calls::save;
use crate::figures::Unit::{Bytes, Mebibytes};
use crate::figures::{Block, Build, Name, Report};
use crate::parallel::times;
use crate::plan::Plan;
use crate::systems::Systems;
use crate::systems::cluster::Cluster;

/// Threads that make the files, with a folder each.
const MAKERS: usize = 64;

/// Adds the memory that leaders have now.
pub fn of_leaders(systems: &Systems, report: &mut Report) -> anyhow::Result<()> {
    for cluster in &systems.clusters {
        let leader = &cluster.daemons[cluster.leader()?];
        let label = "memory of the leader behind all of this";
        let name = Name::new("leader_mib", label, Mebibytes).of(cluster.build);
        let bytes = leader.process.resident_bytes()?;
        report.turn(vec![Block::one(name, bytes / f64::from(1 << 20))]);
    }
    Ok(())
}

/// Adds what an empty file costs a member whose kernel knows it, and one whose kernel does not.
pub fn of_an_inode(plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let cluster = Cluster::start(Build::This, &plan.vfsd, &plan.dir.join("memory"), 3)?;
    let [leader, _] = cluster.leader_and_follower()?;
    for maker in 0..MAKERS {
        fs::create_dir_all(leader.join(format!("made/{maker}")))?;
    }
    let folder = |number: usize| leader.join(format!("made/{}", number % MAKERS));
    // What grows with calls and not with files (the window of outcomes, the log's cache) is full before.
    times(plan.inodes, MAKERS, |number| {
        save(&folder(number).join("file"))
    })?;
    let before = Memory::of(&cluster)?;
    times(plan.inodes, MAKERS, |number| {
        File::create_new(folder(number).join(number.to_string()))?;
        Ok(())
    })?;
    let after = Memory::of(&cluster)?;
    let of_one = |before: f64, after: f64| (after - before) / plan.inodes as f64;
    let name = |key, label| Name::new(key, label, Bytes);
    let made_here = name(
        "inode_bytes",
        "memory for an inode, on the node that made it",
    );
    let others = name(
        "inode_bytes_elsewhere",
        "memory for an inode, on the others",
    );
    let elsewhere = before.followers.iter().zip(&after.followers);
    let elsewhere = elsewhere.map(|(before, after)| of_one(*before, *after));
    report.turn(vec![
        Block::one(made_here, of_one(before.leader, after.leader)),
        Block::new(others, elsewhere.collect()),
    ]);
    Ok(())
}

/// Bytes of each member's process.
struct Memory {
    leader: f64,
    followers: Vec<f64>,
}

impl Memory {
    /// As soon as all members have applied the same.
    fn of(cluster: &Cluster) -> anyhow::Result<Self> {
        cluster.wait_applied()?;
        let leader = &cluster.daemons[cluster.leader()?].process;
        let followers = cluster
            .followers()?
            .map(|follower| follower.process.resident_bytes());
        Ok(Self {
            leader: leader.resident_bytes()?,
            followers: followers.collect::<anyhow::Result<_>>()?,
        })
    }
}
