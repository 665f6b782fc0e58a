//! The clocks of this machine. The pure core never asks them; what varies is handed to it.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::state_machine::log_time::WallTime;

/// Time since the machine booted, time asleep included: leases run on while a machine sleeps.
///
/// # Panics
/// Never on Linux: `CLOCK_BOOTTIME` exists since 2.6.39.
pub fn boottime() -> Duration {
    Duration::from(
        clock_gettime(ClockId::CLOCK_BOOTTIME)
            .expect("CLOCK_BOOTTIME exists on every supported kernel"),
    )
}

/// Time of day. May go back; only stored, never compared with a deadline.
///
/// # Panics
/// Never: `CLOCK_REALTIME` always exists.
pub fn wall() -> WallTime {
    let now = clock_gettime(ClockId::CLOCK_REALTIME).expect("CLOCK_REALTIME always exists");
    let nanos = u32::try_from(now.tv_nsec()).expect("the kernel keeps nanoseconds below a second");
    WallTime {
        secs: now.tv_sec(),
        nanos,
    }
}

/// A time of day as RFC 3339 in UTC, to the millisecond.
pub fn rfc3339(time: WallTime) -> String {
    let nanos = i32::try_from(time.nanos).unwrap_or_default();
    match jiff::Timestamp::new(time.secs, nanos) {
        Ok(timestamp) => format!("{timestamp:.3}"),
        Err(_) => format!("{} s since 1970", time.secs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc_to_the_millisecond() {
        let time = WallTime {
            secs: 1_795_521_731,
            nanos: 42_000_000,
        };
        assert_eq!(rfc3339(time), "2026-11-24T12:02:11.042Z");
    }
}
