//! Whether a majority has confirmed this leader of late, also on a machine that was asleep meanwhile.
//!
//! Invariant: what was confirmed before a suspend counts for nothing after it. Raft judges by `CLOCK_MONOTONIC`, which
//! stands still in a suspend: a leader that wakes after an hour would take its last majority for a moment old, while
//! another one leads and has ended the sessions. Not here: when a confirmation is asked for (`request_handler.rs`).

use std::time::Duration;

use openraft::Instant as _;
use parking_lot::Mutex;

use crate::clock;
use crate::consensus::raft::types::Instant;
use crate::limits::{RENEW_CONFIRMED_MAX, SUSPEND_MIN};

/// See the module.
#[derive(Debug)]
pub struct Confirmation {
    // What `Instant` is measured from: it has no numbers of its own.
    origin: Instant,
    // Leaf lock.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// By how much the boot clock is ahead; it grows by each suspend.
    ahead: Duration,
    /// Confirmations before this one may be older than they look.
    counts_from: Instant,
}

/// Both clocks, the one read between two readings of the other.
#[derive(Debug, Clone, Copy)]
struct Reading {
    boot: Duration,
    now: Instant,
    boot_after: Duration,
}

impl Reading {
    fn take() -> Self {
        Self {
            boot: clock::boottime(),
            now: Instant::now(),
            boot_after: clock::boottime(),
        }
    }
}

impl Default for Confirmation {
    fn default() -> Self {
        Self::begin(Reading::take())
    }
}

impl Confirmation {
    fn begin(reading: Reading) -> Self {
        Self {
            origin: reading.now,
            state: Mutex::new(State {
                ahead: reading.boot,
                counts_from: reading.now,
            }),
        }
    }

    /// Whether the majority that confirmed this leader at `acked` did so within `RENEW_CONFIRMED_MAX`.
    pub fn is_fresh(&self, acked: Instant) -> bool {
        self.judge(acked, Reading::take())
    }

    fn judge(&self, acked: Instant, reading: Reading) -> bool {
        let Reading {
            boot,
            now,
            boot_after,
        } = reading;
        let mut state = self.state.lock();
        let ahead = boot.saturating_sub(now - self.origin);
        if ahead > state.ahead + SUSPEND_MIN {
            *state = State {
                ahead,
                counts_from: now,
            };
        }
        // Otherwise the machine slept between the readings, which cannot show it; the next call will.
        let is_one_moment = boot_after.saturating_sub(boot) <= SUSPEND_MIN;
        is_one_moment && acked >= state.counts_from && now - acked < RENEW_CONFIRMED_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(3600);

    /// The clocks `up` after the start, of which the machine was asleep for `slept` besides.
    fn reading(start: Instant, up: Duration, slept: Duration) -> Reading {
        Reading {
            boot: HOUR + up + slept,
            now: start + up,
            boot_after: HOUR + up + slept,
        }
    }

    #[test]
    fn a_confirmation_counts_for_its_time() {
        let start = Instant::now();
        let confirmation = Confirmation::begin(reading(start, Duration::ZERO, Duration::ZERO));
        let acked = start + SECOND;
        let at = |up| confirmation.judge(acked, reading(start, up, Duration::ZERO));
        assert!(at(SECOND) && at(SECOND + RENEW_CONFIRMED_MAX / 2));
        assert!(!at(SECOND + RENEW_CONFIRMED_MAX));
    }

    #[test]
    fn a_majority_from_before_a_suspend_confirms_nothing_after_it() {
        let start = Instant::now();
        let confirmation = Confirmation::begin(reading(start, Duration::ZERO, Duration::ZERO));
        let acked = start + SECOND;
        let moment = SECOND / 100;
        let woken = |up| reading(start, up, HOUR);
        assert!(!confirmation.judge(acked, woken(SECOND + moment)));
        assert!(!confirmation.judge(acked, woken(SECOND + 2 * moment)));
        let anew = acked + 3 * moment;
        assert!(confirmation.judge(anew, woken(SECOND + 4 * moment)));
    }

    #[test]
    fn clocks_that_were_not_read_in_one_moment_confirm_nothing() {
        let start = Instant::now();
        let confirmation = Confirmation::begin(reading(start, Duration::ZERO, Duration::ZERO));
        let torn = Reading {
            boot_after: 2 * HOUR,
            ..reading(start, SECOND, Duration::ZERO)
        };
        assert!(!confirmation.judge(start + SECOND, torn));
    }
}
