//! Files: open, read, write into a buffer, append, seek. How the buffer becomes one entry is in `commit.rs`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::FileSystem;
use super::attr::Attr;
use super::call_grant::CallGrant;
use super::caller::Caller;
use super::errno::{Failure, FsResult};
use super::handles::{FileHandle, Handle, OpenInode, Pin, Saver};
use super::open_flags::OpenFlags;
use super::save::{OnFailure, Source, Uncommitted};
use super::virtual_tree::Node;
use crate::clock;
use crate::limits::{DIRTY_RANGE_OVERHEAD_BYTES, MAPPED_COMMIT_DELAY};
use crate::state_machine::StateMachine;
use crate::state_machine::command::{Command, Create, NodeKind};
use crate::state_machine::content::Content;
use crate::state_machine::fs_error::FsError;
use crate::state_machine::ids::{HandleId, InodeNo, LogIndex};
use crate::state_machine::log_time::WallTime;
use crate::state_machine::outcome::Done;

/// A hole leaves the size as it is (fallocate(2)).
const PUNCH_HOLE: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
const ZERO_IN_PLACE: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;

/// What a write of `bytes` may come to.
fn room_of(bytes: usize) -> u64 {
    bytes as u64 + DIRTY_RANGE_OVERHEAD_BYTES
}

/// How a file is opened.
struct Opening {
    /// The number that its handle gets.
    id: HandleId,
    flags: OpenFlags,
    grant: CallGrant,
    /// The same call made the file.
    made: bool,
}

impl FileSystem {
    /// Opens a node.
    ///
    /// # Errors
    /// [`FsError::NotFound`]; for writing also [`Failure::ReadOnly`], no quorum, a lost guard or another's lock.
    pub fn open(&self, caller: Caller, node: u64, flags: OpenFlags) -> FsResult<HandleId> {
        let writes = flags.write || flags.truncate;
        let number = match Node::of(node) {
            Node::Inode(number) => number,
            Node::Virtual(_) if writes => return Err(Failure::ReadOnly),
            Node::Virtual(node) => {
                let open = self.virtual_tree.open(self, node)?;
                let id = self.handles.next_id();
                self.handles.insert(id, Handle::Virtual(open));
                return Ok(id);
            }
        };
        let grant = if writes {
            self.check_open_for_writing(&self.state(), number)?
        } else {
            CallGrant::default()
        };
        let id = self.handles.next_id();
        let opening = Opening {
            id,
            flags,
            grant,
            made: false,
        };
        self.open_file(caller, number, opening)?;
        Ok(id)
    }

    /// Makes a file and opens it. Returns its attributes and the handle.
    ///
    /// # Errors
    /// As [`FileSystem::make_node`] and [`FileSystem::open`].
    pub async fn create(
        &self,
        caller: Caller,
        parent: u64,
        name: &OsStr,
        mode: u32,
        flags: OpenFlags,
    ) -> FsResult<(Attr, HandleId)> {
        let parent = self.tree_directory(parent)?;
        let grant = self.grant_of_entries(parent)?;
        let id = self.handles.next_id();
        let command = Command::Create(Create {
            parent,
            name: name.as_bytes().to_vec(),
            kind: NodeKind::Regular,
            mode,
            uid: caller.uid,
            gid: caller.gid,
            exclusive: flags.exclusive,
            handle: Some(id),
        });
        let Done::Inode { inode, created } = self.commit(caller, grant, command).await?.outcome?
        else {
            return Err(FsError::Invalid.into());
        };
        if !created {
            // Another node was first. Opening its file here would ask nobody whether this caller may: the kernel checks
            // nothing of a file that it believes to be new. So it looks the name up again, and checks.
            return Err(Failure::Stale);
        }
        // What was made is opened whatever happened since: a lock that lives by its handle must have one.
        self.known.add(inode);
        let opening = Opening {
            id,
            flags,
            grant,
            made: created,
        };
        let opened = self.open_file(caller, inode, opening);
        let attr = opened.and_then(|()| self.attr(inode.0));
        let attr = attr.map_err(|failure| self.not_made(inode, failure))?;
        Ok((attr, id))
    }

