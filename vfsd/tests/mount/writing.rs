//! When what was written is published, and as what. Each test quotes the sentence of docs/SEMANTICS.md that it shows.

use std::ffi::OsStr;
use std::time::{Duration, Instant};

use vfsd::fs::caller::Caller;
use vfsd::fs::open_flags::OpenFlags;
use vfsd::state_machine::ids::InodeNo;

use crate::other_process::OtherProcess;
use crate::{Cluster, run, run_with_shared_mapping};

/// "Under `/mid` and `/ctx` a rewrite whose writer is ended by a signal publishes nothing."
#[test]
fn a_wish_whose_writer_is_killed_is_not_published() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        echo old > $A/mid/x; echo old > $A/plain
        cat > killed.py <<'PY'
import os, signal, sys
f = open(sys.argv[1], 'w')
f.write('half')
f.flush()
os.kill(os.getpid(), getattr(signal, sys.argv[2]))
PY
        ulimit -c 0
        for end in SIGKILL SIGTERM SIGSEGV; do
          echo old > $A/plain
          python3 killed.py $A/mid/x $end || true; python3 killed.py $A/plain $end || true
          [ "$(cat $B/mid/x)" = old ]; [ "$(cat $A/mid/x)" = old ]; [ "$(cat $B/plain)" = half ]
        done
        "#,
    );
}

/// "Under `/mid` and `/ctx` a rewrite whose writer is ended by a signal publishes nothing, also before its first byte."
#[test]
fn a_wish_whose_writer_is_killed_before_its_first_byte_stays_what_it_was() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        echo old > $A/ctx/x
        cat > killed.py <<'PY'
import os, signal, sys
os.open(sys.argv[1], os.O_WRONLY | os.O_TRUNC)
os.kill(os.getpid(), signal.SIGKILL)
PY
        for n in $(seq 10); do
          python3 killed.py $A/ctx/x || true
          [ "$(cat $A/ctx/x)" = old ]; [ "$(cat $B/ctx/x)" = old ]; [ "$(cat $B/.vfs/now/ctx/x)" = old ]
        done
        python3 -c "import os; os.open('$A/ctx/x', os.O_WRONLY | os.O_TRUNC)"; [ ! -s $B/ctx/x ]
        "#,
    );
}

/// "A truncation without a write (`: > file`) is committed at the close of the opener's last descriptor of the file":
/// so `close` answers for it, and the shell's moves of its descriptor before publish nothing.
#[test]
fn a_truncation_alone_is_committed_when_its_close_returns() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        python3 - <<'PY'
import os
a, b = os.environ['A'] + '/x', os.environ['B'] + '/x'
for n in range(50):
    with open(a, 'w') as f: f.write('text')
    fd = os.open(a, os.O_WRONLY | os.O_TRUNC)
    other = os.dup(fd)
    os.close(fd)
    assert os.path.getsize(b) == 4, 'published while another descriptor is open'
    os.close(other)
    assert os.path.getsize(b) == 0, 'not committed when the last close returned'
PY
        echo text > $A/x; : > $A/x; [ ! -s $B/x ]
        "#,
    );
}

/// "A save without any of these (`>`) is one entry"; after an append or an `fsync` the close is "one more entry, which
/// `close` waits for".
#[test]
fn a_plain_save_is_one_entry_and_the_close_of_an_append_is_another() {
    let cluster = Cluster::start();
    run(&cluster, "echo old > $A/mid/x");
    for (script, entries) in [
        ("echo new > $A/mid/x", 1),
        ("echo more >> $A/mid/x", 2),
        ("cat $A/mid/x > /dev/null", 0),
        (
            "python3 -c 'import os; f=open(\"'$A'/mid/x\",\"w\"); f.write(\"s\"); f.flush(); os.fsync(f); f.close()'",
            2,
        ),
    ] {
        let before = cluster.log.state().applied().0;
        run(&cluster, script);
        assert_eq!(
            cluster.log.state().applied().0 - before,
            entries,
            "{script}"
        );
    }
}

