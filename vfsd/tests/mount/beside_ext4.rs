//! What went wrong once, or could, and what ext4 does there: fixed sequences in lockstep, and scripts where a sequence
//! cannot say it.
//!
//! "Where this page is silent, POSIX holds and what a Linux user expects of ext4" (docs/SEMANTICS.md).

use std::time::{Duration, Instant};

use crate::lockstep::{check, report, sides::Sides};
use crate::{Cluster, kernel_is_at_least, run};

/// The lockstep itself: a difference that stays (ext4 keeps extended attributes in one block) is seen and told.
#[test]
fn the_lockstep_sees_a_difference() {
    let value = "x".repeat(20_000);
    let calls = ["0 save a A*4", &format!("0 setxattr a user.one {value}")].map(str::to_owned);
    let difference = Sides::start().run(&calls).expect("ext4 has no room for it");
    assert_eq!(
        (
            difference.at,
            difference.ext4.as_str(),
            difference.tree.as_str()
        ),
        (1, "ENOSPC", "ok")
    );
}

/// What random calls have found, by what it shows.
const FOUND: &[(&str, &str)] = &[
    (
        "a synchronous write stands over pending bytes of another handle",
        "0 open h1 a rw,creat,sync
         0 open h2 a rw
         0 write h2 Q*4
         0 write h1 R*4
         0 pread h2 0 1
         0 close h2
         0 cat a",
    ),
    (
        "a handle that was opened anew by its descriptor writes later",
        "0 open h1 a rw,creat
         0 pwrite h1 0 K*4
         0 reopen h2 h1 rw
         0 dup h3 h2
         0 write h3 V*4
         0 close h3
         0 close h1",
    ),
    (
        "a write stands after another handle has cut the file to nothing",
        "0 open h1 a w,creat
         0 open h2 a w
         0 ftruncate h1 0
         0 write h2 L*4
         0 close h2
         0 close h1",
    ),
    (
        "an open that truncates cuts pending bytes, whichever handle is closed first",
        "0 open h1 a w,creat
         0 write h1 I*4
         0 open h2 a w,trunc
         0 stat a
         0 close h2
         0 stat a
         0 close h1",
    ),
    (
        "a save stands though a reader has truncated before",
        "0 save a Z*4
         0 open h1 a r,trunc
         0 save a S*4
         0 cat a
         0 close h1",
    ),
    (
        "a file grows again by a handle that was there before an open truncated it",
        "0 open h1 a rw,creat
         0 truncate a 1
         0 open h2 a rw,trunc
         0 ftruncate h1 1
         0 open h3 a rw,trunc
         0 fallocate h1 plain 0 3
         0 stat a",
    ),
    (
        "a rename carries no truncation of another file",
        "0 mkdir d
         0 save d/a Y*4
         0 open h1 b rw,creat
         0 link d/a a
         2 open h2 a w
         0 rename b a
         2 ftruncate h2 0
         0 save d/a I*4
         0 rename d/a c
         0 cat c",
    ),
    (
        "holes are looked for in the file as it is now",
        "0 save a F*4
         1 open h1 a r
         0 truncate a 0
         1 hole h1 1
         0 open h2 b rw,creat
         0 pwrite h2 0 A*4
         1 truncate b 0
         0 hole h2 0
         0 data h2 0",
    ),
    (
        "fallocate moves the times whatever it changes",
        "0 open h1 a rw,creat
         0 fstat h1
         0 fallocate h1 keep 0 1
         0 fstat h1
         0 fallocate h1 punch 0 1
         0 fstat h1
         0 fallocate h1 zerokeep 0 1
         0 fstat h1
         0 futimens h1 1000
         0 fallocate h1 zero 0 1
         0 stat a",
    ),
    (
        "an open that truncates an empty file moves its times",
        "0 open h1 a w,creat
         0 futimens h1 1000
         0 open h2 a rw,trunc
         0 stat a",
    ),
    (
        "a child appends behind what was allocated",
        "0 open h1 a rw,creat,append
         0 fallocate h1 zero 0 1
         0 child h1 O*4
         0 position h1 end 0
         0 cat a",
    ),
    (
        "a shell appends behind what another handle has cut",
        "0 open h1 a rw,creat
         0 reopen h2 h1 rw
         0 ftruncate h2 0
         0 shell >> a I*4
         0 cat a",
    ),
    (
        "a mapping shows what a shell has written",
        "0 save a Y*4
         0 open h1 a rw
         0 mmap m1 h1 1
         0 write h1 U*2
         0 shell > a A*4
         0 load m1 0 1",
    ),
    (
        "an ftruncate that changes nothing of a new file moves its times",
        "0 open h1 a w,creat,trunc
         0 reopen h2 h1 rw
         0 fstat h2
         0 ftruncate h1 0
         0 close h1
         0 fstat h2",
    ),
];