    /// What an open for writing begins under: a majority, the guard, and no lock of somebody else's.
    fn check_open_for_writing(&self, state: &StateMachine, number: InodeNo) -> FsResult<CallGrant> {
        if state.tree().inode(number).is_none() {
            return Ok(CallGrant::default());
        }
        self.check_writable()?;
        let grant = self.grant_of_inode(number)?;
        let session = self.proposer().session();
        let lock = state.enclosing_lock(number).map(|(_, lock)| lock);
        if lock.is_some_and(|lock| session.is_none_or(|session| !lock.is_held_by(session))) {
            return Err(FsError::NotPermitted.into());
        }
        Ok(grant)
    }

    /// Opens an inode.
    fn open_file(&self, caller: Caller, number: InodeNo, opening: Opening) -> FsResult<()> {
        let open = self.handles.open_inode(number);
        let opened = self.add_handle(caller, &open, opening);
        opened.inspect_err(|_| self.handles.close_inode(&open))
    }

    fn add_handle(
        &self,
        caller: Caller,
        open: &Arc<OpenInode>,
        Opening {
            id,
            flags,
            grant,
            made,
        }: Opening,
    ) -> FsResult<()> {
        // It is in the table of open ones already: whoever commits in between tells so there.
        let inode = self.inode_in(&self.state(), open.number)?;
        let (author, opener) = match flags.write || flags.truncate {
            true => caller.author_and_thread_group(),
            false => Default::default(),
        };
        let handle = Arc::new(FileHandle {
            id,
            flags,
            saver: Arc::new(Saver {
                author,
                opener,
                grant: grant.bound_to.zip(grant.fence),
                owes_close_notice: AtomicBool::new(false),
            }),
            inode: open.clone(),
            pin: parking_lot::Mutex::new(Pin {
                content: inode.content().cloned().unwrap_or_default(),
                revision: inode.content_revision,
            }),
        });
        if flags.truncate {
            let mut state = open.state.lock();
            state.truncate_at_open(handle.source(), !made, clock::wall())?;
        }
        self.handles.insert(id, Handle::File(handle));
        Ok(())
    }

    /// Reads bytes of the version that the handle sees.
    ///
    /// # Errors
    /// [`Failure::BadHandle`], [`FsError::NotFound`].
    pub fn read(&self, id: HandleId, offset: u64, len: usize) -> FsResult<Vec<u8>> {
        match self.handles.handle(id).ok_or(Failure::BadHandle)? {
            Handle::File(handle) => Ok(self.content_for(&handle, offset)?.read(offset, len)),
            Handle::Virtual(file) => file.read(offset, len),
            Handle::Directory(_) => Err(FsError::IsDirectory.into()),
        }
    }

    /// The bytes that a read at `offset` sees. Other nodes' commits show at the next read from the start, so that no
    /// reader joins two versions; this node's own writes show at once, as POSIX asks.
    fn content_for(&self, handle: &FileHandle, offset: u64) -> FsResult<Content> {
        let mut open = handle.inode.state.lock();
        let state = self.state();
        let inode = self.inode_in(&state, handle.inode.number)?;
        let is_private = state.tree().inode(inode.number).is_none();
        let committed = inode.content().ok_or(FsError::Invalid)?;
        let mut pin = handle.pin.lock();
        if open.is_dirty() || is_private {
            let content = open.view(inode.content_revision, committed);
            *pin = Pin {
                content,
                revision: LogIndex(0),
            };
        } else if inode.content_revision != pin.revision {
            let only_grew = offset >= pin.content.size() && inode.rewritten <= pin.revision;
            if offset == 0
                || pin.revision == LogIndex(0)
                || open.is_newer_than(pin.revision)
                || only_grew
            {
                *pin = Pin {
                    content: committed.clone(),
                    revision: inode.content_revision,
                };
            }
        }
        Ok(pin.content.clone())
    }

    /// The bytes as this node sees them now, without moving the version that the handle reads.
    fn content_seen(&self, handle: &FileHandle) -> FsResult<Content> {
        self.content_in(&mut handle.inode.state.lock(), handle.inode.number)
    }

    fn content_in(&self, open: &mut Uncommitted, number: InodeNo) -> FsResult<Content> {
        let inode = self.inode_in(&self.state(), number)?;
        let committed = inode.content().ok_or(FsError::Invalid)?;
        Ok(open.view(inode.content_revision, committed))
    }

    pub(super) fn file_handle(&self, id: HandleId) -> FsResult<Arc<FileHandle>> {
        match self.handles.handle(id) {
            Some(Handle::File(handle)) => Ok(handle),
            _ => Err(Failure::BadHandle),
        }
    }

