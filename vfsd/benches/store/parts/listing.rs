//! `ls -l` of a large folder on nodes whose kernels have not seen it: for the first time, and again.

use std::fs::{self, File};
use std::path::Path;

use anyhow::ensure;

use crate::calls::list;
use crate::figures::Unit::Millis;
use crate::figures::{Name, Report, Row};
use crate::parallel::times;
use crate::plan::Plan;
use crate::systems::Systems;

/// Threads that make the names.
const MAKERS: usize = 16;

/// How often a folder is listed again, and how often on ext4.
const AGAIN: usize = 5;

/// Adds the rows: a turn for each follower, for each sees the folder for the first time once.
pub fn measure(plan: &Plan, systems: &Systems, report: &mut Report) -> anyhow::Result<()> {
    let ext4 = plan.dir.join("ext4-names");
    make_names(&ext4, plan.names)?;
    let mut mounts = Vec::new();
    for cluster in &systems.clusters {
        let [leader, _] = cluster.leader_and_follower()?;
        make_names(&leader.join("names"), plan.names)?;
        cluster.wait_applied()?;
        let followers = cluster
            .followers()?
            .map(|follower| follower.mount.join("names"));
        mounts.push((cluster.build, followers.collect::<Vec<_>>()));
    }
    let row = |key, when, folder| {
        let label = format!("ls -l of {} names, {when}", plan.names);
        (Name::new(key, &label, Millis), lists(folder, plan.names))
    };
    for turn in 0..mounts[0].1.len() {
        let (name, call) = row("ls_ext4_ms", "on ext4", &ext4);
        let mut blocks = vec![Row::timed(name, call).block(AGAIN, 0)?];
        for (build, folders) in &mounts {
            let (name, call) = row("ls_first_ms", "first time on a node", &folders[turn]);
            blocks.push(Row::timed(name.of(*build), call).block(1, 0)?);
            let (name, call) = row("ls_again_ms", "again", &folders[turn]);
            blocks.push(Row::timed(name.of(*build), call).block(AGAIN, 0)?);
        }
        report.turn(blocks);
    }
    Ok(())
}

fn make_names(folder: &Path, names: usize) -> anyhow::Result<()> {
    fs::create_dir_all(folder)?;
    times(names, MAKERS, |number| {
        File::create_new(folder.join(format!("name-{number:06}")))?;
        Ok(())
    })
}

fn lists(folder: &Path, expected: usize) -> impl FnMut(usize) -> anyhow::Result<()> + '_ {
    move |_| {
        let names = list(folder)?;
        let folder = folder.display();
        ensure!(
            names == expected,
            "{folder} has {names} names, and {expected} were made"
        );
        Ok(())
    }
}
