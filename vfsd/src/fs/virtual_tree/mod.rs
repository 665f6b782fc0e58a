//! The hidden directory `/.vfs`: a small filesystem of its own. Each name in it is a [`Part`] with its own nodes.
//!
//! Another file or directory there is one file beside this one and one line in [`VirtualTree::default`]; the rest of
//! the filesystem knows a [`VirtualNode`] and nothing of what it stands for.
//!
//! Node numbers: the upper bits tell virtual nodes from inodes, then comes the part, then what the part makes of the
//! rest. Invariants: a node that a lookup has handed out means the same until the kernel forgets it; nothing here can
//! be changed. Not here: what the bytes of a file mean (its part).

mod members;
mod now;
mod status;

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;

use parking_lot::Mutex;

use super::attr::{Attr, FileKind};
use super::errno::FsResult;
use super::listing::{DirectoryEntry, Listing};
use super::proposer::NodeStatus;
use crate::state_machine::StateMachine;
use crate::state_machine::fs_error::FsError;
use crate::state_machine::ids::InodeNo;
use crate::state_machine::inode::Inode;

/// Name of the virtual directory in the root.
pub const VFS_NAME: &[u8] = b".vfs";

const VIRTUAL: u64 = 1 << 62;
const PART_SHIFT: u32 = 54;
const LOCAL_MASK: u64 = (1 << PART_SHIFT) - 1;

/// What a node number stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    /// An inode of the tree.
    Inode(InodeNo),
    /// `/.vfs` or something in it.
    Virtual(VirtualNode),
}

/// A node of the virtual tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VirtualNode(u64);

impl Node {
    /// Reads a node number.
    pub fn of(number: u64) -> Self {
        match number & VIRTUAL {
            0 => Self::Inode(InodeNo(number)),
            _ => Self::Virtual(VirtualNode(number)),
        }
    }
}

impl VirtualNode {
    /// `/.vfs` itself.
    pub const ROOT: Self = Self(VIRTUAL);

    /// The node `local` of the part at `position`.
    fn of_part(position: usize, local: u64) -> Self {
        Self(VIRTUAL | ((position as u64 + 1) << PART_SHIFT) | (local & LOCAL_MASK))
    }

    /// Position of its part and what the part calls it; `None` for `/.vfs` itself.
    fn in_part(self) -> Option<(usize, u64)> {
        let part = (self.0 & !VIRTUAL) >> PART_SHIFT;
        let position = usize::try_from(part).ok()?.checked_sub(1)?;
        Some((position, self.0 & LOCAL_MASK))
    }

    /// The number that the kernel knows it by.
    pub fn number(self) -> u64 {
        self.0
    }
}

/// What the parts tell of.
pub trait Facts {
    /// The applied state, as of now.
    fn state(&self) -> Arc<StateMachine>;

    /// What this node knows of the cluster.
    fn status(&self) -> Arc<NodeStatus>;

    /// How many events wait to be raised in this kernel.
    fn replay_lag(&self) -> u64;

    /// Saves that nobody waits for any more.
    fn unsaved(&self) -> Unsaved;
}

/// Saves that nobody waits for any more, by their paths.
#[derive(Debug, Clone, Default)]
pub struct Unsaved {
    /// Those that are still being tried.
    pub pending: Vec<String>,
    /// The last ones that were given up, with the reason.
    pub dropped: Vec<String>,
}

/// A name in `/.vfs`, and what lies beneath it. It numbers its nodes by itself, below 2^54; 0 is what its name stands
/// for. What it does not say is as of a file without attributes.
pub trait Part: Send + Sync {
    /// Its name.
    fn name(&self) -> &'static str;

    /// Attributes of a node; the number is set by the caller.
    ///
    /// # Errors
    /// [`FsError::NotFound`].
    fn attr(&self, facts: &dyn Facts, node: u64) -> FsResult<Attr>;

