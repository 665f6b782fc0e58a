//! inotify across nodes: a watcher on the other node sees what a watcher on the first one sees.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent};

use vfsd::state_machine::command::{Command, Create, NodeKind};
use vfsd::state_machine::ids::{InodeNo, NodeId};
use vfsd::state_machine::namespace::LK;

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
        Self::on_all(&[directory])
    }

    /// Watches several at once: their events are in one order.
    fn on_all(watched: &[&Path]) -> Self {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).unwrap();
        let local_only =
            AddWatchFlags::IN_OPEN | AddWatchFlags::IN_ACCESS | AddWatchFlags::IN_CLOSE_NOWRITE;
        for path in watched {
            inotify
                .add_watch(*path, AddWatchFlags::IN_ALL_EVENTS - local_only)
                .unwrap();
        }
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

/// As [`compare`], with a watch on the file `x` besides that of its directory, and in one order.
fn compare_with_file(prepare: &str, script: &str) {
    let cluster = Cluster::start();
    run(
        &cluster,
        &format!("mkdir $A/d $PWD/plain; for D in $A/d $PWD/plain; do cd $D; {prepare}; done"),
    );
    settle(&cluster);
    let plain = cluster.folder.path().join("plain");
    let watchers = [cluster.path(1, "d"), cluster.path(2, "d"), plain]
        .map(|at| Watcher::on_all(&[&at, &at.join("x")]));
    run(
        &cluster,
        &format!("for D in $A/d $PWD/plain; do cd $D; {script}; mkdir end-marker; done"),
    );
    let [here, there, plain] = watchers.map(|watcher| watcher.until("end-marker"));
    assert_eq!(here, plain, "{script}: here (left), and on ext4");
    assert_eq!(there, here, "{script}: on the other node (left), and here");
}

#[test]
fn a_file_that_nobody_has_open_goes_as_on_ext4() {
    compare_with_file("echo 1 > x", "rm x");
    compare_with_file("echo 1 > x; echo 2 > y", "mv y x");
}

/// "IN_DELETE_SELF comes when the last use of the file on that node ends" (docs/SEMANTICS.md).
#[test]
fn a_file_that_is_open_on_a_node_is_deleted_there_before_it_goes() {
    let cluster = Cluster::start();
    run(&cluster, "mkdir $A/d plain; echo 1 | tee $A/d/x > plain/x");
    settle(&cluster);
    let plain = cluster.folder.path().join("plain");
    let [there, plain] = [cluster.path(2, "d"), plain].map(|at| {
        let watcher = Watcher::on_all(&[&at, &at.join("x")]);
        (watcher, std::fs::File::open(at.join("x")).unwrap())
    });
    run(&cluster, "rm $A/d/x plain/x");
    settle(&cluster);
    let [there, plain] = [there, plain].map(|(watcher, file)| {
        drop(file);
        watcher.until_line("AddWatchFlags(IN_DELETE_SELF) ")
    });
    assert_eq!(there, plain);
    let deleted = |line: &String| line.contains("IN_DELETE) x");
    assert!(there.iter().any(deleted), "{there:?}");
}

/// The bytes were written under the old name: so on the acting node, and on the others.
#[test]
fn what_a_rename_or_a_link_carries_is_modified_under_the_name_that_it_had() {
    let held_open = |call: &str| {
        format!(
            "python3 -c 'import os; f = os.open(\"x\", os.O_WRONLY); os.write(f, b\"more\"); {call}; os.close(f)'"
        )
    };
    compare_with_file("echo 1 > x", &held_open("os.rename(\"x\", \"y\")"));
    let cluster = Cluster::start();
    run(&cluster, "mkdir $A/d; echo 1 > $A/d/x");
    settle(&cluster);
    let watcher = Watcher::on(&cluster.path(2, "d"));
    let script = held_open("os.link(\"x\", \"y\")");
    run(&cluster, &format!("cd $A/d; {script}; mkdir end-marker"));
    let seen = watcher.until("end-marker");
    let modified = "AddWatchFlags(IN_MODIFY) x";
    assert_eq!(seen[..2], [modified, "AddWatchFlags(IN_CREATE) y"]);
}

/// "a process that writes through copies of a descriptor ... is seen to close after each on other nodes"
/// (docs/SEMANTICS.md). Nothing else differs.
#[test]
fn writes_through_copies_of_a_descriptor_are_closed_more_often_elsewhere() {
    let cluster = Cluster::start();
    run(&cluster, "mkdir $A/d; echo 1 > $A/d/x");
    settle(&cluster);
    let [here, there] = [1, 2].map(|node| Watcher::on(&cluster.path(node, "d")));
    run(
        &cluster,
        "cd $A/d; exec 3<>x; echo a >&3; echo b >&3; exec 3>&-; mkdir end-marker",
    );
    let [here, there] = [here, there].map(|watcher| watcher.until("end-marker"));
    let once = ["IN_MODIFY", "IN_CLOSE_WRITE"].map(|kind| format!("AddWatchFlags({kind}) x"));
    assert_eq!(here, once);
    assert_eq!(there, [once.clone(), once].concat());
}

