//! Stamps of the leader's entries: log time goes on from where the log is, by this machine's `CLOCK_BOOTTIME`.
//!
//! Invariant: stamps of one leader never go back, and never fall behind what is applied.

use std::time::Duration;

use parking_lot::Mutex;

use crate::clock;
use crate::state_machine::log_time::{LogTime, Stamp};

/// Gives stamps.
#[derive(Debug, Default)]
pub struct StampClock {
    // Leaf lock.
    state: Mutex<Anchor>,
}

/// Log time `base` was at boot time `at`.
#[derive(Debug, Clone, Copy, Default)]
struct Anchor {
    term: u64,
    base: LogTime,
    at: Duration,
}

impl StampClock {
    /// A stamp for an entry of the leader of `term`, when `applied` is the log time of what is applied.
    ///
    /// Time during which nobody led does not count: a new leader goes on from the last stamp, so leases are only ever
    /// longer than their TTL.
    pub fn stamp(&self, term: u64, applied: LogTime) -> Stamp {
        Stamp {
            log_time: self.log_time(term, applied, clock::boottime()),
            wall: clock::wall(),
        }
    }

    /// The log time now.
    pub fn now(&self, term: u64, applied: LogTime) -> LogTime {
        self.log_time(term, applied, clock::boottime())
    }

    fn log_time(&self, term: u64, applied: LogTime, now: Duration) -> LogTime {
        let mut anchor = self.state.lock();
        if anchor.term != term {
            *anchor = Anchor {
                term,
                base: applied,
                at: now,
            };
        }
        let elapsed = now.saturating_sub(anchor.at).as_millis();
        let time = anchor
            .base
            .plus_ms(u64::try_from(elapsed).unwrap_or(u64::MAX));
        if time < applied {
            // Entries of earlier leaders were applied only now.
            *anchor = Anchor {
                term,
                base: applied,
                at: now,
            };
            return applied;
        }
        time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_new_leader_goes_on_from_the_last_stamp() {
        let clock = StampClock::default();
        assert_eq!(clock.log_time(1, LogTime(500), ms(90_000)), LogTime(500));
        assert_eq!(clock.log_time(1, LogTime(500), ms(90_070)), LogTime(570));
        assert_eq!(clock.log_time(2, LogTime(570), ms(99_000)), LogTime(570));
    }

    #[test]
    fn it_never_falls_behind_what_is_applied() {
        let clock = StampClock::default();
        clock.log_time(1, LogTime(0), ms(10));
        assert_eq!(clock.log_time(1, LogTime(8_000), ms(20)), LogTime(8_000));
        assert_eq!(clock.log_time(1, LogTime(8_000), ms(21)), LogTime(8_001));
    }
}
