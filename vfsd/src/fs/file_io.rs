//! Files: open, read, write, and the commit of what was written as one entry.
//!
//! FLUSH is not close: a shell's redirection sends one from `dup2` before the first byte is written. So a FLUSH commits
//! only when it comes from the process that opened the handle and bytes were written; the last close commits what is
//! left, and nobody can be told of its failure then (`docs/SEMANTICS.md`, Writing).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::OwnedMutexGuard;

use super::attr::Attr;
use super::caller::Caller;
use super::errno::{Failure, FsResult};
use super::file_system::{FileSystem, Ground};
use super::handles::{FileHandle, Handle, Pin};
use super::open_flags::OpenFlags;
use super::proposer::{Committed, Proposal, ProposeError};
use super::virtual_tree::Node;
use crate::limits::{MAPPED_COMMIT_DELAY, UNSAVED_RETRY_EVERY, UNSAVED_RETRY_FOR};
use crate::state_machine::StateMachine;
use crate::state_machine::command::{Command, ContentUpdate, Create, NodeKind, Write};
use crate::state_machine::content::Content;
use crate::state_machine::ids::{HandleId, InodeNo, LogIndex};
use crate::state_machine::inode::{Inode, Kind};
use crate::state_machine::lock::Hold;
use crate::state_machine::log_time::WallTime;
use crate::state_machine::namespace::{CTX, MID};
use crate::state_machine::outcome::{Done, FsError};

/// The time of day.
pub fn wall_now() -> WallTime {
    // A clock before 1970 is not worth a failure: times are information only.
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    WallTime {
        secs: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: since.subsec_nanos(),
    }
}

/// Uncommitted bytes that travel in the entry of a rename or link.
pub(super) struct Carried {
    handle: Arc<FileHandle>,
    _turn: OwnedMutexGuard<()>,
}

impl FileSystem {
    /// Opens a node.
    ///
    /// # Errors
    /// [`FsError::NotFound`]; for writing also [`Failure::ReadOnly`], no quorum, a lost guard or another's lock.
    pub fn open(&self, caller: Caller, node: u64, flags: OpenFlags) -> FsResult<HandleId> {
        let state = self.state();
        let writes = flags.write || flags.truncate;
        let handle = match Node::of(node) {
            Node::Inode(inode) => {
                return self.open_file(&state, caller, inode, flags, self.handles.next_id());
            }
            _ if writes => return Err(Failure::ReadOnly),
            at @ (Node::Status | Node::Members) => {
                Handle::Fixed(Arc::new(self.fixed_bytes(&state, at)))
            }
            Node::NowVersion(number) => {
                Handle::Version(self.versions.opened(number).ok_or(FsError::NotFound)?)
            }
            Node::Vfs | Node::NowDirectory(_) => return Err(FsError::IsDirectory.into()),
        };
        let id = self.handles.next_id();
        self.handles.insert(id, handle);
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
        let ground = self.ground_of_entries(parent)?;
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
        let Done::Inode { inode, created } = self.commit(caller, ground, command).await?.outcome?
        else {
            return Err(FsError::Invalid.into());
        };
        let truncate = flags.truncate && !created;
        self.open_file(
            &self.state(),
            caller,
            inode,
            OpenFlags { truncate, ..flags },
            id,
        )?;
        let attr = self.attr(inode.0)?;
        self.lookups.add(inode);
        Ok((attr, id))
    }

    fn open_file(
        &self,
        state: &StateMachine,
        caller: Caller,
        number: InodeNo,
        flags: OpenFlags,
        id: HandleId,
    ) -> FsResult<HandleId> {
        let inode = self.inode_in(state, number)?;
        let writes = flags.write || flags.truncate;
        let mut grant = None;
        if writes && state.tree().inode(number).is_some() {
            self.check_writable()?;
            let ground = self.ground_of_inode(number)?;
            grant = ground.bound_to.zip(ground.fence);
            let session = self.proposer().session();
            let lock = state.enclosing_lock(number).map(|(_, lock)| lock);
            if lock.is_some_and(|lock| session.is_none_or(|session| !lock.is_held_by(session))) {
                return Err(FsError::NotPermitted.into());
            }
        }
        let content = inode.content().cloned().unwrap_or_default();
        let handle = Arc::new(FileHandle {
            id,
            flags,
            author: if writes {
                caller.author()
            } else {
                Default::default()
            },
            opener: if writes { caller.thread_group() } else { None },
            grant,
            inode: self.handles.open_inode(number),
            pin: parking_lot::Mutex::new(Pin {
                content,
                revision: inode.content_revision,
            }),
            committing: Arc::default(),
            owes_close_notice: AtomicBool::new(false),
        });
        if flags.truncate && inode.size() > 0 {
            handle.inode.state.lock().truncate(id, 0, wall_now())?;
        }
        self.handles.insert(id, Handle::File(handle));
        Ok(id)
    }

