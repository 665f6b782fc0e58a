//! When what was written becomes one entry.
//!
//! FLUSH is not close: a shell's redirection sends one from `dup2` before the first byte is written. So a FLUSH commits
//! only when it comes from the process that opened the handle and bytes were written; the last close commits what is
//! left, and nobody can be told of its failure then (`docs/SEMANTICS.md`, Writing).
//!
//! A commit before the close (append, fsync, rename) does not say that the handle closes: a notice does, later. It is
//! sent at that FLUSH and waited for, because RELEASE has no caller: what the caller does next would overtake it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::OwnedMutexGuard;

use super::caller::Caller;
use super::errno::{Failure, FsResult};
use super::file_system::{FileSystem, Ground};
use super::handles::{FileHandle, Handle};
use super::proposer::{Committed, Proposal, ProposeError};
use super::virtual_tree::Node;
use crate::limits::{UNSAVED_RETRY_EVERY, UNSAVED_RETRY_FOR};
use crate::state_machine::command::{Command, Write};
use crate::state_machine::ids::{HandleId, InodeNo};
use crate::state_machine::inode::{Inode, Kind};
use crate::state_machine::lock::Hold;
use crate::state_machine::namespace::{CTX, MID};
use crate::state_machine::outcome::{Change, FsError};

/// Uncommitted bytes that travel in the entry of a rename or link.
pub(super) struct Carried {
    handle: Arc<FileHandle>,
    _turn: OwnedMutexGuard<()>,
}

impl FileSystem {
    /// Whether a FLUSH of this handle may have something to commit or to announce.
    pub fn is_due_at_flush(&self, id: HandleId) -> bool {
        let Some(Handle::File(handle)) = self.handles.handle(id) else {
            return false;
        };
        let mut state = handle.inode.state.lock();
        match state.pending(id) {
            Some(pending) => pending.is_due_at_flush(),
            None => handle.owes_close_notice.load(Ordering::Relaxed),
        }
    }

    /// A descriptor of the handle was closed, not necessarily the last one.
    ///
    /// # Errors
    /// As the commit that it makes: this is the error of the caller's `close(2)`.
    pub async fn flush(&self, caller: Caller, id: HandleId) -> FsResult<()> {
        let Some(Handle::File(handle)) = self.handles.handle(id) else {
            return Ok(());
        };
        if !self.is_due_at_flush(id) {
            return Ok(());
        }
        // The thread that opened it needs no look into /proc, which takes longer than all else here.
        let is_opener_itself = caller.tid == handle.author.pid;
        if !is_opener_itself && caller.thread_group() != handle.opener {
            return Ok(());
        }
        let replaces = match handle.inode.state.lock().pending(id) {
            Some(pending) => pending.dirty.replaces(),
            None => false,
        };
        if replaces && self.is_wish(handle.inode.number) && caller.died_by_signal() {
            // Half a wish is worse than none: the old one stays.
            handle.inode.state.lock().forget_pending(id);
            return Ok(());
        }
        self.commit_handle(&handle, true).await?;
        self.give_close_notice(&handle).await;
        Ok(())
    }

    /// Announces the close of a handle whose commits did not. Only a hint for watchers on other nodes: the bytes are
    /// committed already, so it is no error of the close if it does not arrive. RELEASE tries once more then.
    async fn give_close_notice(&self, handle: &Arc<FileHandle>) {
        // A commit under way decides whether a notice is owed.
        let _turn = handle.committing.lock().await;
        if !handle.owes_close_notice.load(Ordering::Relaxed) || !self.is_in_tree(handle) {
            return;
        }
        let notice = Command::CloseWrite {
            inode: handle.inode.number,
        };
        match self.propose_for(handle, notice).await {
            Ok(_) => handle.owes_close_notice.store(false, Ordering::Relaxed),
            Err(failure) => {
                tracing::debug!(inode = %handle.inode.number, %failure, "a close was not announced");
            }
        }
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
        } else {
            // Owed when the opener did not close it by itself: a child wrote last, or the process had handed it on.
            self.give_close_notice(handle).await;
        }
        self.end_handle_lock(handle).await;
        self.handles.close_inode(&handle.inode);
    }

    /// Commits what no close could report on. Tried again while there is no majority, unless the file changes
    /// meanwhile.
    async fn commit_leftover(&self, handle: &Arc<FileHandle>) {
        let inode = handle.inode.number;
        let base = self
            .state()
            .tree()
            .inode(inode)
            .map(|inode| inode.content_revision);
        let unseen = handle
            .inode
            .state
            .lock()
            .pending(handle.id)
            .is_some_and(|p| p.dirty.has_bytes());
        let Some((_turn, write)) = self.begin_commit(handle, true).await else {
            return;
        };
        let mut outcome = self
            .propose_for(handle, Command::Write(write.clone()))
            .await;
        if matches!(outcome, Err(Failure::NotProposed(_))) {
            let path = self.path_text(inode);
            self.unsaved.lock().push(path.clone());
            outcome = self
                .commit_until_answered(handle, Write { base, ..write })
                .await;
            let mut unsaved = self.unsaved.lock();
            if let Some(position) = unsaved.iter().position(|other| *other == path) {
                unsaved.remove(position);
            }
        }
        match self.end_commit(handle, outcome) {
            Ok(()) if !unseen => {}
            // The close was seen on this node before the bytes were committed: who reads the committed view looks
            // again.
            Ok(()) => self.raise_here(Change::Modified {
                inode,
                closed: true,
                by_path: false,
            }),
            Err(failure) => {
                tracing::error!(%inode, %failure, "a save that nobody waits for was dropped");
            }
        }
    }

    async fn commit_until_answered(
        &self,
        handle: &FileHandle,
        write: Write,
    ) -> FsResult<Committed> {
        let give_up = tokio::time::Instant::now() + UNSAVED_RETRY_FOR;
        loop {
            tokio::time::sleep(UNSAVED_RETRY_EVERY).await;
            let outcome = self
                .propose_for(handle, Command::Write(write.clone()))
                .await;
            let answered = !matches!(outcome, Err(Failure::NotProposed(_)));
            if answered || tokio::time::Instant::now() >= give_up {
                return outcome;
            }
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

    pub(super) async fn commit_handle(
        &self,
        handle: &Arc<FileHandle>,
        closes: bool,
    ) -> FsResult<()> {
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
        pending.resized = false;
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

    /// Takes an inode's uncommitted bytes for an entry that changes its name. Several handles' bytes cannot be told
    /// apart in one entry: all but the last handle's are committed first.
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

    pub(super) async fn propose_for(
        &self,
        handle: &FileHandle,
        command: Command,
    ) -> FsResult<Committed> {
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

    pub(super) fn file_handle(&self, id: HandleId) -> FsResult<Arc<FileHandle>> {
        match self.handles.handle(id) {
            Some(Handle::File(handle)) => Ok(handle),
            _ => Err(Failure::BadHandle),
        }
    }

    pub(super) fn is_in_tree(&self, handle: &FileHandle) -> bool {
        self.state().tree().inode(handle.inode.number).is_some()
    }

    /// Puts a handle's bytes into the private copy of an unlinked file.
    pub(super) fn keep_private(&self, handle: &FileHandle) {
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
