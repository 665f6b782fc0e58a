//! What the kernel's last lookups have found, by thread: a change of names is asked for by name, after the same thread
//! has looked the name up and the kernel has checked what it found there.
//!
//! Invariant: bounded; what is forgotten goes unchecked, as it would without this. Not here: when a permission depends
//! on what a name stands for (`names.rs`), what becomes of a name that stands for something else
//! (`state_machine/apply/checked.rs`).

use std::collections::{BTreeMap, HashMap};

use parking_lot::Mutex;

use super::attr::{Attr, FileKind};
use crate::limits::FOUND_NAMES_MAX;
use crate::state_machine::command::Found;
use crate::state_machine::ids::InodeNo;

/// What a lookup found under a name, as far as permissions depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundName {
    file: Option<(InodeNo, Checked)>,
}

/// What a kernel checks of a file: two that have the same of it give the same answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Checked {
    kind: FileKind,
    mode: u32,
    uid: u32,
    gid: u32,
}

impl FoundName {
    /// What was found; `None` if the name was free.
    pub fn of(attr: Option<&Attr>) -> Self {
        let file = attr.map(|attr| {
            let &Attr {
                kind,
                mode,
                uid,
                gid,
                ..
            } = attr;
            let checked = Checked {
                kind,
                mode,
                uid,
                gid,
            };
            (InodeNo(attr.node), checked)
        });
        Self { file }
    }

    /// As an entry says it.
    pub fn as_found(self) -> Found {
        match self.file {
            None => Found::Nothing,
            Some((inode, _)) => Found::Inode(inode),
        }
    }

    /// Whether it is a directory.
    pub fn is_directory(self) -> bool {
        self.file
            .is_some_and(|(_, checked)| checked.kind == FileKind::Directory)
    }

    /// Whether the kernel would have answered the same for `now`.
    pub fn is_as_good_as(self, now: Self) -> bool {
        self.file.map(|(_, checked)| checked) == now.file.map(|(_, checked)| checked)
    }
}

/// The last two lookups of each thread: a rename looks up two names.
#[derive(Debug, Default)]
pub struct FoundNames {
    // Leaf lock.
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    last: u64,
    by_thread: HashMap<u32, Lookups>,
    by_age: BTreeMap<u64, u32>,
}

#[derive(Debug)]
struct Lookups {
    age: u64,
    newest: [Option<Lookup>; 2],
}

#[derive(Debug)]
struct Lookup {
    parent: InodeNo,
    name: Vec<u8>,
    found: FoundName,
}

impl FoundNames {
    /// A lookup of `thread` is answered.
    pub fn note(&self, thread: u32, parent: InodeNo, name: &[u8], found: FoundName) {
        let mut table = self.table.lock();
        let before = table.take(thread);
        if before.is_none() && table.by_thread.len() == FOUND_NAMES_MAX {
            let oldest = table.by_age.pop_first();
            oldest.and_then(|(_, thread)| table.by_thread.remove(&thread));
        }
        let [newest, _] = before.unwrap_or_default();
        let lookup = Lookup {
            parent,
            name: name.to_vec(),
            found,
        };
        table.put(thread, [Some(lookup), newest]);
    }

    /// What `thread` has found under a name that it is about to change.
    pub fn of(&self, thread: u32, parent: InodeNo, name: &[u8]) -> Option<FoundName> {
        let table = self.table.lock();
        let mut lookups = table.by_thread.get(&thread)?.newest.iter().flatten();
        let lookup = lookups.find(|lookup| lookup.parent == parent && lookup.name == name)?;
        Some(lookup.found)
    }

    /// The thread has got its answer: what it had found counts no more.
    pub fn forget(&self, thread: u32) {
        self.table.lock().take(thread);
    }
}

impl Table {
    fn take(&mut self, thread: u32) -> Option<[Option<Lookup>; 2]> {
        let lookups = self.by_thread.remove(&thread)?;
        self.by_age.remove(&lookups.age);
        Some(lookups.newest)
    }

    fn put(&mut self, thread: u32, newest: [Option<Lookup>; 2]) {
        self.last += 1;
        let age = self.last;
        self.by_age.insert(age, thread);
        self.by_thread.insert(thread, Lookups { age, newest });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: FoundName = FoundName { file: None };

    #[test]
    fn a_thread_has_its_last_two_lookups_and_the_oldest_thread_makes_room() {
        let names = FoundNames::default();
        let at = |name: &[u8]| names.of(7, InodeNo(1), name);
        for name in [b"a", b"b", b"c"] {
            names.note(7, InodeNo(1), name, FREE);
        }
        assert_eq!(
            [at(b"a"), at(b"b"), at(b"c")],
            [None, Some(FREE), Some(FREE)]
        );
        assert_eq!(names.of(8, InodeNo(1), b"c"), None, "of another thread");
        assert_eq!(names.of(7, InodeNo(2), b"c"), None, "in another directory");
        let most = u32::try_from(FOUND_NAMES_MAX).unwrap();
        for thread in 100..100 + most {
            names.note(thread, InodeNo(1), b"x", FREE);
        }
        assert_eq!(at(b"c"), None, "it made room");
        assert_eq!(names.of(100, InodeNo(1), b"x"), Some(FREE));
        names.forget(100);
        assert_eq!(names.of(100, InodeNo(1), b"x"), None);
        let table = names.table.lock();
        assert_eq!(table.by_thread.len(), FOUND_NAMES_MAX - 1);
        assert_eq!(table.by_age.len(), FOUND_NAMES_MAX - 1);
    }
}