    /// The inode of which it is a view: its extended attributes and its target are shown.
    ///
    /// # Errors
    /// [`FsError::NotFound`].
    fn inode(&self, facts: &dyn Facts, node: u64) -> FsResult<Option<Arc<Inode>>> {
        let _ = (facts, node);
        Ok(None)
    }

    /// What a name stands for in a directory. Lookups and [`Part::forgotten`] exclude each other.
    ///
    /// # Errors
    /// [`FsError::NotFound`], [`FsError::NotDirectory`].
    fn lookup(&self, facts: &dyn Facts, directory: u64, name: &[u8]) -> FsResult<u64> {
        let _ = (facts, directory, name);
        Err(FsError::NotDirectory.into())
    }

    /// The entries of a directory without `.` and `..`, and the directory above it; `None` for `/.vfs`.
    ///
    /// # Errors
    /// As [`Part::lookup`].
    fn list(&self, facts: &dyn Facts, directory: u64) -> FsResult<(Listing, Option<u64>)> {
        let _ = (facts, directory);
        Err(FsError::NotDirectory.into())
    }

    /// Opens a file for reading.
    ///
    /// # Errors
    /// [`FsError::NotFound`], [`FsError::IsDirectory`].
    fn open(&self, facts: &dyn Facts, node: u64) -> FsResult<Arc<dyn OpenVirtual>>;

    /// The kernel knows nothing of a node any more.
    fn forgotten(&self, node: u64) {
        let _ = node;
    }
}

/// An open file of the virtual tree; dropped when its last descriptor is closed.
pub trait OpenVirtual: Debug + Send + Sync {
    /// At most `len` bytes from `offset`.
    ///
    /// # Errors
    /// As the part says.
    fn read(&self, offset: u64, len: usize) -> FsResult<Vec<u8>>;

    /// `SEEK_DATA` (`data`) or `SEEK_HOLE`.
    ///
    /// # Errors
    /// [`FsError::Invalid`] where there are no holes to be found.
    fn seek(&self, offset: u64, data: bool) -> FsResult<u64> {
        let _ = (offset, data);
        Err(FsError::Invalid.into())
    }
}

/// See the module.
pub struct VirtualTree {
    parts: Vec<Box<dyn Part>>,
    // How often an answered lookup named a node. Taken before the parts' own locks.
    lookups: Mutex<HashMap<VirtualNode, u64>>,
}

impl Default for VirtualTree {
    fn default() -> Self {
        Self {
            parts: vec![
                Box::new(now::Now::default()),
                Box::new(members::PART),
                Box::new(status::PART),
            ],
            lookups: Mutex::default(),
        }
    }
}

impl VirtualTree {
    fn part(&self, node: VirtualNode) -> FsResult<Option<(&dyn Part, u64)>> {
        let Some((position, local)) = node.in_part() else {
            return Ok(None);
        };
        let part = self.parts.get(position).ok_or(FsError::NotFound)?;
        Ok(Some((&**part, local)))
    }

    /// `/.vfs`, found in the root. The kernel holds one more reference to it.
    ///
    /// # Errors
    /// None but those of a tree without a root.
    pub fn enter(&self, facts: &dyn Facts) -> FsResult<Attr> {
        let attr = self.attr(facts, VirtualNode::ROOT)?;
        *self.lookups.lock().entry(VirtualNode::ROOT).or_default() += 1;
        Ok(attr)
    }

    /// Finds a name. The kernel holds one more reference to the answer.
    ///
    /// # Errors
    /// [`FsError::NotFound`], [`FsError::NotDirectory`].
    pub fn lookup(&self, facts: &dyn Facts, directory: VirtualNode, name: &[u8]) -> FsResult<Attr> {
        let mut lookups = self.lookups.lock();
        let (position, local) = match directory.in_part() {
            None => {
                let mut names = self.parts.iter().map(|part| part.name());
                let position = names.position(|known| known.as_bytes() == name);
                (position.ok_or(FsError::NotFound)?, 0)
            }
            Some((position, directory)) => {
                let part = self.parts.get(position).ok_or(FsError::NotFound)?;
                (position, part.lookup(facts, directory, name)?)
            }
        };
        let node = VirtualNode::of_part(position, local);
        let attr = self.attr(facts, node)?;
        *lookups.entry(node).or_default() += 1;
        Ok(attr)
    }