/// "The notice is a hint: if it does not arrive, that is no error of the close."
#[test]
fn the_close_of_an_append_succeeds_without_a_majority() {
    let cluster = Cluster::start();
    let flags = "os.O_WRONLY | os.O_CREAT | os.O_APPEND";
    let mut writer = OtherProcess::with(&cluster.path(1, "mid/x"), flags);
    assert_eq!(writer.call("os.write(f, b'text')"), 0);
    cluster.log.set_quorum(false);
    assert_eq!(writer.call("os.close(f)"), 0);
}

/// "A `write` waits a second at most for contact with a majority and fails with EROFS then": a shell, which cannot see
/// the error of a close that its redirection makes, says so.
#[test]
fn a_shell_on_a_node_that_has_just_lost_its_network_says_so() {
    let cluster = Cluster::start();
    run(&cluster, "echo old > $A/mid/x");
    cluster.log.set_contact(false);
    run(
        &cluster,
        r#"
        if echo new > $A/mid/x; then exit 1; fi 2> said
        grep -q 'Read-only file system' said
        if { echo one; echo two; } > $A/mid/x; then exit 1; fi 2>> said
        python3 -c "import mmap, os
f = os.open(os.environ['A'] + '/mid/x', os.O_RDWR)
m = mmap.mmap(f, 0); m[0:1] = b'O'
try: m.flush()
except OSError: pass"
        [ "$(cat $B/.vfs/now/mid/x)" = old ] || [ "$(cat $B/.vfs/now/mid/x)" = Old ]
        "#,
    );
    cluster.log.set_contact(true);
    run(
        &cluster,
        r#"
        # Nobody would hear of it: what was stored through a mapping waits and is committed.
        timeout 30 sh -c 'until [ "$(cat $B/mid/x)" = Old ]; do :; done'
        echo new > $A/mid/x; [ "$(cat $B/mid/x)" = new ]
        "#,
    );
}

/// A rewrite whose write was refused publishes nothing: but a truncation that its program has made since stands.
#[test]
fn a_truncation_after_a_refused_write_is_kept() {
    let cluster = Cluster::start();
    run(&cluster, "for name in x y; do echo old > $A/$name; done");
    let truncated = |name: &str, call: &str| {
        let path = cluster.path(1, name);
        let mut writer = OtherProcess::with(&path, "os.O_WRONLY | os.O_TRUNC");
        cluster.log.set_contact(false);
        assert_eq!(writer.call("os.write(f, b'new')"), libc::EROFS);
        cluster.log.set_contact(true);
        assert_eq!(writer.call(call), 0);
        assert_eq!(writer.call("os.close(f)"), 0);
    };
    truncated("x", "os.ftruncate(f, 0)");
    truncated("y", "pass");
    run(
        &cluster,
        r#"[ "$(stat -c %s $B/x)" = 0 ]; [ "$(cat $B/y)" = old ]"#,
    );
}

/// "`rename` and `link` carry the file's uncommitted bytes in the same entry."
#[test]
fn a_rename_takes_uncommitted_bytes_along() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        python3 - <<'PY'
import os
a, b = os.environ['A'], os.environ['B']
f = open(a + '/mid/.x.tmp', 'w')
f.write('whole')
f.flush()
os.rename(a + '/mid/.x.tmp', a + '/mid/x')
assert open(b + '/mid/x').read() == 'whole'
f.write(' and more')
f.close()
assert open(b + '/mid/x').read() == 'whole and more'
PY
        "#,
    );
}

/// "With `O_APPEND` one `write` of up to 1 MiB is one entry, placed at the end as it is then."
#[test]
fn appends_of_two_nodes_neither_overwrite_nor_interleave() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        touch $A/log
        for M in $A $B; do (for i in $(seq 100); do echo "$M $i" >> $M/log; done) & done; wait
        [ "$(wc -l < $A/log)" = 200 ]; [ "$(sort -u $B/log | wc -l)" = 200 ]
        head -c 1000000 /dev/zero | tr '\0' x > block
        python3 - <<'PY'
import os
block = open('block', 'rb').read()
for m in ('A', 'B'):
    fd = os.open(os.environ[m] + '/big', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    assert os.write(fd, block) == len(block)
    os.close(fd)
assert os.path.getsize(os.environ['A'] + '/big') == 2 * len(block)
PY
        "#,
    );
}