#[test]
fn what_random_calls_have_found_stays_right() {
    let mut sides = Sides::start();
    let mut wrong = Vec::new();
    for (shows, sequence) in FOUND {
        let calls: Vec<String> = sequence
            .lines()
            .map(|call| call.trim().to_owned())
            .collect();
        if sequence.contains(" mmap ") && !kernel_is_at_least(6, 6) {
            continue;
        }
        if let Some(difference) = sides.run(&calls) {
            wrong.push(format!("{shows}:\n{}", report(&calls, &difference)));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        FOUND.len(),
        wrong.join("\n")
    );
}

#[test]
fn an_append_after_a_truncation_lands_at_the_new_end() {
    check(
        "0 open h1 f rw,creat,append
         0 write h1 A*8
         0 ftruncate h1 2
         0 write h1 X*1
         0 fstat h1
         0 close h1
         0 cat f",
    );
}

#[test]
fn a_truncation_by_path_cuts_bytes_that_are_not_committed_yet() {
    check(
        "0 open h1 f rw,creat
         0 write h1 A*1024
         1 truncate f 256
         1 stat f
         0 fstat h1
         0 close h1
         2 cat f",
    );
}

#[test]
fn the_size_is_that_of_the_last_call_whichever_handle_made_it() {
    check(
        "0 open h1 f rw,creat
         0 open h2 f rw
         1 open h3 f rw
         0 pwrite h1 8192 A*100
         1 ftruncate h3 1000
         0 fstat h2
         0 ftruncate h2 0
         0 fstat h1
         1 fstat h3
         0 pwrite h1 100 B*10
         1 ftruncate h3 50
         0 fstat h1
         0 fstat h2
         1 pwrite h3 4096 C*10
         0 ftruncate h1 4100
         1 fstat h3
         0 close h1
         1 fstat h3
         1 close h3
         0 fstat h2
         0 close h2
         2 cat f",
    );
}

/// Two handles of two processes: who writes first, who closes first, and a truncation or a hole between the writes.
#[test]
fn an_older_write_never_covers_a_newer_one() {
    let mut sides = Sides::start();
    for between in [
        "",
        "1 truncate f 2",
        "1 fallocate h2 punch 0 3",
        "0 ftruncate h1 1",
        "0 fsync h1",
    ] {
        for writes in [
            ["0 pwrite h1 0 A*4", "1 pwrite h2 0 B*4"],
            ["1 pwrite h2 0 B*4", "0 pwrite h1 0 A*4"],
        ] {
            for closes in [["0 close h1", "1 close h2"], ["1 close h2", "0 close h1"]] {
                let opens = ["2 save f Z*6", "0 open h1 f rw", "1 open h2 f rw"];
                let looks = ["0 pread h1 0 10", "1 pread h2 0 10"];
                let mut calls: Vec<&str> = opens.to_vec();
                calls.extend([writes[0], between, writes[1], looks[0], closes[0]]);
                // The handle that is still open, and then nobody's.
                calls.extend([
                    if closes[0] == "0 close h1" {
                        looks[1]
                    } else {
                        looks[0]
                    },
                    "2 cat f",
                ]);
                calls.extend([closes[1], "2 cat f"]);
                calls.retain(|call| !call.is_empty());
                let calls: Vec<String> = calls.into_iter().map(str::to_owned).collect();
                let difference = sides.run(&calls);
                assert!(difference.is_none(), "{calls:#?}\n{difference:#?}");
            }
        }
    }
}

#[test]
fn a_save_covers_what_an_open_handle_wrote_before() {
    check(
        "0 open h1 b rw,creat
         0 write h1 E*100
         1 save b A*2
         2 cat b
         0 pread h1 0 200
         0 close h1
         2 cat b",
    );
}

#[test]
fn a_save_stays_though_a_handle_truncated_before_is_closed_later() {
    check(
        "2 save a Z*100
         0 open h1 a w,trunc
         1 save a B*2
         2 cat a
         0 close h1
         2 cat a",
    );
}

#[test]
fn a_save_leaves_no_bytes_of_an_older_write_inside_or_behind_it() {
    check(
        "0 open h1 a rw,creat
         0 pwrite h1 4096 A*100
         1 save a B*5000
         2 cat a
         0 close h1
         2 cat a
         0 open h2 a rw
         0 pwrite h2 65536 C*4
         1 save a D*4
         2 stat a
         0 close h2
         2 cat a",
    );
}

#[test]
fn an_open_that_truncates_cuts_what_another_handle_appended() {
    check(
        "0 open h1 a w,creat,append
         0 write h1 A*4
         1 open h2 a rw,trunc
         1 fstat h2
         2 cat a
         0 write h1 B*4
         1 pread h2 0 10
         0 close h1
         1 close h2
         2 cat a",
    );
}

#[test]
fn a_truncation_by_path_grows_what_an_open_has_truncated() {
    check(
        "2 save a Z*100
         0 open h1 a rw,trunc
         1 truncate a 256
         0 fstat h1
         0 close h1
         2 cat a",
    );
}

#[test]
fn a_handle_that_truncated_reads_what_another_appends() {
    check(
        "2 save a Z*100
         0 open h1 a rw,trunc
         1 open h2 a w,append
         1 write h2 B*4
         0 read h1 10
         1 close h2
         0 pread h1 0 10
         0 close h1
         2 cat a",
    );
}

#[test]
fn an_unlinked_file_takes_times_modes_owners_and_extended_attributes() {
    check(
        "0 open h1 f rw,creat
         0 write h1 A*10
         0 fsetxattr h1 user.one before
         1 unlink f
         0 futimens h1 1000
         0 fstat h1
         0 fchmod h1 600
         0 fchown h1 12 34
         0 fstat h1
         0 fsetxattr h1 user.two after
         0 fgetxattr h1 user.one
         0 fgetxattr h1 user.two
         0 flistxattr h1
         0 fremovexattr h1 user.one
         0 fremovexattr h1 user.one
         0 flistxattr h1
         0 write h1 B*10
         0 ftruncate h1 15
         0 fsync h1
         0 pread h1 0 30
         0 fstat h1
         0 close h1",
    );
}

#[test]
fn a_removed_directory_takes_times_modes_and_extended_attributes_while_it_is_open() {
    check(
        "0 mkdir d
         0 open h1 d r
         1 rmdir d
         0 fstat h1
         0 futimens h1 1000
         0 fchmod h1 700
         0 fchown h1 12 34
         0 fsetxattr h1 user.one after
         0 fgetxattr h1 user.one
         0 flistxattr h1
         0 fstat h1
         0 fsync h1
         0 close h1",
    );
}

#[test]
fn handles_of_an_unlinked_file_see_each_others_bytes() {
    check(
        "0 open h1 f rw,creat
         0 write h1 A*5
         0 unlink f
         0 reopen h2 h1 rw
         0 pwrite h2 0 J*1
         0 pread h1 0 10
         0 pread h2 0 10
         0 reopen h3 h2 r
         0 close h1
         0 pread h3 0 10
         0 ftruncate h2 2
         0 fstat h3",
    );
}

#[test]
fn a_file_that_a_rename_has_replaced_lives_on_in_its_handles() {
    check(
        "0 save a A*10
         0 save b B*20
         0 open h1 b rw
         1 open h2 a rw
         1 pwrite h2 0 C*4
         2 rename a b
         0 pread h1 0 30
         0 pwrite h1 0 D*4
         0 fstat h1
         1 pwrite h2 8 E*4
         2 cat b
         0 close h1
         1 close h2
         2 cat b",
    );
}

/// Also with `rename` over it in a loop: an open in between finds the old file or the new.
#[test]
fn a_name_is_never_missing_while_renames_replace_it() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        echo first > $A/g
        cat > replace.py <<'PY'
import os, sys
a = os.environ['A']
n = 0
while not os.path.exists('enough'):
    n += 1
    with open(a + '/g.tmp', 'w') as f: f.write(f'version {n}')
    os.rename(a + '/g.tmp', a + '/g')
print(n, file=open('replaced', 'w'))
PY
        python3 replace.py & replacer=$!
        trap 'touch enough' EXIT
        python3 - <<'PY'
import os
path, missing = os.environ['A'] + '/g', 0
for turn in range(4000):
    try:
        with open(path) as f: assert f.read(), 'an empty version'
        os.stat(path); os.listxattr(path)
        if turn % 4 == 0: os.utime(path); os.chmod(path, 0o600 + turn % 8); os.truncate(path, 5)
    except FileNotFoundError:
        missing += 1
assert missing == 0, f'missing at {missing} of 4000 looks'
PY
        touch enough; wait $replacer
        [ "$(cat replaced)" -ge 100 ]
        "#,
    );
}

