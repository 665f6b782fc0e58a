//! Members of a real cluster: tokens are used once and checked, learners see everything, removed members are gone for
//! good, the authority changes while all run, a damaged member comes back.

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

/// Signs a certificate of the node with id `$0` by a copy of the authority's key, as whoever has that copy can.
const FORGE: &str = r#"
    cd /root/stolen
    openssl x509 -inform der -in ca.der -out ca.pem
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out forged.key
    openssl req -new -key forged.key -subj /CN=node-$0 -out forged.csr
    printf "subjectAltName=DNS:node-$0,DNS:vfsd\nextendedKeyUsage=serverAuth,clientAuth\n" > extensions
    openssl x509 -req -in forged.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile extensions -out forged.pem
"#;

#[test]
fn a_removed_voter_with_the_old_key_is_a_stranger_once_the_authority_has_changed() -> Result<()> {
    let mounted = Mounted::boot(3)?;
    let [n1, n2, n3] = mounted.three()?;
    n1.sh("mkdir /vfs/load")?;
    let load = |node: &Node| {
        let prefix = format!("{}-", node.name());
        node.start(&["workload", "create", "/vfs/load", &prefix, "--go-on"])
    };
    let loads = [load(n1)?, load(n2)?, load(n3)?];
    let daemons = "systemctl show -P MainPID vfsd; systemctl show -P NRestarts vfsd";
    let before = [n1.sh(daemons)?, n2.sh(daemons)?, n3.sh(daemons)?];
    rotate(n1)?;
    let authority = "sha256sum < /var/lib/vfsd/tls/ca.der";
    // The last step is committed; n3 takes it when it has applied it.
    wait_until("the authority of n1 on n3", limits::COMMAND_MAX, || {
        Ok(n1.sh(authority)? == n3.sh(authority)?)
    })?;
    assert_eq!(
        before,
        [n1.sh(daemons)?, n2.sh(daemons)?, n3.sh(daemons)?],
        "a daemon was restarted"
    );
    n3.sh("cp -a /var/lib/vfsd/tls /root/stolen")?;
    n3.run(&["bash", "-ec", FORGE, &id_of(n2)?])
        .and_then(succeeded)?;
    assert!(
        is_taken_for_a_member(n3, n1, 5)?,
        "the forged certificate is no good: it proves nothing"
    );
    n1.sh("vfsd member remove n3")?;
    rotate(n1)?;
    for member in [n1, n2] {
        assert!(
            !is_taken_for_a_member(n3, member, 20)?,
            "{} takes the old key",
            member.name()
        );
    }
    let [first, second, _] = loads;
    for (load, node) in [(first, n1), (second, n2)] {
        let made = load.stop(limits::COMMAND_MAX)?.ok()?;
        barrier(n1)?;
        let there = n1.sh("ls /vfs/load")?;
        let name = |number: &String| format!("{}-{number}", node.name());
        let lost: Vec<_> = made
            .iter()
            .map(name)
            .filter(|name| !there.lines().any(|line| line == name))
            .collect();
        assert!(
            !made.is_empty() && lost.is_empty(),
            "{} of {} lost: {lost:?}",
            lost.len(),
            made.len()
        );
    }
    assert_eq!(
        before[..2],
        [n1.sh(daemons)?, n2.sh(daemons)?],
        "a daemon was restarted"
    );
    Ok(())
}

fn rotate(node: &Node) -> Result<()> {
    let said = node.sh("vfsd ca rotate")?;
    assert!(said.contains("has a new certificate authority"), "{said}");
    Ok(())
}

fn id_of(node: &Node) -> Result<String> {
    let status: serde_json::Value = serde_json::from_str(&node.sh("vfsd status --json")?)?;
    Ok(status["id"].to_string())
}

fn succeeded(finished: system_tests::cluster::Finished) -> Result<()> {
    anyhow::ensure!(finished.status.success(), "{}", finished.stderr_text());
    Ok(())
}

