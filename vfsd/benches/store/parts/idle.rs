//! What a cluster costs while nobody calls it.

use std::time::{Duration, Instant};

use crate::figures::Unit::PercentOfACore;
use crate::figures::{Block, Build, Name, Report};
use crate::plan::Plan;
use crate::systems::Systems;
use crate::systems::cluster::Cluster;
use crate::systems::processes::Process;

/// Adds the rows of members without agents; all clusters at once.
pub fn without_agents(plan: &Plan, systems: &Systems, report: &mut Report) -> anyhow::Result<()> {
    let watched = systems
        .clusters
        .iter()
        .map(|cluster| Idle::begin(cluster, &[]));
    let watched = watched.collect::<anyhow::Result<Vec<_>>>()?;
    watch_for(plan.idle_for);
    let mut blocks = Vec::new();
    for idle in watched {
        let keys = ["idle_leader_cpu", "idle_follower_cpu"];
        blocks.extend(idle.members(keys, "")?);
    }
    report.turn(blocks);
    Ok(())
}

/// Nothing tells of a time in which nothing happens: it is all that can be waited for.
pub fn watch_for(time: Duration) {
    std::thread::sleep(time);
}

/// Processor time of a cluster from a moment on.
pub struct Idle<'a> {
    build: Build,
    leader: Used<'a>,
    followers: Vec<Used<'a>>,
    agents: Vec<Used<'a>>,
    since: Instant,
}

/// What a process had used at that moment.
struct Used<'a>(&'a Process, f64);

impl<'a> Used<'a> {
    fn now(process: &'a Process) -> anyhow::Result<Self> {
        Ok(Self(process, process.cpu_secs()?))
    }

    fn percent(&self, of: Duration) -> anyhow::Result<f64> {
        Ok((self.0.cpu_secs()? - self.1) / of.as_secs_f64() * 100.0)
    }
}

impl<'a> Idle<'a> {
    /// From now on.
    pub fn begin(cluster: &'a Cluster, agents: &'a [Process]) -> anyhow::Result<Self> {
        let leader = cluster.leader()?;
        let followers = cluster
            .followers()?
            .map(|follower| Used::now(&follower.process));
        Ok(Self {
            build: cluster.build,
            leader: Used::now(&cluster.daemons[leader].process)?,
            followers: followers.collect::<anyhow::Result<_>>()?,
            agents: agents
                .iter()
                .map(Used::now)
                .collect::<anyhow::Result<_>>()?,
            since: Instant::now(),
        })
    }

    /// Blocks of the leader and of the followers up to now.
    pub fn members(&self, keys: [&str; 2], beside: &str) -> anyhow::Result<Vec<Block>> {
        let [leader, follower] = keys;
        let name = |key, who| {
            let label = format!("processor time of an idle {who}{beside}");
            Name::new(key, &label, PercentOfACore).of(self.build)
        };
        Ok(vec![
            Block::one(
                name(leader, "leader"),
                self.leader.percent(self.since.elapsed())?,
            ),
            Block::new(name(follower, "follower"), self.percent(&self.followers)?),
        ])
    }

    /// The block of the agents up to now.
    pub fn agents(&self, key: &str, label: &str) -> anyhow::Result<Block> {
        let name = Name::new(key, label, PercentOfACore);
        Ok(Block::new(name, self.percent(&self.agents)?))
    }

    fn percent(&self, of: &[Used<'_>]) -> anyhow::Result<Vec<f64>> {
        let elapsed = self.since.elapsed();
        of.iter().map(|used| used.percent(elapsed)).collect()
    }
}