/// "Every other node and every crash sees the old content or the new": also while two processes of one node save at
/// once.
#[test]
fn two_savers_of_one_node_never_publish_an_empty_file() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        echo start > $A/mid/x
        for n in 1 2; do (for i in $(seq 100); do echo "saver $n $i" > $A/mid/x; done) & done
        (for i in $(seq 300); do [ -s $B/.vfs/now/mid/x ] || exit 1; grep -q . $B/mid/x || exit 1; done) & reader=$!
        wait $reader; wait
        "#,
    );
}

/// "holes, shared mappings, ... `fallocate`, `SEEK_DATA` and `SEEK_HOLE` work."
#[test]
fn holes_are_found_and_kept() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        python3 - <<'PY'
import os
path = os.environ['A'] + '/sparse'
fd = os.open(path, os.O_RDWR | os.O_CREAT)
os.pwrite(fd, b'end', 1 << 20)
os.fsync(fd)
assert os.lseek(fd, 0, os.SEEK_DATA) == 1 << 20
assert os.lseek(fd, 0, os.SEEK_HOLE) == 0
os.posix_fallocate(fd, 0, 2 << 20)
assert os.fstat(fd).st_size == 2 << 20
os.close(fd)
st = os.stat(os.environ['B'] + '/sparse')
assert st.st_size == 2 << 20 and st.st_blocks * 512 < 1 << 20, st
PY
        fallocate -p -o 1048576 -l 4096 $A/sparse; [ "$(tail -c +1048577 $B/sparse | head -c 3 | tr -d '\0')" = '' ]
        truncate -s 17M $A/sparse 2>&1 | grep -q 'File too large'
        "#,
    );
}

/// "A mapping shows what other nodes committed once its event is raised."
#[test]
fn a_mapping_shows_what_another_node_committed() {
    let cluster = Cluster::start();
    run_with_shared_mapping(
        &cluster,
        r#"
        echo old > $A/map
        python3 - <<'PY'
import mmap, os
from waiting import until
a, b = os.environ['A'], os.environ['B']
with open(b + '/map', 'rb') as f:
    m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)
    assert m[:4] == b'old\n'
    with open(a + '/map', 'w') as other: other.write('new\n')
    until(lambda: m[:4], b'new\n')
    fd = os.open(a + '/map', os.O_WRONLY)
    os.write(fd, b'two')
    os.fsync(fd)
    until(lambda: m[:4], b'two\n')
PY
        "#,
    );
}

/// "Of two nodes that write different ranges both stay; for one range the later commit stands."
#[test]
fn ranges_of_two_nodes_stay() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        printf 'aaaabbbbcccc' > $A/x
        python3 - <<'PY'
import os
one, other = [os.open(os.environ[m] + '/x', os.O_WRONLY) for m in 'AB']
os.pwrite(one, b'1111', 0)
os.pwrite(other, b'2222', 8)
os.pwrite(one, b'1', 4)
os.pwrite(other, b'2', 4)
os.close(other)
os.close(one)
assert open(os.environ['B'] + '/x').read() == '11111bbb2222'
PY
        "#,
    );
}

/// "A FLUSH commits if it comes from the process that opened the file", and "the last close commits what is left".
#[test]
fn a_childs_close_commits_nothing_and_the_last_close_commits_what_it_wrote() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        echo old > $A/x
        python3 - <<'PY'
import os
from waiting import until
path, seen = os.environ['A'] + '/x', os.environ['B'] + '/x'
fd = os.open(path, os.O_WRONLY | os.O_TRUNC)
os.close(os.dup(fd))
assert open(seen).read() == 'old\n', 'a moved descriptor publishes nothing'
if os.fork() == 0:
    os.write(fd, b'child')
    os._exit(0)
os.wait()
assert open(seen).read() == 'old\n', 'the close of a child publishes nothing'
assert open(path).read() == 'child', 'processes of one node see it at once'
os.close(fd)
until(lambda: open(seen).read(), 'child')
PY
        "#,
    );
}