/// The file that a bind mount holds lives as long as the bind, though another node has replaced it.
#[test]
fn a_bind_mount_of_a_file_keeps_it_when_another_node_replaces_it() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        echo old > $A/x; touch bound; mount --bind $A/x bound; trap 'umount -l bound' EXIT
        [ "$(cat bound)" = old ]
        echo new > $B/.x.tmp; mv $B/.x.tmp $B/x; [ "$(cat $A/x)" = new ]
        [ "$(cat bound)" = old ]; [ "$(stat -c %h bound)" = 0 ]
        rm $B/x; [ "$(cat bound)" = old ]
        "#,
    );
}

/// Each call that takes a path refuses a part of 256 bytes by ENAMETOOLONG, whether it exists cannot matter.
#[test]
fn a_name_that_is_too_long_is_refused_by_every_call() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        python3 - <<'PY'
import errno, os
os.chdir(os.environ['A'])
open('f', 'w').close()
os.mkdir('dir')
for long in ('n' * 256, 'dir/' + 'n' * 256, 'n' * 256 + '/f'):
    calls = {
        'stat': lambda: os.stat(long), 'lstat': lambda: os.lstat(long), 'chdir': lambda: os.chdir(long),
        'execve': lambda: os.execv(long, ['x']), 'open': lambda: os.open(long, os.O_RDONLY),
        'create': lambda: os.open(long, os.O_RDWR | os.O_CREAT), 'unlink': lambda: os.unlink(long),
        'rmdir': lambda: os.rmdir(long), 'rename': lambda: os.rename(long, 'g'),
        'rename to': lambda: os.rename('f', long), 'chmod': lambda: os.chmod(long, 0o600),
        'chown': lambda: os.chown(long, 1, 1), 'truncate': lambda: os.truncate(long, 0),
        'link': lambda: os.link('f', long), 'link of': lambda: os.link(long, 'g'),
        'mkdir': lambda: os.mkdir(long), 'symlink': lambda: os.symlink('f', long),
        'readlink': lambda: os.readlink(long), 'mkfifo': lambda: os.mkfifo(long), 'utime': lambda: os.utime(long),
        'getxattr': lambda: os.getxattr(long, 'user.x'), 'access': lambda: os.open(long, os.O_PATH),
    }
    wrong = {}
    for name, call in calls.items():
        try: call(); wrong[name] = 'no error'
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG: wrong[name] = errno.errorcode[error.errno]
    assert not wrong, (long[:8], wrong)
