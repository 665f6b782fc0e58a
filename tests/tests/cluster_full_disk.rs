//! Data directories without room: what such a node says, what the others do meanwhile, and that it comes back.

use anyhow::{Context, Result, ensure};
use system_tests::cluster::Node;
use system_tests::formation;
use system_tests::limits;
use system_tests::mounted::{Mounted, barrier, last_words};
use system_tests::wait::wait_until;

/// Room for the log of both tests until it is compacted, and for snapshots.
const SMALL_DISK: &str =
    "mkdir -p /var/lib/vfsd && mount -t tmpfs -o size=400m,mode=700 tmpfs /var/lib/vfsd";
const FILL: &str = "head -c 1G /dev/zero > /var/lib/vfsd/filler 2>/dev/null; df --output=avail /var/lib/vfsd | tail -1";
const CLEAN: &str = "rm /var/lib/vfsd/filler";
/// Together more than what is left of a segment of the log and the one that is prepared.
const BURSTS: u32 = 24;

fn boot() -> Result<Mounted> {
    let mounted = Mounted::boot_prepared(3, |node| node.sh(SMALL_DISK).map(drop))?;
    mounted.nodes()[0].sh("echo kept > /vfs/mid/before && mkdir /vfs/load")?;
    Ok(mounted)
}

fn fill(node: &Node) -> Result<()> {
    let left = node.sh(FILL)?;
    assert_eq!(left.trim(), "0", "{} has room", node.name());
    Ok(())
}

/// Saves `number` and 3 MiB, with a program that hears what `fsync` and `close` say: a shell's redirection does not.
/// Nobody else saves meanwhile, so the log grows by that. Gives what is said if it is refused.
fn burst(node: &Node, number: u32) -> Result<Option<String>> {
    let save = format!(
        "{{ echo {number}; head -c 3M /dev/zero; }} |
         dd of=/vfs/load/burst bs=1M iflag=fullblock conv=fsync status=none"
    );
    let ended = node.run(&["bash", "-c", &save])?;
    let said = ended.stderr_text();
    Ok((!ended.status.success()).then_some(said))
}

/// How often the daemon has ended for want of room; it names what it could not write.
fn ends_without_room(node: &Node) -> Result<usize> {
    let said = node.sh("journalctl --no-pager -u vfsd")?;
    let ends = said.lines().filter(|line| {
        line.contains("consensus has stopped")
            && line.contains("/var/lib/vfsd/")
            && line.contains("No space left on device")
    });
    Ok(ends.count())
}

/// Waits until all serve what was saved before, and have one state. A daemon that met the full disk just before it had
/// room again may serve for a moment still, and ends then.
fn wait_until_it_is_back(nodes: &[&Node; 3]) -> Result<()> {
    let mut missing = None;
    let back = wait_until("all to be back", limits::CLUSTER_READY_MAX, || {
        missing = are_back(nodes).err();
        Ok(missing.is_none())
    });
    back.with_context(|| format!("{missing:?}"))
}

fn are_back(nodes: &[&Node; 3]) -> Result<()> {
    for node in nodes {
        barrier(node)?;
        let there = node.sh("cat /vfs/mid/before")?;
        ensure!(there == "kept\n", "{}: {there:?}", node.name());
    }
    let digests = nodes.iter().map(|node| node.sh("vfsd digest"));
    let digests = digests.collect::<Result<Vec<_>>>()?;
    let is_one = digests.windows(2).all(|pair| pair[0] == pair[1]);
    ensure!(is_one, "{digests:?}");
    Ok(())
}

/// The leader is a node like any other: the lead goes to one that can write.
#[test]
fn a_follower_and_then_the_leader_without_room_hold_nobody_up_and_come_back() -> Result<()> {
    let mounted = boot()?;
    let nodes = mounted.three()?;
    for is_leader in [false, true] {
        let leader = formation::wait_for_leader(nodes[0])?;
        let full = nodes
            .iter()
            .position(|node| (node.name() == leader) == is_leader);
        let full = full.context("of three nodes one leads")?;
        let (other, full) = (nodes[(full + 1) % 3], nodes[full]);
        let before = ends_without_room(full)?;
        fill(full)?;
        for number in 0..BURSTS {
            save_beside_a_full_disk(other, number)?;
        }
        wait_until("the daemon to say why it ends", limits::COMMAND_MAX, || {
            Ok(ends_without_room(full)? > before)
        })?;
        other.sh("echo meanwhile > /vfs/mid/meanwhile && cat /vfs/mid/before")?;
        full.sh(CLEAN)?;
        wait_until_it_is_back(&nodes).with_context(|| last_words(full))?;
        assert_eq!(full.sh("cat /vfs/mid/meanwhile")?, "meanwhile\n");
    }
    Ok(())
}

/// While the lead moves a save may be refused; it is said so, and asked for again.
fn save_beside_a_full_disk(node: &Node, number: u32) -> Result<()> {
    let mut refusal = None;
    let saved = wait_until(
        "a save beside a full disk",
        limits::CLUSTER_READY_MAX,
        || {
            let refused = burst(node, number)?;
            let is_saved = refused.is_none();
            refusal = refused.or(refusal.take());
            Ok(is_saved)
        },
    );
    saved.with_context(|| format!("save {number}: {refusal:?}"))
}

#[test]
fn without_room_anywhere_saves_are_refused_and_nothing_is_lost() -> Result<()> {
    let mounted = boot()?;
    let nodes = mounted.three()?;
    nodes.iter().try_for_each(|node| fill(node))?;
    let mut saved = None;
    let mut number = 0;
    wait_until("all to end", limits::DEPLOYMENT_MAX, || {
        if burst(nodes[0], number)?.is_none() {
            saved = Some(number);
        }
        number += 1;
        let ended = nodes.iter().map(|node| ends_without_room(node));
        Ok(ended
            .collect::<Result<Vec<_>>>()?
            .iter()
            .all(|ends| *ends > 0))
    })?;
    let refusal = burst(nodes[0], number)?;
    assert!(refusal.is_some(), "acknowledged without room for it");
    nodes.iter().try_for_each(|node| node.sh(CLEAN).map(drop))?;
    wait_until_it_is_back(&nodes)?;
    let saved = saved.context("not one was saved, though a segment had room")?;
    let there: u32 = nodes[2].sh("head -n 1 /vfs/load/burst")?.trim().parse()?;
    assert!(
        there >= saved,
        "save {saved} was acknowledged, {there} is there"
    );
    nodes[1].sh("echo again > /vfs/mid/again").map(drop)
}