    /// The kernel drops `count` references. Returns whether none is left.
    pub fn forget(&self, node: VirtualNode, count: u64) -> bool {
        let mut lookups = self.lookups.lock();
        if let Some(held) = lookups.get_mut(&node) {
            *held = held.saturating_sub(count);
            if *held > 0 {
                return false;
            }
            lookups.remove(&node);
        }
        if let Ok(Some((part, local))) = self.part(node) {
            part.forgotten(local);
        }
        true
    }

    /// Attributes of a node.
    ///
    /// # Errors
    /// [`FsError::NotFound`].
    pub fn attr(&self, facts: &dyn Facts, node: VirtualNode) -> FsResult<Attr> {
        let attr = match self.part(node)? {
            Some((part, local)) => part.attr(facts, local)?,
            None => Attr {
                kind: FileKind::Directory,
                mode: 0o555,
                links: 3,
                ..fixed_attr(facts, 0)?
            },
        };
        Ok(Attr {
            node: node.number(),
            ..attr
        })
    }

    /// The inode of which a node is a view.
    ///
    /// # Errors
    /// [`FsError::NotFound`].
    pub fn inode(&self, facts: &dyn Facts, node: VirtualNode) -> FsResult<Option<Arc<Inode>>> {
        match self.part(node)? {
            Some((part, local)) => part.inode(facts, local),
            None => Ok(None),
        }
    }

    /// The entries of a directory.
    ///
    /// # Errors
    /// As [`VirtualTree::lookup`].
    pub fn list(&self, facts: &dyn Facts, node: VirtualNode) -> FsResult<Listing> {
        let (entries, above) = match node.in_part() {
            None => (self.names(facts)?, InodeNo::ROOT.0),
            Some((position, local)) => {
                let part = self.parts.get(position).ok_or(FsError::NotFound)?;
                let (entries, above) = part.list(facts, local)?;
                let above = above.map(|above| VirtualNode::of_part(position, above));
                (entries, above.unwrap_or(VirtualNode::ROOT).number())
            }
        };
        let own = DirectoryEntry::own(node.number(), above);
        Ok(Listing {
            fixed: own.into_iter().chain(entries.fixed).collect(),
            ..entries
        })
    }

    fn names(&self, facts: &dyn Facts) -> FsResult<Listing> {
        let parts = self.parts.iter().enumerate();
        let entries = parts.map(|(position, part)| {
            Ok(DirectoryEntry {
                node: VirtualNode::of_part(position, 0).number(),
                kind: part.attr(facts, 0)?.kind,
                name: part.name().into(),
            })
        });
        Ok(Listing {
            fixed: entries.collect::<FsResult<_>>()?,
            ..Listing::default()
        })
    }

    /// Opens a file for reading.
    ///
    /// # Errors
    /// [`FsError::NotFound`], [`FsError::IsDirectory`].
    pub fn open(&self, facts: &dyn Facts, node: VirtualNode) -> FsResult<Arc<dyn OpenVirtual>> {
        match self.part(node)? {
            Some((part, local)) => part.open(facts, local),
            None => Err(FsError::IsDirectory.into()),
        }
    }
}

/// A part that is one file, written anew for whoever looks.
struct Document {
    name: &'static str,
    bytes: fn(&dyn Facts) -> Vec<u8>,
}

impl Part for Document {
    fn name(&self) -> &'static str {
        self.name
    }

    fn attr(&self, facts: &dyn Facts, _node: u64) -> FsResult<Attr> {
        fixed_attr(facts, (self.bytes)(facts).len() as u64)
    }

    fn open(&self, facts: &dyn Facts, _node: u64) -> FsResult<Arc<dyn OpenVirtual>> {
        Ok(Arc::new(FixedBytes((self.bytes)(facts))))
    }
}

