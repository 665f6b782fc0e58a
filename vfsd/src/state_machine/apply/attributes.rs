//! Attributes and extended attributes, and what the `user.lk.*` and `user.vfs.*` ones may say.

use super::Step;
use super::rules::delay_ms;
use crate::limits::{XATTR_VALUE_BYTES_MAX, XATTRS_BYTES_MAX};
use crate::state_machine::command::{ContentOp, SetAttr, SetXattr, TimeSet, XattrMode};
use crate::state_machine::fs_error::FsError;
use crate::state_machine::ids::InodeNo;
use crate::state_machine::inode::{Inode, Kind};
use crate::state_machine::level::Level;
use crate::state_machine::log_time::WallTime;
use crate::state_machine::outcome::{Change, Done, Outcome};

/// The attribute that guards a directory.
const GUARD: &str = "user.lk.guard";

impl Step<'_> {
    pub(super) fn set_attr(&mut self, set: &SetAttr) -> Outcome {
        self.check_inode(set.inode)?;
        if let Some(size) = set.size {
            self.truncate_by_path(set.inode, size)?;
        }
        let (now, touch) = (self.touch.wall, self.touch.clone());
        let time = |set: TimeSet| match set {
            TimeSet::Now => now,
            TimeSet::At(time) => time,
        };
        self.state.tree_mut().change(set.inode, &touch, |inode| {
            inode.mode = set.mode.map_or(inode.mode, |mode| mode & 0o7777);
            inode.uid = set.uid.unwrap_or(inode.uid);
            inode.gid = set.gid.unwrap_or(inode.gid);
            inode.atime = set.atime.map_or(inode.atime, time);
            inode.mtime = set.mtime.map_or(inode.mtime, time);
        })?;
        self.changes.extend(seen_change(set));
        Ok(Done::Unit)
    }

    pub(super) fn set_xattr(&mut self, set: &SetXattr) -> Outcome {
        self.check_xattr_change(set.inode, &set.name)?;
        let inode = self
            .state
            .tree()
            .inode(set.inode)
            .ok_or(FsError::NotFound)?;
        check_value(inode, &set.name, &set.value)?;
        match (set.mode, inode.xattrs.contains_key(&set.name)) {
            (XattrMode::Create, true) => return Err(FsError::AlreadyExists),
            (XattrMode::Replace, false) => return Err(FsError::NoAttribute),
            _ => {}
        }
        let others: usize = inode
            .xattrs
            .iter()
            .filter(|(name, _)| **name != set.name)
            .map(|(name, value)| name.len() + value.len())
            .sum();
        if set.value.len() > XATTR_VALUE_BYTES_MAX
            || others + set.name.len() + set.value.len() > XATTRS_BYTES_MAX
        {
            return Err(FsError::AttributeTooLarge);
        }
        self.change_xattr(set.inode, |inode| {
            inode
                .xattrs
                .insert(set.name.clone(), set.value.as_slice().into());
        })?;
        if set.name == GUARD {
            // Whoever guards a directory must hold the lock: otherwise nobody could ever change it again.
            let guard = self
                .state
                .guard_of_entries(set.inode)
                .ok_or(FsError::Invalid)?;
            if !self.holds_guard(&guard) {
                return Err(FsError::FenceRevoked);
            }
        }
        Ok(Done::Unit)
    }

    pub(super) fn remove_xattr(&mut self, number: InodeNo, name: &str) -> Outcome {
        self.check_xattr_change(number, name)?;
        if !self
            .state
            .tree()
            .inode(number)
            .ok_or(FsError::NotFound)?
            .xattrs
            .contains_key(name)
        {
            return Err(FsError::NoAttribute);
        }
        self.change_xattr(number, |inode| {
            inode.xattrs.remove(name);
        })?;
        Ok(Done::Unit)
    }

    fn check_xattr_change(&self, inode: InodeNo, name: &str) -> Result<(), FsError> {
        self.check_inode(inode)?;
        let own = self
            .state
            .guard_of_entries(inode)
            .filter(|guard| guard.directory == inode && name == GUARD);
        match own {
            Some(guard) if !self.holds_guard(&guard) => Err(FsError::FenceRevoked),
            _ => Ok(()),
        }
    }

    fn change_xattr(
        &mut self,
        number: InodeNo,
        edit: impl FnOnce(&mut Inode),
    ) -> Result<(), FsError> {
        let touch = self.touch.clone();
        self.state.tree_mut().change(number, &touch, edit)?;
        self.changes.push(Change::Attributes { inode: number });
        Ok(())
    }

    fn truncate_by_path(&mut self, number: InodeNo, size: u64) -> Result<(), FsError> {
        let inode = self.state.tree().inode(number).ok_or(FsError::NotFound)?;
        let mut content = match &inode.kind {
            Kind::Regular(content) => content.clone(),
            Kind::Directory(_) => return Err(FsError::IsDirectory),
            _ => return Err(FsError::Invalid),
        };
        let grows = size >= content.size();
        content.apply_op(&ContentOp::Truncate(size))?;
        let (touch, wall): (_, WallTime) = (self.touch.clone(), self.touch.wall);
        self.state
            .tree_mut()
            .set_content(number, content, grows, &touch)?;
        self.state
            .tree_mut()
            .change(number, &touch, |inode| inode.mtime = wall)?;
        if self.follows(Level::CAPABILITIES_GO) {
            self.take_privileges(number)?;
        }
        self.changes.push(Change::Modified {
            inode: number,
            closed: false,
            by_path: true,
        });
        Ok(())
    }
}