PY
        "#,
    );
}

/// What `make`, `rsync` and editors look at: the time of the write, not that of the commit.
#[test]
fn a_close_and_a_sync_move_no_time() {
    check(
        "0 open h1 f rw,creat
         0 write h1 A*10
         1 stat f
         0 close h1
         1 stat f
         0 open h2 f w
         0 open h3 f r
         0 write h2 B*10
         0 fstat h2
         0 fsync h2
         0 fstat h2
         0 pwrite h2 0 C*10
         0 fstat h2
         0 fdatasync h3
         0 fstat h2
         0 close h2
         0 fstat h3",
    );
}

#[test]
fn an_unlink_and_a_rename_over_a_file_move_the_ctime_that_its_handles_see() {
    check(
        "0 save a A*10
         0 save b B*10
         0 open h1 a r
         0 open h2 b rw
         0 fstat h1
         1 unlink a
         0 fstat h1
         0 fchmod h1 600
         0 fstat h1
         0 fstat h2
         1 save c C*1
         1 rename c b
         0 fstat h2
         0 write h2 D*4
         0 fstat h2",
    );
}

#[test]
fn names_of_extended_attributes_are_refused_as_elsewhere() {
    check(
        "0 save f A*10
         0 setxattr f user. value
         0 getxattr f user.
         0 removexattr f user.
         0 setxattr f nothing.one value
         0 getxattr f nothing.one
         0 removexattr f nothing.one
         0 getxattr f user.one
         0 removexattr f trusted.one
         0 open h1 f r
         0 fsetxattr h1 user. value
         0 fgetxattr h1 nothing.one
         0 fremovexattr h1 nothing.one
         0 listxattr f",
    );
}

