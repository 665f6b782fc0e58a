//! Open handles, and what the handles of one inode share.
//!
//! Invariants: a handle number is used once per daemon start; an inode is in the table while a handle of it is open.
//! Lock order: the table's maps, then one [`OpenInode`]'s state, then `known_inodes.rs`; nothing is awaited under any.

use std::collections::HashMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use imbl::OrdMap;
use parking_lot::Mutex;

use super::attr::FileKind;
use super::errno::FsResult;
use super::open_flags::OpenFlags;
use super::save::{Budget, Source, Uncommitted};
use super::virtual_tree::OpenVirtual;
use crate::state_machine::command::Author;
use crate::state_machine::content::Content;
use crate::state_machine::ids::{FencingToken, HandleId, InodeNo, LogIndex, SessionId};
use crate::state_machine::inode::Inode;
use crate::state_machine::name::Name;
use crate::state_machine::outcome::FsError;

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

/// A listing as it was when it began: shared with the tree, whatever size it has.
#[derive(Debug, Default)]
pub struct Listing {
    /// What comes first: `.` and `..`, and all of `/.vfs`.
    pub fixed: Vec<DirectoryEntry>,
    /// The names of a directory of the tree.
    pub names: OrdMap<Name, InodeNo>,
    /// The place of the name that was read last: readers go on there.
    pub last: Option<(u64, Name)>,
}

impl Listing {
    /// The names of a directory.
    ///
    /// # Errors
    /// [`FsError::NotDirectory`].
    pub fn of(directory: &Inode) -> FsResult<Self> {
        let directory = directory.directory().ok_or(FsError::NotDirectory)?;
        Ok(Self {
            names: directory.entries.clone(),
            ..Self::default()
        })
    }

    /// The names from place `place` on, each with its place.
    pub fn names_from(&self, place: u64) -> impl Iterator<Item = (u64, (&Name, &InodeNo))> {
        let first = self.fixed.len() as u64;
        // Places are file offsets, which have a sign.
        let place = place.clamp(first, i64::MAX as u64);
        // Somewhere else than where the reader was (seekdir(3)) they are counted from the start.
        let (at, skipped) = match &self.last {
            Some((last, name)) if last + 1 == place => (Bound::Excluded(name), 0),
            _ => (Bound::Unbounded, place - first),
        };
        let range = self.names.range::<_, Name>((at, Bound::Unbounded));
        (place..).zip(range.skip(usize::try_from(skipped).unwrap_or(usize::MAX)))
    }
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

impl DirectoryEntry {
    /// `.` and `..`, with which the listing of the directory `node` below `above` begins.
    pub fn own(node: u64, above: u64) -> [Self; 2] {
        let entry = |node, name: &[u8]| Self {
            node,
            kind: FileKind::Directory,
            name: name.to_vec(),
        };
        [entry(node, b"."), entry(above, b"..")]
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_goes_on_where_its_reader_was_and_where_he_jumps_to() {
        let entry = |name: &[u8]| DirectoryEntry {
            node: 1,
            kind: FileKind::Directory,
            name: name.to_vec(),
        };
        let name = |number: u64| Name::new(format!("{number:04}").as_bytes()).unwrap();
        let mut listing = Listing {
            fixed: vec![entry(b"."), entry(b"..")],
            names: (0..1_000).map(|n| (name(n), InodeNo(n))).collect(),
            last: None,
        };
        let read = |listing: &Listing, from: u64| -> Vec<(u64, u64)> {
            let names = listing.names_from(from).take(3);
            names.map(|(place, (_, inode))| (place, inode.0)).collect()
        };
        assert_eq!(read(&listing, 0), [(2, 0), (3, 1), (4, 2)]);
        assert_eq!(read(&listing, 2), [(2, 0), (3, 1), (4, 2)]);
        listing.last = Some((4, name(2)));
        assert_eq!(read(&listing, 5), [(5, 3), (6, 4), (7, 5)], "it goes on");
        assert_eq!(read(&listing, 3), [(3, 1), (4, 2), (5, 3)], "back");
        assert_eq!(read(&listing, 1_001), [(1_001, 999)], "far on");
        assert!(read(&listing, 1_002).is_empty());
        assert!(read(&listing, u64::MAX).is_empty());
    }
}