/// Whether `to` keeps a connection from `from` that shows the forged certificate, for `seconds`.
fn is_taken_for_a_member(from: &Node, to: &Node, seconds: u8) -> Result<bool> {
    let connect = format!(
        "cd /root/stolen; timeout {seconds} openssl s_client -connect {}:7601 -tls1_3 -alpn ctx/1 -ign_eof \
         -cert forged.pem -key forged.key",
        to.address()
    );
    let ended = from.run(&["sh", "-c", &connect])?;
    let (status, said) = (
        ended.status.code(),
        ended.stdout_text() + &ended.stderr_text(),
    );
    assert!(
        said.contains("CONNECTED") && (status == Some(124) || said.contains("alert")),
        "{said}"
    );
    Ok(status == Some(124))
}

/// As an operator types it.
fn rejoin(node: &Node) -> Result<()> {
    node.sh("systemctl stop vfsd && vfsd rejoin && systemctl start vfsd")?;
    formation::wait_for_leader(node)?;
    barrier(node)
}

/// What OPERATIONS.md says of a damaged log, as an operator types it.
#[test]
fn a_member_with_a_damaged_log_rejoins_and_votes_again() -> Result<()> {
    let mounted = Mounted::boot(3)?;
    let [n1, _, n3] = mounted.three()?;
    n1.sh("for i in $(seq 50); do echo $i > /vfs/mid/$i; done")?;
    barrier(n3)?;
    let former = id_of(n3)?;
    n3.sh("systemctl stop vfsd && cd /var/lib/vfsd/log &&
         printf damage | dd of=$(ls | head -n 1) bs=1 seek=3000 conv=notrunc")?;
    let started = n3.run(&["systemctl", "start", "vfsd"])?;
    assert!(
        !started.status.success(),
        "a member with a damaged log started"
    );
    let said = n3.sh("journalctl -o cat -u vfsd")?;
    assert!(
        said.contains("the log is damaged") && said.contains("vfsd rejoin"),
        "{said}"
    );
    rejoin(n3)?;
    assert_eq!(n3.sh("cat /vfs/mid/50")?, "50\n");
    assert_ne!(id_of(n3)?, former, "it would vote twice with one id");
    n3.sh("ls -d /var/lib/vfsd.damaged-*")?;
    n1.sh("vfsd member promote n3")?;
    wait_until("it to vote", limits::CLUSTER_READY_MAX, || {
        Ok(formation::status(n3)?["role"] == "follower")
    })?;
    formation::wait_for_members(mounted.nodes())
}

const COPY: &str =
    "systemctl stop vfsd && cp -a /var/lib/vfsd /var/lib/vfsd.copy && systemctl start vfsd";
const PUT_BACK: &str =
    "systemctl stop vfsd && rm -r /var/lib/vfsd && mv /var/lib/vfsd.copy /var/lib/vfsd";

/// As a machine's snapshot brings it back.
#[test]
fn a_member_on_an_older_copy_does_not_start_until_it_rejoins() -> Result<()> {
    let mounted = Mounted::boot(3)?;
    let [n1, n2, n3] = mounted.three()?;
    n3.sh(COPY)?;
    formation::wait_for_leader(n3)?;
    n3.sh("mkdir /vfs/after && echo kept > /vfs/after/file")?;
    barrier(n1)?;
    n3.sh(PUT_BACK)?;
    // It is found out as soon as others are asked, which a start may or may not wait for.
    n3.run(&["systemctl", "start", "vfsd"])?;
    wait_until("it to end for good", limits::CLUSTER_READY_MAX, || {
        Ok(n3
            .run(&["test", "-e", "/var/lib/vfsd/differs"])?
            .status
            .success())
    })?;
    let started = n3.run(&["systemctl", "restart", "vfsd"])?;
    assert!(!started.status.success(), "an older copy started again");
    let said = n3.sh("journalctl -o cat -u vfsd -n 10")?;
    assert!(
        said.contains("older copy") && said.contains("vfsd rejoin"),
        "{said}"
    );
    rejoin(n3)?;
    assert_eq!(n3.sh("cat /vfs/after/file")?, "kept\n");
    n2.sh("vfsd member promote n3")?;
    formation::wait_for_members(mounted.nodes())
}
