//! Locks as a shell uses them. Each test quotes the sentence of docs/SEMANTICS.md that it shows.

use vfsd::state_machine::command::Command;

use crate::{Cluster, run};

/// "`mkdir /vfs/lk/job` takes a lock and `rmdir` gives it back", and nobody else can touch it.
#[test]
fn a_shell_takes_and_releases_a_lock() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        value() { getfattr --only-values -n "$1" "$2"; }
        mkdir $A/lk/job; [ "$(value user.lk.owner $B/lk/job)" = n1 ]; [ "$(value user.lk.expires $B/lk/job)" = session ]
        first=$(value user.lk.fence $B/lk/job)
        (rmdir $B/lk/job) 2>&1 | grep -q 'not permitted'; (echo x > $B/lk/job/pid) 2>&1 | grep -q 'not permitted'
        (mv $A/lk/job $A/lk/other) 2>&1 | grep -q 'not permitted'
        rmdir $A/lk/job; mkdir $B/lk/job; [ "$(value user.lk.fence $A/lk/job)" -gt "$first" ]
        (setfattr -n user.lk.fence -v 9 $B/lk/job) 2>&1 | grep -q 'not permitted'
        touch $A/plain; (ln $A/plain $A/lk/plain) 2>&1 | grep -q 'not permitted'
        mkdir -p $A/lk/shop/db; getfattr -n user.lk.owner $A/lk/shop 2>/dev/null && exit 1 || true
        "#,
    );
}

/// "Under a directory with `user.lk.hold=handle` a lock lives as long as the handle that made it is open."
#[test]
fn a_lock_ends_with_the_process_that_holds_its_handle() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        cat > hold.py <<'PY'
import os, sys
fd = os.open(sys.argv[1], os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC)
print('held', flush=True)
sys.stdin.read()
PY
        mkfifo in out; python3 hold.py $A/lk/dsm/n1 < in > out & holder=$!
        exec 5> in; read line < out; [ "$line" = held ]
        [ "$(getfattr --only-values -n user.lk.owner $B/lk/dsm/n1)" = n1 ]
        kill -9 $holder; wait $holder || true
        until [ "$(getfattr --only-values -n user.lk.owner $B/lk/dsm/n1)" = none ]; do :; done
        getfattr -n user.lk.fence $B/lk/dsm/n1 2>&1 | grep -q 'No such attribute'
        (rm $B/lk/dsm/n1) 2>&1 | grep -q 'not permitted'; rm $A/lk/dsm/n1
        "#,
    );
}

/// "EKEYREVOKED otherwise": a guarded directory changes only under its lock's fence.
#[test]
fn a_guarded_directory_refuses_everybody_but_the_holder() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        revoked() { "$@" 2>&1 | grep -q 'Key has been revoked'; }
        mkdir $A/lk/planner $A/run/plans; revoked setfattr -n user.lk.guard -v lk/planner $B/run/plans
        setfattr -n user.lk.guard -v lk/planner $A/run/plans
        echo 1 > $A/run/plans/x; revoked touch $B/run/plans/y; revoked rm $B/run/plans/x
        exec 4>>$A/run/plans/x
        rmdir $A/lk/planner; mkdir $B/lk/planner
        revoked bash -c 'echo thawed >&4'; exec 4>&-
        revoked touch $A/run/plans/z; echo 2 > $B/run/plans/x; [ "$(cat $A/run/plans/x)" = 2 ]
        "#,
    );
}

/// "A regular file made with `O_CREAT|O_EXCL` under `/lk` is a lock": one that `mknod` makes is none. A lock has one
/// name.
#[test]
fn mknod_takes_no_lock_and_a_lock_gets_no_second_name() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        python3 - <<'PY'
import errno, os, stat
a, b = os.environ['A'], os.environ['B']
os.mknod(a + '/lk/plain', 0o640 | stat.S_IFREG)
assert stat.S_IMODE(os.stat(b + '/lk/plain').st_mode) == 0o640
os.mkdir(a + '/run/d')
for taken in ('/lk/plain', '/run/d', '/run'):
    try: os.mknod(a + taken, stat.S_IFREG)
    except FileExistsError: continue
    raise SystemExit(taken + ' was made once more')
try: os.getxattr(b + '/lk/plain', 'user.lk.fence'); raise SystemExit('it is a lock')
except OSError as error: assert error.errno == errno.ENODATA, error
os.unlink(b + '/lk/plain')
os.close(os.open(a + '/lk/job', os.O_CREAT | os.O_EXCL | os.O_WRONLY))
for path in ('/run/x', '/lk/x'):
    try: os.link(a + '/lk/job', a + path); raise SystemExit('a second name')
    except PermissionError: pass
os.unlink(a + '/lk/job')
PY
        "#,
    );
}

/// "On a node whose session is over, attributes of its own locks read EKEYREVOKED: they may be another's by now." Those
/// of others' locks are the log's to tell, and so is an end of its own that this node has heard of.
#[test]
fn a_node_whose_session_is_over_reads_no_fence_of_its_own_locks() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        mkdir $A/lk/job $B/lk/theirs; [ "$(getfattr --only-values -n user.lk.owner $A/lk/job)" = n1 ]
        "#,
    );
    let state = cluster.log.state();
    let job = state.tree().resolve("lk/job").unwrap();
    let session = state.locks().of(job).unwrap().session;
    cluster.log.end_session(1);
    run(
        &cluster,
        r#"
        for name in fence owner expires; do
          getfattr -n user.lk.$name $A/lk/job 2>&1 | grep -q 'Key has been revoked'
        done
        [ "$(getfattr --only-values -n user.lk.fence $B/lk/job)" -gt 0 ]
        [ "$(getfattr --only-values -n user.lk.owner $A/lk/theirs)" = n2 ]
        "#,
    );
    let end = Command::SessionEnd {
        session,
        clean: false,
    };
    cluster.log.change(end).outcome.unwrap();
    run(
        &cluster,
        r#"[ "$(getfattr --only-values -n user.lk.owner $A/lk/job)" = none ]"#,
    );
}
