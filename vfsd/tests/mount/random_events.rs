//! Random operations of two nodes at once: per name, each node's watcher sees the same events in the same order.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use system_tests::events::is_told_at_least;

use crate::events::{Watcher, settle};
use crate::{Cluster, run};

const OPERATIONS: usize = 600;

/// Operations on names that only this node uses: what two nodes do to one name has no order that both could see. Hard
/// links are made among names of their own, `l` and a digit: those are told of what was done under another name too.
fn operate(directory: &Path, prefix: &str, mut rng: StdRng) {
    // Other tests of this process start programs: between fork and exec those would share the files that are open here,
    // and a close would be the last one only when they have started.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_FILES).unwrap();
    // SAFETY: the table is this thread's own from here on, and it has opened nothing yet.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
    assert_eq!(closed, 0);
    for _ in 0..OPERATIONS {
        let links = rng.random_bool(0.4);
        let name = |rng: &mut StdRng| {
            let group = if links { "l" } else { "" };
            directory.join(format!("{prefix}{group}{}", rng.random_range(0..6)))
        };
        let (one, other) = (name(&mut rng), name(&mut rng));
        // Whether it is allowed depends on what came before; a refused call raises no event anywhere.
        let _ = match rng.random_range(0..14) {
            0..=2 => fs::write(&one, b"text"),
            3 => fs::rename(&one, &other),
            4 => fs::remove_file(&one),
            5 => fs::create_dir(&one),
            6 => fs::remove_dir(&one),
            7 => fs::set_permissions(
                &one,
                fs::Permissions::from_mode(rng.random_range(0o600..0o777)),
            ),
            8 => std::os::unix::fs::symlink("elsewhere", &one),
            9 | 10 => append(&one),
            11 => set_times(&one, UtimeOf::Modification),
            12 => set_times(&one, UtimeOf::Both),
            _ if links => fs::hard_link(&one, &other),
            _ => write_and_sync(&one),
        };
    }
}

/// As a shell's `>>` does.
fn append(path: &Path) -> std::io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).open(path)?;
    file.write_all(b"more")
}

/// The sync commits, and the close is announced by itself.
fn write_and_sync(path: &Path) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.write_all(b"sure")?;
    file.sync_all()
}

enum UtimeOf {
    /// `touch -m`: a modification, as the kernel tells it.
    Modification,
    /// `touch`, without the descriptor whose close is seen on its own node only.
    Both,
}

fn set_times(path: &Path, which: UtimeOf) -> std::io::Result<()> {
    let access = match which {
        UtimeOf::Modification => TimeSpec::UTIME_OMIT,
        UtimeOf::Both => TimeSpec::UTIME_NOW,
    };
    let (now, flag) = (TimeSpec::UTIME_NOW, UtimensatFlags::NoFollowSymlink);
    Ok(utimensat(AT_FDCWD, path, &access, &now, flag)?)
}

/// Events by name. Identical neighbours may be merged.
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
        names
            .entry(name.to_owned())
            .or_default()
            .push(mask.to_owned());
    }
    names
}

#[test]
fn random_operations_of_two_nodes_are_seen_alike() {
    let chosen = std::env::var("CONTEXTOS_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed: u64 = chosen.unwrap_or_else(|| rand::rng().random());
    println!("CONTEXTOS_SEED={seed}");
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
    for (prefix, acting, other) in [("a", &first, &second), ("b", &second, &first)] {
        let (acting, other) = (by_name(acting, prefix), by_name(other, prefix));
        assert_eq!(
            acting.keys().collect::<Vec<_>>(),
            other.keys().collect::<Vec<_>>(),
            "CONTEXTOS_SEED={seed}"
        );
        for (name, seen) in &acting {
            let elsewhere = &other[name];
            let is_right = if name[1..].starts_with('l') {
                is_told_at_least(seen, elsewhere)
            } else {
                merged(seen) == merged(elsewhere)
            };
            assert!(
                is_right,
                "{name}; CONTEXTOS_SEED={seed}\nits node: {seen:?}\nthe other: {elsewhere:?}"
            );
        }
    }
}

fn merged(events: &[String]) -> Vec<String> {
    let mut events = events.to_vec();
    events.dedup();
    events
}
