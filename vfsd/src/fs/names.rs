//! Changes of names and attributes: one entry each, answered when a majority has it and this node shows it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use super::FileSystem;
use super::attr::Attr;
use super::call_grant::CallGrant;
use super::caller::Caller;
use super::errno::{Failure, FsResult};
use super::found_names::FoundName;
use super::proposer::{Committed, Proposal};
use super::virtual_tree::VFS_NAME;
use crate::clock;
use crate::limits::NAME_TRIES_MAX;
use crate::state_machine::command::{
    Checked, Command, Create, Found, Link, Mkdir, NameChange, NodeKind, Remove, Rename, RenameMode,
    SetAttr, Symlink, TimeSet,
};
use crate::state_machine::fs_error::FsError;
use crate::state_machine::ids::InodeNo;
use crate::state_machine::inode::Kind;
use crate::state_machine::level::Level;
use crate::state_machine::outcome::Done;

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
        let grant = self.grant_of_entries(parent)?;
        let command = Command::Create(Create {
            parent,
            name: name.as_bytes().to_vec(),
            kind,
            mode,
            uid: caller.uid,
            gid: caller.gid,
            // Exclusive, a regular file under `/lk` would be a lock; mknod(2) takes none.
            exclusive: kind != NodeKind::Regular,
            handle: None,
        });
        let made = self.commit(caller, grant, command).await;
        let is_taken = match &made {
            Err(Failure::Refused(FsError::IsDirectory)) => true,
            Ok(made) => matches!(made.outcome, Ok(Done::Inode { created: false, .. })),
            Err(_) => false,
        };
        if is_taken {
            return Err(FsError::AlreadyExists.into());
        }
        self.made(made?)
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
        let grant = self.grant_of_entries(parent)?;
        let (uid, gid) = (caller.uid, caller.gid);
        let command = Command::Mkdir(Mkdir {
            parent,
            name: name.as_bytes().to_vec(),
            mode,
            uid,
            gid,
        });
        self.make(caller, grant, command).await
    }

    /// The directory that has this name in the applied state, if it is one.
    pub fn directory_named(&self, parent: u64, name: &OsStr) -> Option<u64> {
        let state = self.state();
        let number = state.tree().lookup(InodeNo(parent), name.as_bytes()).ok()?;
        let inode = state.tree().inode(number)?;
        inode.is_directory().then_some(number.0)
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
        let grant = self.grant_of_entries(parent)?;
        let (uid, gid) = (caller.uid, caller.gid);
        let symlink = Symlink {
            parent,
            name: name.as_bytes().to_vec(),
            target: target.to_vec(),
            uid,
            gid,
        };
        self.make(caller, grant, Command::Symlink(symlink)).await
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
        let grant = self.grant_of_entries(parent)?;
        let (content, carried) = self.take_for_entry(inode).await?;
        let command = Command::Link(Link {
            inode,
            parent,
            name: name.as_bytes().to_vec(),
            content,
        });
        let committed = self.commit(caller, grant, command).await?;
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
        let grant = self.grant_of_entries(parent)?;
        let found = self.found_to_take(caller, parent, name);
        let remove = Remove {
            parent,
            name: name.as_bytes().to_vec(),
        };
        let change = NameChange::Unlink(remove);
        self.commit_names(caller, grant, change, [None, found])
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
        let grant = self.grant_of_entries(parent)?;
        let found = self.found_to_take(caller, parent, name);
        let remove = Remove {
            parent,
            name: name.as_bytes().to_vec(),
        };
        let change = NameChange::Rmdir(remove);
        self.commit_names(caller, grant, change, [None, found])
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
            self.grant_of_entries(parent)?,
            self.grant_of_entries(new_parent)?,
        );
        let found = self.found_to_move(caller, (parent, name), new_parent);
        let found_new = match mode {
            RenameMode::Exchange => self.found_to_move(caller, (new_parent, new_name), parent),
            _ => self.found_to_take(caller, new_parent, new_name),
        };
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
        let grant = if from.fence.is_some() { from } else { to };
        let change = NameChange::Rename(rename);
        let found = [found, found_new];
        let committed = self.commit_names(caller, grant, change, found).await?;
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
        let grant = self.grant_of_inode(inode)?;
        let open = self.handles.opened(inode);
        if let Some(open) = open.as_ref().filter(|_| set.mtime.is_some()) {
            // An explicit time wins over that of writes before it, even if their content commits later.
            open.state.lock().keep_time();
        }
        let size = set.size;
        let command = Command::SetAttr(SetAttr {
            inode,
            ..set.clone()
        });
        let commit = self.commit(caller, grant, command);
        let committed = match (open, size) {
            (Some(open), Some(size)) => self.commit_path_truncation(&open, size, commit).await,
            _ => commit.await,
        };
        match committed {
            Err(failure) if self.has_lost_its_name(inode, &failure) => {
                self.set_gone_attr(inode, &set)
            }
            committed => committed.and_then(|_| self.attr(node)),
        }
    }

    /// A file that lost its last name is this node's alone.
    fn set_gone_attr(&self, number: InodeNo, set: &SetAttr) -> FsResult<Attr> {
        if let Some(open) = self.handles.opened(number) {
            self.keep_private(&open);
        }
        let now = clock::wall();
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

    async fn make(&self, caller: Caller, grant: CallGrant, command: Command) -> FsResult<Attr> {
        self.made(self.commit(caller, grant, command).await?)
    }

    fn made(&self, committed: Committed) -> FsResult<Attr> {
        match committed.outcome? {
            Done::Inode { inode, .. } => {
                self.known.add(inode);
                self.attr(inode.0)
                    .map_err(|failure| self.not_made(inode, failure))
            }
            Done::Unit | Done::Session(_) | Done::Member(_) | Done::Appended { .. } => {
                Err(FsError::Invalid.into())
            }
        }
    }

    /// The failure of a call that made `inode`, counted it for the kernel and cannot give it. Where another node has
    /// removed it since, the kernel looks the name up again and makes it once more.
    pub(super) fn not_made(&self, inode: InodeNo, failure: Failure) -> Failure {
        self.forget(inode.0, 1);
        match failure {
            Failure::Refused(FsError::NotFound) => Failure::Stale,
            failure => failure,
        }
    }

    /// What the caller's kernel has found under a name that is to go, if it matters.
    fn found_to_take(&self, caller: Caller, parent: InodeNo, name: &OsStr) -> Option<FoundName> {
        let found = self.found_by(caller, parent, name)?;
        self.is_sticky(parent).then_some(found)
    }

    /// The same of one that is to move: a directory that changes its own must be writable, too.
    fn found_to_move(
        &self,
        caller: Caller,
        (parent, name): (InodeNo, &OsStr),
        new_parent: InodeNo,
    ) -> Option<FoundName> {
        let found = self.found_by(caller, parent, name)?;
        let is_asked_itself = found.is_directory() && parent != new_parent;
        (is_asked_itself || self.is_sticky(parent)).then_some(found)
    }

    /// Nothing depends on it for the superuser, and nobody knows the thread of a caller from beyond this pid namespace.
    fn found_by(&self, caller: Caller, parent: InodeNo, name: &OsStr) -> Option<FoundName> {
        let matters = caller.uid != 0 && caller.tid != 0;
        let found = self.found.of(caller.tid, parent, name.as_bytes());
        found.filter(|_| matters && self.state().level() >= Level::NAMES_AS_CHECKED)
    }

    /// Takes a name away or moves it. What was found under a name that moves, and under one that goes, is what the
    /// caller's kernel has checked: another file is refused, and the kernel looks again. It does so once, so a file
    /// that it would have answered the same for is taken as well.
    async fn commit_names(
        &self,
        caller: Caller,
        grant: CallGrant,
        change: NameChange,
        [moves, mut goes]: [Option<FoundName>; 2],
    ) -> FsResult<Committed> {
        if moves.is_none() && goes.is_none() {
            return self.commit(caller, grant, change.into()).await;
        }
        let as_found =
            |found: Option<FoundName>| found.map(FoundName::as_found).unwrap_or_default();
        for _ in 0..NAME_TRIES_MAX {
            let (found, found_new) = match change {
                NameChange::Rename(_) => (as_found(moves), as_found(goes)),
                _ => (as_found(goes), Found::Unknown),
            };
            let checked = Checked {
                change: change.clone(),
                found,
                found_new,
            };
            match self.commit(caller, grant, Command::Checked(checked)).await {
                Err(Failure::Refused(FsError::NameMoved)) => {
                    let now = self.found_now(&change);
                    let is_new = |before: &FoundName| before.as_found() != now.as_found();
                    goes = goes.filter(|before| is_new(before) && before.is_as_good_as(now));
                    if goes.replace(now).is_none() {
                        break;
                    }
                }
                outcome => return outcome,
            }
        }
        self.found.forget(caller.tid);
        Err(Failure::Stale)
    }

    /// What stands under the name that goes.
    fn found_now(&self, change: &NameChange) -> FoundName {
        let (parent, name) = match change {
            NameChange::Unlink(remove) | NameChange::Rmdir(remove) => (remove.parent, &remove.name),
            NameChange::Rename(rename) => (rename.new_parent, &rename.new_name),
        };
        let state = self.state();
        let inode = state.tree().lookup(parent, name).ok();
        let inode = inode.and_then(|inode| state.tree().inode(inode));
        FoundName::of(inode.map(|inode| Attr::of(inode)).as_ref())
    }

    /// Proposes on behalf of a caller; a refusal by `apply` is a failure.
    pub(super) async fn commit(
        &self,
        caller: Caller,
        grant: CallGrant,
        command: Command,
    ) -> FsResult<Committed> {
        let proposal = Proposal {
            author: caller.author(),
            fence: grant.fence,
            command,
            bound_to: grant.bound_to,
        };
        let committed = self.proposer().propose(proposal).await?;
        committed.outcome?;
        Ok(committed)
    }
}
