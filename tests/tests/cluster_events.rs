//! inotify across nodes: what a shell does on one node raises the same events on the others, and as on ext4.
//!
//! Method: each case makes the same small tree on the mount and on ext4, watches both on all nodes, runs the commands
//! on the first node, and compares what the watchers printed, object by object.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result};
use system_tests::cluster::{Background, Node};
use system_tests::events::is_told_at_least;
use system_tests::formation;
use system_tests::limits;
use system_tests::mounted::{Mounted, barrier};
use system_tests::seed;
use system_tests::wait::wait_until;

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
    case(
        "copy a tree",
        "mkdir a; echo x > a/f; mkdir b",
        "cp -a a b/c",
    ),
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

/// Operations of all three nodes together.
const RANDOM_OPERATIONS: u32 = 10_000;

/// A thousand operations take a second or two; events follow within milliseconds.
const RANDOM_MAX: Duration = Duration::from_secs(240);

#[test]
fn random_operations_of_three_nodes_raise_the_same_events_everywhere() -> Result<()> {
    let seed = seed::choose("random_operations_of_three_nodes_raise_the_same_events_everywhere");
    let mounted = Mounted::boot(3)?;
    let nodes = mounted.three()?;
    let folder = "/vfs/random";
    nodes[0].sh(&format!("mkdir {folder}"))?;
    for node in nodes {
        barrier(node)?;
    }
    let watchers = nodes
        .iter()
        .map(|node| watch(node, folder))
        .collect::<Result<Vec<_>>>()?;
    let count = (RANDOM_OPERATIONS / 3).to_string();
    let mut operators = Vec::new();
    for (number, node) in (0_u64..).zip(nodes) {
        let (prefix, seed) = (format!("{}-", node.name()), (seed + number).to_string());
        operators.push(node.start(&["workload", "operate", folder, &prefix, &seed, &count])?);
    }
    let mut performed = Vec::new();
    for operator in operators {
        performed.extend(operator.finish(RANDOM_MAX)?.ok()?);
    }
    // The end must not overtake replays on the node that makes it.
    barrier(nodes[0])?;
    wait_until(
        "all events to be replayed",
        limits::CLUSTER_READY_MAX,
        || Ok(formation::status(nodes[0])?["replay_lag"] == 0),
    )?;
    nodes[0].sh(&format!("mkdir {folder}/end"))?;
    let mut seen = Vec::new();
    for watcher in watchers {
        // Moves are numbered in the order that a watcher saw them, which is the same only for one object.
        let lines = watcher.finish(RANDOM_MAX)?.ok()?.into_iter();
        let unnumbered = lines.map(|line| {
            line.split_once(" move ")
                .map_or(line.as_str(), |(l, _)| l)
                .to_owned()
        });
        seen.push(unnumbered.collect::<Vec<_>>());
    }
    let differences = differences_of(&nodes.map(Node::name), seen);
    if let Some(first) = differences.first() {
        let name = first.split([' ', ':']).nth(1).unwrap_or_default();
        let concerns = |line: &&String| {
            line.split(' ')
                .any(|path| path.ends_with(&format!("/{name}")))
        };
        let operations: Vec<&String> = performed.iter().filter(concerns).collect();
        panic!(
            "{} objects differ:\n{}\noperations on the first: {operations:#?}",
            differences.len(),
            differences.join("\n")
        );
    }
    Ok(())
}

/// What the nodes saw differently, object by object.
fn differences_of(nodes: &[&str], seen: Vec<Vec<String>>) -> Vec<String> {
    let merged: Vec<Events> = seen.iter().cloned().map(by_object).collect();
    let mut differences = Vec::new();
    for object in merged
        .iter()
        .flat_map(Events::keys)
        .collect::<BTreeSet<_>>()
    {
        let linked =
            (nodes.iter()).position(|node| object.starts_with(&format!(". {node}-linked-")));
        let wrong = match linked {
            Some(acting) => {
                let is_of =
                    |line: &&String| line.rsplit_once(" IN_").is_some_and(|(o, _)| o == object);
                let of = |lines: &Vec<String>| lines.iter().filter(is_of).cloned().collect();
                missing(&seen.iter().map(of).collect::<Vec<_>>(), acting)
            }
            None => {
                let of = |events: &Events| events.get(object).cloned().unwrap_or_default();
                first_difference(&merged.iter().map(of).collect::<Vec<_>>())
            }
        };
        differences.extend(wrong.map(|at| format!("{object}: {at}")));
    }
    differences
}

/// Which node misses events of the acting one for a name of a file that may have several: there it is also told of what
/// was done under the other names, which is a content or attribute event.
fn missing(of_nodes: &[Vec<String>], acting: usize) -> Option<String> {
    let own = &of_nodes[acting];
    let other = (of_nodes.iter()).position(|all| !is_told_at_least(own, all))?;
    Some(format!(
        "n{} saw {own:?}, n{} {:?}",
        acting + 1,
        other + 1,
        of_nodes[other]
    ))
}

/// Where the nodes' events of one object first differ, with what came around it.
fn first_difference(of_nodes: &[Vec<String>]) -> Option<String> {
    let longest = of_nodes.iter().map(Vec::len).max()?;
    let at = (0..longest).find(|at| {
        of_nodes
            .iter()
            .any(|events| events.get(*at) != of_nodes[0].get(*at))
    })?;
    let around = |events: &Vec<String>| {
        let kinds = events.iter().skip(at.saturating_sub(2)).take(5);
        kinds
            .map(|line| line.rsplit(' ').next().unwrap_or(line))
            .collect::<Vec<_>>()
            .join(" ")
    };
    let told: Vec<String> = of_nodes
        .iter()
        .enumerate()
        .map(|(n, e)| format!("n{} {}", n + 1, around(e)))
        .collect();
    Some(format!("event {at} of {longest}: {}", told.join(" | ")))
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
        let line = without_random_name(&line);
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

/// A line without the random part of the temporary name that sed chooses.
fn without_random_name(line: &str) -> String {
    let is_temporary = |word: &&str| word.starts_with("sed") && word.len() == 9;
    line.split(' ')
        .map(|word| {
            if is_temporary(&word) {
                "sed-temporary"
            } else {
                word
            }
        })
        .collect::<Vec<_>>()
        .join(" ")
}

fn without(events: &Events, lines: &[&str]) -> Events {
    let keep = |line: &&String| !lines.contains(&line.as_str());
    let kept = events
        .iter()
        .map(|(object, of)| (object.clone(), of.iter().filter(keep).cloned().collect()));
    kept.filter(|(_, of): &(String, Vec<String>)| !of.is_empty())
        .collect()
}
