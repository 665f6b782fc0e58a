//! What members have said that their disks hold for good, as the others remember it: so a member that comes back on an
//! older copy of its disk is told that it has forgotten something.
//!
//! Invariants: a member is only ever held to what it had made durable before it said so, so no crash makes it break its
//! word; what is remembered only grows; until a majority has not contradicted it, a member takes part in nothing. Not
//! here: asking and telling (`pledge_keeper.rs`); why this is enough (docs/decisions/0008-older-copies.md).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::storage::record::{Pledge, Position, Vote};

/// What is known of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Known {
    /// The number of its last start in which it took part.
    pub starts: u32,
    /// What its disk holds.
    pub pledge: Pledge,
}

impl Known {
    /// It has given `vote`, and has `last` under it.
    pub fn of(vote: Vote, last: Option<Position>) -> Self {
        let vote = Some(vote);
        Self {
            starts: 0,
            pledge: Pledge { vote, last },
        }
    }

    /// Takes in what `other` says of the same member.
    fn merge(&mut self, other: Self) {
        self.starts = self.starts.max(other.starts);
        let (mine, new) = (&mut self.pledge, other.pledge);
        if rank(new.vote) > rank(mine.vote) {
            *mine = new;
        } else if new.vote == mine.vote {
            mine.last = mine.last.max(new.last);
        }
    }

    /// What a member that holds `own` now has forgotten of this; nothing if it has not.
    pub fn forgotten_by(&self, own: &Self) -> Option<String> {
        if self.starts > own.starts {
            let (known, own) = (self.starts, own.starts);
            return Some(format!("it began {known} times, of which {own} are here"));
        }
        let (known, here) = (self.pledge, own.pledge);
        let vote = known.vote?;
        let text = |vote: Option<Vote>| {
            vote.map_or_else(
                || "none".into(),
                |vote| format!("term {} for node {}", vote.term, vote.node),
            )
        };
        let is_other = here
            .vote
            .is_none_or(|own| rank(Some(own)) == rank(known.vote) && own != vote);
        if rank(here.vote) < rank(known.vote) || is_other {
            let (known, own) = (text(known.vote), text(here.vote));
            return Some(format!("its vote was {known}, and is {own} here"));
        }
        if here.vote != known.vote {
            // What came under an earlier leader a later one may have truncated.
            return None;
        }
        let index = |last: Option<Position>| last.map_or(0, |last| last.index + 1);
        (index(known.last) > index(here.last)).then(|| {
            let (known, own) = (index(known.last), index(here.last));
            format!("its log had {known} entries, and has {own} here")
        })
    }
}

/// A vote that is committed takes the place of any other of its term.
fn rank(vote: Option<Vote>) -> Option<(u64, bool)> {
    vote.map(|vote| (vote.term, vote.committed))
}

/// What this member remembers of the others, and whether they have let it take part.
#[derive(Debug, Default)]
pub struct Pledges {
    // Leaf lock.
    known: Mutex<BTreeMap<u64, Known>>,
    // Leaf lock. Who has not contradicted this member since it started.
    agreed: Mutex<BTreeSet<u64>>,
    takes_part: AtomicBool,
    starts: AtomicU32,
}

impl Pledges {
    /// Remembers `known`; this member has taken part in `starts` starts so far.
    pub fn new(known: BTreeMap<u64, Known>, starts: u32) -> Self {
        Self {
            known: Mutex::new(known),
            starts: AtomicU32::new(starts),
            ..Self::default()
        }
    }

    /// The starts of this member in which it took part, as its disk says.
    pub fn starts(&self) -> u32 {
        self.starts.load(Ordering::Acquire)
    }

    /// Remembers that `node` said so, or has shown it by what it did.
    pub fn remember(&self, node: u64, known: Known) {
        self.known.lock().entry(node).or_default().merge(known);
    }

    /// What is remembered of `node`.
    pub fn of(&self, node: u64) -> Option<Known> {
        self.known.lock().get(&node).copied()
    }

    /// All that is remembered of those that `is_member` says are some.
    pub fn all(&self, is_member: impl Fn(u64) -> bool) -> BTreeMap<u64, Known> {
        let mut known = self.known.lock();
        known.retain(|node, _| is_member(*node));
        known.clone()
    }

    /// `node` has compared, or had nothing to compare.
    pub fn agreed_by(&self, node: u64) {
        if !self.takes_part() {
            self.agreed.lock().insert(node);
        }
    }

    /// How many have.
    pub fn agreed(&self) -> usize {
        self.agreed.lock().len()
    }

    /// Whether this member votes, acknowledges entries, and proposes.
    pub fn takes_part(&self) -> bool {
        self.takes_part.load(Ordering::Acquire)
    }

    /// A majority has agreed, and the number of this start is durable.
    pub fn take_part(&self, start: u32) {
        self.starts.store(start, Ordering::Release);
        self.takes_part.store(true, Ordering::Release);
    }

    /// It has forgotten something: it takes part no more.
    pub fn take_no_part(&self) {
        self.takes_part.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vote(term: u64, node: u64, committed: bool) -> Vote {
        Vote {
            term,
            node,
            committed,
        }
    }

    fn known(vote: Vote, index: Option<u64>) -> Known {
        let term = vote.term;
        Known::of(vote, index.map(|index| Position { term, index }))
    }

    #[test]
    fn what_a_crash_may_do_breaks_no_word() {
        let told = known(vote(4, 1, true), Some(90));
        let later = [
            known(vote(4, 1, true), Some(90)),
            known(vote(4, 1, true), Some(120)),
            // A later leader has truncated what no majority had.
            known(vote(5, 2, false), Some(70)),
            known(vote(5, 2, true), None),
        ];
        for own in later {
            assert_eq!(told.forgotten_by(&own), None, "{own:?}");
        }
        // It voted for one candidate, and another one won the term.
        let voted = known(vote(4, 3, false), None);
        assert_eq!(voted.forgotten_by(&told), None);
        assert_eq!(Known::default().forgotten_by(&Known::default()), None);
    }

    #[test]
    fn an_older_copy_has_forgotten_a_vote_an_entry_or_a_start() {
        let told = known(vote(4, 1, true), Some(90));
        let older = [
            known(vote(4, 1, true), Some(89)),
            known(vote(4, 1, true), None),
            known(vote(4, 1, false), Some(200)),
            known(vote(3, 2, true), Some(200)),
            Known::default(),
        ];
        for own in older {
            assert!(told.forgotten_by(&own).is_some(), "{own:?}");
        }
        let voted = known(vote(4, 3, false), None);
        let again = known(vote(4, 2, false), None);
        assert!(
            voted.forgotten_by(&again).is_some(),
            "it has voted twice in a term"
        );
        let third = Known { starts: 3, ..told };
        assert!(third.forgotten_by(&Known { starts: 2, ..told }).is_some());
        assert!(third.forgotten_by(&Known { starts: 4, ..told }).is_none());
    }

    #[test]
    fn what_is_remembered_only_grows() {
        let pledges = Pledges::default();
        let said = [
            known(vote(2, 1, true), Some(10)),
            known(vote(2, 1, true), Some(7)),
            known(vote(2, 1, true), None),
            known(vote(1, 3, true), Some(50)),
            known(vote(2, 2, false), None),
        ];
        for known in said {
            pledges.remember(9, known);
        }
        assert_eq!(pledges.of(9), Some(said[0]));
        pledges.remember(9, known(vote(3, 2, false), None));
        assert_eq!(pledges.of(9), Some(known(vote(3, 2, false), None)));
        assert!(pledges.all(|node| node != 9).is_empty());
    }
}
