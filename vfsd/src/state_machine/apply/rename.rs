//! `rename(2)` with its three modes, decided in one place for all nodes.

use super::Step;
use crate::state_machine::command::{Rename, RenameMode};
use crate::state_machine::fs_error::FsError;
use crate::state_machine::ids::InodeNo;
use crate::state_machine::name::Name;
use crate::state_machine::namespace::{LK, Namespace};
use crate::state_machine::outcome::{Change, Done, Outcome};

impl Step<'_> {
    pub(super) fn rename(&mut self, rename: &Rename) -> Outcome {
        let new_name = self.new_name(rename.new_parent, &rename.new_name)?;
        let name = Name::new(&rename.name)?;
        let tree = self.state.tree();
        let source = tree.lookup(rename.parent, &rename.name)?;
        tree.directory(rename.new_parent)?;
        let target = tree.lookup(rename.new_parent, &rename.new_name).ok();
        self.check_places(rename, source, target)?;
        let replaced = match (rename.mode, target) {
            (RenameMode::NoReplace, Some(_)) => return Err(FsError::AlreadyExists),
            (RenameMode::Exchange, None) => return Err(FsError::NotFound),
            (RenameMode::Exchange, Some(other)) => {
                return self.exchange(rename, (&name, source), (&new_name, other));
            }
            // Two names of one file: POSIX says that nothing happens.
            (RenameMode::Replace, Some(other)) if other == source => return Ok(Done::Unit),
            (RenameMode::Replace, Some(other)) => {
                self.check_replaceable(rename.new_parent, source, other)?;
                Some(other)
            }
            (_, None) => None,
        };
        self.commit_first(rename.content.as_ref())?;
        let touch = self.touch.clone();
        let (mut links_left, mut gone) = (0, None);
        if replaced.is_some() {
            let target = self
                .state
                .tree_mut()
                .unlink(rename.new_parent, &new_name, &touch)?;
            (links_left, gone) = (target.links_left, target.gone);
        }
        let (from, to) = ((rename.parent, &name), (rename.new_parent, &new_name));
        self.state.tree_mut().move_name(from, to, &touch)?;
        self.changes.push(self.renamed(
            rename,
            source,
            replaced.map(|other| (other, links_left)),
            false,
        ));
        self.changes.extend(gone.map(Change::Gone));
        Ok(Done::Unit)
    }

    fn check_places(
        &self,
        rename: &Rename,
        source: InodeNo,
        target: Option<InodeNo>,
    ) -> Result<(), FsError> {
        let tree = self.state.tree();
        if Namespace::is_fixed(source) || target.is_some_and(Namespace::is_fixed) {
            return Err(FsError::NotPermitted);
        }
        if tree.is_within(rename.new_parent, source)
            || target.is_some_and(|target| {
                rename.mode == RenameMode::Exchange && tree.is_within(rename.parent, target)
            })
        {
            return Err(FsError::Invalid);
        }
        self.check_holds_no_lock(source)?;
        target.map_or(Ok(()), |target| self.check_holds_no_lock(target))?;
        // Another name under /lk for a file with several would let one lock stand in two places.
        let several = tree
            .inode(source)
            .is_some_and(|inode| !inode.is_directory() && inode.names.len() > 1);
        if several && tree.is_within(rename.new_parent, LK) != tree.is_within(rename.parent, LK) {
            return Err(FsError::NotPermitted);
        }
        self.check_removal(rename.parent, source)?;
        self.check_entries_of(rename.new_parent).map_err(|error| {
            if error == FsError::FenceRevoked {
                self.across_guards(rename, error)
            } else {
                error
            }
        })?;
        target.map_or(Ok(()), |target| {
            self.check_removal(rename.new_parent, target)
        })
    }

    /// One entry carries one fence: a move between two guards is a copy and a removal, each under its own.
    fn across_guards(&self, rename: &Rename, refused: FsError) -> FsError {
        let from = self.state.guard_of_entries(rename.parent);
        let to = self.state.guard_of_entries(rename.new_parent);
        match (from, to) {
            (Some(from), Some(to)) if from.lock != to.lock => FsError::CrossBoundary,
            _ => refused,
        }
    }

    fn check_replaceable(
        &self,
        parent: InodeNo,
        source: InodeNo,
        target: InodeNo,
    ) -> Result<(), FsError> {
        self.check_removal(parent, target)?;
        match (
            self.is_directory(source),
            self.state.tree().directory(target),
        ) {
            (true, Err(_)) => Err(FsError::NotDirectory),
            (false, Ok(_)) => Err(FsError::IsDirectory),
            (true, Ok(directory)) if !directory.entries.is_empty() => Err(FsError::NotEmpty),
            _ => Ok(()),
        }
    }

    fn exchange(
        &mut self,
        rename: &Rename,
        one: (&Name, InodeNo),
        other: (&Name, InodeNo),
    ) -> Outcome {
        if one.1 == other.1 {
            return Ok(Done::Unit);
        }
        self.commit_first(rename.content.as_ref())?;
        let touch = self.touch.clone();
        let tree = self.state.tree_mut();
        tree.exchange_names((rename.parent, one.0), (rename.new_parent, other.0), &touch)?;
        let links = tree.inode(other.1).map_or(0, |inode| inode.names.len());
        let left = u32::try_from(links).unwrap_or(u32::MAX);
        self.changes
            .push(self.renamed(rename, one.1, Some((other.1, left)), true));
        Ok(Done::Unit)
    }

    fn renamed(
        &self,
        rename: &Rename,
        inode: InodeNo,
        replaced: Option<(InodeNo, u32)>,
        exchange: bool,
    ) -> Change {
        Change::Renamed {
            parent: rename.parent,
            name: rename.name.clone(),
            new_parent: rename.new_parent,
            new_name: rename.new_name.clone(),
            inode,
            replaced,
            exchange,
        }
    }
}
