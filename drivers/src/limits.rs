//! Every bound of this crate, with its reason.

use std::time::Duration;

/// Longest name that hints are looked up for: the comparison is quadratic.
pub const NAME_LEN_COMPARED_MAX: usize = 128;

/// Longest standard output or standard error kept of one program. Larger output is cut at the front: the end names the
/// fault.
pub const COMMAND_OUTPUT_BYTES_MAX: usize = 1 << 20;

/// How long the rest of a program's output is awaited after its end: a grandchild may hold the pipe open for ever.
pub const COMMAND_DRAIN_MAX: Duration = Duration::from_millis(500);

/// How often a running program's fence is asked. The agent's own lock delay is 5 s or more, so 200 ms leaves time to
/// kill.
pub const FENCE_POLL_INTERVAL: Duration = Duration::from_millis(200);

/// How long a process group gets between SIGTERM and SIGKILL when it must end early.
pub const KILL_GRACE: Duration = Duration::from_millis(500);

/// Largest file that a driver reads whole: configuration files, never data files.
pub const FILE_BYTES_MAX: u64 = 16 << 20;

/// Longest unified diff kept in the record of one change.
pub const DIFF_BYTES_MAX: usize = 16 << 10;

/// Most states in one state graph; the outcome table is a bit set per state.
pub const GRAPH_STATES_MAX: usize = 4096;

/// Most states of one graph that run at once: package and service work is bound by the disk, not by processors.
pub const GRAPH_WORKERS_MAX: usize = 8;

/// Free bytes below which no data directory is begun: a fresh one takes 40 MiB and its log at once as much again.
pub const DATA_DISK_FREE_BYTES_MIN: u64 = 256 << 20;
