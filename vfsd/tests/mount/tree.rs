//! What the tree holds and where it ends. Each test quotes the sentence of docs/SEMANTICS.md that it shows.

use std::ffi::OsStr;

use vfsd::fs::caller::Caller;
use vfsd::fs::errno::errno;
use vfsd::fs::open_flags::OpenFlags;
use vfsd::fuse::mount::Mount;
use vfsd::state_machine::ids::NodeId;

use crate::{Cluster, run};

/// A create that finds another node's file does not open it past the checks of this node's kernel: it looks again.
#[test]
fn a_create_that_another_node_has_won_opens_nothing_unchecked() {
    let cluster = Cluster::start();
    run(
        &cluster,
        "mkdir -m 1777 $A/open; echo secret > $B/open/x; chmod 600 $B/open/x",
    );
    let fs = &cluster.filesystems[0];
    let folder = fs.lookup(1, OsStr::new("open")).unwrap().node;
    let stranger = Caller {
        uid: 1000,
        gid: 1000,
        tid: 0,
    };
    let flags = OpenFlags {
        read: true,
        write: true,
        ..OpenFlags::default()
    };
    // As a kernel asks whose lookup was answered before the name was there.
    let created = fs.create(stranger, folder, OsStr::new("x"), 0o644, flags);
    let refused = fs.runtime().block_on(created).unwrap_err();
    assert_eq!(errno(&refused), nix::libc::ESTALE);
    run(
        &cluster,
        r#"
        for n in $(seq 50); do
          for M in $A $B; do (echo "$M" >> $M/open/race$n) & done; wait
          [ "$(wc -l < $A/open/race$n)" = 2 ]
        done
        "#,
    );
}

/// "These four exist from the first start and can be neither removed nor renamed. Anybody with the rights may make
/// other entries."
#[test]
fn the_four_roots_stay_where_they_are() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        for root in mid ctx run lk; do
            (rmdir $A/$root) 2>&1 | grep -q 'not permitted'
            (mv $A/$root $A/other) 2>&1 | grep -q 'not permitted'
            [ -d $B/$root ]
        done
        mkdir $A/other; (mv -T --no-copy $A/other $A/run || mv -T $A/other $A/run) 2>&1 | grep -q 'not permitted'
        echo mine > $A/other/x; [ "$(cat $B/other/x)" = mine ]
        "#,
    );
}

/// "Symbolic and hard links, fifos, sockets, devices, modes, owners, nanosecond times, extended attributes ...
/// `RENAME_NOREPLACE` and `RENAME_EXCHANGE`": what `cp`, `tar` and `mv` of the other tests do not use.
#[test]
fn every_kind_of_file_and_rename_works() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        mkdir $A/home; cd $A/home
        mknod null c 1 3; [ "$(stat -c %F:%t,%T $B/home/null)" = 'character special file:1,3' ]
        mknod disk b 7 0; [ -b $B/home/disk ]
        setfattr -n trusted.t -v 1 disk; [ "$(getfattr --only-values -n trusted.t $B/home/disk)" = 1 ]
        python3 - <<'PY'
import ctypes, errno, os, socket
socket.socket(socket.AF_UNIX).bind('socket')
assert os.path.exists(os.environ['B'] + '/home/socket')
libc = ctypes.CDLL(None, use_errno=True)
rename = lambda a, b, flags: libc.renameat2(-100, a, -100, b, flags)
for name in 'ab': open(name, 'w').write(name)
assert rename(b'a', b'b', 1) == -1 and ctypes.get_errno() == errno.EEXIST, 'RENAME_NOREPLACE'
assert rename(b'a', b'b', 2) == 0, 'RENAME_EXCHANGE'
assert open(os.environ['B'] + '/home/a').read() == 'b' and open(os.environ['B'] + '/home/b').read() == 'a'
PY
        "#,
    );
}

