//! What shells and ordinary tools do on a mount.

use crate::{Cluster, run, run_with_shared_mapping};

#[test]
fn a_save_on_one_node_is_read_on_the_other() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"echo '{"driver":"file"}' > $A/mid/x.json; cmp $A/mid/x.json $B/mid/x.json"#,
    );
    run(
        &cluster,
        r#"echo more >> $B/mid/x.json; [ "$(tail -n1 $A/mid/x.json)" = more ]"#,
    );
    assert_eq!(
        run(&cluster, "ls -A $A"),
        "ctx\nlk\nmid\nrun\n",
        "/.vfs is entered by name only"
    );
}

#[test]
fn coreutils_do_what_they_do_elsewhere() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        mkdir -p $A/home/a/b; cd $A/home
        seq 1000 > a/n; cp -a a c; diff -r a c; mv c d; ln d/n d/hard; ln -s n d/soft
        [ "$(stat -c %h $B/home/d/n)" = 2 ]; [ "$(readlink $B/home/d/soft)" = n ]; cmp $B/home/d/soft a/n
        chmod 640 d/n; [ "$(stat -c %a $B/home/d/hard)" = 640 ]
        chown 12:34 d/n; [ "$(stat -c %u:%g $B/home/d/n)" = 12:34 ]
        touch -d '2001-02-03 04:05:06.789 UTC' d/n; [ "$(stat -c %.9Y $B/home/d/n)" = 981173106.789000000 ]
        truncate -s 7 d/n; [ "$(stat -c %s $B/home/d/n)" = 7 ]
        dd if=/dev/urandom of=big bs=64k count=40 status=none; cmp big $B/home/big
        dd if=/dev/zero of=big bs=1k seek=10 count=5 conv=notrunc status=none; cmp big $B/home/big
        sed -i s/1/one/ a/n; head -n1 $B/home/a/n | grep -qx one
        mkfifo f; [ -p $B/home/f ]; rm f
        tar cf t.tar a d; mkdir out; tar xf t.tar -C out; diff -r a out/a
        rm -r a d out; [ ! -e $B/home/a ]; rmdir $B/home/nothing 2>/dev/null && exit 1
        printf 'x' | tee one two > /dev/null; [ "$(cat $B/home/one $B/home/two)" = xx ]
        setfattr -n user.note -v hello one; [ "$(getfattr --only-values -n user.note $B/home/one)" = hello ]
        df . > /dev/null; stat -f -c %T . | grep -qi fuse
        "#,
    );
}

#[test]
fn an_exclusive_create_and_a_noclobber_move_happen_once() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        set -C; echo a > $A/mid/x; (echo b > $B/mid/x) 2>/dev/null && exit 1; set +C
        echo c > $B/mid/y; mv -n $B/mid/y $A/mid/x || true; [ "$(cat $A/mid/x)" = a ]
        mkdir $A/lk/job; mkdir $B/lk/job 2>/dev/null && exit 1
        echo 1 > $A/lk/job/pid; rm $A/lk/job/pid; rmdir $A/lk/job; mkdir $B/lk/job; rmdir $B/lk/job
        "#,
    );
}

#[test]
fn an_unlinked_open_file_lives_on() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        echo old > $A/mid/x; exec 3<>$A/mid/x 4<$B/mid/x; rm $B/mid/x; [ ! -e $A/mid/x ]
        [ "$(cat <&4)" = old ]; echo longer >&3; [ "$(cat /proc/self/fd/3)" = longer ]
        "#,
    );
}

#[test]
fn the_committed_view_shows_versions_and_refuses_writes() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        mkdir $A/mid/shop; echo one > $A/mid/shop/x; [ "$(cat $A/.vfs/now/mid/shop/x)" = one ]
        python3 - <<'PY'
import os
a, b = os.environ['A'], os.environ['B']
read = lambda path: open(path).read()
with open(a + '/mid/shop/x', 'w') as f:
    f.write('two')
    f.flush()
    assert read(a + '/mid/shop/x') == 'two', 'processes of one node see uncommitted bytes'
    assert read(a + '/.vfs/now/mid/shop/x') == 'one\n'
    assert read(b + '/mid/shop/x') == 'one\n'
assert read(a + '/.vfs/now/mid/shop/x') == read(b + '/mid/shop/x') == 'two'
PY
        (echo no > $A/.vfs/now/mid/shop/x) 2>&1 | grep -q 'Read-only'
        ls $A/.vfs/now | grep -qx mid
        getfattr --only-values -n user.vfs.ino $A/.vfs/now/mid/shop/x | grep -qx "$(stat -c %i $A/mid/shop/x)"
        python3 -c "import json,os; d=json.load(open('$A/.vfs/status.json')); assert d['node']=='n1', d"
        python3 -c "import os; f=os.open('$A/.vfs', os.O_RDONLY); os.fsync(f)"
        "#,
    );
}

#[test]
fn without_a_majority_reads_go_on_and_writes_are_refused_at_once() {
    let cluster = Cluster::start();
    run(&cluster, "echo here > $A/mid/x");
    cluster.log.set_quorum(false);
    run(
        &cluster,
        r#"
        [ "$(cat $A/mid/x)" = here ]; ls $A/mid > /dev/null; df $A > /dev/null
        (echo no > $A/mid/x) 2>&1 | grep -q 'Read-only file system'
        (touch $A/mid/new) 2>&1 | grep -q 'Read-only file system'
        (mkdir $A/mid/new) 2>&1 | grep -q 'Read-only file system'
        (rm $A/mid/x) 2>&1 | grep -q 'Read-only file system'
        "#,
    );
}

#[test]
fn sqlite_works_on_one_node() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        sqlite3 $A/home.db 'create table t(x); insert into t values (1),(2);'
        [ "$(sqlite3 $A/home.db 'select sum(x) from t')" = 3 ]; [ "$(sqlite3 $B/home.db 'select sum(x) from t')" = 3 ]
        "#,
    );
}

#[test]
fn python_maps_a_file_and_stores_through_the_mapping() {
    let cluster = Cluster::start();
    run_with_shared_mapping(
        &cluster,
        r#"
        python3 - <<'PY'
import mmap, os
path = os.environ['A'] + '/map'
with open(path, 'wb') as f: f.write(b'x' * 10000)
with open(path, 'r+b') as f:
    m = mmap.mmap(f.fileno(), 10000)
    assert m[:3] == b'xxx'
    m[0:5] = b'hello'
    m.flush()
    m.close()
assert open(os.environ['B'] + '/map', 'rb').read(5) == b'hello'
PY
        "#,
    );
}

#[test]
fn git_works_on_the_mount() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        mkdir $A/repo; cd $A/repo; git init -q .; git config user.email a@b; git config user.name n
        for i in 1 2 3; do echo $i > f$i; git add .; git commit -qm $i; done
        git gc -q; git fsck --strict 2>&1 | grep -v '^notice' || true; git log --oneline | wc -l | grep -qx 3
        "#,
    );
}
