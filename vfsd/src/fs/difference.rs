//! What lies between two states of the tree, as changes that watchers can be told of: a snapshot tells none one by one.
//!
//! Looked at is what somebody here can watch: the inodes that the kernel knows, and what lies in the directories among
//! them. The changes are in an order in which calls could have made them: whoever keeps a list of names by them has the
//! right one in the end. Where names changed places in a ring, they are exchanged one after the other.
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
            let inode = state.tree().inode(*number);
            let directory = inode.and_then(|inode| inode.directory());
            all.extend(
                directory
                    .iter()
                    .flat_map(|directory| directory.entries.values()),
            );
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
        departures.move_what_can(|replaced| !replaced.is_directory());
        departures.remove_the_rest();
        departures.move_what_can(|_| true);
        departures.turn_rings();
        let mut told = departures.told;
        told.extend(last);
        told.append(&mut self.held);
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
        let coming = moved.values().map(|at| (at.to.clone(), at.from.clone()));
        Self {
            old,
            new,
            coming: coming.collect(),
            moved,
            removed,
            to_remove,
            told: Vec::new(),
        }
    }

    /// Moves whatever has a free place to go to; `may_replace` says whether an inode that is removed may be in it.
    fn move_what_can(&mut self, may_replace: impl Fn(&Inode) -> bool) {
        let mut left: Vec<Place> = self.moved.keys().rev().cloned().collect();
        while let Some(from) = left.pop() {
            let Some(to) = self.moved.get(&from).map(|moved| &moved.to) else {
                continue;
            };
            let replaced = self.removed.get(to);
            let replaced = replaced.and_then(|number| self.old.tree().inode(*number));
            if self.moved.contains_key(to) || replaced.is_some_and(|inode| !may_replace(inode)) {
                continue;
            }
            let Some(Move { inode, to, .. }) = self.moved.remove(&from) else {
                continue;
            };
            let replaced = self.removed.remove(&to);
            let replaced = replaced.map(|number| (number, self.one_name_less(number)));
            self.told.push(renamed(inode, &from, &to, replaced, false));
            if let Some((number, 0)) = replaced {
                self.tell_gone(number, to);
            }
            // Its old name is free for another one now.
            left.extend(self.coming.get(&from).cloned());
        }
    }

    /// Removes what no move replaces, the deepest first.
    fn remove_the_rest(&mut self) {
        let moved: BTreeSet<&Place> = self.moved.values().map(|moved| &moved.to).collect();
        let rest = self.removed.keys().filter(|place| !moved.contains(place));
        let mut rest: Vec<Place> = rest.cloned().collect();
        rest.sort_by_cached_key(|(parent, _)| std::cmp::Reverse(depth(self.old, *parent)));
        for place in rest {
            let Some(inode) = self.removed.remove(&place) else {
                continue;
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
                self.tell_gone(inode, place);
            }
        }
    }

    /// What is left now has changed places in rings: one after the other is exchanged into its place.
    fn turn_rings(&mut self) {
        while let Some((start, mut moved)) = self.moved.pop_first() {
            while let Some(next) = self.moved.remove(&moved.to) {
                let other = (next.inode, self.names_of(next.inode));
                let exchange = renamed(moved.inode, &start, &moved.to, Some(other), true);
                self.told.push(exchange);
                moved = next;
            }
        }
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
