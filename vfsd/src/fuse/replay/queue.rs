//! Changes that this kernel has not seen as events yet, in log order: those of other nodes, and of this one those whose
//! callers have given up.
//!
//! Invariants: each event carries the inode as it was right after its change, so that later ones cannot hide it;
//! bounded; past its bound the waiting changes become one attribute event on each directory concerned (events are
//! hints: a watcher reads again). Whoever publishes never waits for the replay: what lies between two states of a
//! snapshot is found by the replay thread.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Weak};

use parking_lot::{Condvar, Mutex};

use crate::fs::FileSystem;
use crate::fs::difference::{self, Difference};
use crate::fs::feed::{AppliedEntry, Publication, Subscriber};
use crate::limits::{DIFFERENCE_CHANGES_MAX, REPLAY_QUEUE_MAX};
use crate::state_machine::StateMachine;
use crate::state_machine::ids::{InodeNo, NodeId};
use crate::state_machine::inode::Inode;
use crate::state_machine::name::Name;
use crate::state_machine::outcome::Change;

/// A change to raise events for.
#[derive(Debug, Clone)]
pub enum Event {
    /// One change of another node.
    Change {
        /// What changed.
        change: Change,
        /// The inode as of the entry; as before it, if the entry took a name of it.
        inode: Arc<Inode>,
        /// What a rename replaced or exchanged, likewise.
        replaced: Option<Arc<Inode>>,
    },
    /// A snapshot took the state from one to the other; not looked at yet.
    Difference {
        /// The state before it.
        old: Arc<StateMachine>,
        /// The state of it.
        new: Arc<StateMachine>,
    },
    /// Too much happened here to tell one by one.
    Rescan(InodeNo),
    /// Nothing to raise: the mount is gone or another one.
    MountChanged,
}

impl Event {
    /// The directories that it is seen in.
    pub fn directories(&self) -> Vec<InodeNo> {
        match self {
            Self::Change { change, inode, .. } => parents_of(change, inode),
            Self::Rescan(directory) => vec![*directory],
            Self::Difference { .. } | Self::MountChanged => Vec::new(),
        }
    }
}

/// A name that an entry takes away from an inode.
type Departure = (InodeNo, Vec<u8>, InodeNo);

/// The queue between `apply` and the replay thread.
pub struct ReplayQueue {
    own: NodeId,
    fs: Weak<FileSystem>,
    inner: Mutex<Inner>,
    ready: Condvar,
}

#[derive(Default)]
struct Inner {
    events: VecDeque<Event>,
    /// How often a name's going away waits to be replayed.
    departures: HashMap<Departure, usize>,
    /// The last waiting event of an inode, by its number in `pushed`: whether another one merges with it.
    last_of: HashMap<InodeNo, (u64, Change)>,
    /// How many events were ever pushed; the last waiting one has this number.
    pushed: u64,
    /// The state as of the last entry that was pushed.
    state: Option<Arc<StateMachine>>,
    stopped: bool,
}

impl ReplayQueue {
    /// An empty queue for the node `own`, whose own calls raise their events by themselves.
    pub fn new(own: NodeId, fs: &Arc<FileSystem>) -> Arc<Self> {
        Arc::new(Self {
            own,
            fs: Arc::downgrade(fs),
            inner: Mutex::default(),
            ready: Condvar::new(),
        })
    }

    /// The next event; `None` once the queue is stopped.
    pub fn next(&self) -> Option<Event> {
        let mut inner = self.inner.lock();
        loop {
            if inner.stopped {
                return None;
            }
            if let Some(event) = inner.events.front().cloned() {
                return Some(event);
            }
            self.ready.wait(&mut inner);
        }
    }

    /// The event that [`ReplayQueue::next`] gave was replayed.
    pub fn done(&self) {
        let mut inner = self.inner.lock();
        let number = inner.first_number();
        let Some(event) = inner.events.pop_front() else {
            return;
        };
        for departure in departures(&event) {
            if let Some(waiting) = inner.departures.get_mut(&departure) {
                *waiting -= 1;
                if *waiting == 0 {
                    inner.departures.remove(&departure);
                }
            }
        }
        for inode in inodes_of(&event) {
            if inner
                .last_of
                .get(&inode)
                .is_some_and(|(last, _)| *last == number)
            {
                inner.last_of.remove(&inode);
            }
        }
    }

