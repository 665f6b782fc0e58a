//! Saves on real mounts: seen everywhere, whole, never older, never lost.

use std::time::Duration;

use anyhow::{Context, Result};
use system_tests::cluster::{Background, Node};
use system_tests::formation;
use system_tests::limits;
use system_tests::mounted::{Mounted, barrier, kill_vfsd, wait_for_equal_digests};
use system_tests::wait::{wait_for, wait_until};

const DOCUMENT: &str = "/vfs/saves/document";
const DOCUMENT_NOW: &str = "/vfs/.vfs/now/saves/document";
const SAVES_MIN: u64 = 300;

#[test]
fn a_save_on_one_node_is_read_on_all() -> Result<()> {
    let mounted = Mounted::boot(3)?;
    let [n1, n2, n3] = mounted.three()?;
    n1.sh(
        "mkdir /vfs/saves && echo first > /vfs/saves/a && echo '{\"x\":1}' > /vfs/mid/wish.json",
    )?;
    for node in [n2, n3] {
        barrier(node)?;
        assert_eq!(
            node.sh("cat /vfs/saves/a /vfs/mid/wish.json")?,
            "first\n{\"x\":1}\n"
        );
    }
    n3.sh("echo second > /vfs/saves/a; chmod 640 /vfs/saves/a; ln -s a /vfs/saves/link; mv /vfs/saves/a /vfs/saves/b")?;
    barrier(n1)?;
    assert_eq!(
        n1.sh("cat /vfs/saves/b; stat -c %a /vfs/saves/b; readlink /vfs/saves/link")?,
        "second\n640\na\n"
    );
    assert_eq!(n1.sh("cat /vfs/.vfs/now/saves/b")?, "second\n");
    Ok(())
}

#[test]
fn the_only_member_takes_saves_after_a_while_without_any() -> Result<()> {
    let mounted = Mounted::boot(1)?;
    let [n1] = mounted.nodes() else {
        unreachable!("one node was asked for")
    };
    n1.sh("echo first > /vfs/mid/a")?;
    let idle = "find /vfs/mid/a -not -newermt '-2 seconds'";
    wait_until("a while without a save", limits::COMMAND_MAX, || {
        Ok(!n1.sh(idle)?.is_empty())
    })?;
    n1.sh("echo second > /vfs/mid/a")?;
    assert_eq!(n1.sh("cat /vfs/mid/a")?, "second\n");
    Ok(())
}

#[test]
fn no_reader_sees_an_empty_mixed_or_older_document() -> Result<()> {
    let mounted = Mounted::boot(3)?;
    let [n1, n2, n3] = mounted.three()?;
    let first = first_document(n1)?;
    for node in [n2, n3] {
        barrier(node)?;
    }
    let places = [
        (n1, DOCUMENT_NOW),
        (n2, DOCUMENT),
        (n2, DOCUMENT_NOW),
        (n3, DOCUMENT),
        (n3, DOCUMENT_NOW),
    ];
    let readers = places
        .iter()
        .map(|(node, path)| node.start(&["workload", "read", path]));
    let readers = readers.collect::<Result<Vec<_>>>()?;
    let writer = n1.start(&["workload", "save", DOCUMENT, &first.to_string()])?;
    wait_for_number(&writer, first + SAVES_MIN)?;
    let written = writer.stop(limits::COMMAND_MAX)?.ok()?;
    let last: u64 = written
        .last()
        .map_or(Ok(first + SAVES_MIN), |line| line.parse())?;
    for (reader, (node, _)) in readers.into_iter().zip(places) {
        barrier(node)?;
        let lines = reader.stop(limits::COMMAND_MAX)?.ok()?;
        let line = lines.last().context("a reader that says nothing")?;
        let (reads, newest) = line
            .split_once(' ')
            .context("a reader that says no two numbers")?;
        assert!(
            reads.parse::<u64>()? > 0 && newest.parse::<u64>()? <= last,
            "{line}, written {last}"
        );
    }
    Ok(())
}

/// Saves the first document and gives the number of the next.
fn first_document(node: &Node) -> Result<u64> {
    node.sh("mkdir -p /vfs/saves")?;
    let writer = node.start(&["workload", "save", DOCUMENT, "1"])?;
    let number: u64 = writer.line(limits::CLUSTER_READY_MAX)?.parse()?;
    let rest = writer.stop(limits::COMMAND_MAX)?.ok()?;
    Ok(rest.last().map_or(Ok(number), |line| line.parse())? + 1)
}

fn wait_for_number(writer: &Background, wanted: u64) -> Result<u64> {
    let mut newest = 0;
    wait_for(&format!("save {wanted}"), limits::COMMAND_MAX, || {
        newest = writer.last_line().map_or(Ok(newest), |line| line.parse())?;
        Ok((newest >= wanted).then_some(newest))
    })
    .with_context(|| format!("the newest save is {newest}"))
}

