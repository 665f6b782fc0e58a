//! Commits that the writer does not make himself: by another's `fsync`, by a rename, by a timer, behind the last close,
//! or after he was killed. What he has written is committed once or stays his; where it cannot be, that is named.
//!
//! Each test quotes the sentence of docs/SEMANTICS.md that it shows. Not here: commits of a writer's own calls
//! (`writing.rs`).

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use vfsd::fs::caller::Caller;
use vfsd::fs::open_flags::OpenFlags;
use vfsd::state_machine::command::{
    Command as Change, ContentOp, ContentUpdate, RenameMode, Write,
};
use vfsd::state_machine::ids::{HandleId, InodeNo};

use crate::other_process::OtherProcess;
use crate::shared_log::SharedLog;
use crate::{Cluster, run, until};

const ROOT: Caller = Caller {
    uid: 0,
    gid: 0,
    tid: 0,
};
/// The node of the tree's root directory.
const TOP: u64 = 1;

/// Opens `name`, an entry of the root, on the first node by a program whose every call is `ROOT`'s. The other node has
/// made it: the last close of a shell of this node could still be under way, and commits what it finds.
fn open_on_first(cluster: &Cluster, name: &str) -> HandleId {
    let fs = &cluster.filesystems[0];
    let node = fs.lookup(TOP, OsStr::new(name)).unwrap().node;
    let flags = OpenFlags {
        read: true,
        write: true,
        ..OpenFlags::default()
    };
    fs.open(ROOT, node, flags).unwrap()
}

/// Another program that rewrites a file and has not closed it yet.
fn writer_of_new(path: &Path) -> OtherProcess {
    let mut writer = OtherProcess::with(path, "os.O_WRONLY | os.O_TRUNC");
    assert_eq!(writer.call("os.write(f, b'new')"), 0);
    writer
}

/// Has it close the file; from now on proposals are not answered.
fn begin_close(cluster: &Cluster, writer: &mut OtherProcess) {
    cluster.log.stall();
    writer.begin("os.close(f)");
    until("close(2) commits", || cluster.log.has_stalled());
}

