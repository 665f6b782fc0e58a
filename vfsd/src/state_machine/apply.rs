//! One match over the commands; each family has a file below `apply/`.
//!
//! Invariant: a family either has its whole effect or none; [`StateMachine::apply`] restores the state as it was
//! before a refused entry (clones of persistent maps are cheap).

mod attributes;
mod checked;
mod content;
mod create;
mod members;
mod remove;
mod rename;
mod rules;
mod sessions;

use std::sync::Arc;

use super::StateMachine;
use super::command::{Command, Entry};
use super::fs_error::FsError;
use super::ids::{LogIndex, SessionId};
use super::level::Level;
use super::namespace::Touch;
use super::outcome::{Change, Outcome};
use crate::limits::TREE_DETAIL_BYTES_MAX;

pub use rules::Guard;

/// An entry while it is applied.
struct Step<'a> {
    state: &'a mut StateMachine,
    entry: &'a Entry,
    index: LogIndex,
    touch: Touch,
    changes: Vec<Change>,
}

/// Applies a command that was admitted; on a refusal the caller restores the state.
pub(super) fn run(
    state: &mut StateMachine,
    index: LogIndex,
    entry: &Entry,
) -> (Outcome, Vec<Change>) {
    let before = state.tree().detail_bytes();
    let mut step = Step::new(state, index, entry);
    let outcome = step.dispatch().and_then(|done| {
        step.check_details(before)?;
        Ok(done)
    });
    (outcome, step.changes)
}

/// Takes back what proposals did whose callers were told of a failure: only lock grants need it.
pub(super) fn release_grants(
    state: &mut StateMachine,
    index: LogIndex,
    entry: &Entry,
    granted: &[LogIndex],
) -> Vec<Change> {
    let mut step = Step::new(state, index, entry);
    step.release_grants_of(granted);
    step.changes
}

impl<'a> Step<'a> {
    fn new(state: &'a mut StateMachine, index: LogIndex, entry: &'a Entry) -> Self {
        let touch = Touch {
            revision: index,
            wall: entry.stamp.wall,
            author: Arc::new(entry.author.clone()),
            keeps_writers: state.level >= Level::AUTHORS_OF_CONTENT,
        };
        Self {
            state,
            entry,
            index,
            touch,
            changes: Vec::new(),
        }
    }
}

impl Step<'_> {
    fn dispatch(&mut self) -> Outcome {
        match &self.entry.command {
            Command::Nothing => Ok(super::outcome::Done::Unit),
            Command::Create(create) => self.create(create),
            Command::Mkdir(mkdir) => self.mkdir(mkdir),
            Command::Symlink(symlink) => self.symlink(symlink),
            Command::Link(link) => self.link(link),
            Command::Unlink(remove) => self.unlink(remove),
            Command::Rmdir(remove) => self.rmdir(remove),
            Command::Rename(rename) => self.rename(rename),
            Command::SetAttr(set) => self.set_attr(set),
            Command::SetXattr(set) => self.set_xattr(set),
            Command::RemoveXattr { inode, name } => self.remove_xattr(*inode, name),
            Command::Write(write) => self.write(write),
            Command::CloseWrite { inode } => self.close_write(*inode),
            Command::SessionOpen { node } => self.session_open(*node),
            Command::SessionEnd { session, .. } => self.session_end(*session),
            Command::HandleClosed { session, handle } => self.handle_closed(*session, *handle),
            Command::LockDelayEnd { inode, fence } => self.lock_delay_end(*inode, *fence),
            Command::LockBreak { inode } => self.lock_break(*inode),
            Command::MemberPut(member) => self.member_put(member),
            Command::MemberRemove { node } => self.member_remove(*node),
            Command::TokenCreate(token) => self.token_create(token),
            Command::TokenUse {
                digest,
                name,
                address,
                age_public,
            } => self.token_use(digest, name, address, age_public),
            Command::ClusterInit { cluster, first } => self.cluster_init(cluster, first),
            Command::RaiseLevel(level) => self.raise_level(*level),
            Command::Admit { token, newcomer } => self.admit(token, newcomer),
            Command::Authority(step) => self.authority_step(step),
            Command::Readmit { node, newcomer } => self.readmit(*node, newcomer),
            Command::Checked(checked) => self.checked(checked),
        }
    }

    /// What describes the tree has a maximum of its own: whatever makes none of it more is always possible.
    fn check_details(&self, before: u64) -> Result<(), FsError> {
        let now = self.state.tree().detail_bytes();
        let is_full = self.follows(Level::DETAILS_ARE_BOUNDED) && now > TREE_DETAIL_BYTES_MAX;
        if is_full && now > before {
            return Err(FsError::NoSpace);
        }
        Ok(())
    }

    /// Whether the cluster's entries are applied by the rules of `level`.
    fn follows(&self, level: Level) -> bool {
        self.state.level >= level
    }

    fn session(&self) -> Option<SessionId> {
        self.entry.origin.as_ref().map(|origin| origin.session)
    }
}

#[cfg(test)]
mod apply_test;
#[cfg(test)]
mod random_test;
