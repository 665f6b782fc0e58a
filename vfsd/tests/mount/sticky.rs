//! Sticky directories of several nodes: what a kernel has allowed to take away is what goes, whoever was quicker.

use std::os::unix::fs::PermissionsExt;

use vfsd::state_machine::command::{Command, Create, NodeKind, Remove};
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
