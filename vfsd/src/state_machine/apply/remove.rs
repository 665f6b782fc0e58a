//! Taking names away, by users and by the end of locks.

use super::Step;
use crate::state_machine::command::Remove;
use crate::state_machine::fs_error::FsError;
use crate::state_machine::ids::InodeNo;
use crate::state_machine::name::Name;
use crate::state_machine::outcome::{Change, Done, Outcome};

impl Step<'_> {
    pub(super) fn unlink(&mut self, remove: &Remove) -> Outcome {
        let child = self.state.tree().lookup(remove.parent, &remove.name)?;
        if self.is_directory(child) {
            return Err(FsError::IsDirectory);
        }
        self.check_removal(remove.parent, child)?;
        self.take_away(remove.parent, &Name::new(&remove.name)?)?;
        Ok(Done::Unit)
    }

    pub(super) fn rmdir(&mut self, remove: &Remove) -> Outcome {
        let child = self.state.tree().lookup(remove.parent, &remove.name)?;
        let directory = self.state.tree().directory(child)?;
        let empty = directory.entries.is_empty();
        self.check_removal(remove.parent, child)?;
        if !empty {
            return Err(FsError::NotEmpty);
        }
        self.take_away(remove.parent, &Name::new(&remove.name)?)?;
        Ok(Done::Unit)
    }

    /// Removes one name; a lock goes with its file.
    pub(super) fn take_away(&mut self, parent: InodeNo, name: &Name) -> Result<(), FsError> {
        let touch = self.touch.clone();
        let gone = self.state.tree_mut().unlink(parent, name, &touch)?;
        if gone.links_left == 0 {
            self.state.locks_mut().forget(gone.inode);
        }
        self.changes.push(Change::Removed {
            parent,
            name: name.as_bytes().to_vec(),
            inode: gone.inode,
            directory: gone.directory,
            links_left: gone.links_left,
        });
        self.changes.extend(gone.gone.map(Change::Gone));
        Ok(())
    }

    /// Removes a lock with everything in it, deepest first. Not by recursion: anybody who may write there decides how
    /// deep it is, and every replica applies it on a thread's stack.
    pub(super) fn take_away_tree(&mut self, inode: InodeNo) -> Result<(), FsError> {
        let mut way = vec![inode];
        while let Some(&at) = way.last() {
            match self.first_entry(at) {
                Some((_, child)) if self.is_directory(child) => way.push(child),
                Some((name, _)) => self.take_away(at, &name)?,
                None => {
                    way.pop();
                    self.take_away_names(at)?;
                }
            }
        }
        Ok(())
    }

    fn first_entry(&self, directory: InodeNo) -> Option<(Name, InodeNo)> {
        let inode = self.state.tree().inode(directory)?;
        let entries = &inode.directory()?.entries;
        entries.get_min().cloned()
    }

    fn take_away_names(&mut self, inode: InodeNo) -> Result<(), FsError> {
        let inode = self.state.tree().inode(inode);
        let names = inode.map(|inode| inode.names.clone()).unwrap_or_default();
        names
            .iter()
            .try_for_each(|(parent, name)| self.take_away(*parent, name))
    }

    pub(super) fn is_directory(&self, inode: InodeNo) -> bool {
        self.state
            .tree()
            .inode(inode)
            .is_some_and(|inode| inode.is_directory())
    }
}
