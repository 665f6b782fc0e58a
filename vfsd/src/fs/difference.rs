//! What lies between two states of the tree, as changes that watchers can be told of: a snapshot tells none one by one.
//!
//! Looked at is what somebody here can watch: the inodes that the kernel knows, and what lies in the directories among
//! them. The changes are in an order in which calls could have made them: whoever keeps a list of names by them has the
//! right one in the end. Where names changed places in a ring, they are exchanged one after the other. What took a
//! third name for a while (`mv a/b x; rmdir a; mv x a`) no order of calls without it could have made: it is told of by
//! the directories that it is in.
//!
//! Invariants: a directory that lives on is moved or exchanged and never removed (the kernel would take it for dead);
//! what lies in a directory goes before it does. Not here: what kept the states apart (`consensus/raft`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::state_machine::StateMachine;
use crate::state_machine::ids::InodeNo;
use crate::state_machine::inode::Inode;
use crate::state_machine::name::Name;
use crate::state_machine::outcome::Change;

/// See [`between`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// As if one entry had made all of them.
    Changes(Vec<Change>),
    /// More than were asked for: the directories in which they are.
    In(BTreeSet<InodeNo>),
}

type Place = (InodeNo, Name);

/// What became of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Move {
    inode: InodeNo,
    from: Place,
    to: Place,
}

/// The changes from `old` to `new` of what `known` and the entries of its directories are; at most `max` of them.
pub fn between(
    old: &StateMachine,
    new: &StateMachine,
    known: &BTreeSet<InodeNo>,
    max: usize,
) -> Difference {
    let mut found = Found::default();
    for number in candidates(old, new, known) {
        let (was, is) = (old.tree().inode(number), new.tree().inode(number));
        let lock_end = |state: &StateMachine| state.locks().of(number)?.ended_until;
        let has_lock_ended = lock_end(old) != lock_end(new);
        // Whatever changes an inode or its names gives it a revision.
        let revision = |inode: Option<&Arc<Inode>>| inode.map(|inode| inode.revision);
        if revision(was) != revision(is) || has_lock_ended {
            found.compare(number, was, is, has_lock_ended);
        }
    }
    if found.len() > max {
        let of_both = |number: &InodeNo| new.tree().inode(*number).is_some();
        let directories = found.directories(old, new).into_iter();
        return Difference::In(directories.filter(of_both).collect());
    }
    Difference::Changes(found.in_order(old, new))
}

fn candidates(
    old: &StateMachine,
    new: &StateMachine,
    known: &BTreeSet<InodeNo>,
) -> BTreeSet<InodeNo> {
    let mut all = known.clone();
    for state in [old, new] {
        for number in known {
            let inode = state.tree().inode(*number).into_iter();
            all.extend(inode.flat_map(|inode| inode.children()));
        }
    }
    all
}

/// What has changed, before it is in order.
#[derive(Default)]
struct Found {
    moved: BTreeMap<Place, Move>,
    removed: BTreeMap<Place, InodeNo>,
    created: Vec<(Place, InodeNo)>,
    /// Changes of what inodes hold, and of their attributes.
    held: Vec<Change>,
}

impl Found {
    fn compare(
        &mut self,
        number: InodeNo,
        was: Option<&Arc<Inode>>,
        is: Option<&Arc<Inode>>,
        has_lock_ended: bool,
    ) {
        let names = |inode: Option<&Arc<Inode>>| inode.map(|inode| inode.names.clone());
        let before = names(was).unwrap_or_default();
        let after = names(is).unwrap_or_default();
        let mut lost = before.iter().filter(|name| !after.contains(*name)).cloned();
        let mut gained = after.iter().filter(|name| !before.contains(*name)).cloned();
        loop {
            match (lost.next(), gained.next()) {
                (Some(from), Some(to)) => {
                    let inode = number;
                    let moved = Move { inode, from, to };
                    self.moved.insert(moved.from.clone(), moved);
                }
                (Some(from), None) => {
                    self.removed.insert(from, number);
                }
                (None, Some(to)) => self.created.push((to, number)),
                (None, None) => break,
            }
        }
        self.held
            .extend(held_changes(number, was, is, has_lock_ended));
    }

    fn len(&self) -> usize {
        self.moved.len() + self.removed.len() + self.created.len() + self.held.len()
    }

    fn directories(&self, old: &StateMachine, new: &StateMachine) -> BTreeSet<InodeNo> {
        let moved = self.moved.values();
        let mut all: BTreeSet<InodeNo> = moved.flat_map(|at| [at.from.0, at.to.0]).collect();
        all.extend(self.removed.keys().map(|(parent, _)| *parent));
        all.extend(self.created.iter().map(|((parent, _), _)| *parent));
        for change in &self.held {
            let inode = match change {
                Change::Modified { inode, .. } | Change::Attributes { inode } => *inode,
                _ => continue,
            };
            let inode = new.tree().inode(inode).or_else(|| old.tree().inode(inode));
            let names = inode.iter().flat_map(|inode| inode.names.iter());
            all.extend(names.map(|(parent, _)| *parent));
        }
        all
    }

