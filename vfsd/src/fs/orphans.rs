//! Keeps what loses its last name while somebody here can still reach it.
//!
//! Invariant: between the tree that has an inode and the private copy of it there is no moment without either: a copy
//! is kept before the tree without it is visible, and goes again if nobody had reached it by then. Not here: what the
//! kernel and handles hold (`known_inodes.rs`, `handles.rs`).

use std::sync::Arc;

use super::feed::{Publication, Subscriber};
use super::handles::HandleTable;
use super::known_inodes::KnownInodes;
use crate::clock;
use crate::state_machine::StateMachine;
use crate::state_machine::inode::Inode;
use crate::state_machine::outcome::{Applied, Change};

/// The subscriber that makes private copies.
pub struct Orphans {
    pub(super) known: Arc<KnownInodes>,
    pub(super) handles: Arc<HandleTable>,
}

impl Subscriber for Orphans {
    fn before(&self, publication: Publication<'_>) {
        let now = clock::wall();
        match publication {
            Publication::Entry(entry) => {
                gone_in(&entry.applied).for_each(|inode| self.known.keep(inode, now));
            }
            Publication::Snapshot { old, new } => {
                let gone = self.gone_with(old, new);
                gone.iter().for_each(|inode| self.known.keep(inode, now));
            }
        }
    }

    fn after(&self, publication: Publication<'_>, _state: &Arc<StateMachine>) {
        match publication {
            Publication::Entry(entry) => {
                for inode in gone_in(&entry.applied) {
                    let is_open = self.handles.opened(inode.number).is_some();
                    self.known.settle(inode.number, is_open);
                }
            }
            // Once more, for those that were looked up while the new state was on its way.
            Publication::Snapshot { old, new } => {
                for inode in self.gone_with(old, new) {
                    if self.known.gone(inode.number).is_none() {
                        self.known.keep(&inode, clock::wall());
                    }
                }
            }
        }
    }
}

impl Orphans {
    /// What somebody here can reach of the old state and the new one does not have.
    fn gone_with(&self, old: &StateMachine, new: &StateMachine) -> Vec<Arc<Inode>> {
        let reachable = self.known.all().into_iter().chain(self.handles.all_open());
        let gone = reachable.filter(|number| new.tree().inode(*number).is_none());
        gone.filter_map(|number| old.tree().inode(number).cloned())
            .collect()
    }
}

fn gone_in(applied: &Applied) -> impl Iterator<Item = &Arc<Inode>> {
    applied.changes.iter().filter_map(|change| match change {
        Change::Gone(inode) => Some(inode),
        _ => None,
    })
}
