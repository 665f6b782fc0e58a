//! The mounted tree of one node: lookups, attributes, listings, and what every change begins under. Changes of names
//! are in `names.rs`, content in `file_io.rs` and `commit.rs`, extended attributes in `xattrs.rs`.
//!
//! Invariants: a change returns when a majority has it and this node shows it; a refusal that this replica can decide
//! is answered at once. Nothing here knows FUSE.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::attr::{Attr, FileKind};
use super::errno::{Failure, FsResult};
use super::feed::ChangeFeed;
use super::found_names::{FoundName, FoundNames};
use super::handles::{DirectoryHandle, Handle, HandleTable};
use super::known_inodes::KnownInodes;
use super::listing::{DirectoryEntry, Listing};
use super::orphans::Orphans;
use super::proposer::{NodeStatus, ProposeError, Proposer};
use super::save::Leftovers;
use super::virtual_tree::{Facts, Node, Unsaved, VFS_NAME, VirtualNode, VirtualTree};
use crate::limits::{NAME_LEN_BYTES_MAX, TREE_BYTES_MAX, TREE_DETAIL_BYTES_MAX, TREE_INODES_MAX};
use crate::state_machine::StateMachine;
use crate::state_machine::fs_error::FsError;
use crate::state_machine::ids::{HandleId, InodeNo, LogIndex};
use crate::state_machine::inode::{Inode, Kind, without_privileges};

/// Who may write such a directory takes away only what is his.
const STICKY: u32 = 0o1000;

/// The mounted tree of one node.
pub struct FileSystem {
    proposer: OnceLock<Arc<dyn Proposer>>,
    pub(super) feed: Arc<ChangeFeed>,
    pub(super) handles: Arc<HandleTable>,
    pub(super) known: Arc<KnownInodes>,
    pub(super) virtual_tree: VirtualTree,
    pub(super) found: FoundNames,
    /// Saves that nobody waits for any more.
    pub(super) leftovers: Leftovers,
    pub(super) runtime: tokio::runtime::Handle,
}

/// Space and inodes of the tree, for `statfs(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes that the tree may hold.
    pub bytes_total: u64,
    /// Bytes that nothing takes.
    pub bytes_free: u64,
    /// Those of them that content may take.
    pub bytes_available: u64,
    /// Inodes that the tree may hold.
    pub inodes_total: u64,
    /// Inodes that are free.
    pub inodes_free: u64,
}

impl FileSystem {
    /// A filesystem whose handle numbers start at `first_handle`: they must differ from those that an earlier daemon
    /// used in the same session. Attach a proposer before the first call.
    pub fn new(first_handle: u64, runtime: tokio::runtime::Handle) -> Arc<Self> {
        let feed = Arc::new(ChangeFeed::default());
        let handles = Arc::new(HandleTable::new(first_handle));
        let known = Arc::<KnownInodes>::default();
        // First of all subscribers: the others find what an entry took away.
        feed.subscribe(Arc::new(Orphans {
            known: Arc::clone(&known),
            handles: Arc::clone(&handles),
        }));
        Arc::new(Self {
            proposer: OnceLock::new(),
            feed,
            handles,
            known,
            virtual_tree: VirtualTree::default(),
            found: FoundNames::default(),
            leftovers: Leftovers::default(),
            runtime,
        })
    }

    /// Connects consensus. Only the first call counts.
    pub fn attach(&self, proposer: Arc<dyn Proposer>) {
        // A second proposer would be a composition fault; the first stays in force.
        let _ = self.proposer.set(proposer);
    }

    /// The stream of what is applied on this node: consensus publishes into it.
    pub fn feed(&self) -> &Arc<ChangeFeed> {
        &self.feed
    }

    /// What the kernel holds references to.
    pub fn known(&self) -> &KnownInodes {
        &self.known
    }

    /// Where tasks of this filesystem run.
    pub fn runtime(&self) -> &tokio::runtime::Handle {
        &self.runtime
    }

    /// Whether a handle of this inode is open here.
    pub fn is_open(&self, inode: InodeNo) -> bool {
        self.handles.opened(inode).is_some()
    }

    /// The applied state, as of now.
    pub fn state(&self) -> Arc<StateMachine> {
        self.proposer().state()
    }

    /// What this node knows of the cluster.
    pub fn status(&self) -> Arc<NodeStatus> {
        self.proposer().status()
    }

    pub(super) fn proposer(&self) -> &Arc<dyn Proposer> {
        self.proposer
            .get()
            .expect("the composition root attaches a proposer before it mounts")
    }

    /// Waits until this node has applied everything that was committed before the call.
    ///
    /// # Errors
    /// As consensus reports.
    pub async fn barrier(&self) -> FsResult<LogIndex> {
        Ok(self.proposer().barrier().await?)
    }

    /// Whether `fsync` of this directory is the barrier: only of `/.vfs`, whose lock no user's change waits under.
    pub fn is_barrier(&self, node: u64) -> bool {
        Node::of(node) == Node::Virtual(VirtualNode::ROOT)
    }