/// "A change whose caller was told of a failure, or was killed, and that was committed all the same, raises its events
/// on its own node too" (docs/SEMANTICS.md).
#[test]
fn a_change_whose_caller_was_told_of_a_failure_is_told_on_its_own_node_too() {
    let cluster = Cluster::start();
    run(&cluster, "mkdir $A/d; echo 1 > $A/d/x; echo 1 > $A/d/y");
    settle(&cluster);
    let watchers = [1, 2].map(|node| Watcher::on(&cluster.path(node, "d")));
    cluster.log.lose_answers(true);
    let failing = "cd $A/d; ! mkdir new 2>/dev/null; ! rm x 2>/dev/null; ! mv y z 2>/dev/null";
    run(&cluster, failing);
    cluster.log.lose_answers(false);
    settle(&cluster);
    run(
        &cluster,
        "[ -d $A/d/new -a ! -e $A/d/x -a -e $A/d/z ]; mkdir $A/d/end-marker",
    );
    let [here, there] = watchers.map(|watcher| watcher.until("end-marker"));
    let expected = [
        "AddWatchFlags(IN_CREATE | IN_ISDIR) new",
        "AddWatchFlags(IN_DELETE) x",
        "AddWatchFlags(IN_MOVED_FROM) y #0",
        "AddWatchFlags(IN_MOVED_TO) z #0",
    ];
    assert_eq!(there, expected);
    assert_eq!(here, there);
}

/// "A node that gets a snapshot raises what lies between the two states" (docs/SEMANTICS.md).
#[test]
fn a_snapshot_raises_what_it_has_brought() {
    let cluster = Cluster::start();
    run(
        &cluster,
        "mkdir -p $A/d/old/deep $A/d/sub; cd $A/d
         for f in saved mode gone moved same old/deep/f; do echo 1 > $f; done",
    );
    settle(&cluster);
    run(&cluster, "find $B/d > /dev/null");
    let watcher = Watcher::on(&cluster.path(2, "d"));
    let deep = Watcher::on(&cluster.path(2, "d/old/deep"));
    cluster.log.hold_back(2);
    run(
        &cluster,
        "cd $A/d; echo 2 > saved; chmod 600 mode; rm gone; mv moved moved-on; rm -r old; mkdir new; echo 1 > new/f
         echo 1 > born; echo 1 > tmp; rm tmp; mv sub sub-1; mv sub-1 sub",
    );
    assert!(cluster.path(2, "d/gone").exists(), "it has not heard of it");
    cluster.log.install_snapshot(2);
    run(&cluster, "mkdir $A/d/end-marker");
    let seen = deep.until_line("AddWatchFlags(IN_DELETE_SELF) ");
    assert!(
        seen.contains(&"AddWatchFlags(IN_DELETE) f".into()),
        "{seen:?}"
    );
    let mut seen = watcher.until("end-marker");
    seen.sort();
    let mut expected = [
        "AddWatchFlags(IN_CREATE | IN_ISDIR) new",
        "AddWatchFlags(IN_MOVED_FROM) moved #0",
        "AddWatchFlags(IN_MOVED_TO) moved-on #0",
        "AddWatchFlags(IN_DELETE) gone",
        "AddWatchFlags(IN_DELETE | IN_ISDIR) old",
        "AddWatchFlags(IN_CREATE) born",
        "AddWatchFlags(IN_MODIFY) born",
        "AddWatchFlags(IN_CLOSE_WRITE) born",
        "AddWatchFlags(IN_MODIFY) saved",
        "AddWatchFlags(IN_CLOSE_WRITE) saved",
        "AddWatchFlags(IN_ATTRIB) mode",
    ];
    expected.sort_unstable();
    assert_eq!(seen, expected);
    run(
        &cluster,
        "[ \"$(cat $B/d/saved)\" = 2 ]; echo after > $A/d/after; [ \"$(cat $B/d/after)\" = after ]",
    );
}

/// "So does ... a lock file that goes with no call of its node's" (docs/SEMANTICS.md): also on the node that leads and
/// has made the entry, as no system call of it has.
#[test]
fn a_lock_that_the_log_frees_is_deleted_on_every_node() {
    let cluster = Cluster::start();
    run(&cluster, "setfattr -n user.lk.delay -v 0 $A/lk");
    run(&cluster, "mkdir $A/lk/here $B/lk/there");
    settle(&cluster);
    let watchers = [1, 2].map(|node| Watcher::on(&cluster.path(node, "lk")));
    let lead = |command| cluster.log.lead(1, command).outcome.unwrap();
    let locks: Vec<_> = {
        let state = cluster.log.state();
        state.locks().iter().map(|(at, lock)| (at, *lock)).collect()
    };
    for (_, lock) in &locks {
        if lock.node == NodeId(2) {
            lead(Command::MemberRemove { node: lock.node });
        } else {
            lead(Command::SessionEnd {
                session: lock.session,
                clean: false,
            });
        }
    }
    for (inode, lock) in locks {
        let fence = lock.fence;
        lead(Command::LockDelayEnd { inode, fence });
    }
    settle(&cluster);
    // The node has no session any more, so none of its calls changes anything there.
    let marker = Create {
        parent: LK,
        name: b"end-marker".to_vec(),
        kind: NodeKind::Regular,
        mode: 0o600,
        uid: 0,
        gid: 0,
        exclusive: false,
        handle: None,
    };
    cluster.log.change(Command::Create(marker)).outcome.unwrap();
    let expected = [
        "AddWatchFlags(IN_ATTRIB | IN_ISDIR) here",
        "AddWatchFlags(IN_ATTRIB | IN_ISDIR) there",
        "AddWatchFlags(IN_DELETE | IN_ISDIR) here",
        "AddWatchFlags(IN_DELETE | IN_ISDIR) there",
    ];
    for watcher in watchers {
        assert_eq!(watcher.until("end-marker"), expected);
    }
}