/// "A name has at most 255 bytes (ENAMETOOLONG), a file 16 MiB (EFBIG) ... `df` tells what is used."
#[test]
fn the_bounds_are_told_by_their_errors() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        name=$(printf 'n%.0s' $(seq 255)); touch $A/$name; [ -e $B/$name ]
        (touch $A/n$name) 2>&1 | grep -q 'File name too long'
        truncate -s 16M $A/large; (echo more >> $A/large) 2>&1 | grep -q 'File too large'
        [ "$(stat -c %s $B/large)" = $((16 << 20)) ]
        used() { df --output=used -B1 $B | tail -n1; }
        before=$(used); head -c 1000000 /dev/zero | tr '\0' x > $A/full; [ $(($(used) - before)) -ge 1000000 ]
        available() { df --output=avail -B1 $B | tail -n1; }
        before=$(used) available=$(available); head -c 60000 /dev/zero | tr '\0' x > note
        for n in $(seq 10); do setfattr -n user.note -v "$(cat note)" $A/$name; setfattr -x user.note $A/$name; done
        [ "$(used)" = "$before" ] || { echo "what is gone counts"; exit 1; }
        setfattr -n user.note -v "$(cat note)" $A/$name; [ $(($(used) - before)) -ge 57344 ]
        [ "$(available)" = "$available" ] || { echo "an attribute takes the place of content"; exit 1; }
        "#,
    );
}

/// "`/.vfs` is entered by name and never listed: `cp -r` and `rm -rf` do not walk into it."
#[test]
fn tools_do_not_walk_into_the_virtual_directory() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        echo kept > $A/mid/x; cp -r $B copy; [ ! -e copy/.vfs ]; [ "$(cat copy/mid/x)" = kept ]
        [ -z "$(find $A -name .vfs)" ]; python3 -m json.tool $A/.vfs/members.json > /dev/null
        (rm -rf $A/.vfs) 2>&1 | grep -qE 'Read-only|not permitted'; [ -e $A/.vfs/status.json ]
        "#,
    );
}

/// "`user.vfs.author` says who made the content of a file ... on the live tree and under `/.vfs/now`".
#[test]
fn the_author_of_a_save_is_told_on_every_node_whatever_is_changed_besides() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        author() { getfattr --only-values -n user.vfs.author "$1" | python3 -c '
import json, sys
told = json.load(sys.stdin); print(told["node"], told["uid"], told["comm"], told["time"][:4])'; }
        year=$(date -u +%Y)
        echo 1 > $A/mid/x; [ "$(author $B/mid/x)" = "n1 0 bash $year" ]
        chmod 600 $B/mid/x; mv $B/mid/x $B/mid/y; setfattr -n user.a -v b $B/mid/y
        for at in $A/mid/y $B/mid/y $A/.vfs/now/mid/y $B/.vfs/now/mid/y; do
            [ "$(author $at)" = "n1 0 bash $year" ]
        done
        exec 3< $A/.vfs/now/mid/y
        printf 2 | sed -n "w $B/mid/y"; [ "$(author $A/mid/y)" = "n2 0 sed $year" ]
        [ "$(author /proc/self/fd/3)" = "n1 0 bash $year" ]
        (setfattr -n user.vfs.author -v me $A/mid/y) 2>&1 | grep -q 'not permitted'
        (getfattr -n user.vfs.author $A/mid) 2>&1 | grep -q 'No such attribute'
        [ -z "$(getfattr $A/mid/y | grep author)" ]
        "#,
    );
}

/// "`user.vfs.tree_rev` of a directory is the newest revision of anything beneath it": the same on both nodes, live and
/// in the committed view, and it moves with every change beneath.
#[test]
fn the_revision_of_a_tree_moves_with_whatever_changes_beneath() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        rev() { getfattr --only-values -n user.vfs.tree_rev "$1"; }
        mkdir -p $A/mid/a/b $A/mid/c
        last=0
        moved() {
            local now=$(rev $A/mid)
            [ "$now" -gt "$last" ] || { echo "it stays at $last after: $*"; exit 1; }
            [ "$now" = "$(rev $B/mid)" ] && [ "$now" = "$(rev $B/.vfs/now/mid)" ] || exit 1
            last=$now
        }
        moved made
        echo one > $B/mid/a/b/x; moved a save; [ "$(rev $A/mid/a/b)" = "$last" ]; [ "$(rev $A)" = "$last" ]
        [ "$(getfattr --only-values -n user.vfs.rev $B/mid/a/b/x)" = "$last" ]
        before=$(rev $A/mid/c)
        chmod 600 $A/mid/a/b/x; moved a mode
        setfattr -n user.note -v 1 $B/mid/a/b/x; moved an attribute
        [ "$(rev $A/mid/c)" = "$before" ] || { echo "the directory beside it moved"; exit 1; }
        ln $A/mid/a/b/x $A/mid/c/y; moved a link
        echo more >> $B/mid/a/b/x; moved an append
        [ "$(rev $A/mid/c)" = "$last" ] || { echo "the other name does not count"; exit 1; }
        mv $A/mid/a/b $A/mid/c/b; moved a directory; [ "$(rev $B/mid/c)" = "$last" ]
        rm $B/mid/c/b/x; moved a removal
        [ "$(rev $A/mid/c)" = "$last" ]; [ "$(rev $A/run)" -lt "$last" ]
        cat $A/mid/c/y > /dev/null; ls -R $B/mid > /dev/null
        [ "$(rev $A/mid)" = "$last" ] || { echo "a reader moved it"; exit 1; }
        (rev $A/mid/c/y) 2>&1 | grep -q 'No such attribute'
        (setfattr -n user.vfs.tree_rev -v 1 $A/mid) 2>&1 | grep -q 'not permitted'
        [ -z "$(getfattr -m - $A/mid)" ] || { echo "it is listed"; exit 1; }
        "#,
    );
}