    /// Puts what lies between the two states of the event under way behind it, before all that waits.
    pub fn look_into(&self, old: &Arc<StateMachine>, new: &Arc<StateMachine>) {
        let Some(fs) = self.fs.upgrade() else { return };
        let known = fs.known().all().into_iter().chain([InodeNo::ROOT]);
        let difference = difference::between(old, new, &known.collect(), DIFFERENCE_CHANGES_MAX);
        let mut inner = self.inner.lock();
        let under_way = inner.events.len().min(1);
        let later = inner.events.split_off(under_way);
        inner.pushed -= later.len() as u64;
        inner.last_of.clear();
        match difference {
            Difference::Changes(changes) => {
                let changes: Vec<_> = changes.iter().map(|change| (change, false)).collect();
                inner.push_all(&fs, new, &changes);
            }
            Difference::In(directories) => {
                tracing::warn!(
                    directories = directories.len(),
                    "a snapshot has brought more than can be told: directories are announced as a whole"
                );
                let directories = directories
                    .into_iter()
                    .filter(|at| fs.known().is_known(*at));
                directories.for_each(|at| inner.add(Event::Rescan(at)));
            }
        }
        later.into_iter().for_each(|event| inner.add(event));
        inner.last_of.clear();
    }

    /// Whether watchers may still be told of `name` as a name of `inode`: it is one now, or its going away waits behind
    /// the present event. Otherwise a call of this node took it, and told so by itself.
    pub fn is_telling(&self, parent: InodeNo, name: &[u8], inode: InodeNo) -> bool {
        let inner = self.inner.lock();
        let names_it = |state: &StateMachine| state.tree().lookup(parent, name) == Ok(inode);
        let now = inner.state.as_deref();
        now.is_some_and(names_it)
            || inner
                .departures
                .contains_key(&(parent, name.to_vec(), inode))
            || inner.before_snapshot().is_some_and(|old| names_it(old))
    }

    /// Lets the replay thread look at its mount, though nothing happens on other nodes.
    pub fn mount_changed(&self) {
        self.inner.lock().add(Event::MountChanged);
        self.ready.notify_one();
    }

    /// Ends the replay thread's wait for good.
    pub fn stop(&self) {
        self.inner.lock().stopped = true;
        self.ready.notify_all();
    }
}

impl Inner {
    /// The number of the first waiting event.
    fn first_number(&self) -> u64 {
        self.pushed + 1 - self.events.len() as u64
    }

    /// The state before the waiting snapshot, if one waits that was not looked into.
    fn before_snapshot(&self) -> Option<&Arc<StateMachine>> {
        self.events.iter().find_map(|event| match event {
            Event::Difference { old, .. } => Some(old),
            _ => None,
        })
    }

    fn add(&mut self, event: Event) {
        self.pushed += 1;
        self.events.push_back(event);
    }

    /// Adds the changes that one publication made, each with whether this kernel has seen it already. `state` is that
    /// after all of them.
    fn push_all(&mut self, fs: &FileSystem, state: &StateMachine, changes: &[(&Change, bool)]) {
        if changes.iter().all(|(_, is_seen)| *is_seen) {
            return;
        }
        for event in events_of(state, changes) {
            if let Event::Change { change, inode, .. } = &event
                && is_watchable(fs, change, inode)
            {
                self.push(event);
            }
        }
        if self.events.len() > REPLAY_QUEUE_MAX {
            self.collapse(state);
        }
    }

    fn push(&mut self, event: Event) {
        if let Event::Change { change, inode, .. } = &event {
            // The event at the front may be under way, and who has seen it may have read the file already.
            let last = self.last_of.get(&inode.number);
            let waits =
                last.is_some_and(|(number, last)| *number > self.first_number() && last == change);
            if waits && merges(change) {
                return;
            }
            for inode in inodes_of(&event) {
                let last = (self.pushed + 1, change.clone());
                self.last_of.insert(inode, last);
            }
        }
        for departure in departures(&event) {
            *self.departures.entry(departure).or_default() += 1;
        }
        self.add(event);
    }

    /// A snapshot took the state from `old` to `new`. What came after an earlier one that was not looked into lies
    /// between the two as well.
    fn push_snapshot(&mut self, old: &Arc<StateMachine>, new: &Arc<StateMachine>) {
        let waiting = self.events.iter().enumerate().skip(1);
        let mut snapshots = waiting.filter_map(|(position, event)| match event {
            Event::Difference { old, .. } => Some((position, Arc::clone(old))),
            _ => None,
        });
        let earlier = snapshots.next();
        let old = match earlier {
            Some((position, earlier)) => {
                self.cut(position);
                earlier
            }
            None => Arc::clone(old),
        };
        let new = Arc::clone(new);
        self.add(Event::Difference { old, new });
        self.last_of.clear();
    }

