//! A node without a majority: it answers, it refuses writes, and it comes back.

use std::time::Duration;

use anyhow::Result;
use system_tests::formation;
use system_tests::limits;
use system_tests::mounted::{Mounted, barrier};
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
    n3.sh("echo back > /vfs/p/back")?;
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
