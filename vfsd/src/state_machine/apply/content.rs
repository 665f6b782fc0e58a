//! Committing the bytes that a node gathered, as one step.

use super::Step;
use crate::state_machine::command::{ContentUpdate, Write};
use crate::state_machine::fs_error::FsError;
use crate::state_machine::ids::InodeNo;
use crate::state_machine::inode::{self, Kind};
use crate::state_machine::level::Level;
use crate::state_machine::outcome::{Change, Done, Outcome};

/// The attribute that holds a file's capabilities (capabilities(7)).
const CAPABILITY: &str = "security.capability";

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
        if self.follows(Level::GRANTS_FOR_ALL) {
            self.check_grant(inode)?;
        }
        self.changes.push(Change::ClosedWrite { inode });
        Ok(Done::Unit)
    }

    /// Commits what a rename or link carries along, before the name changes.
    pub(super) fn commit_first(&mut self, content: Option<&Write>) -> Result<(), FsError> {
        content.map_or(Ok(()), |write| self.commit_content(write).map(|_| ()))
    }

    /// The rights that a file gives to whoever runs it do not outlive a change of its content by an ordinary user
    /// (write(2), capabilities(7)).
    pub(super) fn take_privileges(&mut self, inode: InodeNo) -> Result<(), FsError> {
        if self.entry.author.uid == 0 {
            return Ok(());
        }
        let and_capabilities = self.follows(Level::CAPABILITIES_GO);
        self.state.tree_mut().edit(inode, |inode| {
            inode.mode = inode::without_privileges(inode.mode);
            if and_capabilities {
                inode.xattrs.remove(CAPABILITY);
            }
        })
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
        let (touch, ctime) = (self.touch.clone(), inode.ctime);
        self.state
            .tree_mut()
            .set_content(write.inode, content, added_only, &touch)?;
        let by_last_write = self.follows(Level::TIMES_OF_WRITES);
        let tree = self.state.tree_mut();
        tree.change(write.inode, &touch, |inode| {
            inode.mtime = write.mtime.unwrap_or(inode.mtime);
        })?;
        if by_last_write {
            // The change was made when it was written, not when it is committed: watchers of ctime see it once.
            tree.set_ctime(
                write.inode,
                write.mtime.map_or(ctime, |time| ctime.max(time)),
            )?;
        }
        self.take_privileges(write.inode)?;
        self.changes.push(Change::Modified {
            inode: write.inode,
            closed: write.closes,
            by_path: false,
        });
        Ok(end)
    }
}
