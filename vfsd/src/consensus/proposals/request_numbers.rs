//! Numbers of this node's proposals: which are under way, which were given up, which are settled.
//!
//! Invariants: numbers begin above all of earlier starts; a number that was given up counts as unsettled until an entry
//! that says so is applied, so that the cluster takes back what it did in the meantime.

use std::collections::BTreeSet;

use parking_lot::Mutex;

use crate::limits::ABANDONED_PER_ENTRY_MAX;
use crate::state_machine::command::Origin;
use crate::state_machine::ids::{RequestNo, SessionId};

/// Gives numbers.
#[derive(Debug)]
pub struct RequestNumbers {
    // Leaf lock.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    next: RequestNo,
    under_way: BTreeSet<RequestNo>,
    abandoned: BTreeSet<RequestNo>,
}

impl RequestNumbers {
    /// Numbers of start `incarnation`.
    pub fn new(incarnation: u32) -> Self {
        Self {
            state: Mutex::new(State {
                next: RequestNo::first_of(incarnation),
                under_way: BTreeSet::new(),
                abandoned: BTreeSet::new(),
            }),
        }
    }

    /// The origin of a new proposal in `session`.
    pub fn begin(&self, session: SessionId) -> Origin {
        let mut state = self.state.lock();
        let request = state.next;
        state.next = request.next();
        state.under_way.insert(request);
        let unsettled = [state.under_way.first(), state.abandoned.first()];
        let settled_below = unsettled.into_iter().flatten().min().copied();
        Origin {
            session,
            request,
            settled_below: settled_below.unwrap_or(request),
            abandoned: state
                .abandoned
                .iter()
                .take(ABANDONED_PER_ENTRY_MAX)
                .copied()
                .collect(),
        }
    }

    /// The proposal was applied here: what its entry said of abandoned numbers is known to the cluster.
    pub fn settle(&self, origin: &Origin) {
        let mut state = self.state.lock();
        state.under_way.remove(&origin.request);
        for number in &origin.abandoned {
            state.abandoned.remove(number);
        }
    }

    /// The proposal is given up: its caller is told of a failure.
    pub fn abandon(&self, request: RequestNo) {
        let mut state = self.state.lock();
        if state.under_way.remove(&request) {
            state.abandoned.insert(request);
        }
    }

    /// Whether numbers were given up that no proposal under way tells of.
    pub fn owes_notice(&self) -> bool {
        let state = self.state.lock();
        !state.abandoned.is_empty()
    }

    /// The session has ended: its numbers mean nothing any more.
    pub fn forget_abandoned(&self) {
        self.state.lock().abandoned.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: SessionId = SessionId(5);

    #[test]
    fn a_number_given_up_stays_unsettled_until_the_cluster_knows() {
        let numbers = RequestNumbers::new(1);
        let first = numbers.begin(SESSION);
        numbers.abandon(first.request);
        let notice = numbers.begin(SESSION);
        assert_eq!(notice.abandoned, [first.request]);
        assert_eq!(notice.settled_below, first.request);
        numbers.settle(&notice);
        let later = numbers.begin(SESSION);
        assert_eq!(later.abandoned, []);
        assert_eq!(later.settled_below, later.request);
        assert!(!numbers.owes_notice());
    }

    #[test]
    fn numbers_of_a_later_start_are_above_all_earlier_ones() {
        let last_of_first = RequestNumbers::new(1).begin(SESSION).request;
        assert!(RequestNumbers::new(2).begin(SESSION).request > last_of_first);
    }
}
