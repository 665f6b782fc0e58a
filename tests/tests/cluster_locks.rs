//! Locks on real mounts: one winner each, and none held for ever by the dead.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use system_tests::cluster::Node;
use system_tests::limits;
use system_tests::mounted::{Mounted, barrier, refused};
use system_tests::wait::wait_until;

const NAMES: usize = 1000;

/// Session TTL 10 s, lock delay 2 s, and a loaded machine's time.
const DEAD_HOLDER_MAX: Duration = Duration::from_secs(25);

#[test]
fn of_three_racing_nodes_exactly_one_makes_each_name() -> Result<()> {
    let mounted = Mounted::boot(3)?;
    let nodes = mounted.three()?;
    nodes[0].sh("mkdir -p /vfs/lk/race/container /vfs/lk/folders/container")?;
    for node in nodes {
        barrier(node)?;
    }
    race(&nodes, "/vfs/lk/race", &[])?;
    race(&nodes, "/vfs/lk/folders", &["--mkdir"])
}

fn race(nodes: &[&Node], folder: &str, options: &[&str]) -> Result<()> {
    let count = NAMES.to_string();
    let words = [&["workload", "race", folder, &count], options].concat();
    let racers = nodes
        .iter()
        .map(|node| node.start(&words))
        .collect::<Result<Vec<_>>>()?;
    let mut winners: BTreeMap<String, usize> = BTreeMap::new();
    for racer in racers {
        for name in racer.finish(limits::COMMAND_MAX)?.ok()? {
            *winners.entry(name).or_default() += 1;
        }
    }
    assert_eq!(winners.len(), NAMES, "names without a winner in {folder}");
    let twice: Vec<_> = winners.iter().filter(|(_, count)| **count != 1).collect();
    assert!(
        twice.is_empty(),
        "names with more than one winner in {folder}: {twice:?}"
    );
    Ok(())
}

#[test]
fn a_dead_node_frees_its_locks() -> Result<()> {
    let mounted = Mounted::boot(3)?;
    let [n1, n2, n3] = mounted.three()?;
    n3.sh("mkdir /vfs/lk/job")?;
    barrier(n1)?;
    refused(n1, "mkdir /vfs/lk/job", "File exists", limits::COMMAND_MAX)?;
    assert_eq!(
        n1.sh("getfattr --only-values -n user.lk.owner /vfs/lk/job")?,
        "n3"
    );
    n3.power_cut()?;
    wait_until("the dead node's lock to go", DEAD_HOLDER_MAX, || {
        Ok(n1.run(&["mkdir", "/vfs/lk/job"])?.status.success())
    })?;
    barrier(n2)?;
    assert_eq!(
        n2.sh("getfattr --only-values -n user.lk.owner /vfs/lk/job")?,
        "n1"
    );
    Ok(())
}

const FENCE: &str = "getfattr --only-values -n user.lk.fence /vfs/lk/job";

/// Past its own deadline a node no longer relies on its locks, and that is earlier than anybody else gets them.
#[test]
fn a_cut_off_holder_reads_no_fence_before_another_node_has_the_lock() -> Result<()> {
    let mounted = Mounted::boot(3)?;
    let [n1, _, n3] = mounted.three()?;
    n3.sh("mkdir /vfs/lk/job")?;
    let fence: u64 = n3.sh(FENCE)?.parse()?;
    n3.cut()?;
    let mut is_revoked = false;
    wait_until("the cut-off node's lock to go", DEAD_HOLDER_MAX, || {
        let asked = n3.run(&["sh", "-c", FENCE])?;
        is_revoked |= asked.stderr_text().contains("Key has been revoked");
        let is_taken = n1.run(&["mkdir", "/vfs/lk/job"])?.status.success();
        assert!(
            is_revoked || !is_taken,
            "the holder still read {:?} when another node had the lock",
            asked.stdout_text()
        );
        Ok(is_taken)
    })?;
    assert!(n1.sh(FENCE)?.parse::<u64>()? > fence);
    Ok(())
}

/// "Who broke which lock stands in the log of each node."
#[test]
fn a_broken_lock_is_named_in_the_log_of_every_node() -> Result<()> {
    let mounted = Mounted::boot(3)?;
    let nodes = mounted.three()?;
    let [n1, n2, n3] = nodes;
    n3.sh("mkdir /vfs/lk/job")?;
    barrier(n1)?;
    refused(
        n1,
        "vfsd lock break /vfs/lk/none",
        "there is no",
        limits::COMMAND_MAX,
    )?;
    n1.sh("vfsd lock break /vfs/lk/job")?;
    wait_until("the broken lock's delay to end", DEAD_HOLDER_MAX, || {
        Ok(n2.run(&["mkdir", "/vfs/lk/job"])?.status.success())
    })?;
    for node in nodes {
        barrier(node)?;
        let said = node.sh("journalctl --no-pager -u vfsd | grep 'a lock was broken'")?;
        assert!(
            said.contains("lk/job") && said.contains("vfsd lock break"),
            "{} says {said}",
            node.name()
        );
    }
    Ok(())
}

#[test]
fn a_frozen_holder_that_thaws_is_refused_by_the_guard() -> Result<()> {
    let mounted = Mounted::boot(3)?;
    let [n1, _, n3] = mounted.three()?;
    n3.sh("mkdir /vfs/lk/job && mkdir /vfs/guarded && setfattr -n user.lk.guard -v lk/job /vfs/guarded")?;
    n3.sh("echo mine > /vfs/guarded/file")?;
    refused(
        n1,
        "echo other > /vfs/guarded/other",
        "Key has been revoked",
        limits::COMMAND_MAX,
    )?;
    n3.set_frozen(true)?;
    wait_until("the frozen node's lock to go", DEAD_HOLDER_MAX, || {
        Ok(n1.run(&["mkdir", "/vfs/lk/job"])?.status.success())
    })?;
    n3.set_frozen(false)?;
    // Until it hears of the others again it has no quorum, which is another refusal.
    wait_until("the guard's refusal", limits::CLUSTER_READY_MAX, || {
        let late = n3.run(&["sh", "-c", "echo late > /vfs/guarded/file"])?;
        assert!(!late.status.success(), "a thawed holder wrote");
        Ok(late.stderr_text().contains("Key has been revoked"))
    })?;
    barrier(n1)?;
    assert_eq!(n1.sh("cat /vfs/guarded/file")?, "mine\n");
    Ok(())
}
