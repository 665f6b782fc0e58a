//! Agents on real nodes with the smallest driver: a wish becomes a file on each node, whatever crashes in between.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use system_tests::cluster::Node;
use system_tests::crash::BOUNDARIES;
use system_tests::deployment::Deployment;
use system_tests::mounted::{Mounted, wait_for_tree};
use system_tests::wait::wait_until;

const NAME: &str = "mid/motd";
const TARGET: &str = "/etc/motd-of-the-cluster";

/// A file takes well under a second; an agent that crashed is started again first.
const FILE_MAX: Duration = Duration::from_secs(60);

fn wish(nodes: &[&str], content: &str) -> Value {
    json!({"driver": "file", "nodes": nodes, "params": {"path": TARGET, "content": content}})
}

#[test]
fn a_wish_becomes_a_file_on_each_node_and_the_same_save_changes_nothing() -> Result<()> {
    let mounted = Mounted::boot_with_agents(3)?;
    let [n1, n2, n3] = mounted.three()?;
    let deployment = Deployment::new(NAME);
    deployment.wish(n2, &wish(&["n1", "n2", "n3"], "hello\n"))?;
    deployment.wait_for(n1, "Active", 1, FILE_MAX)?;
    for node in [n1, n2, n3] {
        assert_eq!(node.sh(&format!("cat {TARGET}"))?, "hello\n");
    }
    let generation = deployment.generation(n1)?;
    deployment.wish(n3, &wish(&["n1", "n2", "n3"], "hello\n"))?;
    deployment.wish(n3, &wish(&["n1", "n2", "n3"], "changed\n"))?;
    deployment.wait_for(n1, "Active", generation + 1, FILE_MAX)?;
    assert_eq!(
        deployment.generation(n1)?,
        generation + 1,
        "the same content made a generation"
    );
    for node in [n1, n2, n3] {
        assert_eq!(node.sh(&format!("cat {TARGET}"))?, "changed\n");
        node.sh("dsm-agent audit mid/motd")?;
    }
    Ok(())
}

#[test]
fn a_crash_at_each_step_boundary_ends_active() -> Result<()> {
    let mounted = Mounted::boot_with_agents(3)?;
    let [n1, n2, n3] = mounted.three()?;
    let deployment = Deployment::new(NAME);
    let mut generation = 0;
    for boundary in BOUNDARIES {
        n2.write(
            "/var/lib/dsm-agent/crash-at",
            format!("*:{boundary}\n").as_bytes(),
        )?;
        let content = format!("crashed {boundary}\n");
        deployment.wish(n1, &wish(&["n1", "n2", "n3"], &content))?;
        wait_until(&format!("the agent to crash {boundary}"), FILE_MAX, || {
            fired(n2, boundary)
        })?;
        deployment.wait_for(n3, "Active", generation + 1, FILE_MAX)?;
        generation = deployment.generation(n3)?;
        for node in [n1, n2, n3] {
            assert_eq!(node.sh(&format!("cat {TARGET}"))?, content, "{boundary}");
        }
    }
    n1.sh("dsm-agent audit mid/motd").map(drop)
}

fn fired(node: &Node, boundary: &str) -> Result<bool> {
    let finished = node.run(&["grep", "-q", boundary, "/var/lib/dsm-agent/crash-fired"])?;
    Ok(finished.status.success())
}

#[test]
fn bad_wishes_name_the_field_and_change_nothing() -> Result<()> {
    let mounted = Mounted::boot_with_agents(3)?;
    let [n1, n2, _] = mounted.three()?;
    let deployment = Deployment::new(NAME);
    deployment.wish(n1, &wish(&["n1"], "good\n"))?;
    deployment.wait_for(n1, "Active", 1, FILE_MAX)?;
    let path = "/vfs/mid/motd.json";
    let bad = [
        ("{\"driver\":\"file\",", vec!["Blocked"]),
        (
            r#"{"driver":"file","driver":"file","nodes":["n1"],"params":{}}"#,
            vec!["Blocked", "driver"],
        ),
        (
            r#"{"driver":"fiel","nodes":["n1"],"params":{}}"#,
            vec!["Blocked", "fiel", "file"],
        ),
        (
            r#"{"driver":"file","nodes":["n1"],"params":{"path":"/a","contents":""}}"#,
            vec!["Blocked", "contents"],
        ),
        (
            r#"{"driver":"file","nodes":["n77"],"params":{"path":"/a","content":""}}"#,
            vec!["Blocked", "n77"],
        ),
    ];
    for (text, words) in bad {
        n2.write(path, text.as_bytes())?;
        deployment.wait_for_words(n1, &words, FILE_MAX)?;
        assert_eq!(n1.sh(&format!("cat {TARGET}"))?, "good\n");
    }
    // A map whose only value is cut off, in binary JSON.
    n2.write("/vfs/mid/half.cbor", b"\xa1\x66driver")?;
    Deployment::new("mid/half").wait_for_words(n1, &["Blocked"], FILE_MAX)?;
    let explained = n2.run(&["dsm-agent", "explain", NAME])?.stdout_text();
    assert!(explained.contains("n77"), "{explained}");
    deployment.wish(n2, &wish(&["n1"], "healed\n"))?;
    deployment.wait_for(n1, "Active", 2, FILE_MAX)?;
    assert_eq!(n1.sh(&format!("cat {TARGET}"))?, "healed\n");
    Ok(())
}