/// "While it stands still, nothing has changed that the members share": it moves with the end of a lock too, which is
/// no change of the tree.
#[test]
fn the_last_applied_entry_tells_of_a_lock_that_ends_without_going_away() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        applied() { getfattr --only-values -n user.vfs.applied "$1"; }
        rev() { getfattr --only-values -n user.vfs.tree_rev "$1"; }
        owner() { getfattr --only-values -n user.lk.owner $B/lk/dsm/n1; }
        before=$(applied $A/.vfs)
        echo one > $B/mid/x
        [ "$(applied $A/.vfs)" -gt "$before" ] || { echo "a save is missed"; exit 1; }
        set -C; exec 6> $A/lk/dsm/n1; set +C
        [ "$(owner)" = n1 ]
        granted=$(applied $B/.vfs); tree=$(rev $B/lk)
        [ "$granted" = "$(applied $A/.vfs)" ]
        cat $B/mid/x > /dev/null; ls -R $B/lk > /dev/null
        [ "$(applied $B/.vfs)" = "$granted" ] || { echo "a reader moved it"; exit 1; }
        exec 6>&-
        until [ "$(owner)" = none ]; do :; done
        [ "$(applied $B/.vfs)" -gt "$granted" ] || { echo "the end of a lock is missed"; exit 1; }
        [ "$(rev $B/lk)" = "$tree" ] || { echo "SEMANTICS.md says otherwise"; exit 1; }
        (applied $A/mid) 2>&1 | grep -q 'No such attribute'
        (applied $A/.vfs/now) 2>&1 | grep -q 'No such attribute'
        (setfattr -n user.vfs.applied -v 1 $A/mid) 2>&1 | grep -q 'not permitted'
        (setfattr -n user.vfs.applied -v 1 $A/.vfs) 2>&1 | grep -q 'Read-only'
        [ -z "$(getfattr -m - $A/.vfs)" ] || { echo "it is listed"; exit 1; }
        "#,
    );
}

/// A directory is listed as it was when the listing began, whatever goes and comes meanwhile.
#[test]
fn a_listing_tells_each_name_once_while_others_go_and_come() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        mkdir $A/many; (cd $A/many; seq -f %04g 1500 | xargs touch); [ "$(ls $B/many | wc -l)" = 1500 ]
        python3 - <<'PY'
import os
a, b = os.environ['A'] + '/many', os.environ['B'] + '/many'
with os.scandir(a) as names:
    first = [next(names).name for _ in range(10)]
    for n in range(1400, 1451): os.unlink('%s/%04d' % (b, n))
    open(b + '/9999', 'w').close()
    rest = [entry.name for entry in names]
seen = first + rest
assert len(set(seen)) == len(seen), 'a name twice'
kept = {'%04d' % n for n in range(1, 1501) if not 1400 <= n <= 1450}
assert kept <= set(seen), sorted(kept - set(seen))[:5]
assert set(os.listdir(a)) == kept | {'9999'}
PY
        rm -r $A/many; [ ! -e $B/many ]
        "#,
    );
}

