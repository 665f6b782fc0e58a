//! Committing the bytes that a node gathered, as one step.

use super::Step;
use crate::state_machine::command::{ContentUpdate, Write};
use crate::state_machine::ids::InodeNo;
use crate::state_machine::inode::Kind;
use crate::state_machine::outcome::{Change, Done, FsError, Outcome};

const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o010;

impl Step<'_> {
    pub(super) fn write(&mut self, write: &Write) -> Outcome {
        let appended = matches!(write.update, ContentUpdate::Append { .. });
        let end = self.commit_content(write)?;
        Ok(if appended {
            Done::Appended { end }
        } else {
            Done::Unit
        })
    }

    pub(super) fn close_write(&mut self, inode: InodeNo) -> Outcome {
        if self.state.tree().inode(inode).is_none() {
            return Err(FsError::NotFound);
        }
        self.changes.push(Change::ClosedWrite { inode });
        Ok(Done::Unit)
    }

    /// Commits what a rename or link carries along, before the name changes.
    pub(super) fn commit_first(&mut self, content: Option<&Write>) -> Result<(), FsError> {
        content.map_or(Ok(()), |write| self.commit_content(write).map(|_| ()))
    }

    fn commit_content(&mut self, write: &Write) -> Result<u64, FsError> {
        let inode = self
            .state
            .tree()
            .inode(write.inode)
            .ok_or(FsError::NotFound)?;
        let old = match &inode.kind {
            Kind::Regular(old) => old.clone(),
            Kind::Directory(_) => return Err(FsError::IsDirectory),
            _ => return Err(FsError::Invalid),
        };
        if write
            .base
            .is_some_and(|base| base != inode.content_revision)
        {
            return Err(FsError::RevisionChanged);
        }
        self.check_inode(write.inode)?;
        let mut content = old.clone();
        content.apply(&write.update)?;
        let added_only = matches!(
            write.update,
            ContentUpdate::Append {
                truncate: false,
                ..
            }
        );
        let end = content.size();
        let (touch, unprivileged) = (self.touch.clone(), self.entry.author.uid != 0);
        self.state
            .tree_mut()
            .set_content(write.inode, content, added_only, &touch)?;
        self.state.tree_mut().change(write.inode, &touch, |inode| {
            inode.mtime = write.mtime.unwrap_or(inode.mtime);
            if unprivileged {
                inode.mode = without_privileges(inode.mode);
            }
        })?;
        self.changes.push(Change::Modified {
            inode: write.inode,
            closed: write.closes,
            by_path: false,
        });
        Ok(end)
    }
}

/// What a write by an ordinary user leaves of the mode (`open(2)`: set-user-ID and set-group-ID go).
fn without_privileges(mode: u32) -> u32 {
    let group = if mode & GROUP_EXECUTE != 0 { SETGID } else { 0 };
    mode & !(SETUID | group)
}