    /// Drops the events from `position` on.
    fn cut(&mut self, position: usize) {
        let cut = self.events.split_off(position);
        self.pushed -= cut.len() as u64;
        self.last_of.clear();
        self.departures.clear();
        for departure in self.events.iter().flat_map(departures) {
            *self.departures.entry(departure).or_default() += 1;
        }
    }

    /// Replaces all waiting events but the one under way by one for each directory that they concern. From a snapshot
    /// on that was not looked into, all lies between it and the present `state`.
    fn collapse(&mut self, state: &StateMachine) {
        tracing::warn!(
            events = self.events.len(),
            "events fall behind: directories are announced as a whole"
        );
        let waiting: Vec<Event> = self.events.iter().skip(1).cloned().collect();
        self.cut(1);
        let mut directories = BTreeSet::new();
        let mut snapshot = None;
        for event in waiting {
            match event {
                Event::Rescan(directory) => directories.extend([directory]),
                // The replay thread looks at its mount at each event that is left.
                Event::MountChanged => {}
                Event::Difference { old, .. } => {
                    snapshot = Some(old);
                    break;
                }
                Event::Change { change, inode, .. } => {
                    directories.extend(parents_of(&change, &inode));
                }
            }
        }
        directories
            .into_iter()
            .for_each(|at| self.add(Event::Rescan(at)));
        if let Some(old) = snapshot {
            let new = Arc::new(state.clone());
            self.add(Event::Difference { old, new });
        }
    }
}

impl Subscriber for ReplayQueue {
    fn after(&self, publication: Publication<'_>, state: &Arc<StateMachine>) {
        let Some(fs) = self.fs.upgrade() else { return };
        let mut inner = self.inner.lock();
        match publication {
            Publication::Entry(entry) => {
                inner.push_all(&fs, state, &entry.changes_seen_at(self.own))
            }
            Publication::Snapshot { old, new } => inner.push_snapshot(old, new),
        }
        inner.state = Some(Arc::clone(state));
        drop(inner);
        self.ready.notify_one();
    }

    fn given_up(&self, entry: &Arc<AppliedEntry>) {
        let Some(fs) = self.fs.upgrade() else { return };
        let given_up = AppliedEntry {
            is_awaited: false,
            ..AppliedEntry::clone(entry)
        };
        let mut changes = given_up.changes_seen_at(self.own);
        // Those were told when the entry was applied.
        for (_, is_seen) in changes.iter_mut().take(entry.applied.uncalled) {
            *is_seen = true;
        }
        let state = fs.state();
        self.inner.lock().push_all(&fs, &state, &changes);
        self.ready.notify_one();
    }

    fn announced(&self, change: &Change) {
        let Some(fs) = self.fs.upgrade() else { return };
        let state = fs.state();
        self.inner.lock().push_all(&fs, &state, &[(change, false)]);
        self.ready.notify_one();
    }

    fn lag(&self) -> u64 {
        self.inner.lock().events.len() as u64
    }
}

/// The events of changes that one publication made, as of `state` after all of them: each with the inodes as they were
/// right after it, under the names that they had then. Changes that this kernel has seen are left out.
fn events_of(state: &StateMachine, changes: &[(&Change, bool)]) -> Vec<Event> {
    let mut then = Names::default();
    for (change, _) in changes {
        if let Change::Gone(inode) = change {
            then.inodes.insert(inode.number, inode.clone());
        }
    }
    let mut events = Vec::with_capacity(changes.len());
    for (change, is_seen) in changes.iter().rev() {
        events.extend(then.before(state, change).filter(|_| !is_seen));
    }
    events.reverse();
    events
}

/// Inodes under the names that they had at a point of a publication, going back through it.
#[derive(Default)]
struct Names {
    inodes: HashMap<InodeNo, Arc<Inode>>,
}

impl Names {
    fn of(&self, state: &StateMachine, number: InodeNo) -> Option<Arc<Inode>> {
        let then = self.inodes.get(&number);
        then.or_else(|| state.tree().inode(number)).cloned()
    }

