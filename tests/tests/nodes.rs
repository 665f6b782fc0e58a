//! The harness itself: nodes without any program of the product in them.
//!
//! Goal: what the system tests build on is true: a power cut loses exactly what was not synced, a cut cable is silent,
//! a command's status is its own, a hung command ends. One cluster serves all cases, because nodes are shared state
//! only by name: each case uses its own files.

use std::time::Duration;

use anyhow::Result;
use system_tests::cluster::{Change, Node, TestCluster};
use system_tests::limits;
use system_tests::wait::wait_until;

#[test]
fn nodes_are_real_enough() -> Result<()> {
    let cluster = TestCluster::boot(2)?;
    let (n1, n2) = (cluster.node("n1")?, cluster.node("n2")?);
    each_node_is_a_machine_of_its_own(&n1, &n2)?;
    a_command_gives_its_own_status_and_output(&n1)?;
    a_hung_command_ends_at_its_limit(&n1)?;
    a_cut_cable_is_silent_and_heals(&n1, &n2)?;
    a_frozen_node_stands_still(&n1, &n2)?;
    packages_install_without_a_network(&n2)?;
    a_power_cut_loses_exactly_what_was_not_synced(&n1)?;
    a_second_boot_changes_nothing(&n1)?;
    Ok(())
}

fn each_node_is_a_machine_of_its_own(n1: &Node, n2: &Node) -> Result<()> {
    assert_eq!(n1.sh("hostname")?, "n1\n");
    assert_eq!(n2.sh("hostname; cat /proc/1/comm")?, "n2\nsystemd\n");
    assert_ne!(n1.sh("cat /etc/machine-id")?, n2.sh("cat /etc/machine-id")?);
    n1.sh("ping -c 1 -W 2 n2")?;
    n1.sh("systemd-run --wait --quiet true")?;
    assert_eq!(n1.sh("findmnt -n -o FSTYPE /data")?, "ext4\n");
    Ok(())
}

fn a_command_gives_its_own_status_and_output(node: &Node) -> Result<()> {
    let finished = node.run_within(&["sh", "-c", "cat; exit 7"], b"in", Duration::from_secs(10))?;
    assert_eq!(
        (finished.status.code(), finished.stdout_text().as_str()),
        (Some(7), "in")
    );
    Ok(())
}

fn a_hung_command_ends_at_its_limit(node: &Node) -> Result<()> {
    let error = node
        .run_within(
            &["tail", "-f", "/dev/null"],
            &[],
            Duration::from_millis(200),
        )
        .expect_err("a command that cannot end");
    assert!(
        format!("{error:#}").contains("no end within 0.2 s"),
        "{error:#}"
    );
    node.sh("true")?;
    Ok(())
}

fn a_cut_cable_is_silent_and_heals(n1: &Node, n2: &Node) -> Result<()> {
    let answers = |count: &str| -> Result<bool> {
        let ping = n1.run(&["ping", "-c", count, "-W", "1", "n2"])?;
        Ok(ping.status.success())
    };
    n2.cut()?;
    n2.cut()?;
    assert!(n2.is_cut()?);
    assert!(!answers("1")?);
    assert_eq!(n2.sh("cat /sys/class/net/eth0/carrier")?, "1\n");
    n2.heal()?;
    n2.heal()?;
    assert!(answers("3")?);
    n1.cut_towards(n2)?;
    assert!(!answers("1")?);
    n1.heal()?;
    assert!(answers("3")?);
    Ok(())
}

fn a_frozen_node_stands_still(n1: &Node, n2: &Node) -> Result<()> {
    n2.sh("systemd-run --quiet --unit=counter sh -c 'while :; do echo >> /run/count; sleep 0.01; done'")?;
    let counts = || Ok(n2.sh("test -s /run/count").is_ok());
    wait_until("the process to run", limits::BOOT_MAX, counts)?;
    n2.set_frozen(true)?;
    let error = n2
        .run_within(&["true"], &[], Duration::from_millis(300))
        .expect_err("a command that cannot end");
    assert!(format!("{error:#}").contains("no end within"), "{error:#}");
    n1.sh("true")?;
    n2.set_frozen(false)?;
    let count = || -> Result<usize> { Ok(n2.sh("wc -c < /run/count")?.trim().parse()?) };
    let before = count()?;
    wait_until("a thawed process to go on", limits::BOOT_MAX, || {
        Ok(count()? > before)
    })?;
    n2.sh("systemctl stop counter")?;
    Ok(())
}

fn packages_install_without_a_network(node: &Node) -> Result<()> {
    let folder = "/etc/postgresql-common";
    node.sh(&format!(
        "mkdir -p {folder} && echo create_main_cluster=false > {folder}/createcluster.conf"
    ))?;
    let install =
        "apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q postgresql-15";
    node.sh_within(install, Duration::from_secs(180))?;
    let version = node.sh("/usr/lib/postgresql/15/bin/postgres --version")?;
    assert!(version.contains(" 15."), "{version}");
    Ok(())
}

fn a_power_cut_loses_exactly_what_was_not_synced(node: &Node) -> Result<()> {
    node.sh("for d in /root /data; do echo kept > $d/synced; sync $d/synced $d; echo lost > $d/unsynced; done")?;
    assert_eq!(node.power_cut()?, Change::Changed);
    assert_eq!(node.power_cut()?, Change::Unchanged);
    assert!(node.init()?.is_none());
    assert_eq!(node.boot()?, Change::Changed);
    let there =
        node.sh("for d in /root /data; do cat $d/synced; cat $d/unsynced 2>/dev/null || :; done")?;
    assert_eq!(there, "kept\nkept\n");
    Ok(())
}

fn a_second_boot_changes_nothing(node: &Node) -> Result<()> {
    let init = node.init()?;
    assert_eq!(node.boot()?, Change::Unchanged);
    assert_eq!(node.init()?, init);
    Ok(())
}
