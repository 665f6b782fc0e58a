//! Open handles, and what the handles of one inode share.
//!
//! Invariants: a handle number is used once per daemon start; an inode is in the table while a handle of it is open.
//! Lock order: the table's maps, then one [`OpenInode`]'s state; nothing is awaited under either.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::attr::FileKind;
use super::open_flags::OpenFlags;
use super::write_buffer::DirtyRanges;
use crate::state_machine::command::{Author, ContentOp};
use crate::state_machine::content::Content;
use crate::state_machine::ids::{FencingToken, HandleId, InodeNo, LogIndex, SessionId};
use crate::state_machine::inode::Inode;
use crate::state_machine::log_time::WallTime;
use crate::state_machine::outcome::FsError;

/// An open file or directory.
#[derive(Debug, Clone)]
pub enum Handle {
    /// A file of the tree.
    File(Arc<FileHandle>),
    /// A file whose bytes are fixed at open: under `/.vfs`.
    Fixed(Arc<Vec<u8>>),
    /// A committed version under `/.vfs/now`.
    Version(Arc<Inode>),
    /// A directory: its entries as they were when the listing began.
    Directory(Arc<DirectoryHandle>),
}

/// An open file of the tree.
#[derive(Debug)]
pub struct FileHandle {
    /// Its number; also names locks that live as long as it.
    pub id: HandleId,
    /// What it was opened for.
    pub flags: OpenFlags,
    /// Who opened it: the author of what it commits.
    pub author: Author,
    /// Process that opened it, if it writes.
    pub opener: Option<u32>,
    /// Session and fence of the guard that it was opened under.
    pub grant: Option<(SessionId, FencingToken)>,
    /// The inode, shared with its other handles.
    pub inode: Arc<OpenInode>,
    /// The version that reads of this handle see.
    pub pin: Mutex<Pin>,
    /// One commit of this handle at a time, in order.
    pub committing: Arc<tokio::sync::Mutex<()>>,
    /// A commit went out that did not say that the handle closes.
    pub owes_close_notice: AtomicBool,
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
    /// Uncommitted writes and the rest.
    pub state: Mutex<OpenState>,
}

/// The shared state of an open inode.
#[derive(Debug, Default)]
pub struct OpenState {
    /// How many handles are open.
    pub handles: u32,
    /// The private copy, once its last name is gone.
    pub orphan: Option<Inode>,
    /// Uncommitted writes by handle, in the order of their first byte.
    pub pending: Vec<Pending>,
    /// The last revision that this node made: local readers must see it.
    pub own_commit: LogIndex,
    view: Option<(LogIndex, Content)>,
}

/// One handle's uncommitted writes.
#[derive(Debug, Clone)]
pub struct Pending {
    /// The handle.
    pub handle: HandleId,
    /// What was written since the last commit.
    pub dirty: DirtyRanges,
    /// What a commit under way carries.
    pub in_flight: Option<DirtyRanges>,
    /// Whether the handle's size was set by a call of its own, not only by `O_TRUNC` at open.
    pub resized: bool,
    /// Time of the last write; `None` once an explicit `utimens` came after it.
    pub last_write: Option<WallTime>,
}

impl Pending {
    /// Whether a FLUSH commits this: bytes or a size, not the truncation alone that a redirection begins with.
    pub fn is_due_at_flush(&self) -> bool {
        self.dirty.has_bytes() || (self.resized && !self.dirty.is_empty())
    }
}

impl OpenState {
    /// Adds bytes to what `handle` has pending.
    ///
    /// # Errors
    /// [`FsError::FileTooLarge`].
    pub fn write(
        &mut self,
        handle: HandleId,
        offset: u64,
        data: &[u8],
        now: WallTime,
    ) -> Result<(), FsError> {
        self.pending_of(handle, now).dirty.write(offset, data)?;
        self.see(|view| {
            view.apply_op(&ContentOp::Write {
                offset,
                data: data.to_vec(),
            })
        })
    }

    /// The handle was opened with `O_TRUNC`.
    ///
    /// # Errors
    /// As [`OpenState::write`].
    pub fn truncate_at_open(&mut self, handle: HandleId, now: WallTime) -> Result<(), FsError> {
        self.pending_of(handle, now).dirty.truncate(0)?;
        self.see(|view| view.apply_op(&ContentOp::Truncate(0)))
    }

    /// Sets the size.
    ///
    /// # Errors
    /// As [`OpenState::write`].
    pub fn truncate(&mut self, handle: HandleId, size: u64, now: WallTime) -> Result<(), FsError> {
        let pending = self.pending_of(handle, now);
        pending.dirty.truncate(size)?;
        pending.resized = true;
        self.see(|view| view.apply_op(&ContentOp::Truncate(size)))
    }

