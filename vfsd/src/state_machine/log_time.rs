//! The two times that an entry carries: log time decides, wall time is only stored.

use serde::{Deserialize, Serialize};

/// Milliseconds since the first entry of the cluster: the previous stamp plus what elapsed on the leader's
/// `CLOCK_BOOTTIME`. Never goes back. Sessions and lock delays end by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LogTime(pub u64);

impl LogTime {
    /// This time plus `ms` milliseconds; stays at the maximum instead of wrapping.
    #[must_use]
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}

/// Time of day, UTC, nanoseconds since 1970. May go back; stored as mtime and in the audit. It decides nothing but
/// whether a join token has expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct WallTime {
    /// Whole seconds; negative before 1970.
    pub secs: i64,
    /// Nanoseconds within the second, below 1,000,000,000.
    pub nanos: u32,
}

/// Both times of an entry, set by the leader that proposed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stamp {
    /// See [`LogTime`].
    pub log_time: LogTime,
    /// See [`WallTime`].
    pub wall: WallTime,
}
