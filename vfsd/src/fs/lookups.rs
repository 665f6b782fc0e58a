//! How many references the kernel holds to each inode: nobody can watch an inode without one.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::state_machine::ids::InodeNo;
use crate::state_machine::inode::Inode;

/// References of the kernel, and the inodes that are gone from the tree while it still holds some.
#[derive(Debug, Default)]
pub struct Lookups {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    counts: HashMap<InodeNo, u64>,
    gone: HashMap<InodeNo, Arc<Inode>>,
}

impl Lookups {
    /// An answer that names `inode` goes out.
    pub fn add(&self, inode: InodeNo) {
        *self.table.lock().counts.entry(inode).or_default() += 1;
    }

    /// The kernel drops `count` references. Returns whether none is left.
    pub fn forget(&self, inode: InodeNo, count: u64) -> bool {
        let mut table = self.table.lock();
        let Some(held) = table.counts.get_mut(&inode) else {
            return true;
        };
        *held = held.saturating_sub(count);
        if *held > 0 {
            return false;
        }
        table.counts.remove(&inode);
        table.gone.remove(&inode);
        true
    }

    /// Whether the kernel knows `inode`. It always knows the root.
    pub fn is_known(&self, inode: InodeNo) -> bool {
        inode == InodeNo::ROOT || self.table.lock().counts.contains_key(&inode)
    }

    /// Keeps an inode that lost its last name, if the kernel still knows it.
    pub fn keep_gone(&self, inode: &Arc<Inode>) {
        let mut table = self.table.lock();
        if table.counts.contains_key(&inode.number) {
            table.gone.insert(inode.number, inode.clone());
        }
    }

    /// An inode that lost its last name while the kernel knew it.
    pub fn gone(&self, inode: InodeNo) -> Option<Arc<Inode>> {
        self.table.lock().gone.get(&inode).cloned()
    }
}
