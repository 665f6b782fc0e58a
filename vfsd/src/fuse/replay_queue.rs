//! Changes of other nodes that this kernel has not seen as events yet, in log order.
//!
//! Invariants: each event carries the inode as it was right after its entry, so that later entries cannot hide it;
//! bounded; past its bound the waiting changes become one attribute event on each directory concerned (events are
//! hints: a watcher reads again). `applied` never waits for the replay.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Weak};

use parking_lot::{Condvar, Mutex};

use crate::fs::FileSystem;
use crate::fs::feed::{Step, Subscriber};
use crate::limits::REPLAY_QUEUE_MAX;
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
    /// Too much happened here to tell one by one.
    Rescan(InodeNo),
    /// Nothing to raise: the mount is gone or another one.
    MountChanged,
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
    }

    /// Whether watchers may still be told of `name` as a name of `inode`: it is one now, or its going away on another
    /// node waits behind the present event. Otherwise a call of this node took it, and told so by itself.
    pub fn is_telling(&self, parent: InodeNo, name: &[u8], inode: InodeNo) -> bool {
        let inner = self.inner.lock();
        let now = inner.state.as_ref();
        now.is_some_and(|state| state.tree().lookup(parent, name) == Ok(inode))
            || inner
                .departures
                .contains_key(&(parent, name.to_vec(), inode))
    }

    /// Lets the replay thread look at its mount, though nothing happens on other nodes.
    pub fn mount_changed(&self) {
        self.inner.lock().events.push_back(Event::MountChanged);
        self.ready.notify_one();
    }

    /// Ends the replay thread's wait for good.
    pub fn stop(&self) {
        self.inner.lock().stopped = true;
        self.ready.notify_all();
    }
}

impl Inner {
    fn push(
        &mut self,
        fs: &FileSystem,
        state: &StateMachine,
        change: &Change,
        gone: &[Arc<Inode>],
    ) {
        let found = |number: InodeNo| {
            let gone = gone.iter().find(|inode| inode.number == number);
            gone.or_else(|| state.tree().inode(number)).cloned()
        };
        let Some(mut inode) = inode_of(change).and_then(found) else {
            return;
        };
        let mut replaced = None;
        match change {
            Change::Removed { parent, name, .. } => inode = with_name(inode, *parent, name),
            Change::Renamed {
                replaced: Some((other, _)),
                exchange,
                new_parent,
                new_name,
                ..
            } => {
                replaced = found(*other);
                if !exchange {
                    replaced = replaced.map(|inode| with_name(inode, *new_parent, new_name));
                }
            }
            _ => {}
        }
        if !is_watchable(fs, change, &inode) || is_repetition(&self.events, change) {
            return;
        }
        let change = change.clone();
        let event = Event::Change {
            change,
            inode,
            replaced,
        };
        for departure in departures(&event) {
            *self.departures.entry(departure).or_default() += 1;
        }
        self.events.push_back(event);
        if self.events.len() > REPLAY_QUEUE_MAX {
            self.collapse();
        }
    }

    /// Replaces all waiting events but the one under way by one for each directory that they concern.
    fn collapse(&mut self) {
        tracing::warn!(
            events = self.events.len(),
            "events fall behind: directories are announced as a whole"
        );
        let mut directories = BTreeSet::new();
        for event in self.events.drain(1..) {
            match event {
                Event::Rescan(directory) => directories.extend([directory]),
                // The replay thread looks at its mount at each event that is left.
                Event::MountChanged => {}
                Event::Change { change, inode, .. } => {
                    directories.extend(parents_of(&change, &inode));
                }
            }
        }
        self.events
            .extend(directories.into_iter().map(Event::Rescan));
        self.departures.clear();
        if let Some(first) = self.events.front() {
            self.departures
                .extend(departures(first).into_iter().map(|name| (name, 1)));
        }
    }
}

impl Subscriber for ReplayQueue {
    fn after(&self, step: Step<'_>, state: &Arc<StateMachine>) {
        let Some(fs) = self.fs.upgrade() else { return };
        let mut inner = self.inner.lock();
        if let Step::Entry(entry) = step
            && entry.applied.node != self.own
        {
            let changes = &entry.applied.changes;
            let gone: Vec<Arc<Inode>> = changes.iter().filter_map(gone_in).collect();
            for change in changes {
                inner.push(&fs, state, change, &gone);
            }
        }
        inner.state = Some(Arc::clone(state));
        drop(inner);
        self.ready.notify_one();
    }

    fn announced(&self, change: &Change) {
        if let Some(fs) = self.fs.upgrade() {
            let state = fs.state();
            self.inner.lock().push(&fs, &state, change, &[]);
            self.ready.notify_one();
        }
    }

    fn lag(&self) -> u64 {
        self.inner.lock().events.len() as u64
    }
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

/// inotify itself merges identical neighbours. Two saves in a row are not: each is a modification and a close. Nothing
/// merges with the event at the front: it may be under way, and who has seen it may have read the file already.
fn is_repetition(waiting: &VecDeque<Event>, change: &Change) -> bool {
    let merges = match change {
        Change::Modified { closed, .. } => !closed,
        Change::Attributes { .. } => true,
        _ => false,
    };
    let last = waiting.iter().skip(1).next_back();
    merges && matches!(last, Some(Event::Change { change: last, .. }) if last == change)
}

fn gone_in(change: &Change) -> Option<Arc<Inode>> {
    match change {
        Change::Gone(inode) => Some(inode.clone()),
        _ => None,
    }
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
mod tests {
    use super::*;

    #[test]
    fn a_change_merges_with_its_like_that_waits_and_not_with_the_one_under_way() {
        let attributes = |number| Change::Attributes {
            inode: InodeNo(number),
        };
        let event = |number| Event::Change {
            change: attributes(number),
            inode: StateMachine::new()
                .tree()
                .inode(InodeNo::ROOT)
                .cloned()
                .unwrap(),
            replaced: None,
        };
        let mut waiting = VecDeque::from([event(7)]);
        assert!(
            !is_repetition(&waiting, &attributes(7)),
            "it may be told already"
        );
        waiting.push_back(event(7));
        assert!(is_repetition(&waiting, &attributes(7)));
        assert!(!is_repetition(&waiting, &attributes(8)));
        let saved = Change::Modified {
            inode: InodeNo(7),
            closed: true,
            by_path: false,
        };
        assert!(!is_repetition(&waiting, &saved));
    }
}
