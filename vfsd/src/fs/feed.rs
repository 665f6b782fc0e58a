//! The one stream of what is applied on this node, and who is told of it.
//!
//! Consensus publishes into it from `apply`, in log order. Subscribers: the private copies of what loses its last name
//! (`orphans.rs`) from the start, and the replay of events once the tree is mounted. What else follows the changes of
//! the tree (a stream of events, a history) subscribes as these do.
//!
//! Invariants: every subscriber is told of every publication from its subscription on, in the order of the log, by one
//! thread at a time (that a call was given up may come from another); a subscriber returns at once, never touches the
//! mount, and bounds what it keeps for later. Not here: what a change is (`state_machine/outcome.rs`), who waits for a
//! proposal (`consensus/proposals/waiters.rs`).

use std::sync::Arc;

use parking_lot::RwLock;

use crate::state_machine::StateMachine;
use crate::state_machine::command::Author;
use crate::state_machine::ids::NodeId;
use crate::state_machine::log_time::WallTime;
use crate::state_machine::outcome::{Applied, Change};

/// An entry as subscribers are told of it.
#[derive(Debug, Clone)]
pub struct AppliedEntry {
    /// Its position, its answer and what it changed.
    pub applied: Applied,
    /// Who asked for it.
    pub author: Author,
    /// When the leader took it, by its time of day.
    pub wall: WallTime,
    /// A call of this node waits for it and is about to be answered. Nobody does for other nodes' entries, for those of
    /// an earlier daemon, and when the caller has given up.
    pub is_awaited: bool,
}

impl AppliedEntry {
    /// The changes, each with whether the kernel of the node `own` has raised its events by itself: those of a call of
    /// its own that is still waited for.
    pub fn changes_seen_at(&self, own: NodeId) -> Vec<(&Change, bool)> {
        let is_own = self.applied.node == own;
        let seen = |(position, change): (usize, _)| {
            // A close is seen where it is made, whatever becomes of its notice.
            let is_close = matches!(change, &Change::ClosedWrite { .. });
            let is_called = position >= self.applied.uncalled;
            (change, is_own && is_called && (self.is_awaited || is_close))
        };
        self.applied.changes.iter().enumerate().map(seen).collect()
    }
}

/// What changes the published state at once.
#[derive(Debug, Clone, Copy)]
pub enum Publication<'a> {
    /// An entry of the log.
    Entry(&'a Arc<AppliedEntry>),
    /// A snapshot replaces the whole state: what lies between is not told one by one.
    Snapshot {
        /// The state before it.
        old: &'a Arc<StateMachine>,
        /// The state that it holds.
        new: &'a Arc<StateMachine>,
    },
}

/// Who follows the changes of the tree.
pub trait Subscriber: Send + Sync + 'static {
    /// A publication is about to be visible: inodes that it takes away can still be kept.
    fn before(&self, publication: Publication<'_>) {
        let _ = publication;
    }

    /// A publication is visible in `state`; whoever waits for it has not been answered yet.
    fn after(&self, publication: Publication<'_>, state: &Arc<StateMachine>) {
        let _ = (publication, state);
    }

    /// Nobody has taken the answer to an entry that was [awaited](AppliedEntry::is_awaited): its caller was told of a
    /// failure, or killed.
    fn given_up(&self, entry: &Arc<AppliedEntry>) {
        let _ = entry;
    }

    /// A change of this node that no entry tells of at the right time must be announced on this node.
    fn announced(&self, change: &Change) {
        let _ = change;
    }

    /// How many publications or events wait to be dealt with.
    fn lag(&self) -> u64 {
        0
    }
}

/// See the module.
#[derive(Default)]
pub struct ChangeFeed {
    // Held while subscribers are told, so none of them subscribes anybody. They are few and stay.
    subscribers: RwLock<Vec<Arc<dyn Subscriber>>>,
}

impl ChangeFeed {
    /// Tells `subscriber` of every publication from now on, after those that came before it.
    pub fn subscribe(&self, subscriber: Arc<dyn Subscriber>) {
        self.subscribers.write().push(subscriber);
    }

    /// A publication was applied and is about to be visible.
    pub fn before(&self, publication: Publication<'_>) {
        self.each(|subscriber| subscriber.before(publication));
    }

    /// A publication is visible in `state`.
    pub fn after(&self, publication: Publication<'_>, state: &Arc<StateMachine>) {
        self.each(|subscriber| subscriber.after(publication, state));
    }

