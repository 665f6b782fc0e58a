//! Extended attributes: the kept ones, and the virtual ones that show locks and revisions.

use std::ffi::OsStr;
use std::sync::Arc;

use super::caller::Caller;
use super::errno::FsResult;
use super::file_system::FileSystem;
use super::virtual_tree::Node;
use crate::state_machine::StateMachine;
use crate::state_machine::command::{Command, SetXattr, XattrMode};
use crate::state_machine::ids::InodeNo;
use crate::state_machine::inode::Inode;
use crate::state_machine::lock::Hold;
use crate::state_machine::outcome::FsError;

impl FileSystem {
    /// Value of an attribute.
    ///
    /// # Errors
    /// [`FsError::NoAttribute`], [`FsError::NotFound`].
    pub fn xattr(&self, node: u64, name: &OsStr) -> FsResult<Vec<u8>> {
        let state = self.state();
        let inode = self
            .inode_with_xattrs(&state, node)?
            .ok_or(FsError::NoAttribute)?;
        let name = name.to_str().ok_or(FsError::NoAttribute)?;
        let value = match name {
            "user.vfs.rev" => Some(inode.revision.to_string()),
            "user.vfs.ino" => Some(inode.number.to_string()),
            "user.lk.fence" | "user.lk.owner" | "user.lk.expires" => {
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
        let inode = self.inode_with_xattrs(&state, node)?;
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
        self.check_writable()?;
        let inode = self.tree_inode(node)?;
        let name = name.to_str().ok_or(FsError::Invalid)?.to_owned();
        let ground = self.ground_of_inode(inode)?;
        let command = Command::SetXattr(SetXattr {
            inode,
            name,
            value: value.to_vec(),
            mode,
        });
        self.commit(caller, ground, command).await.map(|_| ())
    }

    /// Removes an attribute.
    ///
    /// # Errors
    /// As [`FileSystem::set_xattr`].
    pub async fn remove_xattr(&self, caller: Caller, node: u64, name: &OsStr) -> FsResult<()> {
        self.check_writable()?;
        let inode = self.tree_inode(node)?;
        let name = name.to_str().ok_or(FsError::NoAttribute)?.to_owned();
        let ground = self.ground_of_inode(inode)?;
        self.commit(caller, ground, Command::RemoveXattr { inode, name })
            .await
            .map(|_| ())
    }

    fn inode_with_xattrs(&self, state: &StateMachine, node: u64) -> FsResult<Option<Arc<Inode>>> {
        match Node::of(node) {
            Node::Inode(number) => self.inode_in(state, number).map(Some),
            Node::NowDirectory(number) => Ok(state.tree().inode(number).cloned()),
            Node::NowVersion(number) => Ok(self.versions.inode(number)),
            Node::Vfs | Node::Status | Node::Members => Ok(None),
        }
    }
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
