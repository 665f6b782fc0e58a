//! Parallel writers: slices of a few seconds of each system in turns.

use std::fs;

use crate::calls::save;
use crate::figures::Unit::PerSecond;
use crate::figures::{Name, Report, Row};
use crate::parallel::{Write, rate};
use crate::plan::Plan;
use crate::systems::Systems;
use crate::systems::cluster::Cluster;
use crate::systems::etcd::{self, Etcd};

/// Rows of so many writers: key and label of ours, then of etcd's.
const WRITERS: [(usize, [&str; 2], [&str; 2]); 2] = [
    (
        16,
        ["saves_per_s_16", "saves over files, 16 writers"],
        ["etcd_puts_per_s_16", "etcd puts, 16 clients"],
    ),
    (
        64,
        ["saves_per_s_64", "saves over files, 64 writers"],
        ["etcd_puts_per_s_64", "etcd puts, 64 clients"],
    ),
];

/// Adds the rows.
pub fn measure(plan: &Plan, systems: &Systems, report: &mut Report) -> anyhow::Result<()> {
    let mut rows: Vec<Row> = Vec::new();
    for (writers, [key, label], [etcd_key, etcd_label]) in WRITERS {
        for cluster in &systems.clusters {
            let name = Name::new(key, label, PerSecond).of(cluster.build);
            rows.push(rate(name, plan.slice, saves(cluster, writers)?));
        }
        let name = Name::new(etcd_key, etcd_label, PerSecond);
        match &systems.etcd {
            Some(etcd) => rows.push(rate(name, plan.slice, puts(etcd, writers)?)),
            None => report.absent(name, etcd::ABSENT),
        }
    }
    plan.rates.measure(rows, report)
}

/// Writers that are spread over the nodes, each with a folder and a file of its own.
fn saves(cluster: &Cluster, writers: usize) -> anyhow::Result<Vec<Write<'_>>> {
    let writer = |number: usize| -> anyhow::Result<Write<'_>> {
        let node = &cluster.daemons[number % cluster.daemons.len()];
        let folder = node.mount.join(format!("writers-{writers}/{number}"));
        fs::create_dir_all(&folder)?;
        Ok(Box::new(move || save(&folder.join("file"))))
    };
    (0..writers).map(writer).collect()
}

fn puts(etcd: &Etcd, writers: usize) -> anyhow::Result<Vec<Write<'_>>> {
    let writer = |number: usize| -> anyhow::Result<Write<'_>> {
        let mut client = etcd.client(number)?;
        Ok(Box::new(move || client.put(&format!("writer{number}"))))
    };
    (0..writers).map(writer).collect()
}