/// Names and sizes beyond their bounds are refused by the errno that says which, and change nothing on any node.
#[test]
fn what_is_too_long_or_too_large_is_refused_by_name() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        python3 - <<'PY'
import errno, os
a, b = os.environ['A'] + '/run/', os.environ['B'] + '/run/'
def refused(code, call, *values):
    try: call(*values)
    except OSError as error:
        assert error.errno == code, (call, errno.errorcode[error.errno], errno.errorcode[code])
        return
    raise SystemExit('%s was not refused' % call)
long = 'n' * 256
for call, values in [(os.mkdir, (a + long,)), (os.symlink, ('x', a + long)), (os.mknod, (a + long,)),
                     (os.rename, (a + 'x', a + long)), (os.link, (a + 'x', a + long)), (os.unlink, (a + long,))]:
    open(a + 'x', 'w').close()
    refused(errno.ENAMETOOLONG, call, *values)
os.symlink('t' * 4095, a + 'link'); assert len(os.readlink(b + 'link')) == 4095
refused(errno.ENAMETOOLONG, os.symlink, 't' * 4096, a + 'longer')
os.setxattr(a + 'x', 'user.v', b'v' * (65536 - len('user.v')))
assert len(os.getxattr(b + 'x', 'user.v')) == 65536 - len('user.v')
refused(errno.E2BIG, os.setxattr, a + 'x', 'user.v', b'v' * (65536 - len('user.v') + 1))
refused(errno.E2BIG, os.setxattr, a + 'x', 'user.w', b'')
os.removexattr(a + 'x', 'user.v')
most = 16 << 20
os.truncate(a + 'x', most); refused(errno.EFBIG, os.truncate, a + 'x', most + 1)
file = os.open(a + 'x', os.O_WRONLY)
refused(errno.EFBIG, os.pwrite, file, b'x', most)
refused(errno.EFBIG, os.ftruncate, file, most + 1)
refused(errno.EFBIG, os.posix_fallocate, file, 0, most + 1)
assert os.pwrite(file, b'x', most - 1) == 1
os.close(file)
assert os.stat(b + 'x').st_size == most
open(a + 'names', 'w').close()
for n in range(999): os.link(a + 'names', a + 'l%d' % n)
refused(errno.EMLINK, os.link, a + 'names', a + 'more')
assert os.stat(b + 'names').st_nlink == 1000
assert sorted(os.listdir(b)) == sorted(['x', 'link', 'names'] + ['l%d' % n for n in range(999)])
PY
        "#,
    );
}

/// This kernel has such a directory at its old place still, and to move it needs a lock that each of its own renames
/// from directory to directory holds. One is under way nearly always here, and one in seven of these lookups failed.
/// One of all is left to chance (docs/LIMITS.md).
#[test]
fn a_directory_that_another_node_moves_is_found_beside_this_nodes_renames() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        python3 - <<'PY'
import os, threading
a, b = os.environ['A'], os.environ['B']
for directory in ('p', 'q', 'x', 'y', 'p/m'): os.mkdir(f'{a}/{directory}')
open(f'{b}/x/f', 'w').close()
done, faults = threading.Event(), []

def rename_files():
    at, to = f'{b}/x/f', f'{b}/y/f'
    while not done.is_set():
        os.rename(at, to)
        at, to = to, at

thread = threading.Thread(target=rename_files)
thread.start()
at, to = f'{a}/p/m', f'{a}/q/m'
for turn in range(100):
    os.rename(at, to)
    for parent in 'pq':
        try: os.stat(f'{b}/{parent}/m')
        except FileNotFoundError: pass
        except OSError as error: faults.append(error)
    at, to = to, at
done.set()
thread.join()
assert len(faults) <= 1, (len(faults), faults[0])
PY
        "#,
    );
}

/// It would hide the other's tree from everybody, and a program would write into another one than it thinks.
#[test]
fn a_mount_point_on_which_another_daemon_serves_is_refused() {
    let cluster = Cluster::start();
    let point = cluster.path(1, ".");
    let other = Mount::start(cluster.filesystems[1].clone(), &point, NodeId(2));
    let refusal = format!("{:#}", anyhow::Error::from(other.err().unwrap()));
    assert!(refusal.contains("another vfsd serves"), "{refusal}");
    run(&cluster, "echo x > $A/x; [ $(cat $B/x) = x ]");
}