/// Whatever way stores and writes come by, the last one stands.
#[test]
fn a_store_through_a_mapping_and_a_write_stand_in_the_order_of_the_calls() {
    check(
        "0 save a Z*100
         0 open h1 a rw
         0 mmap m1 h1 100
         0 store m1 0 v*4
         1 open h2 a rw
         1 mmap m2 h2 100
         1 load m2 0 10
         1 store m2 0 e*4
         0 load m1 0 10
         0 pread h1 0 10
         2 cat a
         1 pwrite h2 0 B*1
         0 load m1 0 10
         0 store m1 2 w*1
         1 pread h2 0 10
         0 msync m1
         0 munmap m1
         0 close h1
         1 load m2 0 10
         1 munmap m2
         1 close h2
         2 cat a",
    );
}

#[test]
fn of_stores_and_writes_that_nobody_synced_the_last_one_stands() {
    check(
        "0 save a Z*4
         0 open h1 a rw
         0 mmap m1 h1 4
         0 store m1 0 v*4
         1 open h2 a rw
         1 mmap m2 h2 4
         1 store m2 0 e*4
         0 munmap m1
         0 close h1
         1 munmap m2
         1 close h2
         2 cat a
         0 open h3 c rw,creat
         0 write h3 A*4
         0 mmap m3 h3 4
         1 open h4 c w
         1 pwrite h4 0 G*4
         0 store m3 0 h*4
         1 pwrite h4 0 B*1
         1 close h4
         0 munmap m3
         0 close h3
         2 cat c",
    );
}

#[test]
fn a_mapping_shows_what_is_in_the_file_and_not_what_its_handle_had() {
    check(
        "0 open h1 a rw,creat
         0 ftruncate h1 1
         1 save a C*4
         0 open h2 a rw
         0 mmap m1 h2 100
         0 load m1 0 4
         1 open h3 a w,sync
         1 write h3 R*4
         0 load m1 0 4
         1 ftruncate h3 0
         0 load m1 0 1
         1 write h3 S*4
         0 load m1 4 4",
    );
}

#[test]
fn an_append_lands_behind_the_pending_bytes_of_another_handle() {
    check(
        "0 open h1 c rw,creat,append
         1 open h2 c w
         1 write h2 O*4
         0 write h1 U*4
         2 cat c
         0 position h1 cur 0
         1 write h2 P*2
         2 cat c
         0 fallocate h1 plain 0 100
         0 write h1 V*1
         2 stat c
         0 close h1
         1 close h2
         2 cat c",
    );
}

/// As a shell and its children have it: one position, and whoever closes last commits what is left.
#[test]
fn processes_that_inherit_a_descriptor_share_its_position_and_its_last_close() {
    check(
        "0 save a Z*20
         0 open h1 a rw,trunc
         1 adopt h2 0 h1
         2 adopt h3 1 h2
         0 write h1 A*4
         1 write h2 B*4
         0 position h1 cur 0
         0 close h1
         2 cat a
         1 position h2 set 2
         2 write h3 C*1
         1 close h2
         0 cat a
         2 write h3 D*2
         0 truncate a 6
         2 fstat h3
         2 write h3 E*3
         2 close h3
         0 cat a
         0 stat a",
    );
}

#[test]
fn a_hole_is_punched_into_the_pending_bytes_of_another_handle() {
    check(
        "0 open h1 b w,creat
         0 write h1 G*9000
         1 open h2 b rw,sync
         1 fallocate h2 punch 1 10
         2 cat b
         1 fallocate h2 zero 8999 10
         2 cat b
         0 close h1
         1 close h2
         2 cat b",
    );
}

/// What `make`, `rsync` and editors look at.
#[test]
fn times_stand_still_after_the_close() {
    let cluster = Cluster::start();
    for path in ["x", "mid/x"] {
        let path = cluster.path(1, path);
        for text in ["first", "second"] {
            std::fs::write(&path, text).unwrap();
            let closed = times(&path);
            // Whatever would move them has happened long before.
            let until = Instant::now() + Duration::from_millis(700);
            while Instant::now() < until {
                assert_eq!(
                    times(&path),
                    closed,
                    "times moved after the close of the {text} save"
                );
                std::thread::yield_now();
            }
        }
    }
}

