//! A node without a majority (it answers, it refuses writes, it comes back), and one that stands still.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use system_tests::cluster::Node;
use system_tests::formation;
use system_tests::limits;
use system_tests::mounted::{Mounted, barrier, last_words};
use system_tests::wait::wait_until;

/// No reading command waits for the network.
const READ_MAX: Duration = Duration::from_secs(5);

/// `write_timeout` is 10 s; the rest is for a loaded machine.
const WRITE_MAX: Duration = Duration::from_secs(15);

#[test]
fn a_cut_off_node_reads_refuses_writes_and_converges_after_healing() -> Result<()> {
    let mounted = Mounted::boot(3)?;
    let [n1, n2, n3] = mounted.three()?;
    n1.sh("mkdir /vfs/p && echo before > /vfs/p/a")?;
    barrier(n3)?;
    n3.cut()?;
    let cut_at = Instant::now();
    for script in [
        "ls -l /vfs/p",
        "cat /vfs/p/a",
        "df /vfs",
        "stat /vfs/p/a",
        "ps ax",
        "cat /vfs/.vfs/status.json",
    ] {
        let finished = n3.run_within(&["sh", "-c", script], &[], READ_MAX)?;
        assert!(
            finished.status.success(),
            "{script}: {}",
            finished.stderr_text()
        );
    }
    // A shell does not hear what becomes of the file when it is closed: `write` has to tell it, once the last contact
    // is no longer fresh, and long before the loss of the majority is certain.
    wait_until("the last contact to be a second old", WRITE_MAX, || {
        Ok(cut_at.elapsed() > Duration::from_secs(1))
    })?;
    let over = n3.run_within(&["bash", "-c", "echo lost > /vfs/p/a"], &[], WRITE_MAX)?;
    assert!(
        !over.status.success() && over.stderr_text().contains("Read-only file system"),
        "a save over a file without a majority: {}",
        over.stderr_text()
    );
    let early = n3.run_within(&["sh", "-c", "echo lost > /vfs/p/early"], &[], WRITE_MAX)?;
    assert!(
        is_refusal(&early.stderr_text()),
        "a write without a majority: {}",
        early.stderr_text()
    );
    wait_until(
        "the loss of the majority to be noticed",
        limits::CLUSTER_READY_MAX,
        || Ok(formation::status(n3)?["quorum"] == false),
    )?;
    let late = n3.run_within(&["sh", "-c", "echo lost > /vfs/p/late"], &[], READ_MAX)?;
    assert!(
        late.stderr_text().contains("Read-only file system"),
        "{}",
        late.stderr_text()
    );
    wait_until("the majority to go on", limits::CLUSTER_READY_MAX, || {
        Ok(n1
            .run(&["sh", "-c", "echo after > /vfs/p/a && touch /vfs/p/new"])?
            .status
            .success())
    })?;
    assert_eq!(n3.sh("cat /vfs/p/a")?, "before\n");
    n3.heal()?;
    wait_until(
        "the healed node to hear of the majority",
        limits::CLUSTER_READY_MAX,
        || Ok(barrier(n3).is_ok() && n3.sh("cat /vfs/p/a")? == "after\n"),
    )?;
    n3.sh("echo back > /vfs/p/back")
        .with_context(|| last_words(n3))?;
    let listing = "ls -la --time-style=full-iso /vfs/p && cat /vfs/p/*";
    for node in [n1, n2] {
        barrier(node)?;
        assert_eq!(node.sh(listing)?, n3.sh(listing)?);
    }
    Ok(())
}

fn is_refusal(said: &str) -> bool {
    said.contains("Read-only file system") || said.contains("Input/output error")
}

/// The kernel lets go of a process that waits for the tree only when the daemon answers, which is frozen too.
#[test]
fn a_node_freezes_and_thaws_also_while_its_processes_wait_for_the_tree() -> Result<()> {
    let mounted = Mounted::boot(3)?;
    let [n1, _, n3] = mounted.three()?;
    n3.sh("systemctl kill --signal=STOP vfsd")?;
    let waiting = n3.start(&["sh", "-c", "echo $$; exec mkdir /vfs/waits"])?;
    let pid = waiting.line(limits::COMMAND_MAX)?;
    wait_until("mkdir to wait for the tree", limits::COMMAND_MAX, || {
        let state = n3.sh(&format!("cut -d ' ' -f 2,3 /proc/{pid}/stat"))?;
        Ok(["(mkdir) S", "(mkdir) D"].contains(&state.trim()))
    })?;
    n3.set_frozen(true)?;
    // Stopping and going on are a daemon's own affair: a thawed node has them as before.
    n3.set_frozen(false)?;
    n3.sh("systemctl kill --signal=CONT vfsd")?;
    waiting.finish(limits::COMMAND_MAX)?.ok()?;
    barrier(n1)?;
    n1.sh("rmdir /vfs/waits")?;
    under_load_it_stands_still(n1, n3)
}

fn under_load_it_stands_still(n1: &Node, n3: &Node) -> Result<()> {
    n3.sh("mkdir /vfs/load")?;
    let writer = n3.start(&["workload", "create", "/vfs/load", "f"])?;
    writer.line(limits::COMMAND_MAX)?;
    n3.set_frozen(true)?;
    barrier(n1)?;
    let frozen = n1.sh("ls /vfs/load")?;
    n1.sh("echo meanwhile > /vfs/other")?;
    barrier(n1)?;
    assert_eq!(n1.sh("ls /vfs/load")?, frozen, "a frozen node went on");
    n3.set_frozen(false)?;
    let before = frozen.lines().count();
    wait_until("the thawed writer to go on", limits::COMMAND_MAX, || {
        Ok(n3.sh("ls /vfs/load")?.lines().count() > before)
    })?;
    writer.stop(limits::COMMAND_MAX)?.ok().map(drop)
}