/// What watchers see of it, besides the size: the kernel tells a lone modification time from the rest, and a lone
/// access time is no change to anybody else.
fn seen_change(set: &SetAttr) -> Option<Change> {
    let inode = set.inode;
    let owner_or_mode = set.mode.is_some() || set.uid.is_some() || set.gid.is_some();
    match (owner_or_mode, set.atime.is_some(), set.mtime.is_some()) {
        (true, _, _) | (false, true, true) => Some(Change::Attributes { inode }),
        (false, false, true) if set.size.is_none() => Some(Change::Modified {
            inode,
            closed: false,
            by_path: true,
        }),
        _ => None,
    }
}

/// What an attribute's name and value may be. The virtual ones are never set.
fn check_value(inode: &Inode, name: &str, value: &[u8]) -> Result<(), FsError> {
    let text = std::str::from_utf8(value).map(str::trim_end).ok();
    let directory = inode.is_directory();
    let allowed = match name {
        "user.lk.fence" | "user.lk.owner" | "user.lk.expires" | "user.vfs.rev" | "user.vfs.ino" => {
            return Err(FsError::NotPermitted);
        }
        // Time limits of single locks are not in this version.
        "user.lk.ttl" => return Err(FsError::NotSupported),
        "user.lk.mkdir" => directory && matches!(text, Some("on" | "off")),
        "user.lk.hold" => directory && matches!(text, Some("session" | "handle")),
        "user.lk.delay" => directory && text.and_then(delay_ms).is_some(),
        GUARD => directory && text.is_some_and(is_lock_path),
        "user.vfs.history" => matches!(text, Some("on" | "off" | "never")),
        _ if name.starts_with("user.lk.") || name.starts_with("user.vfs.") => false,
        _ => {
            let kept = ["user.", "trusted.", "security."]
                .iter()
                .any(|space| name.starts_with(space));
            return if kept {
                Ok(())
            } else {
                Err(FsError::NotSupported)
            };
        }
    };
    if allowed {
        Ok(())
    } else {
        Err(FsError::Invalid)
    }
}

fn is_lock_path(path: &str) -> bool {
    path.strip_prefix("lk/").is_some_and(|rest| {
        !rest.is_empty()
            && rest
                .split('/')
                .all(|part| !part.is_empty() && part != "." && part != "..")
    })
}