    /// Finds a name. The kernel holds one more reference to the answer.
    ///
    /// # Errors
    /// [`FsError::NotFound`], [`FsError::NotDirectory`].
    pub fn lookup(&self, parent: u64, name: &OsStr) -> FsResult<Attr> {
        let name = name.as_bytes();
        if name.len() > NAME_LEN_BYTES_MAX {
            return Err(FsError::NameTooLong.into());
        }
        match Node::of(parent) {
            Node::Inode(number) if name == b"." => self.reconnect(number, false),
            Node::Inode(number) if name == b".." => self.reconnect(number, true),
            // Nobody reaches a virtual node by a number that the kernel has forgotten.
            Node::Virtual(_) if name == b"." || name == b".." => Err(FsError::NotFound.into()),
            Node::Virtual(directory) => self.virtual_tree.lookup(self, directory, name),
            Node::Inode(InodeNo::ROOT) if name == VFS_NAME => self.virtual_tree.enter(self),
            Node::Inode(directory) => {
                let found = self.known.find_and_add(|| {
                    let inode = self.state().tree().lookup(directory, name)?;
                    Ok::<_, Failure>((inode, inode))
                })?;
                self.attr_seen(found)
            }
        }
    }

    /// A lookup of `thread` is being answered by what [`FileSystem::lookup`] gave, and the kernel checks that. Kept
    /// where a permission may depend on it: in a sticky directory, and for directories.
    pub fn note_lookup(&self, thread: u32, parent: u64, name: &OsStr, found: &FsResult<Attr>) {
        let found = match found {
            Ok(attr) => Some(attr),
            Err(Failure::Refused(FsError::NotFound)) => None,
            Err(_) => return,
        };
        let is_directory = found.is_some_and(|attr| attr.kind == FileKind::Directory);
        if is_directory || self.is_sticky(InodeNo(parent)) {
            let (parent, found) = (InodeNo(parent), FoundName::of(found));
            self.found.note(thread, parent, name.as_bytes(), found);
        }
    }

    pub(super) fn is_sticky(&self, directory: InodeNo) -> bool {
        let state = self.state();
        let directory = state.tree().inode(directory);
        directory.is_some_and(|directory| directory.mode & STICKY != 0)
    }

    /// `.` and `..` of a directory that the kernel knows by number only (exported file handles).
    fn reconnect(&self, number: InodeNo, up: bool) -> FsResult<Attr> {
        let state = self.state();
        let inode = self.inode_in(&state, number)?;
        let target = if up {
            inode.parent().unwrap_or(InodeNo::ROOT)
        } else {
            number
        };
        let attr = self.attr_seen(target)?;
        self.known.add(target);
        Ok(attr)
    }

    /// The kernel drops references. Returns whether it knows nothing of a node any more.
    pub fn forget(&self, node: u64, count: u64) -> bool {
        match Node::of(node) {
            Node::Inode(inode) => self.known.forget(inode, count, self.is_open(inode)),
            Node::Virtual(node) => self.virtual_tree.forget(node, count),
        }
    }

    /// Attributes of a node.
    ///
    /// # Errors
    /// [`FsError::NotFound`].
    pub fn attr(&self, node: u64) -> FsResult<Attr> {
        match Node::of(node) {
            Node::Inode(number) => self.attr_seen(number),
            Node::Virtual(node) => self.virtual_tree.attr(self, node),
        }
    }

    /// Attributes with this node's uncommitted writes on top.
    fn attr_seen(&self, number: InodeNo) -> FsResult<Attr> {
        let open = self.handles.opened(number);
        // Before the look at what is committed: what settles in between would be in neither.
        let mut uncommitted = open.as_ref().map(|open| open.state.lock());
        let inode = self.inode_in(&self.state(), number)?;
        let mut attr = Attr::of(&inode);
        let dirty = uncommitted.as_mut().filter(|open| open.is_dirty());
        if let (Some(open), Some(content)) = (dirty, inode.content()) {
            let view = open.view(inode.content_revision, content);
            attr.size = view.size();
            attr.stored = view.stored_bytes();
            if let Some(time) = open.last_write() {
                attr.mtime = time;
                attr.ctime = attr.ctime.max(time);
            }
            if open.is_changed_by_ordinary_users() {
                attr.mode = without_privileges(attr.mode);
            }
        }
        Ok(attr)
    }

    /// An inode of the tree, or one that lost its last name while it is open or known here.
    pub(super) fn inode_in(&self, state: &StateMachine, number: InodeNo) -> FsResult<Arc<Inode>> {
        let inode = state.tree().inode(number).cloned();
        let inode = inode.or_else(|| self.known.gone(number));
        inode.ok_or(FsError::NotFound.into())
    }