    /// Whether a write to this handle has to wait for a majority: it is synchronous, or it is not known whether there
    /// is one. A write that is taken without contact may be lost, and what a shell writes for a redirection fails only
    /// at a close whose error nobody sees.
    pub fn write_waits(&self, id: HandleId) -> bool {
        let Ok(handle) = self.file_handle(id) else {
            return false;
        };
        handle.flags.sync || (!self.proposer().is_in_contact() && self.is_in_tree(&handle.inode))
    }

    /// Whether a write of `bytes` can be taken at once: there is a maximum to what is uncommitted.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.handles.budget().has_room(room_of(bytes))
    }

    /// Writes bytes into the handle's buffer; `mapped` ones come from a shared mapping, on nobody's behalf.
    ///
    /// A store never makes a file longer (mmap(2)). What a mapping writes behind the end was stored before a truncation
    /// that the kernel has not finished: it writes pages back until `open` with `O_TRUNC` is answered.
    ///
    /// # Errors
    /// [`Failure::BadHandle`], [`FsError::FileTooLarge`], [`FsError::NoSpace`].
    pub fn write_buffered(
        self: &Arc<Self>,
        id: HandleId,
        offset: u64,
        data: &[u8],
        mapped: bool,
    ) -> FsResult<u32> {
        let handle = self.file_handle(id)?;
        if !handle.flags.write {
            return Err(Failure::BadHandle);
        }
        let (source, saver) = match mapped {
            true => (Source::Mappings, &handle.saver),
            false => handle.source(),
        };
        let is_private = !self.is_in_tree(&handle.inode);
        if is_private && !self.known.has_room(data.len() as u64) {
            return Err(FsError::NoSpace.into());
        }
        let mut state = handle.inode.state.lock();
        let kept = if mapped {
            let end = self.content_in(&mut state, handle.inode.number)?.size();
            usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX)
        } else {
            data.len()
        };
        if let Some(data) = data
            .get(..kept.min(data.len()))
            .filter(|data| !data.is_empty())
        {
            state.write((source, saver), offset, data, clock::wall())?;
        }
        drop(state);
        if !self.is_in_tree(&handle.inode) {
            self.keep_private(&handle.inode);
        } else if mapped {
            self.commit_mapped_later(&handle);
        }
        u32::try_from(data.len()).map_err(|_| FsError::Invalid.into())
    }

    /// Writes bytes and waits for a majority.
    ///
    /// # Errors
    /// As [`FileSystem::write_buffered`], and as the commit.
    pub async fn write_committed(
        self: &Arc<Self>,
        caller: Caller,
        id: HandleId,
        offset: u64,
        data: &[u8],
        mapped: bool,
    ) -> FsResult<u32> {
        let handle = self.file_handle(id)?;
        let refuse = || handle.inode.state.lock().refuse(handle.source().0);
        if !mapped && self.is_in_tree(&handle.inode) && !self.proposer().is_in_contact() {
            let contact = self.proposer().contact().await;
            contact.inspect_err(|_| refuse())?;
        }
        let room = self.handles.budget().room_for(room_of(data.len())).await;
        room.inspect_err(|_| refuse())?;
        let written = self.write_buffered(id, offset, data, mapped)?;
        if handle.flags.sync && !mapped {
            self.commit_own(caller, &handle, false).await?;
        }
        Ok(written)
    }

    /// Writes bytes at the end, as one entry.
    ///
    /// # Errors
    /// As [`FileSystem::write_committed`].
    pub async fn append_write(self: &Arc<Self>, id: HandleId, data: &[u8]) -> FsResult<u32> {
        let handle = self.file_handle(id)?;
        if !handle.flags.write {
            return Err(Failure::BadHandle);
        }
        if self.is_in_tree(&handle.inode) {
            self.append(&handle, data, clock::wall()).await?;
        } else {
            self.append_privately(&handle, data)?;
        }
        u32::try_from(data.len()).map_err(|_| FsError::Invalid.into())
    }

    /// Appends to a file that has no name any more.
    pub(super) fn append_privately(
        self: &Arc<Self>,
        handle: &FileHandle,
        data: &[u8],
    ) -> FsResult<()> {
        let end = self.content_seen(handle)?.size();
        self.write_buffered(handle.id, end, data, false).map(drop)
    }

    /// Stores through a mapping have no close that could commit them: they go out after a while, by one task for all
    /// that come meanwhile. What fails stays for the next close or `fsync`.
    fn commit_mapped_later(self: &Arc<Self>, handle: &Arc<FileHandle>) {
        let (fs, open) = (self.clone(), handle.inode.clone());
        if open.mapped_commit_waits.swap(true, Ordering::Relaxed) {
            return;
        }
        self.runtime.spawn(async move {
            tokio::time::sleep(MAPPED_COMMIT_DELAY).await;
            // A store after this waits anew: it may come too late for the commit.
            open.mapped_commit_waits.store(false, Ordering::Relaxed);
            let commit = fs.commit_source(&open, Source::Mappings, false, OnFailure::GiveBack);
            if let Err(failure) = commit.await {
                tracing::warn!(inode = open.number.0, %failure, "mapped stores could not be committed yet");
            }
        });
    }

    /// `ftruncate(2)`: buffered with the handle's writes.
    ///
    /// # Errors
    /// [`Failure::BadHandle`], [`FsError::FileTooLarge`].
    pub async fn truncate_handle(
        self: &Arc<Self>,
        caller: Caller,
        id: HandleId,
        size: u64,
    ) -> FsResult<()> {
        self.change_buffered(caller, id, |handle, now| {
            let mut state = handle.inode.state.lock();
            state.truncate(handle.source(), size, now)
        })
        .await
    }

    /// `fallocate(2)`: plain allocation, `KEEP_SIZE`, `PUNCH_HOLE` and `ZERO_RANGE`.
    ///
    /// # Errors
    /// [`FsError::NotSupported`] for other modes, or as [`FileSystem::truncate_handle`].
    pub async fn allocate(
        self: &Arc<Self>,
        caller: Caller,
        id: HandleId,
        mode: i32,
        offset: u64,
        len: u64,
    ) -> FsResult<()> {
        let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        let zeroes = mode & (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE) != 0;
        // Exactly the combinations of fallocate(2) that are there; collapsing and inserting are not.
        let is_known = matches!(
            mode,
            0 | libc::FALLOC_FL_KEEP_SIZE | PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE | ZERO_IN_PLACE
        );
        if !is_known {
            return Err(FsError::NotSupported.into());
        }
        let end = offset.checked_add(len).ok_or(FsError::FileTooLarge)?;
        if end > crate::limits::FILE_BYTES_MAX && !keep_size {
            return Err(FsError::FileTooLarge.into());
        }
        let size = self.content_seen(&*self.file_handle(id)?)?.size();
        self.change_buffered(caller, id, |handle, now| {
            let mut state = handle.inode.state.lock();
            if zeroes && offset < end.min(size) {
                state.punch(handle.source(), (offset, end.min(size)), now)?;
            }
            // Where nothing changes, the times do all the same.
            let at_least = if keep_size { size } else { end };
            state.extend(handle.source(), at_least, now)
        })
        .await
    }

    async fn change_buffered(
        self: &Arc<Self>,
        caller: Caller,
        id: HandleId,
        change: impl FnOnce(&FileHandle, WallTime) -> Result<(), FsError>,
    ) -> FsResult<()> {
        let handle = self.file_handle(id)?;
        if !handle.flags.write {
            return Err(Failure::BadHandle);
        }
        change(&handle, clock::wall())?;
        if !self.is_in_tree(&handle.inode) {
            self.keep_private(&handle.inode);
        } else if handle.flags.sync {
            self.commit_own(caller, &handle, false).await?;
        }
        Ok(())
    }

    /// `SEEK_DATA` (`data`) or `SEEK_HOLE`.
    ///
    /// # Errors
    /// [`Failure::NoSuchOffset`] past the end.
    pub fn seek(&self, id: HandleId, offset: u64, data: bool) -> FsResult<u64> {
        let content = match self.handles.handle(id).ok_or(Failure::BadHandle)? {
            Handle::File(handle) => self.content_seen(&handle)?,
            Handle::Virtual(file) => return file.seek(offset, data),
            Handle::Directory(_) => return Err(FsError::Invalid.into()),
        };
        let found = if data {
            content.next_data(offset)
        } else {
            content.next_hole(offset)
        };
        found.ok_or(Failure::NoSuchOffset)
    }
}
