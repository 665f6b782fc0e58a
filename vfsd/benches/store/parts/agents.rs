//! From a wish to the first step, and what agents cost that have nothing to do: three agents and the driver `file`.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use system_tests::wait::wait_until;

use super::idle::{Idle, watch_for};
use crate::figures::Unit::{Entries, Millis};
use crate::figures::{Block, Name, Report, Row, Turns};
use crate::plan::{Plan, WAIT_MAX};
use crate::systems::cluster::Cluster;
use crate::systems::processes::Process;
use crate::systems::{Systems, agents};

/// Agents that had something to do are at rest when the log has not grown for this long.
const REST: Duration = Duration::from_secs(2);

/// Adds the rows of the agents, or why they are not there.
pub fn measure(plan: &Plan, systems: &Systems, report: &mut Report) -> anyhow::Result<()> {
    let label = "return of a wish's close to the first step's started";
    let started = Name::new("first_started_ms", label, Millis);
    let program = plan.vfsd.with_file_name("dsm-agent");
    if !program.exists() {
        report.absent(started, &format!("{} is not there", program.display()));
        return Ok(());
    }
    let cluster = &systems.clusters[0];
    let agents = agents::start(&program, &cluster.daemons, &plan.dir)?;
    let deployments: Vec<Deployment> = (0..plan.deployments)
        .map(|number| Deployment::new(cluster, &format!("bench-{number}"), &plan.dir))
        .collect();
    let Some((first, others)) = deployments.split_first() else {
        return Ok(());
    };
    // The first one makes the record's folders.
    first.first_started()?;
    let wishes = Turns {
        count: plan.wishes,
        block: 1,
        warm_up: 0,
        rest: Duration::ZERO,
    };
    wishes.measure(vec![Row::new(started, |_| first.first_started())], report)?;
    for deployment in others {
        deployment.first_started()?;
    }
    report.turn(nothing_to_do(plan, cluster, &agents)?);
    deployments.iter().try_for_each(Deployment::remove)
}

/// What members and agents use, and what they write, while every deployment is as wished.
fn nothing_to_do(plan: &Plan, cluster: &Cluster, agents: &[Process]) -> anyhow::Result<Vec<Block>> {
    wait_for_rest(cluster)?;
    let before = cluster.daemons[0].applied()?;
    let idle = Idle::begin(cluster, agents)?;
    watch_for(plan.idle_for);
    let beside = format!(", {} deployments", plan.deployments);
    let keys = ["idle_leader_cpu_agents", "idle_follower_cpu_agents"];
    let mut blocks = idle.members(keys, &beside)?;
    let label = format!("processor time of an idle agent{beside}");
    blocks.push(idle.agents("idle_agent_cpu", &label)?);
    let entries = cluster.daemons[0].applied()? - before;
    let label = format!("entries of idle agents in {} s", plan.idle_for.as_secs());
    let name = Name::new("idle_entries", &label, Entries);
    blocks.push(Block::one(name, entries as f64));
    Ok(blocks)
}

/// What follows a deployment (observations, status) is not idleness.
fn wait_for_rest(cluster: &Cluster) -> anyhow::Result<()> {
    let mut before = 0;
    wait_until("the agents to come to rest", WAIT_MAX, || {
        watch_for(REST);
        let now = cluster.daemons[0].applied()?;
        Ok(std::mem::replace(&mut before, now) == now)
    })
}

/// A wish for the driver `file` on all nodes, saved at the first one.
struct Deployment {
    wish: PathBuf,
    record: PathBuf,
    nodes: Vec<String>,
    file: PathBuf,
    generation: Cell<u32>,
}

impl Deployment {
    fn new(cluster: &Cluster, name: &str, dir: &Path) -> Self {
        let mount = &cluster.daemons[0].mount;
        let nodes = cluster.daemons.iter().map(|daemon| daemon.name.clone());
        Self {
            wish: mount.join(format!("mid/{name}.json")),
            record: mount.join(format!("run/mid/{name}")),
            nodes: nodes.collect(),
            file: dir.join(format!("deployed-{name}")),
            generation: Cell::new(0),
        }
    }

    /// Saves the next wish, waits until it is fulfilled, and tells the milliseconds from the return of the save to the
    /// first `started` of its generation, by the clock of this machine.
    fn first_started(&self) -> anyhow::Result<f64> {
        let generation = self.generation.get() + 1;
        self.generation.set(generation);
        let params = json!({"path": self.file, "content": format!("{generation}\n")});
        let wish = json!({"driver": "file", "nodes": self.nodes, "params": params});
        fs::write(&self.wish, wish.to_string())?;
        let closed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
        let name = format!("{generation:06}");
        let result = self.record.join(format!("plans/{name}/result.json"));
        wait_until("a deployment", WAIT_MAX, || {
            Ok(result.exists() && self.is_in_phase("Active"))
        })?;
        let mut first = f64::INFINITY;
        for node in &self.nodes {
            let log = self.record.join(format!("log/{node}/{name}.jsonl"));
            for line in fs::read_to_string(log)?.lines() {
                let line: Value = serde_json::from_str(line)?;
                if line["ev"] == "started" {
                    let at: jiff::Timestamp = line["at"].as_str().unwrap_or_default().parse()?;
                    first = first.min(at.as_microsecond() as f64 / 1e6);
                }
            }
        }
        Ok((first - closed) * 1e3)
    }

    fn is_in_phase(&self, phase: &str) -> bool {
        let status = fs::read(self.record.join("status.json")).unwrap_or_default();
        let status: Value = serde_json::from_slice(&status).unwrap_or_default();
        status["phase"] == phase
    }

    fn remove(&self) -> anyhow::Result<()> {
        fs::remove_file(&self.wish)?;
        wait_until("a removal", WAIT_MAX, || Ok(self.is_in_phase("Removed")))
    }
}
