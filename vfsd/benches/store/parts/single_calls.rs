//! One caller, one call after the other: everything that is compared, in turns. A row more is an entry more.
//!
//! Each row of a cluster has a folder of its own, made and used by the node that calls: a folder that other nodes use
//! too costs each of them the replay of its changes. Only events are watched elsewhere, for they are that replay.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::ensure;
use system_tests::wait::wait_until;

use crate::calls::{self, Echo, save};
use crate::events::Watch;
use crate::figures::Unit::Millis;
use crate::figures::{Name, Report, Row};
use crate::plan::{Plan, WAIT_MAX};
use crate::systems::Systems;
use crate::systems::cluster::Cluster;
use crate::systems::etcd;

/// Keys that are gone round, so that etcd saves over what is there.
const ETCD_KEYS: usize = 16;

/// Files that are saved over in turn under a watch: a late event of one is not taken for that of another.
const EVENT_FILES: usize = 16;

/// Adds the rows.
pub fn measure(plan: &Plan, systems: &Systems, report: &mut Report) -> anyhow::Result<()> {
    let echo = Echo::start()?;
    let mut rows = baselines(plan, systems, &echo, report)?;
    let mut leaders = Vec::new();
    for cluster in &systems.clusters {
        leaders.push(cluster.leader()?);
        rows.extend(of_cluster(cluster)?);
    }
    plan.single_calls.measure(rows, report)?;
    for (cluster, leader) in systems.clusters.iter().zip(leaders) {
        ensure!(
            cluster.leader()? == leader,
            "the leader has changed while its rows were measured: measure again on a quieter machine"
        );
    }
    Ok(())
}

fn baselines<'a>(
    plan: &Plan,
    systems: &'a Systems,
    echo: &'a Echo,
    report: &mut Report,
) -> anyhow::Result<Vec<Row<'a>>> {
    let ext4 = plan.dir.join("ext4");
    fs::create_dir_all(&ext4)?;
    let ms = |key, label| Name::new(key, label, Millis);
    let mut rows = vec![
        Row::timed(ms("echo_ms", "loopback echo of one byte"), |_| echo.call()),
        Row::timed(
            ms("ext4_save_ms", "save of 256 B on ext4, with fdatasync"),
            calls::synced_new_file(&ext4),
        ),
        Row::timed(
            ms("fuse_floor_ms", "create, write, close on FUSE alone"),
            calls::new_file(&systems.floor.mount),
        ),
        Row::timed(
            ms("raw_round_ms", "Raft round on our log and TLS"),
            systems.raw.call(),
        ),
    ];
    let put = ms("etcd_put_ms", "etcd put of 256 B");
    if let Some(etcd) = &systems.etcd {
        let mut client = etcd.client(0)?;
        let call = move |number| client.put(&format!("k{}", number % ETCD_KEYS));
        rows.push(Row::timed(put, call));
    } else {
        report.absent(put, etcd::ABSENT);
    }
    Ok(rows)
}

fn of_cluster(cluster: &Cluster) -> anyhow::Result<Vec<Row<'_>>> {
    let [leader, follower] = cluster.leader_and_follower()?;
    let ms = |key, label| Name::new(key, label, Millis).of(cluster.build);
    let there = folder(follower, "read")?.join("file");
    save(&there)?;
    Ok(vec![
        Row::timed(
            ms("save_ms", "save of 256 B over a file, at the leader"),
            calls::overwrite(&folder(leader, "save")?),
        ),
        Row::timed(
            ms(
                "save_follower_ms",
                "save of 256 B over a file, at a follower",
            ),
            calls::overwrite(&folder(follower, "save-f")?),
        ),
        Row::timed(
            ms("new_file_ms", "save of 256 B as a new file, at the leader"),
            calls::new_file(&folder(leader, "new")?),
        ),
        Row::timed(
            ms(
                "new_file_follower_ms",
                "save of 256 B as a new file, at a follower",
            ),
            calls::new_file(&folder(follower, "new-f")?),
        ),
        Row::timed(
            ms("append_ms", "append of 256 B with fsync, at the leader"),
            calls::append(&folder(leader, "append")?)?,
        ),
        Row::new(
            ms(
                "event_ms",
                "start of a save to IN_CLOSE_WRITE on another node",
            ),
            event(leader, follower, Since::Start)?,
        ),
        Row::new(
            ms("event_after_close_ms", "return of close to that event"),
            event(leader, follower, Since::Closed)?,
        ),
        Row::timed(
            ms("stat_ms", "stat, at a follower"),
            calls::stat(there.clone()),
        ),
        Row::timed(
            ms("read_ms", "open, read 256 B, close, at a follower"),
            calls::read(there),
        ),
    ])
}

/// Makes a folder on a node's mount.
fn folder(mount: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let folder = mount.join(name);
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// From where the time to an event counts.
#[derive(Clone, Copy)]
enum Since {
    /// From the start of the save.
    Start,
    /// From the return of its close: below nothing if the event came first.
    Closed,
}

/// Saves over a file of `here`, and tells how long it takes to the event `there`, in milliseconds.
fn event(
    here: &Path,
    there: &Path,
    since: Since,
) -> anyhow::Result<impl FnMut(usize) -> anyhow::Result<f64> + use<>> {
    let name = match since {
        Since::Start => "event",
        Since::Closed => "event-after",
    };
    let (here, there) = (folder(here, name)?, there.join(name));
    let file = |number| format!("file-{}", number % EVENT_FILES);
    for number in 0..EVENT_FILES {
        save(&here.join(file(number)))?;
    }
    let last = there.join(file(EVENT_FILES - 1));
    wait_until("the files elsewhere", WAIT_MAX, || Ok(last.exists()))?;
    let watch = Watch::on(&there)?;
    Ok(move |number| {
        let name = file(number);
        let start = Instant::now();
        save(&here.join(&name))?;
        let closed = Instant::now();
        let seen = watch.next(name.as_ref())?;
        let from = match since {
            Since::Start => start,
            Since::Closed => closed,
        };
        Ok(millis_between(from, seen))
    })
}

/// Milliseconds from one to the other, below nothing if the other was first.
fn millis_between(from: Instant, to: Instant) -> f64 {
    let ahead = to.saturating_duration_since(from).as_secs_f64();
    let behind = from.saturating_duration_since(to).as_secs_f64();
    (ahead - behind) * 1e3
}
