//! The hidden directory `/.vfs`: the cluster as this node sees it, and the committed view of the tree.
//!
//! Node numbers: the upper bits tell the virtual nodes from inodes. Directories of the committed view are live and
//! have one number each; a file there has a number for each of its revisions, which lives until the kernel forgets it
//! and its last handle closes, because an attribute request carries no handle that could tell versions apart. Not
//! here: what the bytes of `status.json` mean (`proposer::NodeStatus`).

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::attr::{Attr, FileKind};
use super::proposer::NodeStatus;
use crate::state_machine::StateMachine;
use crate::state_machine::ids::{InodeNo, LogIndex};
use crate::state_machine::inode::Inode;

/// Name of the virtual directory in the root.
pub const VFS_NAME: &[u8] = b".vfs";

const VIRTUAL: u64 = 1 << 62;
const NOW_DIRECTORY: u64 = VIRTUAL | 1 << 60;
const NOW_VERSION: u64 = VIRTUAL | 1 << 61;
const INODE_MASK: u64 = (1 << 60) - 1;

const VFS: u64 = VIRTUAL | 1;
const STATUS: u64 = VIRTUAL | 2;
const MEMBERS: u64 = VIRTUAL | 3;

/// What a node number stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    /// An inode of the tree.
    Inode(InodeNo),
    /// `/.vfs` itself.
    Vfs,
    /// `/.vfs/status.json`.
    Status,
    /// `/.vfs/members.json`.
    Members,
    /// A directory of the committed view.
    NowDirectory(InodeNo),
    /// One version of a file of the committed view.
    NowVersion(u64),
}

impl Node {
    /// Reads a node number.
    pub fn of(number: u64) -> Self {
        match number {
            VFS => Self::Vfs,
            STATUS => Self::Status,
            MEMBERS => Self::Members,
            _ if number & NOW_VERSION == NOW_VERSION => Self::NowVersion(number),
            _ if number & NOW_DIRECTORY == NOW_DIRECTORY => {
                Self::NowDirectory(InodeNo(number & INODE_MASK))
            }
            _ => Self::Inode(InodeNo(number)),
        }
    }

    /// The number that the kernel knows it by.
    pub fn number(self) -> u64 {
        match self {
            Self::Inode(inode) => inode.0,
            Self::Vfs => VFS,
            Self::Status => STATUS,
            Self::Members => MEMBERS,
            Self::NowDirectory(inode) => NOW_DIRECTORY | inode.0,
            Self::NowVersion(number) => number,
        }
    }
}

/// The entries of `/.vfs`, for a listing.
pub fn vfs_entries() -> [(Node, FileKind, &'static [u8]); 3] {
    [
        (
            Node::NowDirectory(InodeNo::ROOT),
            FileKind::Directory,
            b"now",
        ),
        (Node::Members, FileKind::Regular, b"members.json"),
        (Node::Status, FileKind::Regular, b"status.json"),
    ]
}

/// Attributes of a node of `/.vfs` that is no view of an inode.
pub fn fixed_attr(node: Node, size: u64, root: &Inode) -> Attr {
    let directory = node == Node::Vfs;
    Attr {
        node: node.number(),
        kind: if directory {
            FileKind::Directory
        } else {
            FileKind::Regular
        },
        size,
        stored: size,
        mode: if directory { 0o555 } else { 0o444 },
        links: if directory { 3 } else { 1 },
        uid: 0,
        gid: 0,
        ..Attr::of(root)
    }
}

/// `/.vfs/status.json`.
pub fn status_json(
    status: &NodeStatus,
    replay_lag: u64,
    pending: &[String],
    dropped: &[String],
) -> Vec<u8> {
    #[derive(serde::Serialize)]
    struct Document<'a> {
        #[serde(flatten)]
        status: &'a NodeStatus,
        replay_lag: u64,
        pending: &'a [String],
        dropped: &'a [String],
    }
    as_json(&Document {
        status,
        replay_lag,
        pending,
        dropped,
    })
}