    /// The event of a change, and back to the point before it.
    fn before(&mut self, state: &StateMachine, change: &Change) -> Option<Event> {
        let inode = self.of(state, inode_of(change)?)?;
        let mut event = (inode.clone(), None);
        match change {
            Change::Created { parent, name, .. } => {
                self.note(without_name(inode, *parent, name));
            }
            Change::Removed { parent, name, .. } => {
                // An inode that lost a name is told of as it was with it.
                event.0 = with_name(inode, *parent, name);
                self.note(event.0.clone());
            }
            Change::Renamed {
                parent,
                name,
                new_parent,
                new_name,
                replaced,
                exchange,
                ..
            } => {
                let (from, to) = ((*parent, &name[..]), (*new_parent, &new_name[..]));
                let moved = without_name(inode, to.0, to.1);
                self.note(with_name(moved, from.0, from.1));
                let other = replaced.and_then(|(other, _)| self.of(state, other));
                event.1 = other.map(|other| {
                    let before = if *exchange {
                        without_name(other.clone(), from.0, from.1)
                    } else {
                        other.clone()
                    };
                    let before = with_name(before, to.0, to.1);
                    self.note(before.clone());
                    if *exchange { other } else { before }
                });
            }
            _ => {}
        }
        let (inode, replaced) = event;
        let change = change.clone();
        Some(Event::Change {
            change,
            inode,
            replaced,
        })
    }

    fn note(&mut self, inode: Arc<Inode>) {
        self.inodes.insert(inode.number, inode);
    }
}

/// The inode without a name that it got.
fn without_name(mut inode: Arc<Inode>, parent: InodeNo, name: &[u8]) -> Arc<Inode> {
    if let Ok(name) = Name::new(name)
        && inode.names.contains(&(parent, name.clone()))
    {
        Arc::make_mut(&mut inode).names.remove(&(parent, name));
    }
    inode
}

/// The inode with a name that the entry took.
fn with_name(mut inode: Arc<Inode>, parent: InodeNo, name: &[u8]) -> Arc<Inode> {
    if let Ok(name) = Name::new(name)
        && !inode.names.contains(&(parent, name.clone()))
    {
        Arc::make_mut(&mut inode).names.insert((parent, name));
    }
    inode
}

/// Nobody can watch an inode that the kernel holds no reference to.
fn is_watchable(fs: &FileSystem, change: &Change, inode: &Inode) -> bool {
    let known = fs.known();
    known.is_known(inode.number)
        || parents_of(change, inode)
            .into_iter()
            .any(|parent| known.is_known(parent))
}

/// Whether an event merges with the same one before it, if nothing else happened to its inode in between. Two saves do
/// not: each is a modification and a close.
fn merges(change: &Change) -> bool {
    match change {
        Change::Modified { closed, .. } => !closed,
        Change::Attributes { .. } => true,
        _ => false,
    }
}

/// The inodes that an event is about.
fn inodes_of(event: &Event) -> impl Iterator<Item = InodeNo> {
    let (inode, replaced) = match event {
        Event::Change {
            inode, replaced, ..
        } => (
            Some(inode.number),
            replaced.as_ref().map(|other| other.number),
        ),
        _ => (None, None),
    };
    inode.into_iter().chain(replaced)
}

/// The inode that a change is about; none for the note that one is gone, which raises nothing.
fn inode_of(change: &Change) -> Option<InodeNo> {
    match change {
        Change::Created { inode, .. }
        | Change::Removed { inode, .. }
        | Change::Renamed { inode, .. }
        | Change::Modified { inode, .. }
        | Change::ClosedWrite { inode }
        | Change::Attributes { inode } => Some(*inode),
        Change::Gone(_) => None,
    }
}

/// The directories in which a change is seen.
fn parents_of(change: &Change, inode: &Inode) -> Vec<InodeNo> {
    match change {
        Change::Created { parent, .. } | Change::Removed { parent, .. } => vec![*parent],
        Change::Renamed {
            parent, new_parent, ..
        } => vec![*parent, *new_parent],
        _ => inode.names.iter().map(|(parent, _)| *parent).collect(),
    }
}

fn departures(event: &Event) -> Vec<Departure> {
    let Event::Change { change, .. } = event else {
        return Vec::new();
    };
    match change {
        Change::Removed {
            parent,
            name,
            inode,
            ..
        } => vec![(*parent, name.clone(), *inode)],
        Change::Renamed {
            parent,
            name,
            new_parent,
            new_name,
            inode,
            replaced,
            ..
        } => {
            let moved = (*parent, name.clone(), *inode);
            let other = replaced.map(|(replaced, _)| (*new_parent, new_name.clone(), replaced));
            [Some(moved), other].into_iter().flatten().collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
#[path = "queue/queue_test.rs"]
mod queue_test;
