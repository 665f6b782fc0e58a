//! In a directory with the sticky bit nobody takes away or moves what is another user's, however late he comes.

use vfsd::fs::feed::AppliedEntry;
use vfsd::state_machine::StateMachine;
use vfsd::state_machine::ids::InodeNo;
use vfsd::state_machine::outcome::Change;

use crate::sticky::DIRECTORY;

/// What was seen.
#[derive(Debug, Default)]
pub struct Sticky {
    taken: Vec<String>,
}

impl Sticky {
    /// An entry was applied, which led to `state`.
    pub fn applied(&mut self, entry: &AppliedEntry, state: &StateMachine) {
        let Some(sticky) = state.tree().resolve(DIRECTORY) else {
            return;
        };
        let changes = &entry.applied.changes;
        let gone = |number: InodeNo| {
            changes.iter().find_map(|change| match change {
                Change::Gone(inode) if inode.number == number => Some(inode.uid),
                _ => None,
            })
        };
        let moved = |number: InodeNo| state.tree().inode(number).map(|inode| inode.uid);
        for change in changes {
            let owners = match change {
                Change::Removed { parent, inode, .. } if *parent == sticky => [gone(*inode), None],
                Change::Renamed {
                    new_parent,
                    inode,
                    replaced,
                    ..
                } if *new_parent == sticky => {
                    [moved(*inode), replaced.and_then(|(other, _)| gone(other))]
                }
                _ => continue,
            };
            for owner in owners.into_iter().flatten() {
                let user = entry.author.uid;
                if owner != user {
                    self.taken.push(format!(
                        "entry {}: user {user} took what is {owner}'s: {change:?}",
                        entry.applied.index
                    ));
                }
            }
        }
    }

    /// Nobody took anything of another's.
    pub fn check(&self) {
        assert!(self.taken.is_empty(), "{:?}", self.taken);
    }
}