    /// Nobody has taken the answer to `entry`, which was awaited.
    pub fn give_up(&self, entry: &Arc<AppliedEntry>) {
        self.each(|subscriber| subscriber.given_up(entry));
    }

    /// Announces a change of this node on this node.
    pub fn announce(&self, change: &Change) {
        self.each(|subscriber| subscriber.announced(change));
    }

    /// How far the slowest subscriber is behind.
    pub fn lag(&self) -> u64 {
        let subscribers = self.subscribers.read();
        let lags = subscribers.iter().map(|subscriber| subscriber.lag());
        lags.max().unwrap_or_default()
    }

    fn each(&self, tell: impl Fn(&dyn Subscriber)) {
        self.subscribers
            .read()
            .iter()
            .for_each(|subscriber| tell(&**subscriber));
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::state_machine::ids::{InodeNo, LogIndex};
    use crate::state_machine::outcome::Done;

    #[derive(Default)]
    struct Notes {
        told: Mutex<Vec<String>>,
        behind: u64,
    }

    impl Subscriber for Notes {
        fn before(&self, publication: Publication<'_>) {
            self.told
                .lock()
                .push(format!("before {}", name_of(publication)));
        }

        fn after(&self, publication: Publication<'_>, state: &Arc<StateMachine>) {
            let line = format!("after {} at {}", name_of(publication), state.applied());
            self.told.lock().push(line);
        }

        fn lag(&self) -> u64 {
            self.behind
        }
    }

    fn name_of(publication: Publication<'_>) -> String {
        match publication {
            Publication::Entry(entry) => format!("entry {}", entry.applied.index),
            Publication::Snapshot { .. } => "snapshot".into(),
        }
    }

    #[test]
    fn each_subscriber_is_told_of_each_publication_from_its_subscription_on() {
        let feed = ChangeFeed::default();
        let (early, late) = (Arc::new(Notes::default()), Arc::new(Notes::default()));
        let state = Arc::new(StateMachine::new());
        feed.subscribe(early.clone());
        let publication = Publication::Snapshot {
            old: &state,
            new: &state,
        };
        feed.before(publication);
        feed.after(publication, &state);
        feed.subscribe(late.clone());
        let entry = Arc::new(entry_of(NodeId(1), Vec::new()));
        feed.before(Publication::Entry(&entry));
        feed.after(Publication::Entry(&entry), &state);
        let both = ["before entry 7", "after entry 7 at 0"];
        assert_eq!(*late.told.lock(), both);
        assert_eq!(
            early.told.lock()[..2],
            ["before snapshot", "after snapshot at 0"]
        );
        assert_eq!(early.told.lock()[2..], both);
    }

    fn entry_of(node: NodeId, changes: Vec<Change>) -> AppliedEntry {
        AppliedEntry {
            applied: Applied {
                index: LogIndex(7),
                node,
                outcome: Ok(Done::Unit),
                changes,
                uncalled: 0,
            },
            author: Author::default(),
            wall: WallTime::default(),
            is_awaited: false,
        }
    }

    #[test]
    fn a_kernel_has_raised_the_events_of_a_call_that_is_waited_for_and_of_nothing_else() {
        let attributes = |inode| Change::Attributes {
            inode: InodeNo(inode),
        };
        let closed = Change::ClosedWrite { inode: InodeNo(9) };
        let mut entry = entry_of(NodeId(1), vec![attributes(7), attributes(8), closed]);
        let seen = |entry: &AppliedEntry, own| {
            let changes = entry.changes_seen_at(NodeId(own)).into_iter();
            changes.map(|(_, seen)| seen).collect::<Vec<_>>()
        };
        assert_eq!(seen(&entry, 1), [false, false, true], "its caller gave up");
        entry.is_awaited = true;
        assert_eq!(seen(&entry, 1), [true, true, true]);
        assert_eq!(seen(&entry, 2), [false, false, false]);
        entry.applied.uncalled = 1;
        assert_eq!(seen(&entry, 1), [false, true, true], "a lock was freed");
    }

    #[test]
    fn the_lag_is_that_of_the_slowest_subscriber() {
        let feed = ChangeFeed::default();
        assert_eq!(feed.lag(), 0);
        for behind in [2, 9, 0] {
            feed.subscribe(Arc::new(Notes {
                behind,
                ..Notes::default()
            }));
        }
        assert_eq!(feed.lag(), 9);
    }
}
