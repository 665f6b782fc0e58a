//! Calls between which something else of the same file happens: a commit behind a close, the loss of the last name.
//!
//! What a node shows lies in two places, what is committed and what is not, and goes from one to the other: a look
//! finds it in either, never in neither. What a call begins while the file has a name it ends when the name is gone.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vfsd::fs::FileSystem;
use vfsd::fs::caller::Caller;
use vfsd::fs::open_flags::OpenFlags;
use vfsd::state_machine::command::{Command, Remove, XattrMode};
use vfsd::state_machine::ids::{HandleId, InodeNo};

use crate::Cluster;
use crate::shared_log::SharedLog;

const ROOT: Caller = Caller {
    uid: 0,
    gid: 0,
    tid: 0,
};
/// The node of the tree's root directory.
const TOP: u64 = 1;

fn open(fs: &Arc<FileSystem>, node: u64) -> HandleId {
    let flags = OpenFlags {
        read: true,
        write: true,
        ..OpenFlags::default()
    };
    fs.open(ROOT, node, flags).unwrap()
}

/// Lets `grow` make a file of two bytes longer, byte by byte, while others look at `node`: it never becomes shorter.
fn only_grows(fs: &Arc<FileSystem>, node: u64, rounds: u64, grow: impl FnMut(u64)) {
    let ended = AtomicBool::new(false);
    let stats = || {
        let mut seen = 0;
        while !ended.load(Ordering::SeqCst) {
            let size = fs.attr(node).unwrap().size;
            assert!(size >= seen, "stat told {seen}, then {size}");
            seen = size;
        }
    };
    let reads = || {
        while !ended.load(Ordering::SeqCst) {
            let size = fs.attr(node).unwrap().size;
            let handle = fs.open(ROOT, node, OpenFlags::default()).unwrap();
            // Not from its beginning: such a read goes on with the version that was there at the open.
            let read = 1 + fs.read(handle, 1, 1 << 20).unwrap().len() as u64;
            fs.release(handle);
            assert!(read >= size, "stat told {size}, then {read} were read");
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(stats);
        scope.spawn(reads);
        (2..rounds).for_each(grow);
        ended.store(true, Ordering::SeqCst);
    });
}

#[test]
fn a_file_whose_commit_ends_while_somebody_looks_does_not_shrink() {
    let cluster = Cluster::start();
    fs::write(cluster.path(1, "x"), "..").unwrap();
    let fs = &cluster.filesystems[0];
    let node = fs.lookup(TOP, OsStr::new("x")).unwrap().node;
    only_grows(fs, node, 3000, |size| {
        let handle = open(fs, node);
        fs.write_buffered(handle, size, b".", false).unwrap();
        // Nobody waits for the commit.
        fs.release(handle);
    });
}

#[test]
fn a_file_without_a_name_that_is_written_while_somebody_looks_does_not_shrink() {
    let cluster = Cluster::start();
    let path = cluster.path(1, "x");
    fs::write(&path, "..").unwrap();
    let fs = &cluster.filesystems[0];
    let node = fs.lookup(TOP, OsStr::new("x")).unwrap().node;
    let handle = open(fs, node);
    fs::remove_file(&path).unwrap();
    only_grows(fs, node, 20_000, |size| {
        fs.write_buffered(handle, size, b".", false).unwrap();
    });
}

/// Another node removes `x`.
fn unlink(log: &SharedLog) {
    let remove = Remove {
        parent: InodeNo::ROOT,
        name: b"x".to_vec(),
    };
    log.change(Command::Unlink(remove)).outcome.unwrap();
}

/// An open file of the first node that loses its name, on another one, just before the next proposal is taken.
fn losing_its_name(cluster: &Cluster, options: &OpenOptions) -> File {
    let file = options.open(cluster.path(1, "x")).unwrap();
    cluster.log.before_the_next_of(1, unlink);
    file
}

#[test]
fn what_is_removed_before_its_maker_has_it_is_made_once_more() {
    let cluster = Cluster::start();
    cluster.log.behind_the_next_of(1, unlink);
    fs::write(cluster.path(1, "x"), "mine").unwrap();
    assert_eq!(fs::read(cluster.path(2, "x")).unwrap(), b"mine");
    cluster.log.behind_the_next_of(1, |log| {
        let remove = Remove {
            parent: InodeNo::ROOT,
            name: b"d".to_vec(),
        };
        log.change(Command::Rmdir(remove)).outcome.unwrap();
    });
    fs::create_dir(cluster.path(1, "d")).unwrap();
    assert!(cluster.path(2, "d").is_dir());
}

#[test]
fn an_append_goes_on_when_the_file_loses_its_name_meanwhile() {
    for truncates in [false, true] {
        let cluster = Cluster::start();
        fs::write(cluster.path(1, "x"), "old").unwrap();
        let mut options = OpenOptions::new();
        options.read(true).append(true);
        if truncates {
            // The standard library refuses both at once.
            options.custom_flags(libc::O_TRUNC);
        }
        let mut file = losing_its_name(&cluster, &options);
        file.write_all(b"new").unwrap();
        assert_eq!(file.metadata().unwrap().nlink(), 0);
        let expected: &[u8] = if truncates { b"new" } else { b"oldnew" };
        let mut found = [0; 10];
        let len = file.read_at(&mut found, 0).unwrap();
        assert_eq!(&found[..len], expected, "truncates: {truncates}");
    }
}

#[test]
fn attributes_are_changed_when_the_file_loses_its_name_meanwhile() {
    let cluster = Cluster::start();
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    let made = || fs::write(cluster.path(1, "x"), "old").unwrap();

    made();
    let file = losing_its_name(&cluster, &options);
    file.set_permissions(Permissions::from_mode(0o640)).unwrap();
    assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o640);
    assert_eq!(file.metadata().unwrap().nlink(), 0);

    made();
    let file = losing_its_name(&cluster, &options);
    nix::unistd::truncate(&cluster.path(1, "x"), 1).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 1);

    // Through the port: an attribute of an open file, as fsetxattr(2) sets it.
    let fs = &cluster.filesystems[0];
    let name = OsStr::new("user.color");
    let set = |node| {
        let mode = XattrMode::Create;
        let set = fs.set_xattr(ROOT, node, name, b"red", mode);
        fs.runtime().block_on(set)
    };
    let remove = |node| fs.runtime().block_on(fs.remove_xattr(ROOT, node, name));
    made();
    let file = losing_its_name(&cluster, &options);
    let node = file.metadata().unwrap().ino();
    set(node).unwrap();
    assert_eq!(fs.xattr(node, name).unwrap(), b"red");
    assert_eq!(file.metadata().unwrap().nlink(), 0);

    made();
    let node = fs::metadata(cluster.path(1, "x")).unwrap().ino();
    set(node).unwrap();
    let file = losing_its_name(&cluster, &options);
    remove(node).unwrap();
    assert!(fs.xattr(node, name).is_err());
    assert_eq!(file.metadata().unwrap().nlink(), 0);
}