fn times(path: &std::path::Path) -> [(i64, i64); 2] {
    use std::os::unix::fs::MetadataExt;
    let seen = std::fs::metadata(path).unwrap();
    [
        (seen.mtime(), seen.mtime_nsec()),
        (seen.ctime(), seen.ctime_nsec()),
    ]
}

/// The rights that a file gives to whoever runs it do not outlive a change of its content by somebody without them.
#[test]
fn a_write_by_an_ordinary_owner_takes_set_id_bits_and_capabilities_away() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        cat > rights.py <<'PY'
import os, sys
folder = sys.argv[1]
capability = bytes.fromhex('0100000200200000000000000000000000000000')
def changed(name, change):
    path = os.path.join(folder, name)
    with open(path, 'w') as f: f.write('program')
    os.setxattr(path, 'security.capability', capability)
    os.chown(path, 1000, 1000)
    os.setxattr(path, 'security.capability', capability)
    os.chmod(path, 0o6755)
    child = os.fork()
    if child == 0:
        os.setgroups([]); os.setgid(1000); os.setuid(1000)
        change(path)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, name
    return oct(os.stat(path).st_mode & 0o7777), 'security.capability' in os.listxattr(path)
def write(path):
    fd = os.open(path, os.O_WRONLY)
    os.write(fd, b'other')
    seen = os.fstat(fd).st_mode & 0o6000
    os.close(fd)
    assert seen == 0, 'the bits went with the close, not with the write'
def append(path):
    with open(path, 'a') as f: f.write('more')
def cut(path): os.truncate(path, 2)
def trunc(path): os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))
print({change.__name__: changed(change.__name__, change) for change in (write, append, cut, trunc)})
PY
        mkdir -m 777 $A/open; chmod 755 .
        python3 rights.py $A/open > seen
        [ "$(cat seen)" = "{'write': ('0o755', False), 'append': ('0o755', False), $(
            )'cut': ('0o755', False), 'trunc': ('0o755', False)}" ] || { cat seen; exit 1; }
        "#,
    );
}

/// Reading changes nothing, and the mount says so.
#[test]
fn the_mount_says_noatime_and_reading_moves_no_time() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        echo text > $A/x; before=$(stat -c %X.%x $A/x); cat $A/x > /dev/null; [ "$(stat -c %X.%x $A/x)" = "$before" ]
        findmnt -no OPTIONS $A | grep -qw noatime
        "#,
    );
}

/// Ranges that ext4 can cut out of a file or put in are refused as a whole; holes are exact where blocks begin.
#[test]
fn ranges_are_punched_exactly_and_collapsed_never() {
    let cluster = Cluster::start();
    run(
        &cluster,
        r#"
        python3 - <<'PY'
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
def allocate(fd, mode, offset, length):
    offset, length = ctypes.c_long(offset), ctypes.c_long(length)
    return ctypes.get_errno() if libc.fallocate(fd, mode, offset, length) else 0
KEEP, PUNCH, COLLAPSE, ZERO, INSERT, UNSHARE = 1, 2, 8, 16, 32, 64
fd = os.open(os.environ['A'] + '/x', os.O_RDWR | os.O_CREAT)
os.write(fd, b'x' * 65536)
assert allocate(fd, PUNCH | KEEP, 8192, 8192) == 0
assert allocate(fd, PUNCH | KEEP, 40960, 4096) == 0
for mode in (COLLAPSE, INSERT, COLLAPSE | KEEP, PUNCH, UNSHARE | ZERO, 0x1000):
    seen = allocate(fd, mode, 8192, 4096)
    assert seen == errno.EOPNOTSUPP, (mode, errno.errorcode.get(seen, seen))
def holes():
    found, at = [], 0
    while at < 65536:
        hole = os.lseek(fd, at, os.SEEK_HOLE)
        if hole >= 65536: break
        at = os.lseek(fd, hole, os.SEEK_DATA)
        found.append((hole, at))
    return found
exact = [(8192, 16384), (40960, 45056)]
assert holes() == exact, holes()
os.fsync(fd)
assert holes() == exact, holes()
content = os.pread(fd, 65536, 0)
assert content == b'x' * 8192 + bytes(8192) + b'x' * 24576 + bytes(4096) + b'x' * 20480
PY
        "#,
    );
}