fn is_read_only(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(libc::EROFS)
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

/// "What cannot be committed on behalf of others stays theirs."
#[test]
fn a_foreign_fsync_that_fails_leaves_the_writer_its_bytes() {
    let cluster = Cluster::start();
    run(&cluster, "printf old > $A/x");
    let [here, there] = [1, 2].map(|node| cluster.path(node, "x"));
    let mut writer = OtherProcess::with(&here, "os.O_RDWR");
    assert_eq!(writer.call("os.write(f, b'new')"), 0);
    let other = File::open(&here).unwrap();
    cluster.log.set_quorum(false);
    let error = other.sync_all().unwrap_err();
    assert!(is_read_only(&error), "{error}");
    assert_eq!(text(&here), "new", "processes of its node see it still");
    cluster.log.set_quorum(true);
    assert_eq!(text(&there), "old");
    assert_eq!(writer.call("os.close(f)"), 0);
    assert_eq!(text(&there), "new");
}

/// "`fsync` commits ... what other handles have unless they rewrite the file: half of such a save is nobody's to
/// publish."
#[test]
fn a_foreign_fsync_publishes_no_half_save() {
    let cluster = Cluster::start();
    run(&cluster, "printf old > $A/x; printf old > $A/y");
    let [here, there] = [1, 2].map(|node| cluster.path(node, "x"));
    let mut writer = OtherProcess::with(&here, "os.O_WRONLY | os.O_TRUNC");
    assert_eq!(writer.call("os.write(f, b'half ')"), 0);
    File::open(&here).unwrap().sync_all().unwrap();
    assert_eq!(text(&there), "old");
    assert_eq!(writer.call("os.write(f, b'and whole')"), 0);
    assert_eq!(writer.call("os.close(f)"), 0);
    assert_eq!(text(&there), "half and whole");
    // One that changes a part of the file has no halves.
    let [here, there] = [1, 2].map(|node| cluster.path(node, "y"));
    let mut writer = OtherProcess::with(&here, "os.O_WRONLY");
    assert_eq!(writer.call("os.write(f, b'new')"), 0);
    File::open(&here).unwrap().sync_all().unwrap();
    assert_eq!(text(&there), "new");
}

/// "Stores through a shared mapping are committed by `msync`, `fsync`, a close, or a second after the kernel has
/// written them back": what could not be committed then is still there for a close.
#[test]
fn stores_that_the_timer_could_not_commit_go_with_the_next_flush() {
    let cluster = Cluster::start();
    run(&cluster, "printf old > $B/x");
    let fs = &cluster.filesystems[0];
    let handle = open_on_first(&cluster, "x");
    fs.write_buffered(handle, 0, b"new", true).unwrap();
    cluster.log.set_quorum(false);
    until("the timer commits", || cluster.log.refused() > 0);
    cluster.log.set_quorum(true);
    assert_eq!(text(&cluster.path(2, "x")), "old");
    fs.runtime().block_on(fs.flush(ROOT, handle)).unwrap();
    assert_eq!(text(&cluster.path(2, "x")), "new");
    fs.release(handle);
}

/// "What cannot be committed on behalf of others stays theirs": the bytes that a rename would have carried, and those
/// that it would have committed before.
#[test]
fn a_rename_that_fails_leaves_the_writers_their_bytes() {
    let cluster = Cluster::start();
    run(&cluster, "printf '....' > $A/x");
    let [from, to] = ["x", "y"].map(|name| cluster.path(1, name));
    let mut writers = [(); 2].map(|()| OtherProcess::with(&from, "os.O_WRONLY"));
    for (writer, offset) in writers.iter_mut().zip([0, 2]) {
        assert_eq!(writer.call(&format!("os.pwrite(f, b'12', {offset})")), 0);
        for call in [fs::rename, fs::hard_link] {
            // A call that finds no majority when it comes takes nothing at all.
            let lost = |log: &SharedLog| log.set_quorum(false);
            cluster.log.before_the_next_of(1, lost);
            let error = call(&from, &to).unwrap_err();
            assert!(is_read_only(&error), "{error}");
            cluster.log.set_quorum(true);
        }
    }
    assert_eq!(text(&cluster.path(2, "x")), "....");
    assert_eq!(text(&from), "1212");
    for mut writer in writers {
        assert_eq!(writer.call("os.close(f)"), 0);
    }
    assert_eq!(text(&cluster.path(2, "x")), "1212");
}

/// "A commit goes on when its caller is killed", and readers of its node see what it comes to.
#[test]
fn a_save_whose_writer_is_killed_while_it_is_committed_is_not_lost() {
    let cluster = Cluster::start();
    run(&cluster, "printf old > $A/x");
    let here = cluster.path(1, "x");
    let mut writer = writer_of_new(&here);
    let reader = File::open(&here).unwrap();
    begin_close(&cluster, &mut writer);
    writer.kill();
    writer.wait();
    cluster.log.resume();
    let there = cluster.path(2, "x");
    until("it is committed", || text(&there) == "new");
    let mut seen = [0; 8];
    let len = reader.read_at(&mut seen, 0).unwrap();
    assert_eq!(&seen[..len], b"new");
    assert_eq!(text(&cluster.path(1, ".vfs/now/x")), "new");
}

/// "A commit goes on when its caller is killed": a wish that its writer has asked to be committed is whole.
#[test]
fn a_wish_whose_writer_is_killed_in_an_fsync_is_published() {
    let cluster = Cluster::start();
    run(&cluster, "printf old > $A/mid/x");
    let mut writer = writer_of_new(&cluster.path(1, "mid/x"));
    cluster.log.stall();
    writer.begin("os.fsync(f)");
    until("fsync(2) commits", || cluster.log.has_stalled());
    writer.kill();
    // Without a memory map it has left the call. Its files are closed after that, which waits for the commit.
    let status = format!("/proc/{}/status", writer.id());
    until("fsync(2) returns", || {
        !text(Path::new(&status)).contains("VmSize:")
    });
    cluster.log.resume();
    writer.wait();
    let there = cluster.path(2, "mid/x");
    until("it is published", || text(&there) == "new");
}

/// "A save that fails after its caller was killed goes as what a last close leaves": named, and tried again, whether
/// that was before the close or in it.
#[test]
fn a_save_that_fails_after_its_writer_was_killed_is_named_and_tried_again() {
    for killed_in_close in [false, true] {
        let cluster = Cluster::start();
        run(&cluster, "printf old > $A/x");
        let mut writer = writer_of_new(&cluster.path(1, "x"));
        if killed_in_close {
            begin_close(&cluster, &mut writer);
        }
        cluster.log.set_quorum(false);
        writer.kill();
        writer.wait();
        cluster.log.fail_stalled();
        until("it is named as pending", || {
            unsaved(&cluster)[0] == ["/x".to_owned()]
        });
        assert_eq!(text(&cluster.path(2, "x")), "old");
        cluster.log.set_quorum(true);
        let there = cluster.path(2, "x");
        until("it is committed", || text(&there) == "new");
        until("it is no longer named", || {
            unsaved(&cluster) == [Vec::<String>::new(), Vec::new()]
        });
    }
}

/// The same, where it cannot succeed later.
#[test]
fn a_save_that_is_refused_after_its_writer_was_killed_is_named_as_dropped() {
    let cluster = Cluster::start();
    run(&cluster, "mkdir $A/run/d; printf old > $A/run/d/x");
    let here = cluster.path(1, "run/d/x");
    let mut writer = writer_of_new(&here);
    begin_close(&cluster, &mut writer);
    writer.kill();
    writer.wait();
    cluster.log.answer_new_ones();
    run(
        &cluster,
        "mkdir $B/lk/job; setfattr -n user.lk.guard -v lk/job $B/run/d",
    );
    cluster.log.resume();
    until_only_dropped(&cluster, "/run/d/x: ");
    let [_, dropped] = unsaved(&cluster);
    assert!(dropped[0].ends_with(" (3 bytes)"), "{dropped:?}");
    assert_eq!(text(&cluster.path(2, "run/d/x")), "old");
}

/// A caller that hears of the failure knows what is gone: nothing is tried again behind its back.
#[test]
fn a_save_that_fails_while_its_writer_lives_is_told_to_it_alone() {
    let cluster = Cluster::start();
    run(&cluster, "printf old > $A/x");
    let mut writer = writer_of_new(&cluster.path(1, "x"));
    cluster.log.set_quorum(false);
    assert_eq!(writer.call("os.close(f)"), libc::EROFS);
    cluster.log.set_quorum(true);
    writer.kill();
    writer.wait();
    assert_eq!(unsaved(&cluster), [Vec::<String>::new(), Vec::new()]);
    assert_eq!(text(&cluster.path(1, "x")), "old");
}

/// What `status.json` of the first node says of saves that nobody waits for.
fn unsaved(cluster: &Cluster) -> [Vec<String>; 2] {
    let status = fs::read(cluster.path(1, ".vfs/status.json")).unwrap();
    let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
    ["pending", "dropped"].map(|field| serde_json::from_value(status[field].clone()).unwrap())
}

fn until_only_dropped(cluster: &Cluster, path: &str) {
    until("it is dropped", || {
        let [pending, dropped] = unsaved(cluster);
        pending.is_empty() && dropped.iter().any(|line| line.starts_with(path))
    });
}

/// A child of a shell that has `$A/PATH` open writes "new" and is the last to close it, once a line comes by `go`.
fn child_writes_last(cluster: &Cluster, path: &str) {
    let script = r#"
        rm -f go; mkfifo go
        (exec 3<>$A/PATH; (read -r line < go; echo new >&3) > /dev/null 2>&1 & )
    "#;
    run(cluster, &script.replace("PATH", path));
}

/// "One that is given up is named there too (`dropped`)": one that the log refuses, and one of a session that is over,
/// cannot succeed later.
#[test]
fn a_last_close_that_is_refused_is_named_as_dropped_and_not_tried_again() {
    let cluster = Cluster::start();
    run(&cluster, "mkdir $A/run/d; echo old > $A/run/d/x");
    child_writes_last(&cluster, "run/d/x");
    run(
        &cluster,
        "mkdir $B/lk/job; setfattr -n user.lk.guard -v lk/job $B/run/d; echo > go",
    );
    until_only_dropped(&cluster, "/run/d/x: ");
    run(
        &cluster,
        r#"
        [ $(cat $A/run/d/x) = old ]; [ $(cat $B/run/d/x) = old ]
        mkdir $A/lk/own $A/run/g; echo old > $A/run/g/x; setfattr -n user.lk.guard -v lk/own $A/run/g
        "#,
    );
    child_writes_last(&cluster, "run/g/x");
    cluster.log.end_session(1);
    run(&cluster, "echo > go");
    until_only_dropped(&cluster, "/run/g/x: ");
    run(
        &cluster,
        "[ $(cat $A/run/g/x) = old ]; [ $(cat $B/run/g/x) = old ]",
    );
}

/// The first steps of a call.
fn begin<T>(cluster: &Cluster, call: &mut Pin<Box<impl Future<Output = T>>>) -> Poll<T> {
    let _inside = cluster.filesystems[0].runtime().enter();
    call.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

/// "`rename` and `link` carry the file's uncommitted bytes in the same entry: the new name never shows less than was
/// written": also while those bytes are on their way into the log, and when they have come back.
#[test]
fn a_rename_right_after_the_last_close_carries_what_it_left() {
    for comes_back in [false, true] {
        let cluster = Cluster::start();
        run(&cluster, "printf old > $B/x");
        let fs = &cluster.filesystems[0];
        let handle = open_on_first(&cluster, "x");
        fs.write_buffered(handle, 0, b"new", false).unwrap();
        if comes_back {
            cluster.log.set_quorum(false);
            fs.release(handle);
            until("it is refused", || cluster.log.refused() > 0);
            cluster.log.set_quorum(true);
            cluster.log.stall();
        } else {
            cluster.log.stall();
            fs.release(handle);
            until("it is proposed", || cluster.log.has_stalled());
        }
        let (x, y) = (OsStr::new("x"), OsStr::new("y"));
        let mut rename = Box::pin(fs.rename(ROOT, (TOP, x), (TOP, y), RenameMode::Replace));
        assert!(begin(&cluster, &mut rename).is_pending());
        cluster.log.commit_newest();
        let there = cluster.path(2, "y");
        assert!(
            !there.exists() || text(&there) == "new",
            "the new name shows less than was written"
        );
        cluster.log.resume();
        fs.runtime().block_on(rename).unwrap();
        assert_eq!(text(&there), "new");
    }
}

/// "`fsync` commits what its handle ... and what other handles have": what is on its way into the log already is not
/// committed yet.
#[test]
fn a_foreign_fsync_waits_for_the_save_that_is_under_way() {
    let cluster = Cluster::start();
    run(&cluster, "printf old > $B/x");
    let fs = &cluster.filesystems[0];
    let [writer, other] = [(); 2].map(|()| open_on_first(&cluster, "x"));
    fs.write_buffered(writer, 0, b"new", false).unwrap();
    cluster.log.stall();
    fs.release(writer);
    until("it is proposed", || cluster.log.has_stalled());
    let mut sync = Box::pin(fs.sync(ROOT, other));
    let begun = begin(&cluster, &mut sync);
    assert!(begun.is_pending(), "{begun:?} before it is committed");
    cluster.log.resume();
    fs.runtime().block_on(sync).unwrap();
    assert_eq!(text(&cluster.path(2, "x")), "new");
    fs.release(other);
}

/// "It never covers another node's newer one", also where a save of this node came in between.
#[test]
fn a_save_that_is_tried_again_covers_no_newer_one_of_another_node_beneath_a_save_of_this_node() {
    let cluster = Cluster::start();
    let later = leave_an_old_save(&cluster);
    let fs = &cluster.filesystems[0];
    cluster.log.set_quorum(true);
    let inode = InodeNo(fs.lookup(TOP, OsStr::new("x")).unwrap().node);
    cluster.log.before_the_next_of(1, move |log| {
        log.change(newer(inode));
    });
    fs.runtime().block_on(fs.flush(ROOT, later)).unwrap();
    until("it is given up", || unsaved(&cluster)[0].is_empty());
    assert_eq!(text(&cluster.path(2, "x")), "NNNNNLNNNN");
    fs.release(later);
}

/// "When it has become too old it is no failure of whoever syncs or renames the file."
#[test]
fn a_save_that_has_become_too_old_fails_no_call_of_another_program() {
    let cluster = Cluster::start();
    let later = leave_an_old_save(&cluster);
    let fs = &cluster.filesystems[0];
    let inode = InodeNo(fs.lookup(TOP, OsStr::new("x")).unwrap().node);
    cluster.log.change(newer(inode));
    cluster.log.set_quorum(true);
    fs.runtime().block_on(fs.sync(ROOT, later)).unwrap();
    assert_eq!(text(&cluster.path(2, "x")), "NNNNNLNNNN");
    run(&cluster, "mv $A/x $A/y; [ -e $B/y ]");
    until("it is given up", || unsaved(&cluster)[0].is_empty());
    assert_eq!(text(&cluster.path(2, "y")), "NNNNNLNNNN");
    fs.release(later);
}

/// Leaves a save behind that is tried again, without a majority. Another handle, which has written after it, is given.
fn leave_an_old_save(cluster: &Cluster) -> HandleId {
    run(cluster, "printf .......... > $B/x; cat $A/x");
    let fs = &cluster.filesystems[0];
    let left = open_on_first(cluster, "x");
    fs.write_buffered(left, 0, b"OLD", false).unwrap();
    let later = open_on_first(cluster, "x");
    fs.write_buffered(later, 5, b"L", false).unwrap();
    cluster.log.set_quorum(false);
    fs.release(left);
    until("it is tried again", || {
        unsaved(cluster)[0] == ["/x".to_owned()]
    });
    later
}

/// A save of another node.
fn newer(inode: InodeNo) -> Change {
    Change::Write(Write {
        inode,
        base: None,
        update: ContentUpdate::Replace(vec![ContentOp::Write {
            offset: 0,
            data: b"NNNNNNNNNN".to_vec(),
        }]),
        mtime: None,
        closes: true,
    })
}

/// "An older write never covers a newer one": what a last close left is on its way into the log, and nothing promises
/// that a later append does not overtake it there.
#[test]
fn an_append_waits_for_an_older_truncation_that_is_under_way() {
    let cluster = Cluster::start();
    run(&cluster, ": > $B/x; cat $A/x");
    let fs = &cluster.filesystems[0];
    let node = fs.lookup(TOP, OsStr::new("x")).unwrap().node;
    // Uncommitted bytes that the truncation takes away: the end that readers see is the committed one.
    let first = open_on_first(&cluster, "x");
    fs.write_buffered(first, 0, b"first", false).unwrap();
    let truncates = OpenFlags {
        write: true,
        truncate: true,
        ..OpenFlags::default()
    };
    let truncating = fs.open(ROOT, node, truncates).unwrap();
    let appending = open_on_first(&cluster, "x");
    cluster.log.stall();
    fs.release(truncating);
    until("the truncation is proposed", || cluster.log.has_stalled());
    let mut append = Box::pin(fs.append_write(appending, b"second"));
    let begun = begin(&cluster, &mut append);
    assert!(begun.is_pending(), "{begun:?} before it is committed");
    // What came last is in the log first.
    cluster.log.resume();
    fs.runtime().block_on(append).unwrap();
    fs.runtime().block_on(fs.flush(ROOT, first)).unwrap();
    until("both nodes have it", || {
        [1, 2].map(|node| text(&cluster.path(node, "x"))) == ["second", "second"]
    });
    fs.release(first);
    fs.release(appending);
}
