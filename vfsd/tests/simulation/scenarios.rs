//! Worlds in which one thing goes wrong, at one moment: what chance meets too seldom, or too late.

use std::time::Duration;

use openraft::ServerState;
use tokio::time::{Instant, sleep};
use vfsd::limits::LOG_STALL_MAX;

use super::world::World;

/// Elections and sessions are over by then.
const SETTLED_WITHIN: Duration = Duration::from_secs(3);
/// A leadership goes over in this time, two elections included.
const ELECTED_WITHIN: Duration = Duration::from_secs(4);

/// Their names.
pub const ALL: [&str; 1] = ["a_leader_whose_disk_hangs_gives_the_lead_away"];

/// Runs the scenario `name` in a new world.
pub async fn run(name: &str, world: &mut World) {
    world.wait(SETTLED_WITHIN).await;
    match name {
        "a_leader_whose_disk_hangs_gives_the_lead_away" => hanging_leader(world).await,
        other => panic!("there is no scenario {other}"),
    }
    world.calm().await;
}

impl World {
    /// Who leads, by what the members say that do not hang.
    fn leader_besides(&self, hanging: Option<usize>) -> Option<usize> {
        let others = self.members.iter().enumerate();
        let mut others = others.filter(|(index, _)| Some(*index) != hanging);
        others.find_map(|(index, member)| {
            let metrics = member.running.as_ref()?.node.core().view.metrics();
            (metrics.state == ServerState::Leader).then_some(index)
        })
    }

    async fn wait_for_leader_besides(&mut self, hanging: Option<usize>, within: Duration) -> usize {
        let deadline = Instant::now() + within;
        loop {
            if let Some(leader) = self.leader_besides(hanging) {
                return leader;
            }
            assert!(
                Instant::now() < deadline,
                "nobody leads besides {hanging:?}"
            );
            sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn hanging_leader(world: &mut World) {
    let leader = world.wait_for_leader_besides(None, ELECTED_WITHIN).await;
    world.members[leader].disk.set_hanging(true);
    let within = LOG_STALL_MAX + ELECTED_WITHIN;
    let next = world.wait_for_leader_besides(Some(leader), within).await;
    let next = &world.members[next].running;
    let barrier = next.as_ref().unwrap().fs.barrier().await;
    assert!(barrier.is_ok(), "{barrier:?}");
    // It goes on to be of no use, and does not come back to the lead.
    world.wait(LOG_STALL_MAX).await;
    assert!(world.leader_besides(Some(leader)).is_some());
}
