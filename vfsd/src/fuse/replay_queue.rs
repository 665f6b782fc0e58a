//! Changes of other nodes that this kernel has not seen as events yet, in log order.
//!
//! Invariants: bounded; past its bound the waiting changes become one attribute event on each directory concerned
//! (events are hints: a watcher reads again). `applied` never waits for the replay.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Weak};

use parking_lot::{Condvar, Mutex};

use crate::fs::FileSystem;
use crate::fs::file_system::EventFeed;
use crate::limits::REPLAY_QUEUE_MAX;
use crate::state_machine::ids::{InodeNo, NodeId};
use crate::state_machine::inode::Inode;
use crate::state_machine::outcome::{Applied, Change};

/// A change to raise events for.
#[derive(Debug, Clone)]
pub enum Event {
    /// One change of another node.
    Change(Change),
    /// Too much happened here to tell one by one.
    Rescan(InodeNo),
}

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
    /// Inodes that are gone from the tree while events that name them wait.
    gone: HashMap<InodeNo, Arc<Inode>>,
    /// How often a name's going away waits to be replayed.
    departures: HashMap<(InodeNo, Vec<u8>), usize>,
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
            // Nothing waits, so nothing names an inode that is gone.
            inner.gone.clear();
            self.ready.wait(&mut inner);
        }
    }

    /// The event that [`ReplayQueue::next`] gave was replayed.
    pub fn done(&self) {
        let mut inner = self.inner.lock();
        let Some(Event::Change(change)) = inner.events.pop_front() else {
            return;
        };
        if let Some(name) = departing_name(&change)
            && let Some(waiting) = inner.departures.get_mut(&name)
        {
            *waiting -= 1;
            if *waiting == 0 {
                inner.departures.remove(&name);
            }
        }
    }

    /// Whether a removal or rename of this name on another node waits behind the present event.
    pub fn departs_later(&self, parent: InodeNo, name: &[u8]) -> bool {
        self.inner
            .lock()
            .departures
            .contains_key(&(parent, name.to_vec()))
    }

    /// An inode that is gone from the tree while an event that names it waits.
    pub fn gone(&self, inode: InodeNo) -> Option<Arc<Inode>> {
        self.inner.lock().gone.get(&inode).cloned()
    }

    /// Ends the replay thread's wait for good.
    pub fn stop(&self) {
        self.inner.lock().stopped = true;
        self.ready.notify_all();
    }
}

impl Inner {
    fn push(&mut self, fs: &FileSystem, change: &Change) {
        let told = matches!(change, Change::Gone(_)) || is_repetition(self.events.back(), change);
        if told || !is_watchable(fs, change) {
            return;
        }
        if let Some(name) = departing_name(change) {
            *self.departures.entry(name).or_default() += 1;
        }
        self.events.push_back(Event::Change(change.clone()));
        if self.events.len() > REPLAY_QUEUE_MAX {
            self.collapse(fs);
        }
    }

    /// Replaces all waiting events but the one under way by one for each directory that they concern.
    fn collapse(&mut self, fs: &FileSystem) {
        tracing::warn!(
            events = self.events.len(),
            "events fall behind: directories are announced as a whole"
        );
        let state = fs.state();
        let mut directories = BTreeSet::new();
        for event in self.events.drain(1..) {
            match event {
                Event::Rescan(directory) => directories.extend([directory]),
                Event::Change(change) => {
                    let (parents, inode) = places(&change);
                    directories.extend(parents);
                    directories.extend(state.tree().inode(inode).and_then(|inode| inode.parent()));
                }
            }
        }
        self.events
            .extend(directories.into_iter().map(Event::Rescan));
        self.departures.clear();
        if let Some(Event::Change(first)) = self.events.front()
            && let Some(name) = departing_name(first)
        {
            self.departures.insert(name, 1);
        }
    }
}

impl EventFeed for ReplayQueue {
    fn applied(&self, entry: &Applied) {
        if entry.node == self.own {
            return;
        }
        let Some(fs) = self.fs.upgrade() else { return };
        let mut inner = self.inner.lock();
        // Before the events that name them: the replay may begin with the first one at once.
        for change in &entry.changes {
            if let Change::Gone(inode) = change {
                inner.gone.insert(inode.number, inode.clone());
            }
        }
        entry
            .changes
            .iter()
            .for_each(|change| inner.push(&fs, change));
        drop(inner);
        self.ready.notify_one();
    }

    fn raise(&self, change: Change) {
        if let Some(fs) = self.fs.upgrade() {
            self.inner.lock().push(&fs, &change);
            self.ready.notify_one();
        }
    }

    fn lag(&self) -> u64 {
        self.inner.lock().events.len() as u64
    }
}

/// Nobody can watch an inode that the kernel holds no reference to.
fn is_watchable(fs: &FileSystem, change: &Change) -> bool {
    let (parents, inode) = places(change);
    let known = fs.lookups();
    if parents.is_empty() {
        let state = fs.state();
        let above = state
            .tree()
            .inode(inode)
            .into_iter()
            .flat_map(|inode| inode.names.iter());
        return known.is_known(inode)
            || above
                .map(|(parent, _)| *parent)
                .any(|parent| known.is_known(parent));
    }
    known.is_known(inode) || parents.into_iter().any(|parent| known.is_known(parent))
}

/// inotify itself merges identical neighbours.
fn is_repetition(last: Option<&Event>, change: &Change) -> bool {
    let merges = matches!(change, Change::Modified { .. } | Change::Attributes { .. });
    merges && matches!(last, Some(Event::Change(last)) if last == change)
}

fn places(change: &Change) -> (Vec<InodeNo>, InodeNo) {
    match change {
        Change::Created { parent, inode, .. } | Change::Removed { parent, inode, .. } => {
            (vec![*parent], *inode)
        }
        Change::Renamed {
            parent,
            new_parent,
            inode,
            ..
        } => (vec![*parent, *new_parent], *inode),
        Change::Modified { inode, .. }
        | Change::ClosedWrite { inode }
        | Change::Attributes { inode } => (Vec::new(), *inode),
        Change::Gone(inode) => (Vec::new(), inode.number),
    }
}

fn departing_name(change: &Change) -> Option<(InodeNo, Vec<u8>)> {
    match change {
        Change::Removed { parent, name, .. } | Change::Renamed { parent, name, .. } => {
            Some((*parent, name.clone()))
        }
        _ => None,
    }
}
