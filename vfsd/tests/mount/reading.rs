//! Which bytes a reader sees. Each test quotes the sentence of docs/SEMANTICS.md that it shows.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use crate::events::settle;
use crate::{Cluster, run};

/// "A read at offset 0 moves to the newest version; ... otherwise a reader goes on in its version, so `cat` and `cp`
/// never join two versions that another node made."
#[test]
fn a_reader_never_joins_two_versions() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        python3 - <<'PY'
import os
a, b = os.environ['A'] + '/mid/x', os.environ['B'] + '/mid/x'
open(a, 'w').write('1' * 100)
reader = os.open(b, os.O_RDONLY)
assert os.read(reader, 50) == b'1' * 50
open(a, 'w').write('2' * 300)
assert os.lseek(reader, 0, os.SEEK_DATA) == 0, "which is no read"
os.lseek(reader, 50, os.SEEK_SET)
assert os.read(reader, 500) == b'1' * 50
assert os.read(reader, 500) == b'', 'a rewritten file ends where its old version ended'
assert os.pread(reader, 500, 0) == b'2' * 300
PY
        "#,
    );
}

/// "A read at the end moves on if bytes were only added since (`tail -f`)."
#[test]
fn a_reader_at_the_end_follows_what_is_appended() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        echo one > $A/log; exec 3< $B/log; [ "$(cat <&3)" = one ]
        echo two >> $A/log; [ "$(cat <&3)" = two ]
        echo 3 > $A/log; [ "$(cat <&3)" = '' ]
        "#,
    );
}

/// "Always with this node's own completed writes", and "writes of this node show at once".
#[test]
fn a_node_reads_its_own_writes() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        echo old > $A/x; exec 3< $A/x; read -r line <&3; [ "$line" = old ]
        for i in $(seq 50); do echo $i > $A/x; [ "$(cat $A/x)" = $i ]; done
        echo old > $B/x; [ "$(cat $B/x)" = old ]
        "#,
    );
}

/// "`fsync` of a descriptor of the directory `/.vfs` is a barrier."
#[test]
fn the_barrier_is_an_fsync_of_the_virtual_directory() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        echo new > $A/x; sync $B/.vfs; [ "$(cat $B/x)" = new ]; sync $B/mid
        "#,
    );
}

/// "No `ls`, `df`, `stat` or `ps` hangs": not even when the threads that answer the kernel have died of a fault.
#[test]
fn a_mount_that_nobody_answers_on_any_more_is_made_anew() {
    let cluster = Cluster::start();
    run(&cluster, "echo here > $A/mid/x");
    cluster.log.fail_requests(vfsd::limits::FUSE_THREADS as u64);
    // Each fault ends one thread, and its caller has an error; whoever comes then has nobody to answer.
    run(
        &cluster,
        r#"
        for n in 1 2; do (stat $A/mid/x) > /dev/null 2>&1 && exit 1; done
        timeout --kill-after=1 30 stat $A/mid/x > /dev/null 2>&1 || [ $? -lt 124 ]
        until [ "$(timeout 30 cat $A/mid/x 2> /dev/null)" = here ]; do :; done
        [ "$(cat $B/mid/x)" = here ]; echo again > $A/mid/x; [ "$(cat $B/mid/x)" = again ]
        "#,
    );
    assert!(cluster.log.has_failed_requests());
}

/// A file under a bind mount of its own, until this is dropped.
struct Bound(PathBuf);

impl Drop for Bound {
    fn drop(&mut self) {
        let mut umount = std::process::Command::new("umount");
        let _ = umount.arg("-l").arg(&self.0).status();
    }
}

/// "What a lookup found answers until the kernel forgets it, whatever became of its names, ... a removal or rename on
/// any node, or a snapshot."
#[test]
fn what_is_open_or_looked_up_lives_on_over_a_snapshot() {
    let cluster = Cluster::start();
    run(&cluster, "mkdir $A/d; echo old > $A/x; echo old > $A/y");
    // The kernel binds no name that is made anew in between, as its event is raised.
    settle(&cluster);
    run(&cluster, "touch bound; mount --bind $B/y bound");
    let bound = Bound(cluster.folder.path().join("bound"));
    let path = cluster.path(2, "x");
    let file = File::options().read(true).write(true).open(path).unwrap();
    let directory = File::open(cluster.path(2, "d")).unwrap();
    cluster.log.hold_back(2);
    run(&cluster, "rm $A/x $A/y; rmdir $A/d; [ -e $B/x ]");
    cluster.log.install_snapshot(2);
    // Before its events are raised on the node and after.
    for written in ["one", "two"] {
        assert_eq!(file.metadata().unwrap().nlink(), 0);
        assert_eq!(directory.metadata().unwrap().nlink(), 0);
        assert_eq!(bound.0.metadata().unwrap().nlink(), 0);
        let mut seen = [0; 3];
        if written == "one" {
            file.read_exact_at(&mut seen, 0).unwrap();
            assert_eq!(&seen, b"old");
            run(&cluster, "[ $(cat bound) = old ]");
        }
        file.write_all_at(written.as_bytes(), 0).unwrap();
        file.read_exact_at(&mut seen, 0).unwrap();
        assert_eq!(seen, written.as_bytes());
        run(
            &cluster,
            &format!("echo {written} > bound; [ $(cat bound) = {written} ]"),
        );
        settle(&cluster);
    }
    run(&cluster, "[ ! -e $B/x -a ! -e $B/y -a ! -e $B/d ]");
}
