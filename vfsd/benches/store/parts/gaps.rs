//! The longest time without a save when the leader is killed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use system_tests::wait::wait_until;

use crate::calls::save;
use crate::figures::Unit::Millis;
use crate::figures::{Name, Report, Row};
use crate::plan::{Plan, WAIT_MAX};
use crate::systems::Systems;
use crate::systems::cluster::Cluster;

/// Saves before the leader is killed, and after another one leads.
const SAVES: u64 = 50;

/// Adds the rows; the clusters' leaders are others afterwards.
pub fn measure(plan: &Plan, systems: &mut Systems, report: &mut Report) -> anyhow::Result<()> {
    let rows = systems.clusters.iter_mut().map(|cluster| {
        let label = "longest gap between saves, leader killed";
        let name = Name::new("leader_kill_gap_ms", label, Millis).of(cluster.build);
        Row::new(name, |_| gap(cluster))
    });
    plan.kills.measure(rows.collect(), report)
}

/// Kills the leader under a writer on another node, tells the longest gap in milliseconds, and heals.
fn gap(cluster: &mut Cluster) -> anyhow::Result<f64> {
    let leader = cluster.leader()?;
    let [_, follower] = cluster.leader_and_follower()?;
    let file = follower.join("gap");
    let victim = &mut cluster.daemons[leader].process;
    let (stop, saved) = (AtomicBool::new(false), AtomicU64::new(0));
    let gap = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
            while !stop.load(Ordering::Relaxed) {
                // A refused save is part of the gap.
                if save(&file).is_ok() {
                    longest = longest.max(last.elapsed());
                    last = Instant::now();
                    saved.fetch_add(1, Ordering::Relaxed);
                }
            }
            longest
        });
        let progress = || {
            let from = saved.load(Ordering::Relaxed);
            wait_until("saves", WAIT_MAX, || {
                Ok(saved.load(Ordering::Relaxed) >= from + SAVES)
            })
        };
        let outcome = progress()
            .and_then(|()| victim.kill())
            .and_then(|()| progress());
        stop.store(true, Ordering::Relaxed);
        let longest = writer.join().map_err(|_| anyhow!("the writer panicked"))?;
        outcome.map(|()| longest)
    })?;
    cluster.start_again(leader)?;
    Ok(gap.as_secs_f64() * 1e3)
}