    /// The creations of directories whose names were free, and the rest: what is moved comes between them.
    fn creations(&mut self, old: &StateMachine, new: &StateMachine) -> [Vec<Change>; 2] {
        let mut created = std::mem::take(&mut self.created);
        created.sort_by_cached_key(|((parent, _), _)| depth(new, *parent));
        let is_first = |(at, number): &(Place, InodeNo)| {
            let inode = new.tree().inode(*number);
            inode.is_some_and(|inode| inode.is_directory())
                && old.tree().lookup(at.0, at.1.as_bytes()).is_err()
        };
        let created = created.into_iter();
        let (first, last): (Vec<_>, Vec<_>) = created.partition(is_first);
        [first, last].map(|created| {
            let told = created.into_iter().map(|(at, inode)| Change::Created {
                parent: at.0,
                name: at.1.as_bytes().to_vec(),
                inode,
                link: old.tree().inode(inode).is_some(),
            });
            told.collect()
        })
    }

    fn in_order(mut self, old: &StateMachine, new: &StateMachine) -> Vec<Change> {
        let [first, last] = self.creations(old, new);
        let mut departures = Departures::new(self.moved, self.removed, old, new);
        departures.told = first;
        departures.tell_what_can_go();
        departures.turn_rings();
        let (mut told, untold) = departures.end();
        let is_free = |change: &Change| match change {
            Change::Created { parent, name, .. } => !untold.contains(&(*parent, name.clone())),
            _ => true,
        };
        told.extend(last.into_iter().filter(is_free));
        told.append(&mut self.held);
        let directories: BTreeSet<InodeNo> = untold.iter().map(|(parent, _)| *parent).collect();
        let there = directories
            .into_iter()
            .filter(|at| new.tree().inode(*at).is_some());
        told.extend(there.map(|inode| Change::Attributes { inode }));
        told
    }
}

/// What a change of an inode besides its names is told as.
fn held_changes(
    number: InodeNo,
    was: Option<&Arc<Inode>>,
    is: Option<&Arc<Inode>>,
    has_lock_ended: bool,
) -> Vec<Change> {
    let Some(is) = is else { return Vec::new() };
    let is_written = match (was, is.content()) {
        (_, None) => false,
        (None, Some(content)) => content.size() > 0,
        (Some(was), Some(_)) => was.content_revision != is.content_revision,
    };
    let is_set = was.is_some_and(|was| {
        let times = |inode: &Inode| (inode.atime, inode.mtime);
        let by_itself = !is_written && !is.is_directory();
        (was.mode, was.uid, was.gid) != (is.mode, is.uid, is.gid)
            || was.xattrs != is.xattrs
            || (by_itself && times(was) != times(is))
    });
    let written = Change::Modified {
        inode: number,
        closed: true,
        by_path: false,
    };
    let set = Change::Attributes { inode: number };
    let told = [
        is_written.then_some(written),
        (is_set || has_lock_ended).then_some(set),
    ];
    told.into_iter().flatten().collect()
}

/// Names that are left, on their way into an order.
struct Departures<'a> {
    old: &'a StateMachine,
    new: &'a StateMachine,
    moved: BTreeMap<Place, Move>,
    /// From where the inode comes that a name stands for in the end.
    coming: BTreeMap<Place, Place>,
    removed: BTreeMap<Place, InodeNo>,
    /// How many names of an inode are still to be removed.
    to_remove: BTreeMap<InodeNo, usize>,
    /// How many names in a directory that goes are still to go before it.
    inside: BTreeMap<InodeNo, usize>,
    told: Vec<Change>,
}

impl<'a> Departures<'a> {
    fn new(
        moved: BTreeMap<Place, Move>,
        removed: BTreeMap<Place, InodeNo>,
        old: &'a StateMachine,
        new: &'a StateMachine,
    ) -> Self {
        let mut to_remove = BTreeMap::new();
        for number in removed.values() {
            *to_remove.entry(*number).or_default() += 1;
        }
        let mut inside = BTreeMap::new();
        for (parent, _) in moved.keys().chain(removed.keys()) {
            if new.tree().inode(*parent).is_none() {
                *inside.entry(*parent).or_default() += 1;
            }
        }
        let coming = moved.values().map(|at| (at.to.clone(), at.from.clone()));
        Self {
            old,
            new,
            coming: coming.collect(),
            moved,
            removed,
            to_remove,
            inside,
            told: Vec::new(),
        }
    }

    /// Tells whatever waits for nothing, and what waits for that.
    fn tell_what_can_go(&mut self) {
        let removed = self.removed.keys().rev();
        let mut left: Vec<Place> = removed.chain(self.moved.keys().rev()).cloned().collect();
        while let Some(at) = left.pop() {
            if self.can_move(&at) {
                self.tell_move(&at);
            } else if self.can_be_removed(&at) {
                self.tell_removal(&at);
            } else {
                continue;
            }
            // The name is free for another one now, and its directory may be empty.
            left.extend(self.coming.get(&at).cloned());
            let Some(inside) = self.inside.get_mut(&at.0) else {
                continue;
            };
            *inside -= 1;
            if *inside == 0 {
                let directory = self.old.tree().inode(at.0);
                let place = directory.and_then(|directory| directory.names.get_min());
                left.extend(place.cloned());
                left.extend(place.and_then(|place| self.coming.get(place)).cloned());
            }
        }
    }

