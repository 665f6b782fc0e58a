//! systemd's path units on one node, started by what another node does: the service manager watches the tree with
//! inotify as every program does.

use anyhow::Result;
use system_tests::cluster::Node;
use system_tests::limits;
use system_tests::mounted::{Mounted, barrier};
use system_tests::wait::wait_until;

/// A path unit for each way to watch; its service says that it was started.
const UNITS: &str = r#"
    cd /run/systemd/system
    unit() { # NAME CONDITION
        printf '[Path]\n%s\nUnit=seen@%s.service\n' "$2" $1 > $1.path
        systemctl daemon-reload; systemctl start $1.path
    }
    printf '[Service]\nType=oneshot\nExecStart=/bin/sh -c "echo started >> /run/seen.%%i"\n' > seen@.service
    # Each start is asked for by one change, however soon the next one comes.
    printf '[Unit]\nStartLimitIntervalSec=0\n' | cat - seen@.service > with-limit; mv with-limit seen@.service
    unit changed PathChanged=/vfs/watched/document
    unit modified PathModified=/vfs/watched/log
    unit exists PathExists=/vfs/watched/flag
    unit filled DirectoryNotEmpty=/vfs/watched/queue
    systemctl is-active changed.path modified.path exists.path filled.path
"#;

#[test]
fn path_units_of_a_node_are_started_by_changes_of_another() -> Result<()> {
    let mounted = Mounted::boot(3)?;
    let [n1, n2, _] = mounted.three()?;
    n1.sh("mkdir -p /vfs/watched/queue; echo old > /vfs/watched/document; echo first > /vfs/watched/log")?;
    barrier(n2)?;
    n2.sh(UNITS)?;
    for (unit, command) in [
        ("changed", "echo new > /vfs/watched/document"),
        (
            "changed",
            "echo newer > /vfs/watched/.d; mv /vfs/watched/.d /vfs/watched/document",
        ),
        ("modified", "echo more >> /vfs/watched/log"),
        ("exists", "touch /vfs/watched/flag"),
        ("filled", "echo job > /vfs/watched/queue/job"),
    ] {
        let before = starts(n2, unit)?;
        n1.sh(command)?;
        wait_until(command, limits::CLUSTER_READY_MAX, || {
            Ok(starts(n2, unit)? > before)
        })?;
        // These two start their service for as long as it is true.
        n1.sh("rm -f /vfs/watched/flag /vfs/watched/queue/job")?;
        wait_until("the service to end", limits::CLUSTER_READY_MAX, || {
            Ok(n2
                .sh(&format!("systemctl show -P ActiveState seen@{unit}"))?
                .trim()
                == "inactive")
        })?;
    }
    Ok(())
}

/// How often the service of a path unit was started.
fn starts(node: &Node, unit: &str) -> Result<usize> {
    Ok(node
        .sh(&format!("cat /run/seen.{unit} 2> /dev/null || true"))?
        .lines()
        .count())
}
