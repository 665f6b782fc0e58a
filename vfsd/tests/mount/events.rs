//! inotify across nodes: a watcher on the other node sees what a watcher on the first one sees.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent};

use vfsd::state_machine::ids::InodeNo;

use crate::{Cluster, kernel_is_at_least, run};

const DEADLINE: Duration = Duration::from_secs(20);

/// Watches one directory and tells events as text, without the ones that are not replicated.
pub struct Watcher {
    inotify: Inotify,
    seen: Vec<String>,
    cookies: BTreeMap<u32, usize>,
}

impl Watcher {
    pub fn on(directory: &Path) -> Self {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).unwrap();
        let local_only =
            AddWatchFlags::IN_OPEN | AddWatchFlags::IN_ACCESS | AddWatchFlags::IN_CLOSE_NOWRITE;
        inotify
            .add_watch(directory, AddWatchFlags::IN_ALL_EVENTS - local_only)
            .unwrap();
        Self {
            inotify,
            seen: Vec::new(),
            cookies: BTreeMap::new(),
        }
    }

    /// All events until one names `marker`.
    pub fn until(self, marker: &str) -> Vec<String> {
        self.collect(
            |event| event.name == Some(OsString::from(marker)),
            |_| false,
        )
    }

    /// All events up to and with the first that reads like `line`.
    fn until_line(self, line: &str) -> Vec<String> {
        self.collect(|_| false, |seen| seen == line)
    }

    fn collect(
        mut self,
        ends_before: impl Fn(&InotifyEvent) -> bool,
        ends_at: impl Fn(&str) -> bool,
    ) -> Vec<String> {
        let until = Instant::now() + DEADLINE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "the last event did not come; seen: {:#?}",
                self.seen
            );
            let mut ready = [PollFd::new(
                std::os::fd::AsFd::as_fd(&self.inotify),
                PollFlags::POLLIN,
            )];
            poll(&mut ready, PollTimeout::try_from(left).unwrap()).unwrap();
            for event in self.inotify.read_events().unwrap_or_default() {
                if ends_before(&event) {
                    return self.seen;
                }
                self.note(event);
                if self.seen.last().is_some_and(|line| ends_at(line)) {
                    return self.seen;
                }
            }
        }
    }

    fn note(&mut self, event: InotifyEvent) {
        let name = event.name.unwrap_or_default();
        let cookie = match event.cookie {
            0 => String::new(),
            cookie => {
                let next = self.cookies.len();
                format!(" #{}", self.cookies.entry(cookie).or_insert(next))
            }
        };
        let line = format!("{:?} {}{cookie}", event.mask, name.to_string_lossy());
        // inotify merges identical neighbours; a replay may raise one where a local call raised two.
        if self.seen.last() != Some(&line) {
            self.seen.push(line);
        }
    }
}

/// Waits until both nodes have raised everything that happened so far on the other.
pub fn settle(cluster: &Cluster) {
    let until = Instant::now() + DEADLINE;
    for node in [1, 2] {
        loop {
            let status = std::fs::read(cluster.path(node, ".vfs/status.json")).unwrap();
            let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
            if status["replay_lag"] == 0 {
                break;
            }
            assert!(Instant::now() < until, "the replay does not end: {status}");
            std::thread::yield_now();
        }
    }
}

/// Runs `script` in `$D` on the first node, on ext4 or tmpfs, and compares what three watchers see.
fn compare(prepare: &str, script: &str) {
    let cluster = Cluster::start();
    run(
        &cluster,
        &format!("mkdir $A/d $PWD/plain; for D in $A/d $PWD/plain; do cd $D; {prepare}; done"),
    );
    settle(&cluster);
    let plain = cluster.folder.path().join("plain");
    let watchers = [cluster.path(1, "d"), cluster.path(2, "d"), plain].map(|at| Watcher::on(&at));
    run(
        &cluster,
        &format!("for D in $A/d $PWD/plain; do cd $D; {script}; mkdir end-marker; done"),
    );
    let [here, there, plain] = watchers.map(|watcher| watcher.until("end-marker"));
    assert_eq!(
        here, plain,
        "{script}: the node's own events (left) differ from an ordinary filesystem's (right)"
    );
    assert_eq!(
        there, here,
        "{script}: the other node's events (left) differ from the node's own (right)"
    );
}

#[test]
fn a_new_file_is_created_modified_and_closed() {
    compare(":", "echo hello > x");
}

#[test]
fn an_overwrite_is_modified_and_closed() {
    compare("echo one > x", "echo two > x");
}

#[test]
fn appending_is_modified_and_closed() {
    compare("echo one > x", "echo two >> x");
}

#[test]
fn directories_come_and_go() {
    compare(":", "mkdir a; rmdir a; mkdir -p b/c; rm -r b");
}

#[test]
fn moves_carry_one_cookie() {
    compare(
        "echo 1 > x; mkdir sub",
        "mv x y; mv y sub/y; mv sub/y z; mv sub other",
    );
}

#[test]
fn replacing_by_rename_is_a_move() {
    compare("echo 1 > x", "echo 2 > .x.tmp; mv .x.tmp x");
}

#[test]
fn links_and_symlinks_are_created() {
    compare("echo 1 > x", "ln x y; ln -s x z; rm x; rm z");
}

