//! Sticky directories of several nodes: what a kernel has allowed to take away is what goes, whoever was quicker.

use std::os::unix::fs::PermissionsExt;

use vfsd::state_machine::command::{Command, Create, Mkdir, NodeKind, Remove};
use vfsd::state_machine::ids::InodeNo;

use crate::shared_log::SharedLog;
use crate::{Cluster, run};

/// A directory that everybody may write, with files `x` and `mine` of user 1000.
fn with_sticky_directory() -> (Cluster, InodeNo) {
    let cluster = Cluster::start();
    // Others than the superuser must reach the mounts.
    let all = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(cluster.folder.path(), all).unwrap();
    run(
        &cluster,
        r#"
        mkdir -m 1777 $A/open; cd $A/open
        echo theirs > x; echo moved > mine; mkdir d; chown 1000:1000 x mine d
        "#,
    );
    let open = cluster.log.state().tree().resolve("open").unwrap();
    (cluster, open)
}

/// Another node removes a name and makes it anew as a file of user `uid`.
fn replace(log: &SharedLog, parent: InodeNo, name: &str, uid: u32) {
    let name = name.as_bytes().to_vec();
    let remove = Remove {
        parent,
        name: name.clone(),
    };
    log.change(Command::Unlink(remove)).outcome.unwrap();
    let create = Create {
        parent,
        name,
        kind: NodeKind::Regular,
        mode: 0o600,
        uid,
        gid: uid,
        exclusive: true,
        handle: None,
    };
    log.change(Command::Create(create)).outcome.unwrap();
}

/// Another node removes an empty directory and makes it anew as one of user `uid`.
fn replace_directory(log: &SharedLog, parent: InodeNo, name: &str, uid: u32) {
    let name = name.as_bytes().to_vec();
    let remove = Remove {
        parent,
        name: name.clone(),
    };
    log.change(Command::Rmdir(remove)).outcome.unwrap();
    let mkdir = Mkdir {
        parent,
        name,
        mode: 0o700,
        uid,
        gid: uid,
    };
    log.change(Command::Mkdir(mkdir)).outcome.unwrap();
}

/// As user 1000 in the directory, with what another node does before the call is proposed.
fn as_user(cluster: &Cluster, quicker: Option<(InodeNo, &'static str, u32)>, script: &str) {
    if let Some((parent, name, uid)) = quicker {
        let change = move |log: &SharedLog| replace(log, parent, name, uid);
        cluster.log.before_the_next_of(1, change);
    }
    // The interpreter may be the superuser's alone, so it starts as him.
    let user = "import os; os.setgroups([]); os.setresgid(1000, 1000, 1000); os.setresuid(1000, 1000, 1000)";
    run(
        cluster,
        &format!("cd $A/open; python3 -c '{user}\n{script}\n'"),
    );
}

const REFUSED: &str = "
def refused(call, *names):
    try: call(*names)
    except PermissionError: return
    raise SystemExit(\"it was allowed\")
";

/// A sticky directory lets a user take away his own files: not the one that another node has put there since.
#[test]
fn a_name_that_another_node_has_given_to_another_user_is_not_taken_away() {
    let (cluster, open) = with_sticky_directory();
    let call = |call: &str| format!("{REFUSED}{call}");
    as_user(
        &cluster,
        Some((open, "x", 0)),
        &call("refused(os.unlink, \"x\")"),
    );
    let over = call("refused(os.rename, \"mine\", \"x\")");
    run(&cluster, "chown 1000 $A/open/x");
    as_user(&cluster, Some((open, "x", 0)), &over);
    let away = call("refused(os.rename, \"mine\", \"other\")");
    as_user(&cluster, Some((open, "mine", 0)), &away);
    run(
        &cluster,
        r#"
        [ "$(stat -c %u $B/open/x)" = 0 ]; [ "$(stat -c %u $B/open/mine)" = 0 ]; [ ! -e $B/open/other ]
        "#,
    );
}

/// Two nodes on which one user replaces a file again and again do not get in each other's way.
#[test]
fn a_name_that_stays_the_users_own_is_taken_away_whoever_was_quicker() {
    let (cluster, open) = with_sticky_directory();
    let own = Some((open, "x", 1000));
    as_user(&cluster, own, "os.rename(\"mine\", \"x\")");
    run(
        &cluster,
        "[ $(cat $B/open/x) = moved ]; [ ! -e $B/open/mine ]",
    );
    as_user(&cluster, own, "os.unlink(\"x\")");
    run(&cluster, "[ ! -e $B/open/x ]");
    as_user(&cluster, None, "os.rename(\"d\", \"e\"); os.rmdir(\"e\")");
    // The superuser asks nobody.
    run(&cluster, "echo x > $A/open/x; chown 1000 $A/open/x");
    let change = move |log: &SharedLog| replace(log, open, "x", 7);
    cluster.log.before_the_next_of(1, change);
    run(&cluster, "rm $A/open/x; [ ! -e $B/open/x ]");
}

/// As files: the directory that `rmdir` takes away is the one that the kernel has looked at.
#[test]
fn a_directory_that_another_node_has_given_to_another_user_is_not_removed() {
    let (cluster, open) = with_sticky_directory();
    let change = move |log: &SharedLog| replace_directory(log, open, "d", 0);
    cluster.log.before_the_next_of(1, change);
    as_user(
        &cluster,
        None,
        &format!("{REFUSED}refused(os.rmdir, \"d\")"),
    );
    run(&cluster, "[ \"$(stat -c %u $B/open/d)\" = 0 ]");
}

/// "So is a directory moved into another one" (docs/SEMANTICS.md): its `..` changes, so its own mode counts, in a
/// directory without the sticky bit too. Under a new name in the same directory nothing of it changes.
#[test]
fn a_directory_of_another_user_that_another_node_has_put_there_is_not_moved_into_another_one() {
    let (cluster, _) = with_sticky_directory();
    run(
        &cluster,
        "mkdir -m 777 $A/free; cd $A/free; mkdir -m 777 d to; chown 1000:1000 d",
    );
    let free = cluster.log.state().tree().resolve("free").unwrap();
    let change = move |log: &SharedLog| replace_directory(log, free, "d", 0);
    cluster.log.before_the_next_of(1, change);
    let script = "os.chdir(\"../free\"); refused(os.rename, \"d\", \"to/d\")";
    as_user(&cluster, None, &format!("{REFUSED}{script}"));
    run(
        &cluster,
        "[ \"$(stat -c %u $B/free/d)\" = 0 ]; [ ! -e $B/free/to/d ]",
    );
    run(
        &cluster,
        "rmdir $A/free/d; mkdir $A/free/d; chown 1000 $A/free/d",
    );
    cluster.log.before_the_next_of(1, change);
    as_user(
        &cluster,
        None,
        "os.chdir(\"../free\"); os.rename(\"d\", \"e\")",
    );
    run(&cluster, "[ \"$(stat -c %u $B/free/e)\" = 0 ]");
}