/// A FLUSH commits, and "its error is the error of that `close`".
#[test]
fn a_close_that_cannot_be_committed_fails() {
    let cluster = Cluster::start();
    run(&cluster, "echo old > $A/mid/x");
    let flags = "os.O_WRONLY | os.O_TRUNC";
    let mut writer = OtherProcess::with(&cluster.path(1, "mid/x"), flags);
    assert_eq!(writer.call("os.write(f, b'new')"), 0);
    cluster.log.set_quorum(false);
    let closed = writer.call("os.close(f)");
    assert!(
        matches!(closed, libc::EROFS | libc::EIO),
        "nobody was told that the save is not committed: {closed}"
    );
    assert_eq!(run(&cluster, "cat $B/mid/x"), "old\n");
    cluster.log.set_quorum(true);
}

/// "A truncation without a write (`: > file`) is committed at the close": also one that was on its way with an append,
/// and came back when that was refused.
#[test]
fn a_truncation_whose_append_was_refused_is_committed_by_the_close() {
    let cluster = Cluster::start();
    run(&cluster, "echo old > $A/x");
    let flags = "os.O_WRONLY | os.O_APPEND | os.O_TRUNC";
    let mut writer = OtherProcess::with(&cluster.path(1, "x"), flags);
    cluster.log.set_quorum(false);
    assert_eq!(writer.call("os.write(f, b'new')"), libc::EROFS);
    cluster.log.set_quorum(true);
    run(&cluster, "[ $(cat $B/x) = old ]");
    assert_eq!(writer.call("os.close(f)"), 0);
    run(&cluster, "[ -e $B/x -a ! -s $B/x ]");
}

/// "What a handle writes is ... committed ... at each write of an `O_SYNC` handle."
#[test]
fn a_synchronous_write_is_committed_before_it_returns() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        python3 - <<'PY'
import os
fd = os.open(os.environ['A'] + '/x', os.O_WRONLY | os.O_CREAT | os.O_SYNC)
for text in ('one', 'two'):
    os.pwrite(fd, text.encode(), 0)
    assert open(os.environ['B'] + '/x').read() == text
PY
        "#,
    );
}

/// "A content entry carries the time of the last write; a later `utimens` wins even if the content is committed after
/// it."
#[test]
fn an_explicit_time_outlives_the_commit_of_earlier_bytes() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        python3 - <<'PY'
import os
path = os.environ['A'] + '/x'
fd = os.open(path, os.O_WRONLY | os.O_CREAT)
os.write(fd, b'text')
os.utime(path, (1000000000, 1000000000))
os.close(fd)
seen = os.stat(os.environ['B'] + '/x')
assert seen.st_mtime == 1000000000 and seen.st_size == 4, seen
PY
        "#,
    );
}

/// "Stores through a shared mapping are committed by `msync`, `fsync`, a close, or a second after the kernel has
/// written them back."
#[test]
fn a_store_through_a_mapping_is_committed_by_msync() {
    let cluster = Cluster::start();
    run_with_shared_mapping(
        &cluster,
        r#"
        python3 - <<'PY'
import mmap, os
path, seen = os.environ['A'] + '/x', os.environ['B'] + '/x'
open(path, 'w').write('old')
with open(path, 'r+b') as f:
    m = mmap.mmap(f.fileno(), 3)
    m[:] = b'new'
    assert open(seen).read() == 'old'
    m.flush()
    assert open(seen).read() == 'new'
PY
        "#,
    );
}

/// "Stores through a shared mapping are committed ... after a second", also while the mapping stays.
#[test]
fn a_store_through_a_mapping_is_committed_without_a_call() {
    let cluster = Cluster::start();
    run_with_shared_mapping(
        &cluster,
        r#"
        python3 - <<'PY'
import mmap, os
from waiting import until
path, seen = os.environ['A'] + '/x', os.environ['B'] + '/x'
open(path, 'w').write('old')
with open(path, 'r+b') as f:
    m = mmap.mmap(f.fileno(), 3)
    m[:] = b'new'
    # The kernel's own writeback, which takes its time otherwise.
    os.sync()
    until(lambda: open(seen).read(), 'new')
PY
        "#,
    );
}

