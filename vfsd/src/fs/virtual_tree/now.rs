//! `/.vfs/now`: the committed view of the tree.
//!
//! Directories are live and have one number each, that of their inode. A file has a number for each of its revisions,
//! which lives until the kernel forgets it and its last handle closes: an attribute request carries no handle that
//! could tell versions apart.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Facts, OpenVirtual, Part};
use crate::fs::attr::Attr;
use crate::fs::errno::{Failure, FsResult};
use crate::fs::listing::Listing;
use crate::state_machine::content::Content;
use crate::state_machine::fs_error::FsError;
use crate::state_machine::ids::{InodeNo, LogIndex};
use crate::state_machine::inode::Inode;

/// Tells versions from directories.
const VERSION: u64 = 1 << 53;

/// See the module.
#[derive(Default)]
pub struct Now {
    versions: Arc<Versions>,
}

/// The versions that the kernel or a handle knows.
#[derive(Debug, Default)]
struct Versions {
    // Leaf lock.
    table: Mutex<VersionTable>,
}

#[derive(Debug, Default)]
struct VersionTable {
    last: u64,
    by_version: HashMap<(InodeNo, LogIndex), u64>,
    by_number: HashMap<u64, Version>,
}

#[derive(Debug)]
struct Version {
    inode: Arc<Inode>,
    /// The kernel knows it.
    is_known: bool,
    handles: u64,
}

impl Part for Now {
    fn name(&self) -> &'static str {
        "now"
    }

    fn attr(&self, facts: &dyn Facts, node: u64) -> FsResult<Attr> {
        Ok(Attr::of(&*self.view(facts, node)?))
    }

    fn inode(&self, facts: &dyn Facts, node: u64) -> FsResult<Option<Arc<Inode>>> {
        self.view(facts, node).map(Some)
    }

    fn lookup(&self, facts: &dyn Facts, directory: u64, name: &[u8]) -> FsResult<u64> {
        let directory = directory_of(directory).ok_or(FsError::NotDirectory)?;
        let state = facts.state();
        let found = state.tree().lookup(directory, name)?;
        let found = state.tree().inode(found).ok_or(FsError::NotFound)?;
        if found.is_directory() {
            return Ok(found.number.0);
        }
        Ok(self.versions.looked_up(found))
    }

    fn list(&self, facts: &dyn Facts, directory: u64) -> FsResult<(Listing, Option<u64>)> {
        let number = directory_of(directory).ok_or(FsError::NotDirectory)?;
        let state = facts.state();
        let inode = state.tree().inode(number).ok_or(FsError::NotFound)?;
        let above = match (number, inode.parent()) {
            (InodeNo::ROOT, _) => None,
            (_, None | Some(InodeNo::ROOT)) => Some(0),
            (_, Some(parent)) => Some(parent.0),
        };
        Ok((Listing::of(inode)?, above))
    }

    fn open(&self, _facts: &dyn Facts, node: u64) -> FsResult<Arc<dyn OpenVirtual>> {
        if directory_of(node).is_some() {
            return Err(FsError::IsDirectory.into());
        }
        let inode = self.versions.opened(node).ok_or(FsError::NotFound)?;
        Ok(Arc::new(OpenVersion {
            versions: Arc::clone(&self.versions),
            number: node,
            inode,
        }))
    }

    fn forgotten(&self, node: u64) {
        self.versions
            .drop_reference(node, |version| version.is_known = false);
    }
}

impl Now {
    fn view(&self, facts: &dyn Facts, node: u64) -> FsResult<Arc<Inode>> {
        let found = match directory_of(node) {
            Some(directory) => facts.state().tree().inode(directory).cloned(),
            None => self.versions.inode(node),
        };
        found.ok_or(FsError::NotFound.into())
    }
}

/// The directory that a node stands for, if it is none of a version.
fn directory_of(node: u64) -> Option<InodeNo> {
    match node {
        0 => Some(InodeNo::ROOT),
        _ if node & VERSION == 0 => Some(InodeNo(node)),
        _ => None,
    }
}

/// An open version. It stays what it is, whatever is committed.
#[derive(Debug)]
struct OpenVersion {
    versions: Arc<Versions>,
    number: u64,
    inode: Arc<Inode>,
}

impl OpenVersion {
    fn content(&self) -> FsResult<&Content> {
        self.inode.content().ok_or(FsError::Invalid.into())
    }
}

impl OpenVirtual for OpenVersion {
    fn read(&self, offset: u64, len: usize) -> FsResult<Vec<u8>> {
        Ok(self.content()?.read(offset, len))
    }

    fn seek(&self, offset: u64, data: bool) -> FsResult<u64> {
        let content = self.content()?;
        let found = if data {
            content.next_data(offset)
        } else {
            content.next_hole(offset)
        };
        found.ok_or(Failure::NoSuchOffset)
    }
}

impl Drop for OpenVersion {
    fn drop(&mut self) {
        self.versions
            .drop_reference(self.number, |version| version.handles -= 1);
    }
}

impl Versions {
    /// The number of this version, which the kernel knows from now on.
    fn looked_up(&self, inode: &Arc<Inode>) -> u64 {
        let mut table = self.table.lock();
        let key = (inode.number, inode.revision);
        if let Some(number) = table.by_version.get(&key).copied() {
            if let Some(version) = table.by_number.get_mut(&number) {
                version.is_known = true;
            }
            return number;
        }
        table.last += 1;
        let number = VERSION | table.last;
        table.by_version.insert(key, number);
        let version = Version {
            inode: inode.clone(),
            is_known: true,
            handles: 0,
        };
        table.by_number.insert(number, version);
        number
    }

    fn inode(&self, number: u64) -> Option<Arc<Inode>> {
        let table = self.table.lock();
        let version = table.by_number.get(&number);
        version.map(|version| version.inode.clone())
    }

    /// A handle of this version is opened.
    fn opened(&self, number: u64) -> Option<Arc<Inode>> {
        let mut table = self.table.lock();
        let version = table.by_number.get_mut(&number)?;
        version.handles += 1;
        Some(version.inode.clone())
    }

    fn drop_reference(&self, number: u64, drop: impl FnOnce(&mut Version)) {
        let mut table = self.table.lock();
        let Some(version) = table.by_number.get_mut(&number) else {
            return;
        };
        drop(version);
        if !version.is_known && version.handles == 0 {
            let key = (version.inode.number, version.inode.revision);
            table.by_number.remove(&number);
            table.by_version.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state_machine::StateMachine;

    #[test]
    fn a_version_lives_until_it_is_forgotten_and_closed() {
        let (now, state) = (Now::default(), StateMachine::new());
        let inode = state.tree().inode(InodeNo(2)).unwrap();
        let versions = &now.versions;
        let number = versions.looked_up(inode);
        assert_eq!(versions.looked_up(inode), number);
        let open = OpenVersion {
            versions: Arc::clone(versions),
            number,
            inode: versions.opened(number).unwrap(),
        };
        now.forgotten(number);
        assert!(versions.inode(number).is_some());
        drop(open);
        assert!(versions.inode(number).is_none());
        assert_ne!(
            versions.looked_up(inode),
            number,
            "numbers are not used again"
        );
    }
}
