//! Shared mappings of several processes of one node: sqlite's WAL, LMDB, and counters, each on ext4 first.
//!
//! "`MAP_SHARED` is coherent within a node" as on any Linux filesystem; several nodes have no memory in common.

use std::ffi::OsStr;
use std::fs;

use vfsd::fs::caller::Caller;
use vfsd::fs::open_flags::OpenFlags;

use crate::lockstep::scratch::Scratch;
use crate::{Cluster, kernel_is_at_least, run};

/// Runs `several_writers KIND` on ext4 and on the tree.
fn nothing_is_lost(kind: &str, processes: usize, rounds: usize) {
    let (cluster, scratch) = (Cluster::start(), Scratch::new());
    let count = |path: &str| {
        format!("/usr/bin/python3 -m several_writers {kind} {path} {processes} {rounds}")
    };
    run(
        &cluster,
        &count(&scratch.path().join("x").display().to_string()),
    );
    // How an older kernel refuses is shown by `run_with_shared_mapping` elsewhere; each program says it in its own way.
    if kernel_is_at_least(6, 6) {
        run(&cluster, &count("$A/x"));
    }
}

/// What is lost here shows nowhere else: the database stays whole, only updates that were committed are gone.
#[test]
fn sqlite_in_wal_mode_keeps_the_updates_of_short_connections() {
    for synchronous in ["normal", "full"] {
        nothing_is_lost(&format!("sqlite-wal:{synchronous}"), 4, 40);
    }
}

#[test]
fn lmdb_keeps_the_changes_of_processes_that_come_and_go() {
    nothing_is_lost("lmdb-plain", 4, 25);
    nothing_is_lost("lmdb-writemap", 4, 25);
}

#[test]
fn counting_in_a_mapping_under_a_lock_loses_nothing() {
    for kind in ["mapped-once", "mapped-anew", "mapped-mixed"] {
        nothing_is_lost(kind, 4, 100);
    }
}

/// Without any lock, by the processor's own atomic instructions: all processes share one page.
#[test]
fn counting_in_a_mapping_by_atomic_instructions_loses_nothing() {
    let (cluster, scratch) = (Cluster::start(), Scratch::new());
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mount/shared_counter.c");
    run(&cluster, &format!("cc -O1 -Wall -Wextra -o count {source}"));
    run(
        &cluster,
        &format!("./count {}/x 4 2000", scratch.path().display()),
    );
    if kernel_is_at_least(6, 6) {
        run(
            &cluster,
            "for round in 1 2 3; do ./count $A/x 4 1000; done; cmp $A/x $B/x",
        );
    }
}

/// The kernel writes back pages that were stored before an `open` with `O_TRUNC` until that is answered: after the
/// truncation then, as here. On ext4 they are gone with it, and an append begins the file.
#[test]
fn a_store_that_is_written_back_after_a_truncation_makes_the_file_no_longer() {
    let cluster = Cluster::start();
    let path = cluster.path(1, "x");
    fs::write(&path, vec![b'o'; 8192]).unwrap();
    let tree = &cluster.filesystems[0];
    let node = tree.lookup(1, OsStr::new("x")).unwrap().node;
    let root = Caller {
        uid: 0,
        gid: 0,
        tid: 0,
    };
    let open = |truncate| {
        let flags = OpenFlags {
            read: true,
            write: true,
            truncate,
            ..OpenFlags::default()
        };
        tree.open(root, node, flags).unwrap()
    };
    let (mapped, other) = (open(false), open(true));
    let page = vec![b's'; 4096];
    let written = tree.write_buffered(mapped, 4096, &page, true).unwrap();
    assert_eq!(written, 4096, "to the kernel it is written");
    assert_eq!(tree.attr(node).unwrap().size, 0);
    tree.write_buffered(other, 0, b"new", false).unwrap();
    tree.write_buffered(mapped, 0, &page, true).unwrap();
    assert_eq!(tree.attr(node).unwrap().size, 3, "not beyond the end");
    for handle in [other, mapped] {
        tree.release(handle);
    }
    run(
        &cluster,
        r#"until [ "$(cat $B/x)" = sss ]; do :; done; [ "$(cat $A/x)" = sss ]"#,
    );
}
