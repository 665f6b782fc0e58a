//! inotify across nodes: what a shell does on one node raises the same events on the others, and as on ext4.
//!
//! Method: each case makes the same small tree on the mount and on ext4, watches both on all nodes, runs the commands
//! on the first node, and compares what the watchers printed, object by object.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use system_tests::cluster::{Background, Node};
use system_tests::limits;
use system_tests::mounted::{Mounted, barrier};

/// One thing that a person does in a shell.
struct Case {
    name: &'static str,
    before: &'static str,
    commands: &'static str,
    /// Lines that the acting node alone sees, by a rule of docs/SEMANTICS.md.
    only_local: &'static [&'static str],
}

const CASES: &[Case] = &[
    case("redirect to a new file", "", "echo x > f"),
    case("redirect to an old file", "echo old > f", "echo new > f"),
    case("append", "echo old > f", "echo more >> f"),
    case("tee", "echo old > f", "echo new | tee f > /dev/null"),
    case("move", "echo x > f", "mv f g"),
    case("move over", "echo x > f; echo y > g", "mv f g"),
    case(
        "move between folders",
        "mkdir a b; echo x > a/f",
        "mv a/f b/g",
    ),
    case("hard link", "echo x > f", "ln f g"),
    case("symbolic link", "", "ln -s f g"),
    case("change mode", "echo x > f", "chmod 600 f"),
    case("make a folder", "", "mkdir d"),
    case("remove a folder", "mkdir d", "rmdir d"),
    case("remove", "echo x > f", "rm f"),
    case(
        "remove a tree",
        "mkdir -p d/e; echo x > d/f; echo y > d/e/g",
        "rm -r d",
    ),
    case("truncate", "echo long > f", "truncate -s 2 f"),
    case(
        "save by an editor",
        "echo old > f",
        "echo new > .f.tmp; mv .f.tmp f",
    ),
    case("edit in place", "echo old > f", "sed -i s/old/new/ f"),
    Case {
        name: "touch an old file",
        before: "echo x > f",
        commands: "touch f",
        // Closing a write handle that committed nothing raises IN_CLOSE_WRITE on its own node only.
        only_local: &[". f IN_CLOSE_WRITE", "./f  IN_CLOSE_WRITE"],
    },
    Case {
        name: "touch a new file",
        before: "",
        commands: "touch f",
        only_local: &[". f IN_CLOSE_WRITE"],
    },
];

const fn case(name: &'static str, before: &'static str, commands: &'static str) -> Case {
    Case {
        name,
        before,
        commands,
        only_local: &[],
    }
}

#[test]
fn commands_raise_the_same_events_on_all_nodes_and_on_ext4() -> Result<()> {
    let mounted = Mounted::boot(3)?;
    let nodes = mounted.three()?;
    nodes[0].sh("mkdir /vfs/events /data/events")?;
    let mut differences = Vec::new();
    for (number, case) in CASES.iter().enumerate() {
        let found = compare(&nodes, number, case).with_context(|| case.name)?;
        differences.extend(
            found
                .into_iter()
                .map(|difference| format!("{}: {difference}", case.name)),
        );
    }
    assert!(
        differences.is_empty(),
        "{} differences:\n{}",
        differences.len(),
        differences.join("\n")
    );
    Ok(())
}

fn compare(nodes: &[&Node; 3], number: usize, case: &Case) -> Result<Vec<String>> {
    let (tree, plain) = (
        format!("/vfs/events/{number}"),
        format!("/data/events/{number}"),
    );
    for folder in [&tree, &plain] {
        nodes[0].sh(&format!(
            "mkdir {folder} && cd {folder} && {{ {}; }}",
            or_nothing(case.before)
        ))?;
    }
    for node in nodes {
        barrier(node)?;
    }
    let watchers = nodes
        .iter()
        .map(|node| watch(node, &tree))
        .collect::<Result<Vec<_>>>()?;
    let plain_watcher = watch(nodes[0], &plain)?;
    for folder in [&tree, &plain] {
        nodes[0].sh(&format!(
            "cd {folder} && {{ {}; }}; mkdir {folder}/end",
            case.commands
        ))?;
    }
    let expected = by_object(plain_watcher.finish(limits::CLUSTER_READY_MAX)?.ok()?);
    let mut differences = Vec::new();
    for (watcher, node) in watchers.into_iter().zip(nodes) {
        let mut wanted = expected.clone();
        if node.name() != nodes[0].name() {
            wanted = without(&wanted, case.only_local);
        }
        let seen = by_object(watcher.finish(limits::CLUSTER_READY_MAX)?.ok()?);
        if seen != wanted {
            differences.push(format!("{} saw {seen:?}, ext4 {wanted:?}", node.name()));
        }
    }
    Ok(differences)
}

fn or_nothing(commands: &str) -> &str {
    if commands.is_empty() { ":" } else { commands }
}

fn watch(node: &Node, folder: &str) -> Result<Background> {
    let watcher = node.start(&["workload", "events", folder])?;
    let ready = watcher.line(limits::CLUSTER_READY_MAX)?;
    anyhow::ensure!(
        ready == "ready",
        "the watcher on {} said {ready:?}",
        node.name()
    );
    Ok(watcher)
}

/// The events of each object, in their order: `a b KIND` belongs to the object `b` in `a`.
type Events = BTreeMap<String, Vec<String>>;

fn by_object(lines: Vec<String>) -> Events {
    let mut events = Events::new();
    for line in lines {
        let object = line
            .rsplit_once(" IN_")
            .map_or(line.as_str(), |(object, _)| object)
            .to_owned();
        let of_object = events.entry(object).or_default();
        if of_object.last() != Some(&line) {
            of_object.push(line);
        }
    }
    events
}

fn without(events: &Events, lines: &[&str]) -> Events {
    let keep = |line: &&String| !lines.contains(&line.as_str());
    let kept = events
        .iter()
        .map(|(object, of)| (object.clone(), of.iter().filter(keep).cloned().collect()));
    kept.filter(|(_, of): &(String, Vec<String>)| !of.is_empty())
        .collect()
}
