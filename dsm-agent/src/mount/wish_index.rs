//! Which deployments there are: wish files under `/mid` and `/ctx`, and records under `/run`.
//!
//! Invariants: built by one walk, never updated; names and inodes only, no content. A record without a wish file is an
//! orphan: removed, being removed, or under a new name.

use std::collections::{BTreeMap, BTreeSet};

use super::paths::WISH_ROOTS;
use super::shared_tree::{EntryKind, SharedTree, TreeError};
use crate::engine::id::{DeploymentId, FileKind, classify};
use crate::limits::{DEPLOYMENT_DEPTH_MAX, DEPLOYMENTS_MAX};

/// See the head of this file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WishIndex {
    /// Deployments with a wish file, and its inode.
    pub wishes: BTreeMap<DeploymentId, u64>,
    /// Deployments with a record.
    pub records: BTreeSet<DeploymentId>,
    /// Directories that wishes may lie in.
    pub folders: BTreeSet<String>,
    /// More deployments than the limit were found; the rest is left out.
    pub is_cut: bool,
}

impl WishIndex {
    /// Walks the tree.
    ///
    /// # Errors
    /// [`TreeError`] if a directory cannot be read: a partial index would make wishes look absent.
    pub fn scan(tree: &dyn SharedTree) -> Result<Self, TreeError> {
        let mut index = Self::default();
        for root in WISH_ROOTS {
            index.walk_wishes(tree, root, 0)?;
            index.walk_records(tree, root, 0)?;
        }
        Ok(index)
    }

    fn walk_wishes(
        &mut self,
        tree: &dyn SharedTree,
        dir: &str,
        depth: usize,
    ) -> Result<(), TreeError> {
        self.folders.insert(dir.to_owned());
        for entry in tree.list(dir)? {
            let path = format!("{dir}/{}", entry.name);
            match entry.kind {
                EntryKind::Directory
                    if depth < DEPLOYMENT_DEPTH_MAX && !entry.name.starts_with('.') =>
                {
                    self.walk_wishes(tree, &path, depth + 1)?;
                }
                EntryKind::File => match classify(&path) {
                    FileKind::Wish(id, _) | FileKind::Refused(id, _) => {
                        if self.wishes.len() >= DEPLOYMENTS_MAX {
                            self.is_cut = true;
                            return Ok(());
                        }
                        self.wishes.insert(id, entry.inode);
                    }
                    FileKind::Other => {}
                },
                _ => {}
            }
        }
        Ok(())
    }

    fn walk_records(
        &mut self,
        tree: &dyn SharedTree,
        dir: &str,
        depth: usize,
    ) -> Result<(), TreeError> {
        for entry in tree.list(&format!("run/{dir}"))? {
            if entry.kind != EntryKind::Directory || depth >= DEPLOYMENT_DEPTH_MAX {
                continue;
            }
            let path = format!("{dir}/{}", entry.name);
            // Reserved parts are the record's own directories.
            let Ok(id) = DeploymentId::parse(&path) else {
                continue;
            };
            let inside = tree.list(&format!("run/{path}"))?;
            if inside
                .iter()
                .any(|entry| entry.name == "plans" || entry.name == "observed")
            {
                self.records.insert(id);
            }
            self.walk_records(tree, &path, depth + 1)?;
        }
        Ok(())
    }

    /// All deployments.
    pub fn all(&self) -> BTreeSet<DeploymentId> {
        self.wishes.keys().chain(&self.records).cloned().collect()
    }

    /// Records without a wish file.
    pub fn orphans(&self) -> impl Iterator<Item = &DeploymentId> {
        self.records
            .iter()
            .filter(|id| !self.wishes.contains_key(*id))
    }

    /// The wish file with this inode.
    pub fn by_inode(&self, inode: u64) -> Option<&DeploymentId> {
        self.wishes
            .iter()
            .find(|(_, found)| **found == inode)
            .map(|(id, _)| id)
    }
}
