//! Changes of names that hold only for what the caller's kernel has checked.
//!
//! A kernel asks by name, after it has looked at what the name stands for: whether a sticky directory lets this user
//! take that file away. Another node may have put another file under the name since. Then the entry is refused, and the
//! kernel looks again (`docs/decisions/0010-names-as-checked.md`).

use super::Step;
use crate::state_machine::command::{Checked, Found, NameChange};
use crate::state_machine::fs_error::FsError;
use crate::state_machine::ids::InodeNo;
use crate::state_machine::outcome::Outcome;

impl Step<'_> {
    pub(super) fn checked(&mut self, checked: &Checked) -> Outcome {
        let Checked {
            change,
            found,
            found_new,
        } = checked;
        match change {
            NameChange::Unlink(remove) => {
                self.check_found(remove.parent, &remove.name, *found)?;
                self.unlink(remove)
            }
            NameChange::Rmdir(remove) => {
                self.check_found(remove.parent, &remove.name, *found)?;
                self.rmdir(remove)
            }
            NameChange::Rename(rename) => {
                self.check_found(rename.parent, &rename.name, *found)?;
                self.check_found(rename.new_parent, &rename.new_name, *found_new)?;
                self.rename(rename)
            }
        }
    }

    /// A name that is free by now is no other file's: what that means is the operation's to say.
    fn check_found(&self, parent: InodeNo, name: &[u8], found: Found) -> Result<(), FsError> {
        let Ok(there) = self.state.tree().lookup(parent, name) else {
            return Ok(());
        };
        match found {
            Found::Unknown => Ok(()),
            Found::Inode(inode) if inode == there => Ok(()),
            Found::Nothing | Found::Inode(_) => Err(FsError::NameMoved),
        }
    }
}
