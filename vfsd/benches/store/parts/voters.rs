//! A save over a file with three, five and seven voters, beside the raw round of three.

use crate::calls::overwrite;
use crate::figures::Unit::Millis;
use crate::figures::{Build, Name, Report, Row};
use crate::plan::Plan;
use crate::systems::Systems;
use crate::systems::cluster::Cluster;

/// Adds the rows.
pub fn measure(plan: &Plan, systems: &Systems, report: &mut Report) -> anyhow::Result<()> {
    let start = |voters| {
        let folder = plan.dir.join(format!("voters-{voters}"));
        Cluster::start(Build::This, &plan.vfsd, &folder, voters)
    };
    let (five, seven) = (start(5)?, start(7)?);
    let ms = |key, label| Name::new(key, label, Millis);
    let raw = ms("raw_round_beside_ms", "Raft round beside the next three");
    let mut rows = vec![Row::timed(raw, systems.raw.call())];
    for (key, label, cluster) in [
        (
            "save_3_voters_ms",
            "save of 256 B over a file, 3 voters",
            &systems.clusters[0],
        ),
        (
            "save_5_voters_ms",
            "save of 256 B over a file, 5 voters",
            &five,
        ),
        (
            "save_7_voters_ms",
            "save of 256 B over a file, 7 voters",
            &seven,
        ),
    ] {
        let [leader, _] = cluster.leader_and_follower()?;
        let folder = leader.join("voters");
        std::fs::create_dir_all(&folder)?;
        rows.push(Row::timed(ms(key, label), overwrite(&folder)));
    }
    plan.voters.measure(rows, report)
}
