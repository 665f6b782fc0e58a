//! Worlds in which one thing goes wrong, at one moment: what chance meets too seldom, or too late.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use openraft::ServerState;
use tokio::time::{Instant, sleep};
use vfsd::limits::{LOG_STALL_MAX, SNAPSHOT_RETRY_EVERY, STOP_STEP_MAX};
use vfsd::storage::disk::fake::Faults;

use super::clients::{NOBODY, ROOT, flags};
use super::world::World;

/// Elections and sessions are over by then.
const SETTLED_WITHIN: Duration = Duration::from_secs(3);
/// A leadership goes over in this time, two elections included.
const ELECTED_WITHIN: Duration = Duration::from_secs(4);

/// Their names.
pub const ALL: [&str; 4] = [
    "a_file_that_is_open_outlives_a_snapshot_in_which_it_is_removed",
    "a_leader_whose_disk_hangs_gives_the_lead_away",
    "a_member_whose_disk_hangs_stops_when_it_is_told_to",
    "a_snapshot_that_finds_no_room_ends_nobody_and_is_taken_later",
];

/// Runs the scenario `name` in a new world.
pub async fn run(name: &str, world: &mut World) {
    world.wait(SETTLED_WITHIN).await;
    match name {
        "a_leader_whose_disk_hangs_gives_the_lead_away" => hanging_leader(world).await,
        "a_member_whose_disk_hangs_stops_when_it_is_told_to" => hanging_stop(world).await,
        "a_snapshot_that_finds_no_room_ends_nobody_and_is_taken_later" => {
            snapshot_without_room(world).await;
        }
        "a_file_that_is_open_outlives_a_snapshot_in_which_it_is_removed" => {
            removed_by_snapshot(world).await;
        }
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

async fn hanging_stop(world: &mut World) {
    let leader = world.wait_for_leader_besides(None, ELECTED_WITHIN).await;
    let hanging = (leader + 1) % world.members.len();
    world.members[hanging].disk.set_hanging(true);
    // Somebody asks it for its vote, and Raft waits for that to come to its disk.
    world.crash(leader).await;
    world.wait(ELECTED_WITHIN).await;
    let node = &world.members[hanging].running.as_ref().unwrap().node;
    let stopped = tokio::time::timeout(4 * STOP_STEP_MAX, node.stop()).await;
    assert!(stopped.is_ok(), "it waits for its disk");
    world.crash(hanging).await;
}

async fn snapshot_without_room(world: &mut World) {
    let full = world.wait_for_leader_besides(None, ELECTED_WITHIN).await;
    let node = Arc::clone(&world.members[full].running.as_ref().unwrap().node);
    let core = node.core();
    let before = core.view.metrics().snapshot;
    // The log goes on in the segments that it has.
    world.members[full].set_faults(Faults {
        capacity: Some(0),
        ..Faults::default()
    });
    core.view.raft.trigger().snapshot().await.unwrap();
    let deadline = Instant::now() + ELECTED_WITHIN;
    while !core.snapshots.has_failed() {
        assert_eq!(node.failure(), None);
        assert!(Instant::now() < deadline, "there is room for a snapshot");
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(node.failure(), None);
    world.members[full].set_faults(Faults::default());
    world.wait(SNAPSHOT_RETRY_EVERY + SETTLED_WITHIN).await;
    assert_eq!(node.failure(), None);
    assert!(!core.snapshots.has_failed());
    assert!(core.view.metrics().snapshot > before, "nobody tried again");
}

/// What the log brings is told of removal by removal; a snapshot only lacks what is gone.
async fn removed_by_snapshot(world: &mut World) {
    let leader = world.wait_for_leader_besides(None, ELECTED_WITHIN).await;
    let reader = (leader + 1) % world.members.len();
    let [there, here] = [leader, reader].map(|index| {
        let running = world.members[index].running.as_ref().unwrap();
        Arc::clone(&running.fs)
    });
    let name = OsStr::new("open");
    let new = flags(true, false, true);
    let made = there.create(NOBODY, ROOT, name, 0o644, new).await.unwrap();
    there.write_buffered(made.1, 0, b"kept", false).unwrap();
    there.flush(NOBODY, made.1).await.unwrap();
    there.release(made.1);
    here.barrier().await.unwrap();
    let node = here.lookup(ROOT, name).unwrap().node;
    let open = here.open(NOBODY, node, flags(false, false, false)).unwrap();
    world.cut_off(reader);
    there.unlink(NOBODY, ROOT, name).await.unwrap();
    for index in (0..world.members.len()).filter(|index| *index != reader) {
        world.snapshot_on(index).await;
    }
    world.network.heal();
    let deadline = Instant::now() + ELECTED_WITHIN;
    while here.barrier().await.is_err() {
        assert!(Instant::now() < deadline, "it does not catch up");
        sleep(Duration::from_millis(20)).await;
    }
    let core = world.members[reader].running.as_ref().unwrap().node.core();
    assert!(
        core.view.metrics().snapshot.is_some(),
        "the log has brought it"
    );
    assert!(here.lookup(ROOT, name).is_err());
    let kept = here.read(open, 0, 10);
    assert_eq!(kept.as_deref(), Ok(b"kept".as_slice()));
    assert!(here.attr(node).is_ok());
    here.release(open);
}
