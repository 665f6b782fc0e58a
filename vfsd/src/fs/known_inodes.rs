//! The inodes that this node's kernel holds references to, and those of them that have no name any more.
//!
//! What a lookup handed out answers everything until the kernel forgets it, whatever became of its names, here or on
//! another node, by an entry or by a snapshot: such an inode is kept here as a private copy of this node, with its
//! content. Nobody can watch an inode without a reference.
//!
//! Invariant: between the lookup that counts an inode and the removal that takes it out of the tree there is no gap. A
//! lookup finds and counts under one lock; a removal keeps every inode before the tree without it is published, and
//! lets those go that nobody had counted after that.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::state_machine::ids::InodeNo;
use crate::state_machine::inode::Inode;
use crate::state_machine::log_time::WallTime;

/// References of the kernel, and the inodes that are gone from the tree while somebody here can still reach them.
#[derive(Debug, Default)]
pub struct KnownInodes {
    // Leaf lock, but for loading the published state.
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    counts: HashMap<InodeNo, u64>,
    gone: HashMap<InodeNo, Arc<Inode>>,
}

impl KnownInodes {
    /// Finds an inode and counts one more reference of the kernel to it, as one step.
    ///
    /// # Errors
    /// As `find`; nothing is counted then.
    pub fn find_and_add<T, E>(
        &self,
        find: impl FnOnce() -> Result<(T, InodeNo), E>,
    ) -> Result<T, E> {
        let mut table = self.table.lock();
        let (found, inode) = find()?;
        *table.counts.entry(inode).or_default() += 1;
        Ok(found)
    }

    /// An answer that names `inode` goes out.
    pub fn add(&self, inode: InodeNo) {
        *self.table.lock().counts.entry(inode).or_default() += 1;
    }

    /// As [`KnownInodes::add`] for an inode that may have left the tree.
    pub fn add_or_keep(&self, inode: &Arc<Inode>, is_in_tree: impl FnOnce() -> bool) {
        let mut table = self.table.lock();
        *table.counts.entry(inode.number).or_default() += 1;
        if !is_in_tree() {
            let gone = table.gone.entry(inode.number);
            gone.or_insert_with(|| nameless(inode));
        }
    }

    /// The kernel drops `count` references. Returns whether none is left. `is_open` tells whether a handle keeps it.
    pub fn forget(&self, inode: InodeNo, count: u64, is_open: bool) -> bool {
        let mut table = self.table.lock();
        let Some(held) = table.counts.get_mut(&inode) else {
            return true;
        };
        *held = held.saturating_sub(count);
        if *held > 0 {
            return false;
        }
        table.counts.remove(&inode);
        if !is_open {
            table.gone.remove(&inode);
        }
        true
    }

    /// The last handle of an inode was closed.
    pub fn closed(&self, inode: InodeNo) {
        let mut table = self.table.lock();
        if !table.counts.contains_key(&inode) {
            table.gone.remove(&inode);
        }
    }

    /// Whether the kernel knows `inode`. It always knows the root.
    pub fn is_known(&self, inode: InodeNo) -> bool {
        inode == InodeNo::ROOT || self.table.lock().counts.contains_key(&inode)
    }

    /// All that the kernel knows.
    pub fn all(&self) -> Vec<InodeNo> {
        self.table.lock().counts.keys().copied().collect()
    }

    /// Keeps an inode that is about to leave the tree at the time `now`, whether it is known or not.
    pub fn keep(&self, inode: &Arc<Inode>, now: WallTime) {
        let mut gone = Arc::unwrap_or_clone(nameless(inode));
        gone.ctime = gone.ctime.max(now);
        self.table.lock().gone.insert(inode.number, Arc::new(gone));
    }

    /// The tree without `inode` is published: it goes if nobody can reach it.
    pub fn settle(&self, inode: InodeNo, is_open: bool) {
        let mut table = self.table.lock();
        if !is_open && !table.counts.contains_key(&inode) {
            table.gone.remove(&inode);
        }
    }

    /// An inode that lost its last name while somebody here could reach it.
    pub fn gone(&self, inode: InodeNo) -> Option<Arc<Inode>> {
        self.table.lock().gone.get(&inode).cloned()
    }

    /// Changes such an inode; `None` if there is none.
    pub fn change_gone<T>(
        &self,
        inode: InodeNo,
        change: impl FnOnce(&mut Inode) -> T,
    ) -> Option<T> {
        let mut table = self.table.lock();
        let inode = table.gone.get_mut(&inode)?;
        Some(change(Arc::make_mut(inode)))
    }
}

fn nameless(inode: &Arc<Inode>) -> Arc<Inode> {
    let mut inode = Inode::clone(inode);
    inode.names.clear();
    Arc::new(inode)
}
