//! The leader's memory of when each session was renewed.
//!
//! Invariants: a new leader gives every session one full TTL; a session that was found to have expired is not renewed
//! by that leader any more; time runs on `CLOCK_BOOTTIME`. Nothing of it is stored: an expiry becomes true only by the
//! log entry that the leader proposes.

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
    leases: BTreeMap<SessionId, Lease>,
}

#[derive(Debug, Clone, Copy)]
struct Lease {
    renewed_at: Duration,
    is_ending: bool,
}

/// What came of a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewed {
    /// It counts.
    Noted,
    /// The session's end is on its way into the log.
    Ending,
    /// Another term has begun.
    OldTerm,
}

impl LeaseTable {
    /// Notes a renewal by the leader of `term` at boot time `now`.
    pub fn renew(&self, term: u64, session: SessionId, now: Duration) -> Renewed {
        let mut state = self.state.lock();
        if !state.enter(term) {
            return Renewed::OldTerm;
        }
        let lease = state.leases.entry(session).or_insert(Lease::new(now));
        if lease.is_ending {
            return Renewed::Ending;
        }
        lease.renewed_at = now;
        Renewed::Noted
    }

    /// The sessions among `open` that were not renewed for a TTL: from now on they are ending.
    pub fn expired(
        &self,
        term: u64,
        open: impl Iterator<Item = SessionId>,
        now: Duration,
    ) -> Vec<SessionId> {
        let mut state = self.state.lock();
        if !state.enter(term) {
            return Vec::new();
        }
        let known = std::mem::take(&mut state.leases);
        let lease_of = |session| {
            let mut lease = known.get(&session).copied().unwrap_or(Lease::new(now));
            lease.is_ending |= now.saturating_sub(lease.renewed_at) > SESSION_TTL;
            (session, lease)
        };
        state.leases = open.map(lease_of).collect();
        let ending = state.leases.iter().filter(|(_, lease)| lease.is_ending);
        ending.map(|(&session, _)| session).collect()
    }

    /// Whether the leader of `term` is about to end `session`.
    pub fn is_ending(&self, term: u64, session: SessionId) -> bool {
        let state = self.state.lock();
        let lease = state.leases.get(&session);
        state.term == term && lease.is_some_and(|lease| lease.is_ending)
    }
}

impl Lease {
    fn new(now: Duration) -> Self {
        Self {
            renewed_at: now,
            is_ending: false,
        }
    }
}

impl State {
    /// Forgets what earlier terms knew. False for a term that is over.
    fn enter(&mut self, term: u64) -> bool {
        if self.term < term {
            self.term = term;
            self.leases.clear();
        }
        self.term == term
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

    /// The entry that ends it may wait behind others; a node that was told it lives would trust it meanwhile.
    #[test]
    fn a_session_that_is_being_ended_is_not_renewed() {
        let table = LeaseTable::default();
        assert_eq!(expired(&table, 1, SECOND), []);
        assert_eq!(table.renew(1, SessionId(1), 9 * SECOND), Renewed::Noted);
        assert_eq!(expired(&table, 1, 12 * SECOND), [SessionId(2)]);
        assert_eq!(table.renew(1, SessionId(2), 12 * SECOND), Renewed::Ending);
        assert!(table.is_ending(1, SessionId(2)) && !table.is_ending(1, SessionId(1)));
        // Its entry is proposed again until it is applied.
        assert_eq!(expired(&table, 1, 13 * SECOND), [SessionId(2)]);
    }

    #[test]
    fn what_a_leader_was_about_to_end_the_next_one_renews() {
        let table = LeaseTable::default();
        expired(&table, 1, SECOND);
        assert_eq!(expired(&table, 1, 12 * SECOND).len(), 2);
        assert_eq!(table.renew(2, SessionId(1), 13 * SECOND), Renewed::Noted);
        assert!(!table.is_ending(2, SessionId(1)) && !table.is_ending(1, SessionId(2)));
        assert_eq!(table.renew(1, SessionId(1), 13 * SECOND), Renewed::OldTerm);
        assert_eq!(expired(&table, 1, 60 * SECOND), []);
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
