//! Directories that another node moved while this kernel still has them at their old place.
//!
//! The kernel keeps one place for a directory. When a lookup finds it under another parent, it moves its entry there
//! (`d_splice_alias`), and for that it needs two locks that it does not wait for: the old parent's, and the one of the
//! mount that a rename from directory to directory holds. While a user's request waits for a majority it holds them,
//! and the kernel answers the lookup with ESTALE, after a second try that takes no time. So such a lookup is answered
//! when the request is done.
//!
//! The kernel may fail all the same: a rename holds its locks some time before its request and after the answer. Then
//! it walks the path anew, and that walk waits on its way for the replay, which moves the directory and waits for locks
//! as any rename. Where the walk has nothing on its way, its lookup of the directory waits a little.
//!
//! Invariant: no lookup waits for what waits for the lookup. It may hold its parent's lock, shared: a user's request
//! that is open here has its locks already, but the replay's rename may be waiting for just that one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::limits::{MOVED_THREADS_MAX, MOVED_TRIES_MAX, MOVED_TRY_WITHIN};

/// Where the kernel has directories, and which locks this node's requests hold there.
#[derive(Debug, Default)]
pub struct Moving {
    table: Mutex<Table>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Table {
    places: HashMap<u64, Place>,
    /// The last lookup by which a thread had the kernel move a directory.
    moves: HashMap<u32, Move>,
    /// How many requests are open that have a directory locked.
    busy: HashMap<u64, usize>,
    /// How many users' renames from directory to directory are open.
    renames: usize,
}

/// Where the kernel has a directory.
#[derive(Debug)]
struct Place {
    parent: u64,
    /// Since when the kernel may have it elsewhere still: a lookup told it of this place, and it may have failed.
    doubtful: Option<Instant>,
}

/// A lookup that had the kernel move a directory to `parent`.
#[derive(Debug)]
struct Move {
    directory: u64,
    parent: u64,
    at: Instant,
    tries: usize,
}

/// Where the kernel has a directory that a lookup finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// Where the lookup found it.
    There,
    /// Nowhere yet. Another lookup may find it in another place before the kernel has this answer.
    Nowhere,
    /// In another place, or it may be.
    Elsewhere,
}

/// When a lookup of a directory is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// At once.
    Now,
    /// When the locks that the kernel needs are free ([`Moving::free`]).
    WhenFree,
    /// After a pause: the kernel has just failed to move the directory.
    Later,
}

/// A request that changes names in some directories is open. It ends with this value.
#[derive(Debug)]
pub struct Busy {
    moving: Arc<Moving>,
    directories: Vec<u64>,
}

impl Moving {
    /// A user's request that changes names in `directories` begins: in two of them, it is a rename from one to the
    /// other.
    pub fn enter(self: &Arc<Self>, directories: Vec<u64>) -> Busy {
        let mut table = self.table.lock();
        for directory in &directories {
            *table.busy.entry(*directory).or_default() += 1;
        }
        table.renames += usize::from(joins_two(&directories));
        Busy {
            moving: self.clone(),
            directories,
        }
    }

    /// A call made `directory` in `parent`, or moved it there. Not for the replay thread: it cannot wake the runtime's
    /// tasks.
    pub fn place(&self, directory: u64, parent: u64) {
        let place = Place {
            parent,
            doubtful: None,
        };
        self.table.lock().places.insert(directory, place);
        self.changed.notify_waiters();
    }

    /// A lookup of the replay finds `directory` in `parent`. It is answered at once, whatever holds the locks: the
    /// replay looks again by itself.
    pub fn replay_finds(&self, directory: u64, parent: u64) {
        self.table.lock().find(directory, parent);
    }

    /// The kernel knows nothing of `directory` any more.
    pub fn forget(&self, directory: u64) {
        self.table.lock().places.remove(&directory);
    }

    /// When a lookup by `thread` that finds `directory` in `parent` is answered.
    pub fn answer(&self, directory: u64, parent: u64, thread: u32) -> Answer {
        self.table.lock().answer(directory, parent, thread)
    }

    /// Ends when the locks are free that the kernel needs to place `directory` in `parent`.
    pub async fn free(&self, directory: u64, parent: u64, thread: u32) {
        self.until(|table| table.answer(directory, parent, thread) != Answer::WhenFree)
            .await;
    }

