//! Members of a real cluster: tokens are used once and checked, learners see everything, removed members are gone.

use std::time::Duration;

use anyhow::Result;
use system_tests::cluster::Node;
use system_tests::formation;
use system_tests::limits;
use system_tests::mounted::{Mounted, barrier};
use system_tests::wait::wait_until;

/// A refusal needs one or two round trips.
const REFUSAL_MAX: Duration = Duration::from_secs(20);

#[test]
fn a_token_admits_one_learner_that_sees_everything() -> Result<()> {
    let mounted = Mounted::boot(1)?;
    let [n1] = mounted.nodes() else {
        unreachable!("one node was asked for")
    };
    n1.sh("echo before > /vfs/mid/a")?;
    let (n2, n3) = (mounted.cluster().node("n2")?, mounted.cluster().node("n3")?);
    n2.boot()?;
    n3.boot()?;
    let token = n1.sh("vfsd token create")?.trim().to_owned();
    n2.sh(&join(&n2, n1, &token))?;
    formation::start(&n2, "vfsd")?;
    formation::wait_for_leader(&n2)?;
    barrier(&n2)?;
    assert_eq!(n2.sh("cat /vfs/mid/a")?, "before\n");
    n2.sh("echo from a learner > /vfs/mid/b")?;
    assert_eq!(formation::status(&n2)?["role"], "learner");
    // The same token again, half a token, and one of another cluster.
    refuses(&n3, &join(&n3, n1, &token), "token")?;
    refuses(&n3, &join(&n3, n1, &token[..token.len() / 2]), "token")?;
    let other = foreign_token(&n3)?;
    refuses(&n3, &join(&n3, n1, &other), "token")?;
    n1.sh("vfsd member promote n2")?;
    wait_until("the learner to vote", limits::CLUSTER_READY_MAX, || {
        Ok(formation::status(&n2)?["role"] == "follower")
    })?;
    n1.sh("vfsd member remove n2")?;
    wait_until(
        "the removed member to be gone",
        limits::CLUSTER_READY_MAX,
        || Ok(!n1.sh("cat /vfs/.vfs/members.json")?.contains("\"n2\"")),
    )?;
    n1.sh("echo goes on > /vfs/mid/c").map(drop)
}

/// A token of another cluster: one that lives for a moment in a folder of `node`.
fn foreign_token(node: &Node) -> Result<String> {
    let other = "/tmp/other";
    let place = format!("--data-dir {other}/data");
    node.sh(&format!(
        "mkdir -p {other}/vfs && vfsd init --node other --listen 127.0.0.1:7701 {place}"
    ))?;
    let run = format!("vfsd run {place} --mount {other}/vfs --runtime-dir {other}/run");
    node.sh(&format!(
        "systemd-run --quiet --unit=other --service-type=notify {run}"
    ))?;
    let token = node.sh(&format!("vfsd token create --runtime-dir {other}/run"))?;
    node.sh("systemctl stop other")?;
    Ok(token.trim().to_owned())
}

fn join(node: &Node, member: &Node, token: &str) -> String {
    let (name, address, peer) = (node.name(), node.address(), member.address());
    format!("vfsd join --node {name} --listen {address}:7601 --peer {peer}:7601 --token {token}")
}

/// The command must end with status 1, name what is wrong, and leave no member's data behind.
fn refuses(node: &Node, command: &str, word: &str) -> Result<()> {
    let finished = node.run_within(&["sh", "-c", command], &[], REFUSAL_MAX)?;
    let said = finished.stderr_text();
    assert_eq!(finished.status.code(), Some(1), "{said}");
    assert!(
        said.starts_with("error: ") && said.contains(word) && said.contains("hint: "),
        "{said}"
    );
    assert!(
        !node
            .run(&["test", "-e", "/var/lib/vfsd/config.toml"])?
            .status
            .success(),
        "data was left behind"
    );
    Ok(())
}