/// `/.vfs/members.json`.
pub fn members_json(state: &StateMachine, voters: &[u64]) -> Vec<u8> {
    #[derive(serde::Serialize)]
    struct Document<'a> {
        cluster: &'a str,
        members: Vec<Row<'a>>,
    }
    #[derive(serde::Serialize)]
    struct Row<'a> {
        id: u64,
        name: &'a str,
        address: &'a str,
        role: &'static str,
        grant: crate::state_machine::command::Grant,
        age_public: &'a str,
    }
    let members = state.members().map(|member| Row {
        id: member.node.0,
        name: &member.name,
        address: &member.address,
        role: if voters.contains(&member.node.0) {
            "voter"
        } else {
            "learner"
        },
        grant: member.grant,
        age_public: &member.age_public,
    });
    as_json(&Document {
        cluster: state.cluster(),
        members: members.collect(),
    })
}

fn as_json(document: &impl serde::Serialize) -> Vec<u8> {
    let mut bytes =
        serde_json::to_vec_pretty(document).expect("plain data with text keys is always JSON");
    bytes.push(b'\n');
    bytes
}

/// The versions of files that the kernel knows of under `/.vfs/now`.
#[derive(Debug, Default)]
pub struct NowVersions {
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
    lookups: u64,
    handles: u64,
}

impl NowVersions {
    /// The number of this version for an answered lookup: one more reference of the kernel.
    pub fn looked_up(&self, inode: &Arc<Inode>) -> Node {
        let mut table = self.table.lock();
        let key = (inode.number, inode.revision);
        let number = match table.by_version.get(&key) {
            Some(number) => *number,
            None => {
                table.last += 1;
                let number = NOW_VERSION | table.last;
                table.by_version.insert(key, number);
                table.by_number.insert(
                    number,
                    Version {
                        inode: inode.clone(),
                        lookups: 0,
                        handles: 0,
                    },
                );
                number
            }
        };
        if let Some(version) = table.by_number.get_mut(&number) {
            version.lookups += 1;
        }
        Node::NowVersion(number)
    }

    /// The version with this number.
    pub fn inode(&self, number: u64) -> Option<Arc<Inode>> {
        self.table
            .lock()
            .by_number
            .get(&number)
            .map(|version| version.inode.clone())
    }

    /// A handle of this version is opened.
    pub fn opened(&self, number: u64) -> Option<Arc<Inode>> {
        let mut table = self.table.lock();
        let version = table.by_number.get_mut(&number)?;
        version.handles += 1;
        Some(version.inode.clone())
    }

    /// A handle of this version is closed.
    pub fn released(&self, number: u64) {
        self.drop_references(number, |version| {
            version.handles = version.handles.saturating_sub(1)
        });
    }

    /// The kernel drops `count` references.
    pub fn forgotten(&self, number: u64, count: u64) {
        self.drop_references(number, |version| {
            version.lookups = version.lookups.saturating_sub(count)
        });
    }

    fn drop_references(&self, number: u64, drop: impl FnOnce(&mut Version)) {
        let mut table = self.table.lock();
        let Some(version) = table.by_number.get_mut(&number) else {
            return;
        };
        drop(version);
        if version.lookups == 0 && version.handles == 0 {
            let key = (version.inode.number, version.inode.revision);
            table.by_number.remove(&number);
            table.by_version.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_numbers_are_read_back() {
        for node in [
            Node::Inode(InodeNo::ROOT),
            Node::Inode(InodeNo(123_456)),
            Node::Vfs,
            Node::Status,
            Node::Members,
            Node::NowDirectory(InodeNo::ROOT),
            Node::NowDirectory(InodeNo(99)),
            Node::NowVersion(NOW_VERSION | 7),
        ] {
            assert_eq!(Node::of(node.number()), node);
        }
    }

    #[test]
    fn a_version_lives_until_it_is_forgotten_and_closed() {
        let versions = NowVersions::default();
        let state = StateMachine::new();
        let inode = state.tree().inode(InodeNo(2)).unwrap();
        let Node::NowVersion(number) = versions.looked_up(inode) else {
            panic!("a version")
        };
        assert_eq!(versions.looked_up(inode), Node::NowVersion(number));
        versions.opened(number).unwrap();
        versions.forgotten(number, 2);
        assert!(versions.inode(number).is_some());
        versions.released(number);
        assert!(versions.inode(number).is_none());
    }
}
