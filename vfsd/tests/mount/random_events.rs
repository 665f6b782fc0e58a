//! Random operations of two nodes at once: per name, each node's watcher sees the same events in the same order.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::events::{Watcher, settle};
use crate::{Cluster, run};

const OPERATIONS: usize = 600;

/// Operations on names that only this node uses: what two nodes do to one name has no order that both could see. No
/// appends: the notice of their close is not awaited and may come late.
fn operate(directory: &Path, prefix: &str, mut rng: StdRng) {
    let name = |rng: &mut StdRng| directory.join(format!("{prefix}{}", rng.random_range(0..6)));
    for _ in 0..OPERATIONS {
        let (one, other) = (name(&mut rng), name(&mut rng));
        // Whether it is allowed depends on what came before; a refused call raises no event anywhere.
        let _ = match rng.random_range(0..9) {
            0..=2 => fs::write(&one, b"text"),
            3 => fs::rename(&one, &other),
            4 => fs::remove_file(&one),
            5 => fs::create_dir(&one),
            6 => fs::remove_dir(&one),
            7 => fs::set_permissions(
                &one,
                fs::Permissions::from_mode(rng.random_range(0o600..0o777)),
            ),
            _ => std::os::unix::fs::symlink("elsewhere", &one),
        };
    }
}

/// Events by name, without identical neighbours: those may be merged.
fn by_name(seen: &[String], prefix: &str) -> BTreeMap<String, Vec<String>> {
    let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in seen {
        let Some((mask, name)) = line.rsplit_once(") ") else {
            continue;
        };
        let name = name.split(" #").next().unwrap_or(name);
        if !name.starts_with(prefix) {
            continue;
        }
        let events = names.entry(name.to_owned()).or_default();
        if events.last().map(String::as_str) != Some(mask) {
            events.push(mask.to_owned());
        }
    }
    names
}

#[test]
fn random_operations_of_two_nodes_are_seen_alike() {
    let chosen = std::env::var("TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed: u64 = chosen.unwrap_or_else(|| rand::rng().random());
    println!("TEST_SEED={seed}");
    let cluster = Cluster::start();
    run(&cluster, "mkdir $A/d; ls $B/d");
    settle(&cluster);
    let directories = [1, 2].map(|node| cluster.path(node, "d"));
    let watchers = directories.clone().map(|directory| Watcher::on(&directory));
    std::thread::scope(|scope| {
        for (number, directory) in directories.iter().enumerate() {
            let rng = StdRng::seed_from_u64(seed + number as u64);
            scope.spawn(move || operate(directory, ["a", "b"][number], rng));
        }
    });
    settle(&cluster);
    run(&cluster, "mkdir $A/d/end-marker");
    let [first, second] = watchers.map(|watcher| watcher.until("end-marker"));
    for prefix in ["a", "b"] {
        let (first, second) = (by_name(&first, prefix), by_name(&second, prefix));
        assert_eq!(
            first.keys().collect::<Vec<_>>(),
            second.keys().collect::<Vec<_>>(),
            "TEST_SEED={seed}"
        );
        for (name, seen) in &first {
            let other = &second[name];
            let same = seen
                .iter()
                .zip(other)
                .take_while(|(one, other)| one == other)
                .count();
            let around = |events: &[String]| {
                events[same.saturating_sub(4)..events.len().min(same + 4)].to_vec()
            };
            assert!(
                seen == other,
                "{name}: after {same} equal events node 1 saw {:?} and node 2 saw {:?}; TEST_SEED={seed}",
                around(seen),
                around(other)
            );
        }
    }
}
