//! Services of systemd that use the tree from a mount namespace of their own, while vfsd is restarted: what
//! OPERATIONS.md says of them.

use anyhow::Result;
use system_tests::cluster::Node;
use system_tests::formation;
use system_tests::limits;
use system_tests::mounted::{Mounted, kill_vfsd};
use system_tests::wait::wait_until;

/// Reads the tree again and again and says what came of it; takes no descriptor and no working directory with it.
const READER: &str = "while sleep 0.05; do cat /vfs/app/document > /run/$$0.now 2>&1; mv /run/$$0.now /run/$$0; done";

/// Services by what gives them a namespace: the service manager lets new mounts in.
const FOLLOW: &[(&str, &str)] = &[
    ("private-tmp", "PrivateTmp=yes"),
    ("protected", "ProtectSystem=full"),
    ("slave", "MountFlags=slave"),
    ("tree-writable", "ReadWritePaths=/vfs"),
];
/// They have a mount of their own for the tree, or let nothing in.
const STAY: &[(&str, &str)] = &[
    ("bound", "BindPaths=/vfs"),
    ("folder-writable", "ReadWritePaths=/vfs/app"),
    ("private", "MountFlags=private"),
];

/// What helps those: they are started again with vfsd, when it is ready.
const PART: &str = "PartOf=vfsd.service\nAfter=vfsd.service";

#[test]
fn services_with_a_mount_namespace_follow_a_restart_of_vfsd_as_documented() -> Result<()> {
    let mounted = Mounted::boot(1)?;
    let [node] = mounted.nodes() else {
        unreachable!("one node was asked for")
    };
    node.sh("mkdir /vfs/app; echo first > /vfs/app/document")?;
    for (name, property) in FOLLOW.iter().chain(STAY) {
        start(node, name, property, "")?;
        wait_for(node, name, "first")?;
    }
    for (name, property) in STAY {
        let name = format!("{name}-part");
        start(node, &name, property, PART)?;
        wait_for(node, &name, "first")?;
    }
    node.sh("systemctl restart vfsd")?;
    formation::wait_for_leader(node)?;
    all_read(node, "second")?;
    kill_vfsd(node)?;
    all_read(node, "third")
}

/// Saves `text`: whoever should reads it, the others say that their mount is gone.
fn all_read(node: &Node, text: &str) -> Result<()> {
    node.sh(&format!("echo {text} > /vfs/app/document"))?;
    for (name, _) in FOLLOW {
        wait_for(node, name, text)?;
    }
    for (name, _) in STAY {
        wait_for(node, name, "Transport endpoint is not connected")?;
        wait_for(node, &format!("{name}-part"), text)?;
    }
    Ok(())
}

fn start(node: &Node, name: &str, property: &str, relation: &str) -> Result<()> {
    let unit = format!(
        "[Unit]\n{relation}\n[Service]\n{property}\nExecStart=/bin/sh -c \"{READER}\" {name}\n"
    );
    node.write(
        &format!("/run/systemd/system/{name}.service"),
        unit.as_bytes(),
    )?;
    let start = format!("systemctl daemon-reload && systemctl start {name}");
    node.sh(&start).map(drop)
}

fn wait_for(node: &Node, name: &str, wanted: &str) -> Result<()> {
    let what = format!("the service {name} to read {wanted:?}");
    wait_until(&what, limits::CLUSTER_READY_MAX, || {
        let said = node.run(&["cat", &format!("/run/{name}")])?;
        Ok(said.stdout_text().contains(wanted))
    })
}