#[test]
fn a_killed_daemon_loses_no_acknowledged_save_and_rejoins() -> Result<()> {
    let mounted = Mounted::boot(3)?;
    let [n1, n2, n3] = mounted.three()?;
    let first = first_document(n1)?;
    barrier(n2)?;
    let reader = n2.start(&["workload", "read", DOCUMENT])?;
    let writer = n1.start(&["workload", "save", DOCUMENT, &first.to_string()])?;
    let acknowledged = wait_for_number(&writer, first + 50)?;
    kill_vfsd(n1)?;
    // The writer's own mount was gone, so it must have ended with an error; what it printed is acknowledged.
    let ended = writer.finish(limits::COMMAND_MAX)?;
    assert!(
        !ended.status.success(),
        "a writer survived the end of its mount"
    );
    let acknowledged = ended
        .lines
        .last()
        .map_or(Ok(acknowledged), |line| line.parse())?;
    reader.stop(limits::COMMAND_MAX)?.ok()?;
    let mut contents = Vec::new();
    for node in [n1, n2, n3] {
        barrier(node)?;
        contents.push(node.sh(&format!("cat {DOCUMENT}"))?);
    }
    assert!(
        contents.iter().all(|content| *content == contents[0]),
        "the nodes differ: {contents:?}"
    );
    let document: serde_json::Value = serde_json::from_str(&contents[0])?;
    assert!(
        document["number"].as_u64() >= Some(acknowledged),
        "{document} after save {acknowledged}"
    );
    Ok(())
}

/// Set to kill more often.
const ROUNDS: &str = "CONTEXTOS_KILL_ROUNDS";

#[test]
fn all_daemons_killed_at_once_again_and_again_lose_nothing_and_stay_equal() -> Result<()> {
    let rounds = std::env::var(ROUNDS).map_or(Ok(3), |rounds| rounds.parse::<u32>())?;
    let mounted = Mounted::boot(3)?;
    let nodes = mounted.three()?;
    nodes[0].sh("mkdir /vfs/load")?;
    let mut acknowledged = Vec::new();
    for round in 0..rounds {
        acknowledged.extend(kill_all_under_load(&nodes, round)?);
        for node in nodes {
            formation::wait_for_leader(node)?;
            wait_until("the barrier", Duration::from_secs(30), || {
                Ok(barrier(node).is_ok())
            })?;
            let there = node.sh("ls /vfs/load")?;
            let there: Vec<&str> = there.lines().collect();
            let lost: Vec<_> = acknowledged
                .iter()
                .filter(|name| !there.contains(&name.as_str()))
                .collect();
            assert!(
                lost.is_empty(),
                "round {round}: {} lost {lost:?}",
                node.name()
            );
        }
        wait_for_equal_digests(&nodes).with_context(|| format!("round {round}"))?;
    }
    Ok(())
}

/// On each node somebody makes files and somebody saves one over and over; gives the files that were acknowledged.
fn kill_all_under_load(nodes: &[&Node; 3], round: u32) -> Result<Vec<String>> {
    let mut makers = Vec::new();
    let mut savers = Vec::new();
    for node in nodes {
        let prefix = format!("{}-{round}-", node.name());
        makers.push((
            node.start(&["workload", "create", "/vfs/load", &prefix])?,
            prefix,
        ));
        let document = format!("/vfs/saved-{}", node.name());
        savers.push(node.start(&["workload", "save", &document, "1"])?);
    }
    for (maker, _) in &makers {
        wait_for_number(maker, 40)?;
    }
    for node in nodes {
        node.sh("systemctl kill --signal=KILL vfsd")?;
    }
    for saver in savers {
        saver.finish(limits::COMMAND_MAX)?;
    }
    let mut acknowledged = Vec::new();
    for (maker, prefix) in makers {
        let ended = maker.finish(limits::COMMAND_MAX)?;
        let last = ended
            .lines
            .last()
            .map_or(Ok(40), |line| line.parse::<u64>())?;
        acknowledged.extend((0..=last).map(|number| format!("{prefix}{number}")));
    }
    Ok(acknowledged)
}

#[test]
fn a_power_cut_of_all_nodes_loses_nothing_acknowledged() -> Result<()> {
    let mounted = Mounted::boot(3)?;
    let nodes = mounted.three()?;
    nodes[0].sh("mkdir /vfs/load")?;
    let writer = nodes[1].start(&["workload", "create", "/vfs/load", "f"])?;
    let seen = wait_for_number(&writer, 40)?;
    for node in nodes {
        node.power_cut()?;
    }
    let ended = writer.finish(limits::COMMAND_MAX)?;
    let last = ended
        .lines
        .last()
        .map_or(Ok(seen), |line| line.parse::<u64>())?;
    mounted.cluster().boot(3)?;
    for node in nodes {
        formation::wait_for_leader(node)?;
        barrier(node)?;
        let there = node.sh("ls /vfs/load")?;
        let there: Vec<&str> = there.lines().collect();
        let lost: Vec<_> = (0..=last)
            .filter(|number| !there.contains(&format!("f{number}").as_str()))
            .collect();
        assert!(lost.is_empty(), "{} lost {lost:?}", node.name());
    }
    Ok(())
}