    /// Reads bytes of the version that the handle sees.
    ///
    /// # Errors
    /// [`Failure::BadHandle`], [`FsError::NotFound`].
    pub fn read(&self, id: HandleId, offset: u64, len: usize) -> FsResult<Vec<u8>> {
        match self.handles.handle(id).ok_or(Failure::BadHandle)? {
            Handle::File(handle) => Ok(self.content_for(&handle, offset)?.read(offset, len)),
            Handle::Version(inode) => {
                Ok(inode.content().ok_or(FsError::Invalid)?.read(offset, len))
            }
            Handle::Fixed(bytes) => {
                let from = usize::try_from(offset)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len());
                Ok(bytes[from..from.saturating_add(len).min(bytes.len())].to_vec())
            }
            Handle::Directory(_) => Err(FsError::IsDirectory.into()),
        }
    }

    /// The bytes that a read at `offset` sees. Other nodes' commits show at the next read from the start, so that no
    /// reader joins two versions; this node's own writes show at once, as POSIX asks.
    fn content_for(&self, handle: &FileHandle, offset: u64) -> FsResult<Content> {
        let state = self.state();
        let mut open = handle.inode.state.lock();
        let private = open.orphan.clone().map(Arc::new);
        let inode = state
            .tree()
            .inode(handle.inode.number)
            .cloned()
            .or(private)
            .ok_or(FsError::NotFound)?;
        let committed = inode.content().ok_or(FsError::Invalid)?;
        let mut pin = handle.pin.lock();
        if open.is_dirty() || open.orphan.is_some() {
            let content = open.view(inode.content_revision, committed);
            *pin = Pin {
                content,
                revision: LogIndex(0),
            };
        } else if inode.content_revision != pin.revision {
            let only_grew = offset >= pin.content.size() && inode.rewritten <= pin.revision;
            if offset == 0
                || pin.revision == LogIndex(0)
                || open.own_commit > pin.revision
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

    /// Whether a write to this handle has to wait for a majority: it appends, or is synchronous.
    pub fn write_waits(&self, id: HandleId) -> bool {
        self.file_handle(id)
            .is_ok_and(|handle| handle.flags.append || handle.flags.sync)
    }

    /// Writes bytes into the handle's buffer; `mapped` ones come from a shared mapping, on nobody's behalf.
    ///
    /// # Errors
    /// [`Failure::BadHandle`], [`FsError::FileTooLarge`].
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
        handle
            .inode
            .state
            .lock()
            .write(id, offset, data, wall_now())?;
        if !self.is_in_tree(&handle) {
            self.keep_private(&handle);
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
        id: HandleId,
        offset: u64,
        data: &[u8],
        mapped: bool,
    ) -> FsResult<u32> {
        let handle = self.file_handle(id)?;
        if handle.flags.append && handle.flags.write && !mapped && self.is_in_tree(&handle) {
            self.append(&handle, data).await?;
            return u32::try_from(data.len()).map_err(|_| FsError::Invalid.into());
        }
        let written = self.write_buffered(id, offset, data, mapped)?;
        if handle.flags.sync {
            self.commit_handle(&handle, false).await?;
        }
        Ok(written)
    }

    async fn append(&self, handle: &Arc<FileHandle>, data: &[u8]) -> FsResult<()> {
        let _turn = handle.committing.clone().lock_owned().await;
        let truncate = {
            let mut state = handle.inode.state.lock();
            let truncated = state
                .pending(handle.id)
                .is_some_and(|p| p.dirty.replaces() && !p.dirty.has_bytes());
            if truncated {
                state.pending.retain(|pending| pending.handle != handle.id);
                state.tidy();
            }
            truncated
        };
        let update = ContentUpdate::Append {
            truncate,
            data: data.to_vec(),
        };
        let mtime = Some(wall_now());
        let write = Write {
            inode: handle.inode.number,
            base: None,
            update,
            mtime,
            closes: false,
        };
        let committed = self.propose_for(handle, Command::Write(write)).await?;
        handle.inode.state.lock().own_commit = committed.index;
        handle.owes_close_notice.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Stores through a mapping have no close that could commit them: they go out after a while.
    fn commit_mapped_later(self: &Arc<Self>, handle: &Arc<FileHandle>) {
        let (fs, handle) = (self.clone(), handle.clone());
        self.runtime.spawn(async move {
            tokio::time::sleep(MAPPED_COMMIT_DELAY).await;
            if let Err(failure) = fs.commit_handle(&handle, false).await {
                tracing::warn!(inode = handle.inode.number.0, %failure, "mapped stores could not be committed");
            }
        });
    }

    /// `ftruncate(2)`: buffered with the handle's writes.
    ///
    /// # Errors
    /// [`Failure::BadHandle`], [`FsError::FileTooLarge`].
    pub async fn truncate_handle(self: &Arc<Self>, id: HandleId, size: u64) -> FsResult<()> {
        self.change_buffered(id, |handle, now| {
            handle.inode.state.lock().truncate(id, size, now)
        })
        .await
    }

    /// `fallocate(2)`: plain allocation, `KEEP_SIZE`, `PUNCH_HOLE` and `ZERO_RANGE`.
    ///
    /// # Errors
    /// [`FsError::NotSupported`] for other modes, or as [`FileSystem::truncate_handle`].
    pub async fn allocate(
        self: &Arc<Self>,
        id: HandleId,
        mode: i32,
        offset: u64,
        len: u64,
    ) -> FsResult<()> {
        let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        let zeroes = mode & (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE) != 0;
        let known =
            libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE;
        if mode & !known != 0 {
            return Err(FsError::NotSupported.into());
        }
        let end = offset.checked_add(len).ok_or(FsError::FileTooLarge)?;
        if end > crate::limits::FILE_BYTES_MAX && !keep_size {
            return Err(FsError::FileTooLarge.into());
        }
        let size = self.content_for(&*self.file_handle(id)?, 0)?.size();
        self.change_buffered(id, |handle, now| {
            let mut state = handle.inode.state.lock();
            let until = end.min(if keep_size { size } else { end });
            if zeroes && offset < until {
                let zeros = usize::try_from(until - offset).map_err(|_| FsError::FileTooLarge)?;
                state.write(id, offset, &vec![0; zeros], now)?;
            }
            if keep_size {
                Ok(())
            } else {
                state.extend(id, end, now)
            }
        })
        .await
    }

    async fn change_buffered(
        self: &Arc<Self>,
        id: HandleId,
        change: impl FnOnce(&FileHandle, WallTime) -> Result<(), FsError>,
    ) -> FsResult<()> {
        let handle = self.file_handle(id)?;
        if !handle.flags.write {
            return Err(Failure::BadHandle);
        }
        change(&handle, wall_now())?;
        if !self.is_in_tree(&handle) {
            self.keep_private(&handle);
        } else if handle.flags.sync {
            self.commit_handle(&handle, false).await?;
        }
        Ok(())
    }

    /// `SEEK_DATA` (`data`) or `SEEK_HOLE`.
    ///
    /// # Errors
    /// [`Failure::NoSuchOffset`] past the end.
    pub fn seek(&self, id: HandleId, offset: u64, data: bool) -> FsResult<u64> {
        let content = match self.handles.handle(id).ok_or(Failure::BadHandle)? {
            Handle::File(handle) => self.content_for(&handle, offset)?,
            Handle::Version(inode) => inode.content().cloned().unwrap_or_default(),
            Handle::Fixed(_) | Handle::Directory(_) => return Err(FsError::Invalid.into()),
        };
        let found = if data {
            content.next_data(offset)
        } else {
            content.next_hole(offset)
        };
        found.ok_or(Failure::NoSuchOffset)
    }

    /// Whether a FLUSH of this handle may have something to commit: bytes, not only a truncation.
    pub fn has_bytes_to_commit(&self, id: HandleId) -> bool {
        let Some(Handle::File(handle)) = self.handles.handle(id) else {
            return false;
        };
        let mut state = handle.inode.state.lock();
        state
            .pending(id)
            .is_some_and(|pending| pending.dirty.has_bytes())
    }

    /// A descriptor of the handle was closed, not necessarily the last one.
    ///
    /// # Errors
    /// As the commit that it makes: this is the error of the caller's `close(2)`.
    pub async fn flush(&self, caller: Caller, id: HandleId) -> FsResult<()> {
        let Some(Handle::File(handle)) = self.handles.handle(id) else {
            return Ok(());
        };
        let replaces = match handle.inode.state.lock().pending(id) {
            Some(pending) if pending.dirty.has_bytes() => pending.dirty.replaces(),
            _ => return Ok(()),
        };
        if caller.thread_group() != handle.opener {
            return Ok(());
        }
        if replaces && self.is_wish(handle.inode.number) && caller.died_by_signal() {
            // Half a wish is worse than none: the old one stays.
            handle
                .inode
                .state
                .lock()
                .pending
                .retain(|pending| pending.handle != id);
            handle.inode.state.lock().tidy();
            return Ok(());
        }
        self.commit_handle(&handle, true).await
    }

    fn is_wish(&self, inode: InodeNo) -> bool {
        self.state()
            .tree()
            .ancestors(inode)
            .any(|at| at == MID || at == CTX)
    }

    /// `fsync(2)`: commits whatever any handle of the file has pending.
    ///
    /// # Errors
    /// As the commit.
    pub async fn sync(&self, id: HandleId) -> FsResult<()> {
        let Some(Handle::File(handle)) = self.handles.handle(id) else {
            return Ok(());
        };
        self.commit_all_but(&handle.inode.number, None).await
    }

    /// The last descriptor of a handle was closed. Returns at once; what is left is committed behind it.
    pub fn release(self: &Arc<Self>, node: u64, id: HandleId) {
        match self.handles.remove(id) {
            Some(Handle::File(handle)) => {
                let fs = self.clone();
                self.runtime
                    .spawn(async move { fs.finish_handle(&handle).await });
            }
            Some(Handle::Version(_)) => {
                if let Node::NowVersion(number) = Node::of(node) {
                    self.versions.released(number);
                }
            }
            Some(Handle::Fixed(_) | Handle::Directory(_)) | None => {}
        }
    }

    async fn finish_handle(&self, handle: &Arc<FileHandle>) {
        if handle.inode.state.lock().pending(handle.id).is_some() {
            self.commit_leftover(handle).await;
        } else if handle.owes_close_notice.load(Ordering::Relaxed) {
            let notice = Command::CloseWrite {
                inode: handle.inode.number,
            };
            // Only a hint for watchers on other nodes: nobody waits for it and it is not tried again.
            let _ = self.propose_for(handle, notice).await;
        }
        self.end_handle_lock(handle).await;
        self.handles.close_inode(&handle.inode);
    }

    /// Commits what no close could report on. Tried again while there is no majority, unless the file changes meanwhile.
    async fn commit_leftover(&self, handle: &Arc<FileHandle>) {
        let number = handle.inode.number;
        let base = self
            .state()
            .tree()
            .inode(number)
            .map(|inode| inode.content_revision);
        let Some((_turn, write)) = self.begin_commit(handle, true).await else {
            return;
        };
        let first = self
            .propose_for(handle, Command::Write(write.clone()))
            .await;
        if !matches!(
            first,
            Err(Failure::NotProposed(
                ProposeError::NoQuorum(_) | ProposeError::TimedOut(_)
            ))
        ) {
            let _ = self.end_commit(handle, first);
            return;
        }
        let path = self.path_text(number);
        self.unsaved.lock().push(path.clone());
        let retried = Write { base, ..write };
        let give_up = tokio::time::Instant::now() + UNSAVED_RETRY_FOR;
        let outcome = loop {
            tokio::time::sleep(UNSAVED_RETRY_EVERY).await;
            let outcome = self
                .propose_for(handle, Command::Write(retried.clone()))
                .await;
            if !matches!(outcome, Err(Failure::NotProposed(_)))
                || tokio::time::Instant::now() >= give_up
            {
                break outcome;
            }
        };
        if let Err(failure) = self.end_commit(handle, outcome) {
            tracing::error!(path, %failure, "a save that nobody waits for was dropped");
        }
        let mut unsaved = self.unsaved.lock();
        if let Some(position) = unsaved.iter().position(|other| *other == path) {
            unsaved.remove(position);
        }
    }

    /// A lock that lives as long as this handle ends with it, unless its file was removed before.
    async fn end_handle_lock(&self, handle: &Arc<FileHandle>) {
        let number = handle.inode.number;
        loop {
            let state = self.state();
            let Some(lock) = state
                .locks()
                .of(number)
                .filter(|lock| lock.hold == Hold::Handle(handle.id))
            else {
                return;
            };
            let session = lock.session;
            if lock.ended_until.is_some() || self.proposer().session() != Some(session) {
                return;
            }
            let command = Command::HandleClosed {
                session,
                handle: handle.id,
            };
            if self.propose_for(handle, command).await.is_ok() {
                return;
            }
            tokio::time::sleep(UNSAVED_RETRY_EVERY).await;
        }
    }

    /// Ends the locks that handles of an earlier daemon held in a session that this one resumed.
    ///
    /// # Errors
    /// When this node holds no session yet, or as the commits.
    pub async fn end_locks_of_lost_handles(&self) -> FsResult<()> {
        let Some(session) = self.proposer().session() else {
            return Err(ProposeError::SessionExpired.into());
        };
        let state = self.state();
        let held = state
            .locks()
            .iter()
            .filter(|(_, lock)| lock.is_held_by(session));
        let handles: Vec<HandleId> = held
            .filter_map(|(_, lock)| match lock.hold {
                Hold::Handle(handle) if self.handles.handle(handle).is_none() => Some(handle),
                _ => None,
            })
            .collect();
        for handle in handles {
            let nobody = Caller {
                uid: 0,
                gid: 0,
                tid: 0,
            };
            let ground = Ground {
                fence: None,
                bound_to: Some(session),
            };
            self.commit(nobody, ground, Command::HandleClosed { session, handle })
                .await?;
        }
        Ok(())
    }

    async fn commit_handle(&self, handle: &Arc<FileHandle>, closes: bool) -> FsResult<()> {
        let Some((_turn, write)) = self.begin_commit(handle, closes).await else {
            return Ok(());
        };
        let outcome = self.propose_for(handle, Command::Write(write)).await;
        if outcome.is_ok() {
            handle.owes_close_notice.store(!closes, Ordering::Relaxed);
        }
        self.end_commit(handle, outcome)
    }

    /// Takes what the handle has pending; `None` if nothing is to be proposed.
    async fn begin_commit(
        &self,
        handle: &Arc<FileHandle>,
        closes: bool,
    ) -> Option<(OwnedMutexGuard<()>, Write)> {
        let turn = handle.committing.clone().lock_owned().await;
        if !self.is_in_tree(handle) {
            self.keep_private(handle);
            return None;
        }
        let mut state = handle.inode.state.lock();
        let pending = state
            .pending(handle.id)
            .filter(|pending| !pending.dirty.is_empty())?;
        let dirty = std::mem::take(&mut pending.dirty);
        let (update, mtime) = (dirty.to_update(), pending.last_write);
        pending.in_flight = Some(dirty);
        Some((
            turn,
            Write {
                inode: handle.inode.number,
                base: None,
                update,
                mtime,
                closes,
            },
        ))
    }

    fn end_commit(&self, handle: &Arc<FileHandle>, outcome: FsResult<Committed>) -> FsResult<()> {
        if matches!(outcome, Err(Failure::Refused(FsError::NotFound))) && !self.is_in_tree(handle) {
            // Unlinked on another node while the commit was under way: the bytes stay with whoever has it open.
            self.keep_private(handle);
            return Ok(());
        }
        let mut state = handle.inode.state.lock();
        if let Some(pending) = state.pending(handle.id) {
            pending.in_flight = None;
        }
        if let Ok(committed) = &outcome {
            state.own_commit = committed.index;
        }
        state.tidy();
        outcome.map(|_| ())
    }

    /// Commits what the handles of an inode have pending, in the order of their first bytes.
    async fn commit_all_but(&self, inode: &InodeNo, last: Option<HandleId>) -> FsResult<()> {
        let Some(open) = self.handles.opened(*inode) else {
            return Ok(());
        };
        let ids: Vec<HandleId> = open
            .state
            .lock()
            .pending
            .iter()
            .map(|pending| pending.handle)
            .collect();
        for id in ids.into_iter().filter(|id| Some(*id) != last) {
            if let Some(Handle::File(handle)) = self.handles.handle(id) {
                self.commit_handle(&handle, false).await?;
            }
        }
        Ok(())
    }

    /// Takes an inode's uncommitted bytes for an entry that changes its name. Several handles' bytes cannot be told apart
    /// in one entry: all but the last handle's are committed first.
    pub(super) async fn take_for_entry(
        &self,
        inode: InodeNo,
    ) -> FsResult<(Option<Write>, Option<Carried>)> {
        let Some(open) = self.handles.opened(inode) else {
            return Ok((None, None));
        };
        let last = open
            .state
            .lock()
            .pending
            .last()
            .map(|pending| pending.handle);
        let Some(Handle::File(handle)) = last.and_then(|id| self.handles.handle(id)) else {
            return Ok((None, None));
        };
        self.commit_all_but(&inode, last).await?;
        let taken = self.begin_commit(&handle, false).await;
        Ok(match taken {
            Some((turn, write)) => (
                Some(write),
                Some(Carried {
                    handle,
                    _turn: turn,
                }),
            ),
            None => (None, None),
        })
    }

    /// The entry that carried the bytes was committed, or the handle has them again.
    pub(super) fn settle_carried(&self, carried: Option<Carried>, committed: bool) {
        let Some(Carried { handle, _turn }) = carried else {
            return;
        };
        let mut state = handle.inode.state.lock();
        if let Some(pending) = state.pending(handle.id) {
            let taken = pending.in_flight.take();
            if let (false, Some(mut dirty)) = (committed, taken) {
                dirty.followed_by(std::mem::take(&mut pending.dirty));
                pending.dirty = dirty;
            }
        }
        if committed {
            handle.owes_close_notice.store(true, Ordering::Relaxed);
        }
        state.tidy();
    }

    async fn propose_for(&self, handle: &FileHandle, command: Command) -> FsResult<Committed> {
        let (bound_to, fence) = handle.grant.unzip();
        let proposal = Proposal {
            author: handle.author.clone(),
            fence,
            command,
            bound_to,
        };
        let committed = self.proposer().propose(proposal).await?;
        committed.outcome?;
        Ok(committed)
    }

    fn file_handle(&self, id: HandleId) -> FsResult<Arc<FileHandle>> {
        match self.handles.handle(id) {
            Some(Handle::File(handle)) => Ok(handle),
            _ => Err(Failure::BadHandle),
        }
    }

    fn is_in_tree(&self, handle: &FileHandle) -> bool {
        self.state().tree().inode(handle.inode.number).is_some()
    }

    /// Puts a handle's bytes into the private copy of an unlinked file.
    fn keep_private(&self, handle: &FileHandle) {
        let mut state = handle.inode.state.lock();
        let Some(position) = state
            .pending
            .iter()
            .position(|pending| pending.handle == handle.id)
        else {
            return;
        };
        let pending = state.pending.remove(position);
        if let Some(Inode {
            kind: Kind::Regular(content),
            mtime,
            ..
        }) = state.orphan.as_mut()
        {
            for ranges in pending.in_flight.iter().chain([&pending.dirty]) {
                *content = ranges.over(content);
            }
            *mtime = pending.last_write.unwrap_or(*mtime);
        }
        state.tidy();
    }

    fn path_text(&self, inode: InodeNo) -> String {
        let path = self.state().tree().path_of(inode).unwrap_or_default();
        format!("/{}", String::from_utf8_lossy(&path))
    }
}
