//! Open handles, and what the handles of one inode share.
//!
//! Invariants: a handle number is used once per daemon start; an inode is in the table while a handle of it is open.
//! Lock order: the table's maps, then one [`OpenInode`]'s state, then `known_inodes.rs`; nothing is awaited under any.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::listing::Listing;
use super::open_flags::OpenFlags;
use super::save::{Budget, Source, Uncommitted};
use super::virtual_tree::OpenVirtual;
use crate::state_machine::command::Author;
use crate::state_machine::content::Content;
use crate::state_machine::ids::{FencingToken, HandleId, InodeNo, LogIndex, SessionId};

/// An open file or directory.
#[derive(Debug, Clone)]
pub enum Handle {
    /// A file of the tree.
    File(Arc<FileHandle>),
    /// A file under `/.vfs`.
    Virtual(Arc<dyn OpenVirtual>),
    /// A directory: its names as they were when the listing began.
    Directory(Arc<DirectoryHandle>),
}

/// An open file of the tree.
#[derive(Debug)]
pub struct FileHandle {
    /// Its number; also names locks that live as long as it.
    pub id: HandleId,
    /// What it was opened for.
    pub flags: OpenFlags,
    /// On whose behalf it commits.
    pub saver: Arc<Saver>,
    /// The inode, shared with its other handles.
    pub inode: Arc<OpenInode>,
    /// The version that reads of this handle see.
    pub pin: Mutex<Pin>,
}

impl FileHandle {
    /// Whose calls those on this handle are.
    pub fn source(&self) -> (Source, &Arc<Saver>) {
        (Source::Handle(self.id), &self.saver)
    }
}

/// On whose behalf something is committed.
#[derive(Debug)]
pub struct Saver {
    /// Who opened the handle: the author of what it commits.
    pub author: Author,
    /// Process that opened it, if it writes.
    pub opener: Option<u32>,
    /// Session and fence of the guard that it was opened under.
    pub grant: Option<(SessionId, FencingToken)>,
    /// A commit went out that did not say that the handle closes.
    pub owes_close_notice: AtomicBool,
}

impl Saver {
    /// A commit went out that did not say that the handle closes: a notice has to.
    pub fn owe_close_notice(&self) {
        self.owes_close_notice.store(true, Ordering::Relaxed);
    }
}

/// The version of a file that a handle reads.
#[derive(Debug, Clone, Default)]
pub struct Pin {
    /// Its bytes.
    pub content: Content,
    /// The entry that made it; 0 when it holds uncommitted bytes of this node.
    pub revision: LogIndex,
}

/// What the handles of one inode share.
#[derive(Debug)]
pub struct OpenInode {
    /// The inode.
    pub number: InodeNo,
    /// The turn of its commits: one at a time, so that they are in the log in the order in which they were made.
    pub committing: Arc<tokio::sync::Mutex<()>>,
    /// What is written and not committed.
    pub state: Mutex<Uncommitted>,
    /// A task waits to commit what was stored through mappings.
    pub mapped_commit_waits: AtomicBool,
    // Changed under the lock of the table's map of inodes.
    handles: AtomicU64,
}

/// An open directory.
#[derive(Debug)]
pub struct DirectoryHandle {
    /// The directory's node.
    pub node: u64,
    /// Where its reader is.
    pub listing: Mutex<Listing>,
}

/// All open handles.
#[derive(Debug)]
pub struct HandleTable {
    next: AtomicU64,
    handles: Mutex<HashMap<HandleId, Handle>>,
    inodes: Mutex<HashMap<InodeNo, Arc<OpenInode>>>,
    budget: Arc<Budget>,
}

impl HandleTable {
    /// An empty table whose numbers start at `first`; see [`HandleTable::next_id`].
    pub fn new(first: u64) -> Self {
        Self {
            next: AtomicU64::new(first),
            handles: Mutex::default(),
            inodes: Mutex::default(),
            budget: Arc::default(),
        }
    }

    /// What all handles may hold uncommitted.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// A number for a new handle.
    pub fn next_id(&self) -> HandleId {
        HandleId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Adds a handle.
    pub fn insert(&self, id: HandleId, handle: Handle) {
        self.handles.lock().insert(id, handle);
    }

    /// The handle `id`.
    pub fn handle(&self, id: HandleId) -> Option<Handle> {
        self.handles.lock().get(&id).cloned()
    }

    /// Takes a handle out. The last one of an inode takes the shared state along.
    pub fn remove(&self, id: HandleId) -> Option<Handle> {
        self.handles.lock().remove(&id)
    }

    /// The shared state of an inode that is being opened.
    pub fn open_inode(&self, number: InodeNo) -> Arc<OpenInode> {
        let mut inodes = self.inodes.lock();
        let inode = inodes
            .entry(number)
            .or_insert_with(|| {
                Arc::new(OpenInode {
                    number,
                    committing: Arc::default(),
                    state: Mutex::new(Uncommitted::new(&self.budget)),
                    mapped_commit_waits: AtomicBool::new(false),
                    handles: AtomicU64::new(0),
                })
            })
            .clone();
        inode.handles.fetch_add(1, Ordering::Relaxed);
        inode
    }

    /// The counterpart of [`HandleTable::open_inode`], once nothing of the handle is pending.
    pub fn close_inode(&self, inode: &OpenInode) {
        let mut inodes = self.inodes.lock();
        if inode.handles.fetch_sub(1, Ordering::Relaxed) == 1 {
            inodes.remove(&inode.number);
        }
    }

    /// All inodes that are open.
    pub fn all_open(&self) -> Vec<InodeNo> {
        self.inodes.lock().keys().copied().collect()
    }

    /// The shared state of an inode, if it is open.
    pub fn opened(&self, number: InodeNo) -> Option<Arc<OpenInode>> {
        self.inodes.lock().get(&number).cloned()
    }
}