    /// The directory that `thread` has just looked up at its new place, and that place, if the kernel may not have it
    /// there yet. Asked at the thread's next lookup, in `parent`: most likely it walks the same path again, because the
    /// kernel failed.
    pub fn unplaced_by(&self, thread: u32, parent: u64) -> Option<(u64, u64)> {
        let mut table = self.table.lock();
        let last = table.moves.get(&thread)?;
        let (directory, place) = (last.directory, last.parent);
        if place == parent {
            // In that directory it has the very lock that the replay waits for.
            return None;
        }
        let is_recent = last.at.elapsed() < MOVED_TRY_WITHIN;
        table.moves.remove(&thread);
        (is_recent && !table.is_placed(directory, place)).then_some((directory, place))
    }

    /// Ends when the kernel has `directory` in `parent` for certain.
    pub async fn placed(&self, directory: u64, parent: u64) {
        self.until(|table| table.is_placed(directory, parent)).await;
    }

    async fn until(&self, mut is_so: impl FnMut(&mut Table) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before looking, so that no change in between is missed.
            changed.as_mut().enable();
            if is_so(&mut self.table.lock()) {
                return;
            }
            changed.await;
        }
    }
}

impl Table {
    /// Whether the kernel has `directory` in `parent` for certain, or knows nothing of it any more.
    fn is_placed(&self, directory: u64, parent: u64) -> bool {
        let place = self.places.get(&directory);
        place.is_none_or(|place| place.parent == parent && place.doubtful.is_none())
    }

    /// Whether the kernel may have to move `directory` to `parent`, and could not.
    fn must_wait(&self, directory: u64, parent: u64) -> bool {
        let known = self.places.get(&directory);
        let elsewhere = known.filter(|place| place.parent != parent);
        elsewhere.is_some_and(|old| self.busy.contains_key(&old.parent) || self.renames > 0)
    }

    fn answer(&mut self, directory: u64, parent: u64, thread: u32) -> Answer {
        if self.must_wait(directory, parent) {
            return Answer::WhenFree;
        }
        let found = self.find(directory, parent);
        if found == Found::There {
            return Answer::Now;
        }
        let tried = self.moves.get_mut(&thread).filter(|last| {
            (last.directory, last.parent) == (directory, parent)
                && last.at.elapsed() < MOVED_TRY_WITHIN
        });
        if let Some(last) = tried.filter(|_| found == Found::Elsewhere) {
            last.tries += 1;
            return if last.tries <= MOVED_TRIES_MAX {
                Answer::Later
            } else {
                Answer::Now
            };
        }
        if self.moves.len() == MOVED_THREADS_MAX {
            self.moves.clear();
        }
        let first = Move {
            directory,
            parent,
            at: Instant::now(),
            tries: 0,
        };
        self.moves.insert(thread, first);
        Answer::Now
    }

    /// The kernel is told that `directory` lies in `parent`.
    fn find(&mut self, directory: u64, parent: u64) -> Found {
        let recent = |since: &Instant| since.elapsed() < MOVED_TRY_WITHIN;
        let (found, doubtful) = match self.places.get(&directory) {
            None => (Found::Nowhere, None),
            Some(place) if place.parent != parent => (Found::Elsewhere, Some(Instant::now())),
            Some(place) => match place.doubtful.filter(recent) {
                None => (Found::There, None),
                since => (Found::Elsewhere, since),
            },
        };
        self.places.insert(directory, Place { parent, doubtful });
        found
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut table = self.moving.table.lock();
        for directory in &self.directories {
            if let Some(count) = table.busy.get_mut(directory) {
                *count -= 1;
                if *count == 0 {
                    table.busy.remove(directory);
                }
            }
        }
        table.renames -= usize::from(joins_two(&self.directories));
        drop(table);
        self.moving.changed.notify_waiters();
    }
}

/// Whether these are two directories: a rename from one to the other holds the mount's lock of renames.
fn joins_two(directories: &[u64]) -> bool {
    matches!(directories, [from, to] if from != to)
}

#[cfg(test)]
#[path = "moving/moving_test.rs"]
mod moving_test;