#[test]
fn only_a_deletion_that_everyone_can_see_removes() -> Result<()> {
    let mounted = Mounted::boot_with_agents(3)?;
    let [n1, n2, n3] = mounted.three()?;
    let deployment = Deployment::new(NAME);
    deployment.wish(n1, &wish(&["n1", "n2", "n3"], "stays\n"))?;
    deployment.wait_for(n1, "Active", 1, FILE_MAX)?;
    // Absence that is no deletion: an unmounted tree, a stopped daemon, an emptied file.
    n2.sh("umount -l /vfs")?;
    n3.sh("systemctl stop vfsd")?;
    n1.sh("systemctl restart dsm-agent")?;
    for node in [n1, n2, n3] {
        assert_eq!(node.sh(&format!("cat {TARGET}"))?, "stays\n");
    }
    n3.sh("systemctl start vfsd dsm-agent")?;
    wait_for_tree(n2)?;
    n1.sh(": > /vfs/mid/motd.json")?;
    deployment.wish(n1, &wish(&["n1", "n2", "n3"], "stays longer\n"))?;
    deployment.wait_for(n1, "Active", 2, FILE_MAX)?;
    n1.sh("rm /vfs/mid/motd.json")?;
    deployment.wait_for(n1, "Removed", 2, FILE_MAX)?;
    for node in [n1, n2, n3] {
        let finished = node.run(&["cat", TARGET])?;
        assert!(
            !finished.status.success(),
            "{} still has the file",
            node.name()
        );
    }
    Ok(())
}

#[test]
fn many_saves_within_a_second_end_in_the_last() -> Result<()> {
    let mounted = Mounted::boot_with_agents(3)?;
    let [n1, n2, n3] = mounted.three()?;
    let deployment = Deployment::new(NAME);
    let document = wish(&["n1", "n2", "n3"], "NUMBER").to_string();
    let script = format!(
        "for i in $(seq 50); do echo '{document}' | sed s/NUMBER/$i/ > /vfs/mid/motd.json; done"
    );
    n2.sh(&script)?;
    wait_until("the last save to be everywhere", FILE_MAX, || {
        let mut all = true;
        for node in [n1, n2, n3] {
            all &= node.run(&["cat", TARGET])?.stdout_text() == "50";
        }
        Ok(all)
    })?;
    deployment.wait_for(n3, "Active", 1, FILE_MAX).map(drop)
}

/// Time over which an idle agent's requests are counted.
const IDLE_FOR: Duration = Duration::from_secs(10);

/// A second of an idle agent: the mark, its fence, the mount's root, and what the kernel asks before each.
const IDLE_REQUESTS_A_SECOND_MAX: u64 = 15;

/// The sweep of one deployment, if it falls into that time.
const SWEEP_REQUESTS_MAX: u64 = 600;

#[test]
fn an_idle_agent_asks_little_and_notices_all_over_a_new_mount() -> Result<()> {
    let mounted = Mounted::boot_with_agents(3)?;
    let [n1, n2, n3] = mounted.three()?;
    let deployment = Deployment::new(NAME);
    deployment.wish(n1, &wish(&["n1", "n2", "n3"], "one\n"))?;
    deployment.wait_for(n1, "Active", 1, FILE_MAX)?;
    let most = IDLE_FOR.as_secs() * IDLE_REQUESTS_A_SECOND_MAX + SWEEP_REQUESTS_MAX;
    wait_until("an agent that asks little", FILE_MAX, || {
        let (since, before) = (Instant::now(), reads_of_vfsd(n2)?);
        wait_until("the time of counting", FILE_MAX, || {
            Ok(since.elapsed() >= IDLE_FOR)
        })?;
        Ok(reads_of_vfsd(n2)? - before <= most)
    })?;
    // What it keeps open belongs to the old mount, then to the old daemon.
    n2.sh("umount -l /vfs")?;
    wait_for_tree(n2)?;
    deployment.wish(n1, &wish(&["n1", "n2", "n3"], "two\n"))?;
    deployment.wait_for(n1, "Active", 2, FILE_MAX)?;
    n2.sh("systemctl kill --signal=KILL vfsd")?;
    wait_for_tree(n2)?;
    deployment.wish(n3, &wish(&["n1", "n2", "n3"], "three\n"))?;
    deployment.wait_for(n3, "Active", 3, FILE_MAX)?;
    for node in [n1, n2, n3] {
        assert_eq!(node.sh(&format!("cat {TARGET}"))?, "three\n");
    }
    // A dead agent is noticed by those that have nothing else to do.
    n3.sh("systemctl stop dsm-agent")?;
    deployment.wait_for_words(n1, &["node n3 has no presence"], FILE_MAX)
}

/// How often the daemon has read: the kernel's requests, and little else.
fn reads_of_vfsd(node: &Node) -> Result<u64> {
    let io = node.sh("cat /proc/$(systemctl show -P MainPID vfsd)/io")?;
    let reads = io.lines().find_map(|line| line.strip_prefix("syscr: "));
    Ok(reads.context("no syscr")?.trim().parse()?)
}
