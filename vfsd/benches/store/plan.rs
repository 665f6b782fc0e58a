//! What is measured, and how often.

use std::path::PathBuf;
use std::time::Duration;

use crate::figures::Turns;

/// Nothing that is waited for takes this long, on a busy machine either.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// How much is measured.
pub struct Plan {
    /// The daemon's program. The agent's lies beside it.
    pub vfsd: PathBuf,
    /// Another build of the daemon to compare with.
    pub against: Option<PathBuf>,
    /// Folder on the disk to measure.
    pub dir: PathBuf,
    /// Turns of single calls.
    pub single_calls: Turns,
    /// Turns of parallel writers.
    pub rates: Turns,
    /// How long the writers of a turn write.
    pub slice: Duration,
    /// Turns of clusters of several sizes.
    pub voters: Turns,
    /// Names in the directory that is listed.
    pub names: usize,
    /// How often a new wish is timed.
    pub wishes: usize,
    /// Deployments that idle agents look after.
    pub deployments: usize,
    /// How long an idle cluster is watched: over a minute, in which each agent observes once.
    pub idle_for: Duration,
    /// Turns in which the leader is killed.
    pub kills: Turns,
    /// Files that memory is divided by.
    pub inodes: usize,
}

impl Plan {
    /// What figures are made of; with `quick` about a tenth, to see that it works.
    pub fn new(vfsd: PathBuf, against: Option<PathBuf>, dir: PathBuf, quick: bool) -> Self {
        let some = |all: usize| if quick { all.div_ceil(10) } else { all };
        // A block of 20 takes a few milliseconds to some tens: all rows of a turn meet the same disk.
        let blocks = |all: usize| Turns {
            count: some(all),
            block: 20,
            warm_up: 2,
            rest: Duration::from_millis(20),
        };
        let single = |all: usize| Turns {
            count: some(all),
            block: 1,
            warm_up: 0,
            rest: Duration::from_millis(100),
        };
        Self {
            vfsd,
            against,
            dir,
            single_calls: blocks(100),
            rates: single(10),
            slice: Duration::from_secs(if quick { 1 } else { 2 }),
            voters: blocks(50),
            names: some(10_000),
            wishes: some(20),
            deployments: 10,
            idle_for: Duration::from_secs(if quick { 7 } else { 65 }),
            kills: single(9),
            inodes: some(100_000),
        }
    }
}
