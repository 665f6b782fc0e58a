//! Extended attributes: the kept ones, and the virtual ones that show locks and revisions.

use std::ffi::OsStr;

use super::caller::Caller;
use super::errno::FsResult;
use super::file_system::FileSystem;
use super::proposer::ProposeError;
use super::virtual_tree::{Node, VirtualNode};
use crate::clock;
use crate::limits::XATTRS_BYTES_MAX;
use crate::state_machine::StateMachine;
use crate::state_machine::command::{Command, SetXattr, XattrMode};
use crate::state_machine::fs_error::FsError;
use crate::state_machine::ids::{InodeNo, LogIndex};
use crate::state_machine::inode::Inode;
use crate::state_machine::lock::Hold;

/// Who made the content of a file.
const AUTHOR: &str = "user.vfs.author";
/// The newest revision of a directory and of anything beneath it.
const TREE_REVISION: &str = "user.vfs.tree_rev";
/// Of `/.vfs` alone: the last entry that is applied on this node.
const APPLIED: &str = "user.vfs.applied";

impl FileSystem {
    /// Value of an attribute.
    ///
    /// # Errors
    /// [`FsError::NoAttribute`], [`FsError::NotFound`].
    pub fn xattr(&self, node: u64, name: &OsStr) -> FsResult<Vec<u8>> {
        let state = self.state();
        if name == APPLIED && Node::of(node) == Node::Virtual(VirtualNode::ROOT) {
            return Ok(state.applied().to_string().into_bytes());
        }
        let inode = self.inode_of(&state, node)?.ok_or(FsError::NoAttribute)?;
        let name = known_name(name)?;
        let value = match name {
            "user.vfs.rev" => Some(inode.revision.to_string()),
            "user.vfs.ino" => Some(inode.number.to_string()),
            AUTHOR => content_author(&state, &inode),
            TREE_REVISION => tree_revision(&state, &inode).map(|newest| newest.to_string()),
            "user.lk.fence" | "user.lk.owner" | "user.lk.expires" => {
                self.check_own_lock(&state, inode.number)?;
                lock_attribute(&state, inode.number, name)
            }
            _ => {
                return inode
                    .xattrs
                    .get(name)
                    .map(|value| value.to_vec())
                    .ok_or(FsError::NoAttribute.into());
            }
        };
        value
            .map(String::into_bytes)
            .ok_or(FsError::NoAttribute.into())
    }

    /// Names of the kept attributes; the virtual ones are read by name only.
    ///
    /// # Errors
    /// [`FsError::NotFound`].
    pub fn xattr_names(&self, node: u64) -> FsResult<Vec<String>> {
        let state = self.state();
        let inode = self.inode_of(&state, node)?;
        Ok(inode
            .map(|inode| inode.xattrs.keys().cloned().collect())
            .unwrap_or_default())
    }

    /// Sets an attribute.
    ///
    /// # Errors
    /// As `apply` decides, or as consensus reports.
    pub async fn set_xattr(
        &self,
        caller: Caller,
        node: u64,
        name: &OsStr,
        value: &[u8],
        mode: XattrMode,
    ) -> FsResult<()> {
        let inode = self.tree_inode(node)?;
        let name = known_name(name)?.to_owned();
        if [AUTHOR, TREE_REVISION, APPLIED].contains(&name.as_str()) {
            return Err(FsError::NotPermitted.into());
        }
        if self.state().tree().inode(inode).is_none() {
            return self.set_private_xattr(inode, name, value, mode);
        }
        self.check_writable()?;
        let grant = self.grant_of_inode(inode)?;
        let command = Command::SetXattr(SetXattr {
            inode,
            name: name.clone(),
            value: value.to_vec(),
            mode,
        });
        match self.commit(caller, grant, command).await {
            Err(failure) if self.has_lost_its_name(inode, &failure) => {
                self.set_private_xattr(inode, name, value, mode)
            }
            committed => committed.map(drop),
        }
    }

    /// Removes an attribute.
    ///
    /// # Errors
    /// As [`FileSystem::set_xattr`].
    pub async fn remove_xattr(&self, caller: Caller, node: u64, name: &OsStr) -> FsResult<()> {
        let inode = self.tree_inode(node)?;
        let name = known_name(name)?.to_owned();
        if self.state().tree().inode(inode).is_none() {
            return self.remove_private_xattr(inode, &name);
        }
        self.check_writable()?;
        let grant = self.grant_of_inode(inode)?;
        let command = Command::RemoveXattr {
            inode,
            name: name.clone(),
        };
        match self.commit(caller, grant, command).await {
            Err(failure) if self.has_lost_its_name(inode, &failure) => {
                self.remove_private_xattr(inode, &name)
            }
            committed => committed.map(drop),
        }
    }