#[test]
fn attributes_change() {
    compare(
        "echo 1 > x; mkdir d",
        "chmod 600 x; chown 1:1 x; chmod 700 d; setfattr -n user.a -v b x",
    );
}

/// "closing a write handle that committed nothing raises IN_CLOSE_WRITE on its own node only" (docs/SEMANTICS.md).
#[test]
fn touch_is_seen_as_an_attribute_change_elsewhere() {
    let cluster = Cluster::start();
    run(&cluster, "mkdir $A/d; echo 1 > $A/d/x");
    settle(&cluster);
    let watcher = Watcher::on(&cluster.path(2, "d"));
    run(&cluster, "touch $A/d/x; mkdir $A/d/end-marker");
    assert_eq!(watcher.until("end-marker"), ["AddWatchFlags(IN_ATTRIB) x"]);
}

/// A remount under open handles raises no event by itself: the tree is mounted anew and goes on.
#[test]
fn a_tree_that_somebody_unmounts_is_mounted_anew() {
    let cluster = Cluster::start();
    run(&cluster, "echo 1 > $A/mid/x; umount -l $B");
    let until = Instant::now() + DEADLINE;
    while std::fs::read(cluster.path(2, "mid/x")).is_err() {
        assert!(Instant::now() < until, "the tree did not come back");
        std::thread::yield_now();
    }
    run(&cluster, "mkdir $A/d");
    settle(&cluster);
    let watcher = Watcher::on(&cluster.path(2, "d"));
    run(&cluster, "echo 2 > $A/d/y; mkdir $A/d/end-marker");
    assert_eq!(
        watcher.until("end-marker").len(),
        3,
        "events are raised on the new mount"
    );
}

/// "The old mount ends with the last file that a user has open in it": also on a node where nothing happens.
#[test]
fn an_unmounted_tree_is_let_go_on_an_idle_node() {
    let cluster = Cluster::start();
    // An event of the root, which every kernel knows: the replay thread has entered the mount.
    run(&cluster, "echo 1 > $A/mid/x; mkdir $A/d");
    settle(&cluster);
    let owners = || Arc::strong_count(&cluster.filesystems[1]);
    // The adapter of each live connection is one of them.
    let before = owners();
    run(&cluster, "exec 3< $B/mid/x; umount -l $B; cat <&3");
    let until = Instant::now() + DEADLINE;
    while std::fs::read(cluster.path(2, "mid/x")).is_err() {
        assert!(Instant::now() < until, "the tree did not come back");
        std::thread::yield_now();
    }
    while owners() > before {
        assert!(
            Instant::now() < until,
            "the old connection is still served: {} owners, {before} before",
            owners()
        );
        std::thread::yield_now();
    }
}

#[test]
fn a_watch_on_a_file_follows_it_over_names() {
    let cluster = Cluster::start();
    run(&cluster, "mkdir $A/d; echo 1 > $A/d/x; ln $A/d/x $A/d/y");
    settle(&cluster);
    let [here, there] = [1, 2].map(|node| Watcher::on(&cluster.path(node, "d/x")));
    run(
        &cluster,
        "echo 2 > $A/d/x; chmod 600 $A/d/x; mv $A/d/x $A/d/z; rm $A/d/y; rm $A/d/z",
    );
    let gone = "AddWatchFlags(IN_DELETE_SELF) ";
    let [here, there] = [here, there].map(|watcher| watcher.until_line(gone));
    // The other node cannot know by which of its names the file was written: each name's directory is told.
    let kinds = |lines: &[String]| {
        lines
            .iter()
            .cloned()
            .collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(kinds(&there), kinds(&here));
}

#[test]
fn truncations_are_modifications() {
    compare("seq 100 > x", "truncate -s 10 x");
}

#[test]
fn copies_and_tee_look_alike() {
    compare(
        "mkdir s; echo 1 > s/f; echo 2 > a",
        "cp a b; cp -r s t; echo 3 | tee q > /dev/null",
    );
}

/// A directory that nobody on this node uses or watches costs its replay nothing; one that is watched stays known. A
/// kernel before 6.18 cannot be told to drop one: there the first part cannot hold, and the replay does more work.
#[test]
fn only_watched_directories_stay_known_to_the_kernel() {
    let cluster = Cluster::start();
    run(&cluster, "mkdir $A/unused $A/watched");
    settle(&cluster);
    let watcher = Watcher::on(&cluster.path(2, "watched"));
    let number = |name: &str| {
        cluster
            .log
            .state()
            .tree()
            .lookup(InodeNo::ROOT, name.as_bytes())
            .unwrap()
    };
    let lookups = cluster.filesystems[1].known();
    let until = Instant::now() + DEADLINE;
    while kernel_is_at_least(6, 18) && lookups.is_known(number("unused")) {
        assert!(
            Instant::now() < until,
            "the kernel keeps a directory that nobody uses"
        );
        std::thread::yield_now();
    }
    assert!(lookups.is_known(number("watched")));
    run(
        &cluster,
        "echo 1 > $A/watched/x; mkdir $A/watched/end-marker",
    );
    assert_eq!(watcher.until("end-marker").len(), 3);
}
