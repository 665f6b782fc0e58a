//! The leader's memory of when each session was renewed.
//!
//! Invariants: a new leader gives every session one full TTL; time runs on `CLOCK_BOOTTIME`. Nothing of it is stored:
//! an expiry becomes true only by the log entry that the leader proposes.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;

use crate::limits::SESSION_TTL;
use crate::state_machine::ids::SessionId;

/// See the module.
#[derive(Debug, Default)]
pub struct LeaseTable {
    // Leaf lock.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    term: u64,
    renewed: BTreeMap<SessionId, Duration>,
}

impl LeaseTable {
    /// Notes a renewal by the leader of `term` at boot time `now`.
    pub fn renew(&self, term: u64, session: SessionId, now: Duration) {
        let mut state = self.state.lock();
        state.enter(term);
        state.renewed.insert(session, now);
    }

    /// The sessions among `open` that were not renewed for a TTL.
    pub fn expired(
        &self,
        term: u64,
        open: impl Iterator<Item = SessionId>,
        now: Duration,
    ) -> Vec<SessionId> {
        let mut state = self.state.lock();
        state.enter(term);
        let renewed: BTreeMap<_, _> = open
            .map(|session| (session, *state.renewed.get(&session).unwrap_or(&now)))
            .collect();
        let expired = renewed
            .iter()
            .filter(|&(_, &renewed)| now.saturating_sub(renewed) > SESSION_TTL)
            .map(|(&session, _)| session)
            .collect();
        state.renewed = renewed;
        expired
    }
}

impl State {
    fn enter(&mut self, term: u64) {
        if self.term != term {
            self.term = term;
            self.renewed.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn expired(table: &LeaseTable, term: u64, at: Duration) -> Vec<SessionId> {
        table.expired(term, [SessionId(1), SessionId(2)].into_iter(), at)
    }

    #[test]
    fn a_session_that_is_not_renewed_expires_after_its_ttl() {
        let table = LeaseTable::default();
        assert_eq!(expired(&table, 1, SECOND), []);
        table.renew(1, SessionId(1), 8 * SECOND);
        assert_eq!(expired(&table, 1, 11 * SECOND), []);
        assert_eq!(expired(&table, 1, 12 * SECOND), [SessionId(2)]);
    }

    #[test]
    fn a_new_leader_extends_every_session_by_one_ttl() {
        let table = LeaseTable::default();
        expired(&table, 1, SECOND);
        assert_eq!(expired(&table, 2, 60 * SECOND), []);
        assert_eq!(
            expired(&table, 2, 71 * SECOND),
            [SessionId(1), SessionId(2)]
        );
    }
}