    fn remove_private_xattr(&self, inode: InodeNo, name: &str) -> FsResult<()> {
        let removed = self.known.change_gone(inode, |gone| {
            let removed = gone.xattrs.remove(name);
            if removed.is_some() {
                gone.ctime = clock::wall();
            }
            removed
        });
        let value = removed.ok_or(FsError::NotFound)?;
        value.map(drop).ok_or(FsError::NoAttribute.into())
    }

    /// An inode without a name is this node's alone: no entry changes it.
    fn set_private_xattr(
        &self,
        inode: InodeNo,
        name: String,
        value: &[u8],
        mode: XattrMode,
    ) -> FsResult<()> {
        let set = self.known.change_gone(inode, |gone| {
            match (mode, gone.xattrs.contains_key(&name)) {
                (XattrMode::Create, true) => return Err(FsError::AlreadyExists),
                (XattrMode::Replace, false) => return Err(FsError::NoAttribute),
                _ => {}
            }
            let others = gone.xattrs.iter().filter(|(other, _)| **other != name);
            let others: usize = others.map(|(name, value)| name.len() + value.len()).sum();
            if others + name.len() + value.len() > XATTRS_BYTES_MAX {
                return Err(FsError::AttributeTooLarge);
            }
            gone.xattrs.insert(name, value.into());
            gone.ctime = clock::wall();
            Ok(())
        });
        Ok(set.ok_or(FsError::NotFound)??)
    }

    /// A node whose own deadline has passed knows nothing any more of the locks that it held: they may be another's by
    /// now, and its replica may not have heard of it.
    fn check_own_lock(&self, state: &StateMachine, inode: InodeNo) -> FsResult<()> {
        let own = self.status().id;
        let lock = state.locks().of(inode);
        match lock.filter(|lock| lock.node == own && lock.ended_until.is_none()) {
            Some(lock) if self.proposer().session() != Some(lock.session) => {
                Err(ProposeError::SessionExpired.into())
            }
            _ => Ok(()),
        }
    }
}

/// Of a directory only. One that is removed has nothing beneath it any more.
fn tree_revision(state: &StateMachine, inode: &Inode) -> Option<LogIndex> {
    let newest = state.tree().tree_revision(inode.number);
    newest.or(inode.is_directory().then_some(inode.revision))
}

/// A name in one of the namespaces that are kept (xattr(7)).
fn known_name(name: &OsStr) -> FsResult<&str> {
    let name = name.to_str().ok_or(FsError::Invalid)?;
    let spaces = ["user.", "trusted.", "security."];
    match spaces.iter().find_map(|space| name.strip_prefix(space)) {
        None => Err(FsError::NotSupported.into()),
        Some("") => Err(FsError::Invalid.into()),
        Some(_) => Ok(name),
    }
}

/// `user.vfs.author` of a file: node, user, program and time of its content, as one JSON object.
fn content_author(state: &StateMachine, inode: &Inode) -> Option<String> {
    #[derive(serde::Serialize)]
    struct Document<'a> {
        node: String,
        uid: u32,
        comm: &'a str,
        time: String,
    }
    let written = inode.content_author()?;
    let author = &written.author;
    let member = state.member(author.node);
    let document = Document {
        node: member.map_or_else(|| author.node.to_string(), |member| member.name.clone()),
        uid: author.uid,
        comm: &author.comm,
        time: clock::rfc3339(written.time),
    };
    serde_json::to_string(&document).ok()
}

/// `user.lk.*` of a lock: its fence while it is held, its owner (`none` once it ended), what it lives by.
fn lock_attribute(state: &StateMachine, inode: InodeNo, name: &str) -> Option<String> {
    let lock = state.locks().of(inode)?;
    let held = lock.ended_until.is_none();
    match name {
        "user.lk.fence" => held.then(|| lock.fence.to_string()),
        "user.lk.owner" if !held => Some("none".into()),
        "user.lk.owner" => {
            let name = state.member(lock.node).map(|member| member.name.clone());
            Some(name.unwrap_or_else(|| lock.node.to_string()))
        }
        _ => match lock.hold {
            Hold::Session => Some("session".into()),
            Hold::Handle(_) => Some("handle".into()),
        },
    }
}