    /// The inode that a node is, or is a view of.
    pub(super) fn inode_of(&self, state: &StateMachine, node: u64) -> FsResult<Option<Arc<Inode>>> {
        match Node::of(node) {
            Node::Inode(number) => self.inode_in(state, number).map(Some),
            Node::Virtual(node) => self.virtual_tree.inode(self, node),
        }
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// [`FsError::Invalid`] if it is none.
    pub fn read_link(&self, node: u64) -> FsResult<Vec<u8>> {
        let inode = self.inode_of(&self.state(), node)?;
        let inode = inode.ok_or(FsError::Invalid)?;
        match &inode.kind {
            Kind::Symlink(target) => Ok(target.to_vec()),
            _ => Err(FsError::Invalid.into()),
        }
    }

    /// Opens a directory for listing.
    ///
    /// # Errors
    /// [`FsError::NotFound`], [`FsError::NotDirectory`].
    pub fn open_directory(&self, node: u64) -> FsResult<HandleId> {
        let listing = Mutex::new(self.list(node)?);
        let id = self.handles.next_id();
        let directory = DirectoryHandle { node, listing };
        self.handles
            .insert(id, Handle::Directory(Arc::new(directory)));
        Ok(id)
    }

    /// Gives the entries of a listing from place `from` on to `add`, each with the place of the next, until it has no
    /// room. One that starts over (`rewinddir`) reads the directory anew.
    ///
    /// # Errors
    /// [`Failure::BadHandle`], or as [`FileSystem::open_directory`].
    pub fn read_directory(
        &self,
        handle: HandleId,
        from: u64,
        mut add: impl FnMut(&DirectoryEntry, u64) -> bool,
    ) -> FsResult<()> {
        let Some(Handle::Directory(directory)) = self.handles.handle(handle) else {
            return Err(Failure::BadHandle);
        };
        let mut listing = directory.listing.lock();
        if from == 0 {
            // A directory that was removed meanwhile lists as empty, as everywhere.
            *listing = self.list(directory.node).unwrap_or_default();
        }
        let fixed = (0..).zip(&listing.fixed);
        for (place, entry) in fixed.skip_while(|(place, _)| *place < from) {
            if add(entry, place + 1) {
                return Ok(());
            }
        }
        let state = self.state();
        let mut last = None;
        for (place, (name, child)) in listing.names_from(from) {
            // What has gone since is not told any more.
            if let Some(inode) = state.tree().inode(*child) {
                let entry = DirectoryEntry {
                    node: child.0,
                    kind: super::attr::kind_of(inode),
                    name: name.as_bytes().to_vec(),
                };
                if add(&entry, place + 1) {
                    break;
                }
            }
            last = Some((place, name.clone()));
        }
        listing.last = last.or(listing.last.take());
        Ok(())
    }

    fn list(&self, node: u64) -> FsResult<Listing> {
        let number = match Node::of(node) {
            Node::Inode(number) => number,
            Node::Virtual(node) => return self.virtual_tree.list(self, node),
        };
        let state = self.state();
        let inode = self.inode_in(&state, number)?;
        let above = inode.parent().unwrap_or(InodeNo::ROOT);
        Ok(Listing {
            fixed: DirectoryEntry::own(number.0, above.0).into(),
            ..Listing::of(&inode)?
        })
    }

    /// Closes a directory.
    pub fn close_directory(&self, handle: HandleId) {
        self.handles.remove(handle);
    }

    /// Space and inodes.
    pub fn usage(&self) -> Usage {
        let state = self.state();
        let for_content = TREE_BYTES_MAX.saturating_sub(state.tree().stored_bytes());
        let for_details = TREE_DETAIL_BYTES_MAX.saturating_sub(state.tree().detail_bytes());
        Usage {
            bytes_total: TREE_BYTES_MAX + TREE_DETAIL_BYTES_MAX,
            bytes_free: for_content + for_details,
            bytes_available: for_content,
            inodes_total: TREE_INODES_MAX,
            inodes_free: TREE_INODES_MAX.saturating_sub(state.tree().inode_count()),
        }
    }

    /// The inode of a node that can be changed.
    pub(super) fn tree_inode(&self, node: u64) -> FsResult<InodeNo> {
        match Node::of(node) {
            Node::Inode(inode) => Ok(inode),
            Node::Virtual(_) => Err(Failure::ReadOnly),
        }
    }

    /// A directory in which names can change.
    pub(super) fn tree_directory(&self, node: u64) -> FsResult<InodeNo> {
        self.check_writable()?;
        self.tree_inode(node)
    }

    /// Without a majority nothing is begun.
    pub(super) fn check_writable(&self) -> FsResult<()> {
        let status = self.status();
        if status.quorum {
            Ok(())
        } else {
            Err(ProposeError::NoQuorum(status.why.clone()).into())
        }
    }
}

impl Facts for FileSystem {
    fn state(&self) -> Arc<StateMachine> {
        Self::state(self)
    }

    fn status(&self) -> Arc<NodeStatus> {
        Self::status(self)
    }

    fn replay_lag(&self) -> u64 {
        self.feed.lag()
    }

    fn unsaved(&self) -> Unsaved {
        Unsaved {
            pending: self.leftovers.pending(),
            dropped: self.leftovers.dropped(),
        }
    }
}
