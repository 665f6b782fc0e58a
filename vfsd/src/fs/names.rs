//! Changes of names and attributes: one entry each, answered when a majority has it and this node shows it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use super::attr::Attr;
use super::caller::Caller;
use super::errno::FsResult;
use super::file_system::{FileSystem, Ground};
use super::proposer::{Committed, Proposal};
use super::virtual_tree::VFS_NAME;
use crate::state_machine::command::{
    Command, Create, Link, Mkdir, NodeKind, Remove, Rename, RenameMode, SetAttr, Symlink, TimeSet,
};
use crate::state_machine::ids::InodeNo;
use crate::state_machine::inode::Kind;
use crate::state_machine::outcome::{Done, FsError};

impl FileSystem {
    /// Makes a file that is no directory and no symbolic link, without opening it.
    ///
    /// # Errors
    /// As `apply` decides, or as consensus reports.
    pub async fn make_node(
        &self,
        caller: Caller,
        parent: u64,
        name: &OsStr,
        kind: NodeKind,
        mode: u32,
    ) -> FsResult<Attr> {
        let parent = self.tree_directory(parent)?;
        let ground = self.ground_of_entries(parent)?;
        let command = Command::Create(Create {
            parent,
            name: name.as_bytes().to_vec(),
            kind,
            mode,
            uid: caller.uid,
            gid: caller.gid,
            exclusive: true,
            handle: None,
        });
        self.make(caller, ground, command).await
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// As [`FileSystem::make_node`].
    pub async fn make_directory(
        &self,
        caller: Caller,
        parent: u64,
        name: &OsStr,
        mode: u32,
    ) -> FsResult<Attr> {
        let parent = self.tree_directory(parent)?;
        let ground = self.ground_of_entries(parent)?;
        let (uid, gid) = (caller.uid, caller.gid);
        let command = Command::Mkdir(Mkdir {
            parent,
            name: name.as_bytes().to_vec(),
            mode,
            uid,
            gid,
        });
        self.make(caller, ground, command).await
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// As [`FileSystem::make_node`].
    pub async fn make_symlink(
        &self,
        caller: Caller,
        parent: u64,
        name: &OsStr,
        target: &[u8],
    ) -> FsResult<Attr> {
        let parent = self.tree_directory(parent)?;
        let ground = self.ground_of_entries(parent)?;
        let (uid, gid) = (caller.uid, caller.gid);
        let symlink = Symlink {
            parent,
            name: name.as_bytes().to_vec(),
            target: target.to_vec(),
            uid,
            gid,
        };
        self.make(caller, ground, Command::Symlink(symlink)).await
    }

    /// Gives a file another name; its uncommitted bytes travel along.
    ///
    /// # Errors
    /// As [`FileSystem::make_node`].
    pub async fn link(
        self: &Arc<Self>,
        caller: Caller,
        node: u64,
        parent: u64,
        name: &OsStr,
    ) -> FsResult<Attr> {
        let inode = self.tree_inode(node)?;
        let parent = self.tree_directory(parent)?;
        let ground = self.ground_of_entries(parent)?;
        let (content, carried) = self.take_for_entry(inode).await?;
        let command = Command::Link(Link {
            inode,
            parent,
            name: name.as_bytes().to_vec(),
            content,
        });
        let committed = self.commit(caller, ground, command).await?;
        if let Some(carried) = carried {
            carried.committed(committed.index);
        }
        self.made(committed)
    }

    /// Removes a name of a file.
    ///
    /// # Errors
    /// As [`FileSystem::make_node`].
    pub async fn unlink(&self, caller: Caller, parent: u64, name: &OsStr) -> FsResult<()> {
        let parent = self.tree_directory(parent)?;
        let ground = self.ground_of_entries(parent)?;
        let remove = Remove {
            parent,
            name: name.as_bytes().to_vec(),
        };
        self.commit(caller, ground, Command::Unlink(remove))
            .await
            .map(|_| ())
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// As [`FileSystem::make_node`].
    pub async fn remove_directory(
        &self,
        caller: Caller,
        parent: u64,
        name: &OsStr,
    ) -> FsResult<()> {
        let parent = self.tree_directory(parent)?;
        if parent == InodeNo::ROOT && name.as_bytes() == VFS_NAME {
            return Err(FsError::NotPermitted.into());
        }
        let ground = self.ground_of_entries(parent)?;
        let remove = Remove {
            parent,
            name: name.as_bytes().to_vec(),
        };
        self.commit(caller, ground, Command::Rmdir(remove))
            .await
            .map(|_| ())
    }

    /// Moves a name; the moved file's uncommitted bytes travel along.
    ///
    /// # Errors
    /// As [`FileSystem::make_node`].
    pub async fn rename(
        self: &Arc<Self>,
        caller: Caller,
        (parent, name): (u64, &OsStr),
        (new_parent, new_name): (u64, &OsStr),
        mode: RenameMode,
    ) -> FsResult<()> {
        let (parent, new_parent) = (
            self.tree_directory(parent)?,
            self.tree_directory(new_parent)?,
        );
        let (from, to) = (
            self.ground_of_entries(parent)?,
            self.ground_of_entries(new_parent)?,
        );
        let moved = self.state().tree().lookup(parent, name.as_bytes())?;
        let (content, carried) = self.take_for_entry(moved).await?;
        let (name, new_name) = (name.as_bytes().to_vec(), new_name.as_bytes().to_vec());
        let rename = Rename {
            parent,
            name,
            new_parent,
            new_name,
            mode,
            content,
        };
        let ground = if from.fence.is_some() { from } else { to };
        let committed = self.commit(caller, ground, Command::Rename(rename)).await?;
        if let Some(carried) = carried {
            carried.committed(committed.index);
        }
        Ok(())
    }

    /// Changes attributes; `size` is `truncate(2)` by path.
    ///
    /// # Errors
    /// As [`FileSystem::make_node`].
    pub async fn set_attr(&self, caller: Caller, node: u64, set: SetAttr) -> FsResult<Attr> {
        let inode = self.tree_inode(node)?;
        if self.state().tree().inode(inode).is_none() {
            return self.set_gone_attr(inode, &set);
        }
        let ground = self.ground_of_inode(inode)?;
        let open = self.handles.opened(inode);
        if let Some(open) = open.as_ref().filter(|_| set.mtime.is_some()) {
            // An explicit time wins over that of writes before it, even if their content commits later.
            open.state.lock().keep_time();
        }
        let size = set.size;
        let commit = self.commit(caller, ground, Command::SetAttr(SetAttr { inode, ..set }));
        match (open, size) {
            (Some(open), Some(size)) => {
                self.commit_path_truncation(&open, size, commit).await?;
            }
            _ => {
                commit.await?;
            }
        }
        self.attr(node)
    }

    /// A file that lost its last name is this node's alone.
    fn set_gone_attr(&self, number: InodeNo, set: &SetAttr) -> FsResult<Attr> {
        if let Some(open) = self.handles.opened(number) {
            self.keep_private(&open);
        }
        let now = super::file_io::wall_now();
        let time = |set: TimeSet| match set {
            TimeSet::Now => now,
            TimeSet::At(time) => time,
        };
        let changed = self.known.change_gone(number, |gone| {
            gone.mode = set.mode.unwrap_or(gone.mode);
            gone.uid = set.uid.unwrap_or(gone.uid);
            gone.gid = set.gid.unwrap_or(gone.gid);
            if let (Some(size), Kind::Regular(content)) = (set.size, &mut gone.kind) {
                content.truncate(size)?;
                gone.mtime = now;
            }
            gone.atime = set.atime.map_or(gone.atime, time);
            gone.mtime = set.mtime.map_or(gone.mtime, time);
            gone.ctime = now;
            Ok(Attr::of(gone))
        });
        changed.unwrap_or_else(|| Err(FsError::NotFound.into()))
    }

    async fn make(&self, caller: Caller, ground: Ground, command: Command) -> FsResult<Attr> {
        self.made(self.commit(caller, ground, command).await?)
    }

    fn made(&self, committed: Committed) -> FsResult<Attr> {
        match committed.outcome? {
            Done::Inode { inode, .. } => {
                self.known.add(inode);
                self.attr(inode.0).inspect_err(|_| {
                    self.forget(inode.0, 1);
                })
            }
            Done::Unit | Done::Session(_) | Done::Member(_) | Done::Appended { .. } => {
                Err(FsError::Invalid.into())
            }
        }
    }

    /// Proposes on behalf of a caller; a refusal by `apply` is a failure.
    pub(super) async fn commit(
        &self,
        caller: Caller,
        ground: Ground,
        command: Command,
    ) -> FsResult<Committed> {
        let proposal = Proposal {
            author: caller.author(),
            fence: ground.fence,
            command,
            bound_to: ground.bound_to,
        };
        let committed = self.proposer().propose(proposal).await?;
        committed.outcome?;
        Ok(committed)
    }
}
