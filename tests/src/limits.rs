//! Every bound of the harness, with its reason.
//!
//! Invariant: no other file holds a number that limits how much or how long.

use std::time::Duration;

/// Nodes of one cluster: 7 voters and 32 learners, the most that vfsd admits.
pub const NODES_MAX: u8 = 39;

/// Bytes of a node's disk. The image is sparse: it costs what the node writes.
pub const DISK_BYTES: u64 = 4 << 30;

/// A node's systemd says `running` after 0.3 s on an idle machine; a loaded two-core one gets a hundred times that.
pub const BOOT_MAX: Duration = Duration::from_secs(30);

/// Reaping the processes of a killed node is asynchronous, and one of them may wait for its disk.
pub const DEATH_MAX: Duration = Duration::from_secs(15);

/// A cgroup or a mount stays busy until its last process is reaped.
pub const RELEASE_MAX: Duration = Duration::from_secs(10);

/// A first election takes under a second, a join two round trips; a loaded machine gets its time.
pub const CLUSTER_READY_MAX: Duration = Duration::from_secs(30);

/// Three servers are installed, initialised and copied: 11 s on an idle machine.
pub const DEPLOYMENT_MAX: Duration = Duration::from_secs(300);

/// The demo shows its progress and can be stopped: 7 min on an emulated processor, half a minute on a real one.
pub const DEMO_MAX: Duration = Duration::from_secs(1800);

/// A standby replays within milliseconds; one that has just been copied catches up first.
pub const REPLICATION_MAX: Duration = Duration::from_secs(20);

/// No command of a test takes longer, unless it says so itself: past this the node's mount is aborted.
pub const COMMAND_MAX: Duration = Duration::from_secs(60);

/// How often a condition is looked at again. Short against everything that is waited for.
pub const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How long a heavy test waits for the one that runs: the longest takes about five minutes.
pub const TURN_MAX: Duration = Duration::from_secs(30 * 60);

/// An unused product layer is kept this long: a cluster is made of it within seconds, or never.
pub const UNUSED_LAYER_AGE_MIN: Duration = Duration::from_secs(15 * 60);

/// Lines of a log that are shown when a phase fails.
pub const LOG_TAIL_LINES: usize = 10;

/// Bytes of an error output that are kept in an error message.
pub const ERROR_OUTPUT_BYTES_MAX: usize = 2000;

const _: () = assert!(POLL_INTERVAL.as_millis() * 50 <= DEATH_MAX.as_millis());
const _: () = assert!(COMMAND_MAX.as_secs() < TURN_MAX.as_secs());