    /// Makes the file at least `size` bytes long.
    ///
    /// # Errors
    /// As [`OpenState::write`].
    pub fn extend(&mut self, handle: HandleId, size: u64, now: WallTime) -> Result<(), FsError> {
        let pending = self.pending_of(handle, now);
        pending.dirty.extend(size)?;
        pending.resized = true;
        self.see(|view| view.apply_op(&ContentOp::Extend(size)))
    }

    /// What `handle` has pending, if anything.
    pub fn pending(&mut self, handle: HandleId) -> Option<&mut Pending> {
        self.pending
            .iter_mut()
            .find(|pending| pending.handle == handle)
    }

    fn pending_of(&mut self, handle: HandleId, now: WallTime) -> &mut Pending {
        let position = self
            .pending
            .iter()
            .position(|pending| pending.handle == handle);
        let position = position.unwrap_or_else(|| {
            let dirty = DirtyRanges::default();
            self.pending.push(Pending {
                handle,
                dirty,
                in_flight: None,
                resized: false,
                last_write: None,
            });
            self.pending.len() - 1
        });
        self.pending[position].last_write = Some(now);
        &mut self.pending[position]
    }

    /// Keeps a cached view in step instead of building it anew after each write.
    fn see(
        &mut self,
        change: impl FnOnce(&mut Content) -> Result<(), FsError>,
    ) -> Result<(), FsError> {
        self.view.as_mut().map_or(Ok(()), |(_, view)| change(view))
    }

    /// Drops what `handle` has pending.
    pub fn forget_pending(&mut self, handle: HandleId) {
        self.pending.retain(|pending| pending.handle != handle);
        self.tidy();
    }

    /// Drops pending writes that are empty.
    pub fn tidy(&mut self) {
        self.pending
            .retain(|pending| !pending.dirty.is_empty() || pending.in_flight.is_some());
        self.view = None;
    }

    /// Whether anything is uncommitted.
    pub fn is_dirty(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The bytes as processes of this node see them: `committed` with the uncommitted writes on top.
    pub fn view(&mut self, revision: LogIndex, committed: &Content) -> Content {
        if self.pending.is_empty() {
            return committed.clone();
        }
        if let Some((at, content)) = &self.view
            && *at == revision
        {
            return content.clone();
        }
        let mut content = committed.clone();
        for pending in &self.pending {
            for ranges in pending.in_flight.iter().chain([&pending.dirty]) {
                content = ranges.over(&content);
            }
        }
        self.view = Some((revision, content.clone()));
        content
    }

    /// When the content was last changed by an uncommitted write.
    pub fn last_write(&self) -> Option<WallTime> {
        self.pending
            .iter()
            .filter_map(|pending| pending.last_write)
            .max()
    }
}

/// An open directory.
#[derive(Debug)]
pub struct DirectoryHandle {
    /// The directory's node.
    pub node: u64,
    /// Its entries; read anew at offset 0.
    pub entries: Mutex<Arc<Vec<DirectoryEntry>>>,
}

/// One entry of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// The node that it names.
    pub node: u64,
    /// Its kind.
    pub kind: FileKind,
    /// Its name.
    pub name: Vec<u8>,
}

/// All open handles.
#[derive(Debug)]
pub struct HandleTable {
    next: AtomicU64,
    handles: Mutex<HashMap<HandleId, Handle>>,
    inodes: Mutex<HashMap<InodeNo, Arc<OpenInode>>>,
}

impl HandleTable {
    /// An empty table whose numbers start at `first`; see [`HandleTable::next_id`].
    pub fn new(first: u64) -> Self {
        Self {
            next: AtomicU64::new(first),
            handles: Mutex::default(),
            inodes: Mutex::default(),
        }
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
                    state: Mutex::default(),
                })
            })
            .clone();
        inode.state.lock().handles += 1;
        inode
    }

    /// The counterpart of [`HandleTable::open_inode`], once nothing of the handle is pending.
    pub fn close_inode(&self, inode: &OpenInode) {
        let mut inodes = self.inodes.lock();
        let mut state = inode.state.lock();
        state.handles -= 1;
        if state.handles == 0 {
            inodes.remove(&inode.number);
        }
    }

    /// The shared state of an inode, if it is open.
    pub fn opened(&self, number: InodeNo) -> Option<Arc<OpenInode>> {
        self.inodes.lock().get(&number).cloned()
    }
}