    /// Whether the place that it goes to is free, or held by something that goes and has nothing in it.
    fn can_move(&self, from: &Place) -> bool {
        let Some(moved) = self.moved.get(from) else {
            return false;
        };
        let replaced = self.removed.get(&moved.to);
        !self.moved.contains_key(&moved.to)
            && replaced.is_none_or(|inode| self.holds_nothing(*inode))
    }

    /// Whether nothing is in it and nothing replaces it.
    fn can_be_removed(&self, place: &Place) -> bool {
        let removed = self.removed.get(place);
        removed.is_some_and(|inode| self.holds_nothing(*inode)) && !self.coming.contains_key(place)
    }

    fn holds_nothing(&self, inode: InodeNo) -> bool {
        self.inside.get(&inode).is_none_or(|names| *names == 0)
    }

    fn tell_move(&mut self, from: &Place) {
        let Some(Move { inode, to, .. }) = self.moved.remove(from) else {
            return;
        };
        self.coming.remove(&to);
        let replaced = self.removed.remove(&to);
        let replaced = replaced.map(|number| (number, self.one_name_less(number)));
        self.told.push(renamed(inode, from, &to, replaced, false));
        if let Some((number, 0)) = replaced {
            self.tell_gone(number, to);
        }
    }

    fn tell_removal(&mut self, place: &Place) {
        let Some(inode) = self.removed.remove(place) else {
            return;
        };
        let links_left = self.one_name_less(inode);
        let was = self.old.tree().inode(inode);
        self.told.push(Change::Removed {
            parent: place.0,
            name: place.1.as_bytes().to_vec(),
            inode,
            directory: was.is_some_and(|inode| inode.is_directory()),
            links_left,
        });
        if links_left == 0 {
            self.tell_gone(inode, place.clone());
        }
    }

    /// Exchanges what has changed places in rings, one after the other, into its place.
    fn turn_rings(&mut self) {
        let starts = self.moved.keys().filter(|start| self.is_ring(start));
        for start in starts.cloned().collect::<Vec<_>>() {
            let Some(mut moved) = self.moved.remove(&start) else {
                continue;
            };
            while let Some(next) = self.moved.remove(&moved.to) {
                let other = (next.inode, self.names_of(next.inode));
                let exchange = renamed(moved.inode, &start, &moved.to, Some(other), true);
                self.told.push(exchange);
                moved = next;
            }
        }
    }

    /// Whether the way from name to name comes back to `start`. No two ways lead to one name.
    fn is_ring(&self, start: &Place) -> bool {
        let mut at = start;
        while let Some(moved) = self.moved.get(at) {
            at = &moved.to;
            if at == start {
                return true;
            }
        }
        false
    }

    /// What is told, and the names that are not.
    fn end(self) -> (Vec<Change>, BTreeSet<(InodeNo, Vec<u8>)>) {
        let moved = self
            .moved
            .into_values()
            .flat_map(|moved| [moved.from, moved.to]);
        let untold = moved.chain(self.removed.into_keys());
        let untold = untold.map(|(parent, name)| (parent, name.as_bytes().to_vec()));
        (self.told, untold.collect())
    }

    /// A name of it is told of as removed. How many it has after that.
    fn one_name_less(&mut self, inode: InodeNo) -> u32 {
        let left = self.to_remove.entry(inode).or_default();
        *left = left.saturating_sub(1);
        let left = u32::try_from(*left).unwrap_or(u32::MAX);
        left.saturating_add(self.names_of(inode))
    }

    /// How many names it has in the end.
    fn names_of(&self, inode: InodeNo) -> u32 {
        let inode = self.new.tree().inode(inode);
        let names = inode.map_or(0, |inode| inode.names.len());
        u32::try_from(names).unwrap_or(u32::MAX)
    }

    fn tell_gone(&mut self, number: InodeNo, last_name: Place) {
        if let Some(inode) = self.old.tree().inode(number) {
            let mut inode = Inode::clone(inode);
            inode.names = std::iter::once(last_name).collect();
            self.told.push(Change::Gone(Arc::new(inode)));
        }
    }
}

fn renamed(
    inode: InodeNo,
    from: &Place,
    to: &Place,
    replaced: Option<(InodeNo, u32)>,
    exchange: bool,
) -> Change {
    Change::Renamed {
        parent: from.0,
        name: from.1.as_bytes().to_vec(),
        new_parent: to.0,
        new_name: to.1.as_bytes().to_vec(),
        inode,
        replaced,
        exchange,
    }
}

fn depth(state: &StateMachine, inode: InodeNo) -> usize {
    state.tree().ancestors(inode).count()
}

#[cfg(test)]
#[path = "difference/difference_test.rs"]
mod difference_test;