/// A file whose bytes are fixed at its open.
#[derive(Debug)]
struct FixedBytes(Vec<u8>);

impl OpenVirtual for FixedBytes {
    fn read(&self, offset: u64, len: usize) -> FsResult<Vec<u8>> {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let from = offset.min(self.0.len());
        let to = from.saturating_add(len).min(self.0.len());
        Ok(self.0[from..to].to_vec())
    }
}

/// Attributes of a file of `size` bytes that is no view of an inode.
fn fixed_attr(facts: &dyn Facts, size: u64) -> FsResult<Attr> {
    let state = facts.state();
    let root = state.tree().inode(InodeNo::ROOT);
    Ok(Attr {
        kind: FileKind::Regular,
        size,
        stored: size,
        mode: 0o444,
        links: 1,
        uid: 0,
        gid: 0,
        ..Attr::of(root.ok_or(FsError::NotFound)?)
    })
}

fn as_json(document: &impl serde::Serialize) -> Vec<u8> {
    let mut bytes =
        serde_json::to_vec_pretty(document).expect("plain data with text keys is always JSON");
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state_machine::namespace::MID;

    struct Fixed;

    impl Facts for Fixed {
        fn state(&self) -> Arc<StateMachine> {
            Arc::new(StateMachine::new())
        }

        fn status(&self) -> Arc<NodeStatus> {
            Arc::default()
        }

        fn replay_lag(&self) -> u64 {
            0
        }

        fn unsaved(&self) -> Unsaved {
            Unsaved::default()
        }
    }

    fn virtual_of(attr: &Attr) -> VirtualNode {
        match Node::of(attr.node) {
            Node::Virtual(node) => node,
            Node::Inode(inode) => panic!("{inode} is no virtual node"),
        }
    }

    #[test]
    fn node_numbers_are_read_back_and_are_no_inodes() {
        assert_eq!(Node::of(7), Node::Inode(InodeNo(7)));
        assert_eq!(VirtualNode::ROOT.in_part(), None);
        for (position, local) in [(0, 0), (0, LOCAL_MASK), (2, 99)] {
            let node = VirtualNode::of_part(position, local);
            assert_eq!(Node::of(node.number()), Node::Virtual(node));
            assert_eq!(node.in_part(), Some((position, local)));
        }
    }

    #[test]
    fn every_part_is_found_by_the_name_that_it_is_listed_under() {
        let tree = VirtualTree::default();
        let listed = tree.list(&Fixed, VirtualNode::ROOT).unwrap();
        assert_eq!(listed.fixed.len(), 2 + tree.parts.len());
        for entry in &listed.fixed[2..] {
            let found = tree.lookup(&Fixed, VirtualNode::ROOT, &entry.name).unwrap();
            assert_eq!((found.node, found.kind), (entry.node, entry.kind));
            let opened = tree.open(&Fixed, virtual_of(&found));
            assert_eq!(opened.is_err(), found.kind == FileKind::Directory);
        }
        let missing = tree.lookup(&Fixed, VirtualNode::ROOT, b"other");
        assert_eq!(missing, Err(FsError::NotFound.into()));
    }

    /// The kernel's places of directories are kept until then (`fuse/moving.rs`).
    #[test]
    fn a_directory_is_known_until_the_last_reference_is_dropped() {
        let tree = VirtualTree::default();
        let now = tree.lookup(&Fixed, VirtualNode::ROOT, b"now").unwrap();
        let find = || tree.lookup(&Fixed, virtual_of(&now), b"mid").unwrap();
        let node = virtual_of(&find());
        assert_eq!(virtual_of(&find()), node);
        assert!(!tree.forget(node, 1));
        assert!(tree.forget(node, 1));
        assert!(!tree.lookups.lock().contains_key(&node));
        let inode = tree.inode(&Fixed, node).unwrap().unwrap();
        assert_eq!(inode.number, MID);
    }
}