/// "Nobody can be told of its failure, so it is tried again and named in `status.json` (`pending`)."
#[test]
fn a_last_close_that_cannot_be_committed_is_named_and_tried_again() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        echo old > $A/x; mkfifo go
        (exec 3<>$A/x; (read -r line < go; echo new >&3) > /dev/null 2>&1 & )
        "#,
    );
    cluster.log.set_quorum(false);
    // The child that writes has not opened the file, so its close is the last one and tells nobody.
    let pending =
        r#"python3 -c "import json; print(json.load(open('$A/.vfs/status.json'))['pending'])""#;
    let script = "echo > go; until PENDING | grep -q \"'/*x'\"; do :; done; [ $(cat $B/x) = old ]";
    run(&cluster, &script.replace("PENDING", pending));
    cluster.log.set_quorum(true);
    let script =
        r#"until [ $(cat $B/x) = new ]; do :; done; until PENDING | grep -qF '[]'; do :; done"#;
    run(&cluster, &script.replace("PENDING", pending));
}

/// "A caller that waits ends on SIGKILL."
#[test]
fn a_killed_caller_does_not_wait_for_a_majority() {
    let cluster = Cluster::start();
    cluster.log.stall();
    let mut caller = std::process::Command::new("mkdir")
        .arg(cluster.path(1, "mid/never"))
        .spawn()
        .unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while !cluster.log.has_stalled() {
        assert!(Instant::now() < until, "mkdir did not reach the log");
        std::thread::yield_now();
    }
    caller.kill().unwrap();
    while caller.try_wait().unwrap().is_none() {
        assert!(Instant::now() < until, "mkdir is still there after SIGKILL");
        std::thread::yield_now();
    }
    assert!(std::fs::metadata(cluster.path(1, "mid/never")).is_err());
}

/// "What a node holds uncommitted has a maximum of 256 MiB: a write beyond it waits for commits, and fails with ENOSPC
/// when none comes."
#[test]
fn a_write_beyond_what_a_node_may_hold_waits_for_a_commit() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        python3 - <<'PY'
import errno, os, threading, time
a, b = os.environ['A'] + '/run/', os.environ['B'] + '/run/'
piece = b'x' * (1 << 20)
def opened(name): return os.open(a + name, os.O_CREAT | os.O_WRONLY)
files = [opened('f%d' % n) for n in range(16)]
for n in range(255): assert os.write(files[n // 16], piece) == len(piece)
began = time.monotonic()
try: os.write(files[15], piece); raise SystemExit('it was taken')
except OSError as error: assert error.errno == errno.ENOSPC, error
assert time.monotonic() - began > 5, 'it waits for room'
done = threading.Event()
def write(): assert os.write(files[15], piece) == len(piece); done.set()
waiting = threading.Thread(target=write); waiting.start()
os.close(files[0])
assert done.wait(60), 'a commit has made room'
waiting.join()
assert os.stat(b + 'f0').st_size == 16 << 20
for file in files[1:]: os.close(file)
assert all(os.stat(b + 'f%d' % n).st_size == 16 << 20 for n in range(16))
nameless = opened('gone'); os.unlink(a + 'gone')
for n in range(3): assert os.pwrite(nameless, piece, n << 20) == len(piece)
PY
        rm $A/run/f*
        "#,
    );
}

/// The kernel writes back page by page: what is stored within a second goes out together.
#[test]
fn many_stores_through_mappings_wait_for_one_commit() {
    let cluster = Cluster::start();
    run(&cluster, "head -c 1000 /dev/zero > $A/mid/x");
    let fs = &cluster.filesystems[0];
    let mid = fs.lookup(1, OsStr::new("mid")).unwrap().node;
    let node = fs.lookup(mid, OsStr::new("x")).unwrap().node;
    let flags = OpenFlags {
        read: true,
        write: true,
        ..OpenFlags::default()
    };
    let root = Caller {
        uid: 0,
        gid: 0,
        tid: 0,
    };
    let handle = fs.open(root, node, flags).unwrap();
    let tasks = || fs.runtime().metrics().num_alive_tasks();
    let before = tasks();
    for offset in 0..1_000 {
        fs.write_buffered(handle, offset, b"m", true).unwrap();
    }
    assert!(tasks() < before + 10, "{} tasks, {before} before", tasks());
    let until = Instant::now() + Duration::from_secs(20);
    let committed = || {
        let state = cluster.log.state();
        let content = state.tree().inode(InodeNo(node)).unwrap().content();
        content.unwrap().read(0, 1_000)
    };
    while committed() != [b'm'; 1_000] {
        assert!(Instant::now() < until, "the stores are not committed");
        std::thread::yield_now();
    }
    fs.release(handle);
}
