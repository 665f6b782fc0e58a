//! Directories that another node moved while this kernel still has them at their old place.
//!
//! The kernel keeps one place for a directory. When a lookup finds it under another parent, it moves its entry there,
//! and for that it needs the old parent's lock; while a user's create or removal in the old parent waits for a
//! majority, that lock is taken, and the kernel answers the lookup with ESTALE. So such a lookup is answered when the
//! request is done.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Where the kernel has directories, and which directories this node's requests have locked there.
#[derive(Debug, Default)]
pub struct Moving {
    table: Mutex<Table>,
    left: Notify,
}

#[derive(Debug, Default)]
struct Table {
    places: HashMap<u64, u64>,
    busy: HashMap<u64, usize>,
}

/// A request that changes names in some directories is open. It ends with this value.
#[derive(Debug)]
pub struct Busy {
    moving: Arc<Moving>,
    directories: Vec<u64>,
}

impl Moving {
    /// A request that changes names in `directories` begins.
    pub fn enter(self: &Arc<Self>, directories: Vec<u64>) -> Busy {
        let mut table = self.table.lock();
        for directory in &directories {
            *table.busy.entry(*directory).or_default() += 1;
        }
        Busy {
            moving: self.clone(),
            directories,
        }
    }

    /// The kernel learns that `directory` lies in `parent`.
    pub fn place(&self, directory: u64, parent: u64) {
        self.table.lock().places.insert(directory, parent);
    }

    /// The kernel knows nothing of `directory` any more.
    pub fn forget(&self, directory: u64) {
        self.table.lock().places.remove(&directory);
    }

    /// Whether the kernel would have to take `directory` out of a locked parent to place it in `parent`.
    pub fn must_wait(&self, directory: u64, parent: u64) -> bool {
        let table = self.table.lock();
        let old = table.places.get(&directory).filter(|old| **old != parent);
        old.is_some_and(|old| table.busy.contains_key(old))
    }

    /// Ends when `directory` can be placed in `parent`.
    pub async fn wait(&self, directory: u64, parent: u64) {
        loop {
            let left = self.left.notified();
            tokio::pin!(left);
            // Registered before looking, so that no end in between is missed.
            left.as_mut().enable();
            if !self.must_wait(directory, parent) {
                return;
            }
            left.await;
        }
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
        drop(table);
        self.moving.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_moved_directory_waits_for_the_request_in_its_old_parent() {
        let moving = Arc::new(Moving::default());
        let (directory, old, new) = (10, 1, 2);
        moving.place(directory, old);
        assert!(
            !moving.must_wait(directory, new),
            "nobody is in the old parent"
        );
        let request = moving.enter(vec![old]);
        assert!(moving.must_wait(directory, new));
        assert!(!moving.must_wait(directory, old), "it has not moved");
        let waits = tokio::spawn({
            let moving = moving.clone();
            async move { moving.wait(directory, new).await }
        });
        drop(request);
        waits.await.unwrap();
    }

    #[test]
    fn two_requests_in_one_directory_are_counted() {
        let moving = Arc::new(Moving::default());
        moving.place(10, 1);
        let (first, second) = (moving.enter(vec![1]), moving.enter(vec![1, 3]));
        drop(first);
        assert!(moving.must_wait(10, 2));
        drop(second);
        assert!(!moving.must_wait(10, 2));
    }
}
