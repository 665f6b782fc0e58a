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

use crate::limits::PRIVATE_BYTES_MAX;
use crate::state_machine::content::Content;
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
    gone: HashMap<InodeNo, Gone>,
    /// What has been added to all of them since they lost their names.
    grown: u64,
}

#[derive(Debug)]
struct Gone {
    inode: Arc<Inode>,
    grown: u64,
}

impl Table {
    fn keep(&mut self, inode: Arc<Inode>) {
        self.let_go(inode.number);
        self.gone.insert(inode.number, Gone { inode, grown: 0 });
    }

    fn let_go(&mut self, inode: InodeNo) {
        let gone = self.gone.remove(&inode);
        self.grown -= gone.map_or(0, |gone| gone.grown);
    }
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
        if !is_in_tree() && !table.gone.contains_key(&inode.number) {
            table.keep(nameless(inode));
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
            table.let_go(inode);
        }
        true
    }

    /// The last handle of an inode was closed.
    pub fn closed(&self, inode: InodeNo) {
        let mut table = self.table.lock();
        if !table.counts.contains_key(&inode) {
            table.let_go(inode);
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
        self.table.lock().keep(Arc::new(gone));
    }

    /// The tree without `inode` is published: it goes if nobody can reach it.
    pub fn settle(&self, inode: InodeNo, is_open: bool) {
        let mut table = self.table.lock();
        if !is_open && !table.counts.contains_key(&inode) {
            table.let_go(inode);
        }
    }

    /// Whether `bytes` more may be added to inodes without a name.
    pub fn has_room(&self, bytes: u64) -> bool {
        self.table.lock().grown + bytes <= PRIVATE_BYTES_MAX
    }

    /// An inode that lost its last name while somebody here could reach it.
    pub fn gone(&self, inode: InodeNo) -> Option<Arc<Inode>> {
        let table = self.table.lock();
        table.gone.get(&inode).map(|gone| gone.inode.clone())
    }

    /// Changes such an inode; `None` if there is none.
    pub fn change_gone<T>(
        &self,
        inode: InodeNo,
        change: impl FnOnce(&mut Inode) -> T,
    ) -> Option<T> {
        let mut table = self.table.lock();
        let gone = table.gone.get_mut(&inode)?;
        let stored = |inode: &Inode| inode.content().map_or(0, Content::stored_bytes);
        let before = stored(&gone.inode);
        let made = change(Arc::make_mut(&mut gone.inode));
        let more = stored(&gone.inode).saturating_sub(before);
        gone.grown += more;
        table.grown += more;
        Some(made)
    }
}

fn nameless(inode: &Arc<Inode>) -> Arc<Inode> {
    let mut inode = Inode::clone(inode);
    inode.names.clear();
    Arc::new(inode)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state_machine::StateMachine;
    use crate::state_machine::inode::Kind;
    use crate::state_machine::namespace::MID;

    /// A file that lost its name takes bytes until all of them together have their maximum.
    #[test]
    fn what_is_added_to_nameless_files_has_a_maximum() {
        let known = KnownInodes::default();
        let state = StateMachine::new();
        let mut file = Inode::clone(state.tree().inode(MID).unwrap());
        file.kind = Kind::Regular(Content::default());
        let file = Arc::new(file);
        known.keep(&file, WallTime::default());
        let grow = |bytes: &[u8]| {
            let grown = known.change_gone(MID, |inode| match &mut inode.kind {
                Kind::Regular(content) => content.write(0, bytes),
                _ => unreachable!("it is a file"),
            });
            grown.unwrap().unwrap();
        };
        grow(&[1; 1000]);
        grow(&[2; 1000]);
        assert!(known.has_room(PRIVATE_BYTES_MAX - 1000));
        assert!(!known.has_room(PRIVATE_BYTES_MAX - 999));
        known.settle(MID, false);
        assert!(known.gone(MID).is_none() && known.has_room(PRIVATE_BYTES_MAX));
    }
}
