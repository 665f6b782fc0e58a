//! When what was written becomes one entry.
//!
//! FLUSH is not close: a shell's redirection sends one from `dup2` before the first byte is written. So a FLUSH commits
//! only when it comes from the process that opened the handle and bytes were written, or when that process has no other
//! descriptor of the file; the last close commits what is left, and nobody can be told of its failure then
//! (`docs/SEMANTICS.md`, Writing).
//!
//! A commit before the close (append, fsync, rename) does not say that the handle closes: a notice does, later. It is
//! sent at that FLUSH and waited for, because RELEASE has no caller: what the caller does next would overtake it.
//!
//! A commit goes on when its caller is killed: what was written outside of wishes is committed, as POSIX does. If it
//! fails then, nobody hears of it: the handle has the bytes again, and they go as those of any last close do
//! (`leftover.rs`).

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::goes_on::GoesOn;
use super::uncommitted::{InFlight, Settlement, Source};
use crate::fs::FileSystem;
use crate::fs::call_grant::CallGrant;
use crate::fs::caller::Caller;
use crate::fs::errno::{Failure, FsResult};
use crate::fs::handles::{FileHandle, Handle, OpenInode, Saver};
use crate::fs::proposer::{Committed, Proposal, ProposeError};
use crate::limits::UNSAVED_RETRY_EVERY;
use crate::state_machine::command::{Command, ContentUpdate, Write};
use crate::state_machine::content::Content;
use crate::state_machine::fs_error::FsError;
use crate::state_machine::ids::{HandleId, InodeNo, LogIndex};
use crate::state_machine::inode::Kind;
use crate::state_machine::lock::Hold;
use crate::state_machine::log_time::WallTime;
use crate::state_machine::namespace::{CTX, MID};
use crate::state_machine::outcome::Done;

/// What a handle has to commit, as far as a FLUSH asks.
struct Due {
    bytes: bool,
    replaces: bool,
}

/// What becomes of a save that fails.
#[derive(Debug, Clone, Copy)]
pub(in crate::fs) enum OnFailure {
    /// Its source has it again: it was committed on behalf of somebody else.
    GiveBack,
    /// This caller is told, and the bytes are gone; if it cannot hear any more, its handle has them again.
    Tell(Caller),
}

impl FileSystem {
    /// Whether a FLUSH of this handle may have something to commit or to announce.
    pub fn is_due_at_flush(&self, id: HandleId) -> bool {
        let Some(Handle::File(handle)) = self.handles.handle(id) else {
            return false;
        };
        let mut state = handle.inode.state.lock();
        handle.saver.owes_close_notice.load(Ordering::Relaxed)
            || state.pending(handle.source().0).is_some()
            || state.pending(Source::Mappings).is_some()
    }

    /// A descriptor of the handle was closed, not necessarily the last one.
    ///
    /// # Errors
    /// As the commit that it makes: this is the error of the caller's `close(2)`.
    pub async fn flush(self: &Arc<Self>, caller: Caller, id: HandleId) -> FsResult<()> {
        let Some(Handle::File(handle)) = self.handles.handle(id) else {
            return Ok(());
        };
        // The thread that opened it needs no look into /proc, which takes longer than all else here.
        let is_opener_itself = caller.tid == handle.saver.author.pid;
        if !is_opener_itself && caller.thread_group() != handle.saver.opener {
            return Ok(());
        }
        let source = handle.source().0;
        let due = handle
            .inode
            .state
            .lock()
            .pending(source)
            .map(|pending| Due {
                bytes: pending.is_due_at_flush(),
                replaces: pending.dirty.replaces(),
            });
        if let Some(due) = due {
            if due.replaces && self.is_wish(handle.inode.number) && caller.died_by_signal() {
                // Half a wish is worse than none, and so is an empty one: the old one stays.
                handle.inode.state.lock().forget(source);
                return Ok(());
            }
            if !due.bytes && caller.has_other_descriptor(handle.inode.number) {
                // The truncation alone, and more may follow: a redirection moves its descriptor.
                return Ok(());
            }
        }
        self.commit_mappings(&handle).await?;
        self.commit_own(caller, &handle, true).await?;
        self.give_close_notice(&handle).await;
        Ok(())
    }

    async fn commit_mappings(self: &Arc<Self>, handle: &FileHandle) -> FsResult<()> {
        let open = &handle.inode;
        if open.state.lock().pending(Source::Mappings).is_none() {
            return Ok(());
        }
        self.commit_source(open, Source::Mappings, false, OnFailure::GiveBack)
            .await?;
        // The close of this handle is the news that watchers wait for, whichever handle the kernel had chosen.
        handle.saver.owe_close_notice();
        Ok(())
    }

    /// Announces the close of a handle whose commits did not. Only a hint for watchers on other nodes: the bytes are
    /// committed already, so it is no error of the close if it does not arrive. RELEASE tries once more then.
    pub(super) async fn give_close_notice(&self, handle: &Arc<FileHandle>) {
        if !handle.saver.owes_close_notice.load(Ordering::Relaxed) {
            return;
        }
        // A commit under way decides whether a notice is owed.
        let _turn = handle.inode.committing.lock().await;
        let owed = &handle.saver.owes_close_notice;
        if !owed.load(Ordering::Relaxed) || !self.is_in_tree(&handle.inode) {
            return;
        }
        let inode = handle.inode.number;
        let notice = Command::CloseWrite { inode };
        match self.propose_for(&handle.saver, notice).await {
            Ok(_) => owed.store(false, Ordering::Relaxed),
            Err(failure) => {
                tracing::debug!(%inode, %failure, "a close was not announced");
            }
        }
    }

    fn is_wish(&self, inode: InodeNo) -> bool {
        self.state()
            .tree()
            .ancestors(inode)
            .any(|at| at == MID || at == CTX)
    }

    /// `fsync(2)`: commits what the file has pending, but for saves of other handles that rewrite it: half of such a
    /// save is nobody's to publish. What cannot be committed for others stays theirs. A commit under way is waited for.
    ///
    /// # Errors
    /// As the commits.
    pub async fn sync(self: &Arc<Self>, caller: Caller, id: HandleId) -> FsResult<()> {
        let Some(Handle::File(handle)) = self.handles.handle(id) else {
            return Ok(());
        };
        let (open, own) = (&handle.inode, handle.source().0);
        for source in self.sources_once_settled(open).await {
            let replaces = |source| {
                let mut state = open.state.lock();
                state.pending(source).is_some_and(|p| p.dirty.replaces())
            };
            if source == own {
                self.commit_own(caller, &handle, false).await?;
            } else if !replaces(source) {
                self.commit_for_others(open, source).await?;
            }
        }
        Ok(())
    }

    /// The last descriptor of a handle was closed. Returns at once; what is left is committed behind it.
    pub fn release(self: &Arc<Self>, id: HandleId) {
        match self.handles.remove(id) {
            Some(Handle::File(handle)) => {
                let fs = self.clone();
                self.runtime
                    .spawn(async move { fs.finish_handle(&handle).await });
            }
            // It ends with its handle.
            Some(Handle::Virtual(_) | Handle::Directory(_)) | None => {}
        }
    }

    /// A lock that lives as long as this handle ends with it, unless its file was removed before.
    pub(super) async fn end_handle_lock(&self, handle: &Arc<FileHandle>) {
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
            if self.propose_for(&handle.saver, command).await.is_ok() {
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
            let grant = CallGrant {
                fence: None,
                bound_to: Some(session),
            };
            self.commit(nobody, grant, Command::HandleClosed { session, handle })
                .await?;
        }
        Ok(())
    }

    /// Commits what the handle's own calls have pending, for a caller who is told if it fails.
    pub(in crate::fs) async fn commit_own(
        self: &Arc<Self>,
        caller: Caller,
        handle: &FileHandle,
        closes: bool,
    ) -> FsResult<()> {
        let source = handle.source().0;
        self.commit_source(&handle.inode, source, closes, OnFailure::Tell(caller))
            .await
    }

    /// Commits what `source` has pending on an inode; `on_failure` says what becomes of it otherwise. It goes on when
    /// nobody waits for it any more.
    pub(in crate::fs) async fn commit_source(
        self: &Arc<Self>,
        open: &Arc<OpenInode>,
        source: Source,
        closes: bool,
        on_failure: OnFailure,
    ) -> FsResult<()> {
        if open.state.lock().pending(source).is_none() {
            return Ok(());
        }
        let (fs, open) = (self.clone(), open.clone());
        let steps = |is_awaited: Arc<AtomicBool>| async move {
            let begun = fs.begin_save(&open, source, (closes, true)).await;
            let Some((mut in_flight, write)) = begun else {
                return Ok(());
            };
            let saver = in_flight.saver().clone();
            let onto_any = in_flight.is_guarded().then(|| Write {
                base: None,
                ..write.clone()
            });
            let mut outcome = fs.propose_for(&saver, Command::Write(write)).await;
            if let (Err(failure), Some(write)) = (&outcome, onto_any)
                && is_outdated(failure)
            {
                in_flight.unguard();
                outcome = fs.propose_for(&saver, Command::Write(write)).await;
            }
            if outcome.is_ok() {
                saver.owes_close_notice.store(!closes, Ordering::Relaxed);
            }
            // Where all went well, nobody's state is looked at.
            let is_told = outcome.is_err()
                && is_awaited.load(Ordering::Acquire)
                && matches!(on_failure, OnFailure::Tell(caller) if !caller.is_deaf());
            let on_failure = match is_told {
                true => Settlement::Dropped,
                false => Settlement::GivenBack,
            };
            fs.end_save(&open, in_flight, outcome, on_failure)
        };
        GoesOn::new(self.runtime.clone(), steps).await
    }

    /// Commits what another source has pending. A save that waits behind a last close for a revision that is gone is no
    /// failure of this caller's: it is named where it is tried again.
    async fn commit_for_others(
        self: &Arc<Self>,
        open: &Arc<OpenInode>,
        source: Source,
    ) -> FsResult<()> {
        let committed = self.commit_source(open, source, false, OnFailure::GiveBack);
        committed
            .await
            .or_else(|failure| match is_outdated(&failure) {
                true => Ok(()),
                false => Err(failure),
            })
    }

    /// Takes the turn and what `source` has pending; `None` if nothing is to be proposed.
    async fn begin_save(
        &self,
        open: &Arc<OpenInode>,
        source: Source,
        closes_and_guards: (bool, bool),
    ) -> Option<(InFlight, Write)> {
        let turn = open.committing.clone().lock_owned().await;
        let state = self.state();
        let Some(inode) = state.tree().inode(open.number) else {
            self.keep_private(open);
            return None;
        };
        let none = Content::default();
        let committed = inode.content().unwrap_or(&none);
        let on = (inode.content_revision, committed);
        InFlight::begin(open, turn, source, on, closes_and_guards)
    }

    fn end_save(
        &self,
        open: &Arc<OpenInode>,
        in_flight: InFlight,
        outcome: FsResult<Committed>,
        on_failure: Settlement,
    ) -> FsResult<()> {
        match outcome {
            Ok(committed) => in_flight.settle(Settlement::Committed(committed.index)),
            Err(failure) if self.has_lost_its_name(open.number, &failure) => {
                // The bytes stay with whoever has it open.
                in_flight.settle(Settlement::GivenBack);
                self.keep_private(open);
            }
            Err(failure) => {
                in_flight.settle(on_failure);
                return Err(failure);
            }
        }
        Ok(())
    }

    /// Whoever has something to commit, once the commit under way has ended: its bytes are in the log then, or they
    /// have come back. Whoever did not wait for them would overtake them.
    pub(super) async fn sources_once_settled(&self, open: &OpenInode) -> Vec<Source> {
        if !open.state.lock().is_dirty() {
            return Vec::new();
        }
        let _turn = open.committing.lock().await;
        open.state.lock().sources()
    }

    /// Takes an inode's uncommitted bytes for an entry that changes its name. Several handles' bytes cannot be told
    /// apart in one entry: all but the last handle's are committed first.
    pub(in crate::fs) async fn take_for_entry(
        self: &Arc<Self>,
        inode: InodeNo,
    ) -> FsResult<(Option<Write>, Option<CarriedBytes>)> {
        let Some(open) = self.handles.opened(inode) else {
            return Ok((None, None));
        };
        let mut sources = self.sources_once_settled(&open).await;
        // One that goes onto a certain revision only would fail the whole entry.
        let last = sources.pop_if(|source| {
            let mut state = open.state.lock();
            state.pending(*source).is_some_and(|p| p.base.is_none())
        });
        for source in sources {
            self.commit_for_others(&open, source).await?;
        }
        let Some(last) = last else {
            return Ok((None, None));
        };
        let taken = self.begin_save(&open, last, (false, false)).await;
        Ok(taken
            .map(|(in_flight, write)| (write, CarriedBytes(in_flight)))
            .unzip())
    }

    /// Appends `data` as one entry, placed at the end as it is then.
    pub(in crate::fs) async fn append(
        self: &Arc<Self>,
        handle: &Arc<FileHandle>,
        data: &[u8],
        mtime: WallTime,
    ) -> FsResult<()> {
        let (open, source) = (&handle.inode, handle.source().0);
        let is_alone_and_empties = {
            let mut state = open.state.lock();
            let is_alone = state.sources() == [source];
            is_alone
                && state
                    .pending(source)
                    .is_some_and(|p| p.dirty.only_empties())
        };
        if is_alone_and_empties
            && let Some((in_flight, write)) = self.begin_save(open, source, (false, false)).await
        {
            let write = Write {
                update: append_update(true, data),
                mtime: Some(mtime),
                ..write
            };
            let outcome = self.propose_for(&handle.saver, Command::Write(write)).await;
            return match outcome {
                Ok(committed) => {
                    handle.saver.owe_close_notice();
                    in_flight.settle_with(committed.index, data);
                    Ok(())
                }
                Err(failure) => {
                    self.end_save(open, in_flight, Err(failure), Settlement::GivenBack)?;
                    // No failure: the file lost its name meanwhile, and is empty.
                    self.append_privately(handle, data)
                }
            };
        }
        // What was truncated or allocated before through the same handle comes first.
        self.commit_source(open, source, false, OnFailure::GiveBack)
            .await?;
        self.append_at_end(handle, data, mtime).await
    }

    async fn append_at_end(
        self: &Arc<Self>,
        handle: &Arc<FileHandle>,
        data: &[u8],
        mtime: WallTime,
    ) -> FsResult<()> {
        let open = &handle.inode;
        // What is under way is older than this append, and nothing promises that it is in the log before it.
        let is_dirty = open.state.lock().is_dirty();
        let turn = match is_dirty {
            false => None,
            true => Some(open.committing.lock().await),
        };
        let moved_end = turn.is_some() && self.moves_the_end(open);
        let at = open.state.lock().tick(None);
        let write = Write {
            inode: open.number,
            base: None,
            update: append_update(false, data),
            mtime: Some(mtime),
            closes: false,
        };
        let committed = match self.propose_for(&handle.saver, Command::Write(write)).await {
            Ok(committed) => committed,
            Err(failure) if self.has_lost_its_name(open.number, &failure) => {
                return self.append_privately(handle, data);
            }
            Err(failure) => return Err(failure),
        };
        handle.saver.owe_close_notice();
        let state = self.state();
        let inode = state.tree().inode(open.number);
        let end = match committed.outcome {
            Ok(Done::Appended { end }) => end,
            _ => return Ok(()),
        };
        if let Some(content) = inode.and_then(|inode| inode.content()) {
            let start = end.saturating_sub(data.len() as u64);
            let placed = (committed.index, at);
            let mut state = open.state.lock();
            state.appended(placed, (start, data), content, moved_end);
        }
        Ok(())
    }

    /// Whether uncommitted changes give the file another end on this node than it has for everybody else.
    fn moves_the_end(&self, open: &OpenInode) -> bool {
        let mut uncommitted = open.state.lock();
        let state = self.state();
        let inode = state.tree().inode(open.number);
        inode.is_some_and(|inode| {
            let content = inode.content();
            content
                .is_some_and(|content| uncommitted.moves_the_end(inode.content_revision, content))
        })
    }

    /// `truncate(2)` by path is committed at once: older uncommitted changes give way to it.
    pub(in crate::fs) async fn commit_path_truncation(
        &self,
        open: &OpenInode,
        size: u64,
        commit: impl Future<Output = FsResult<Committed>>,
    ) -> FsResult<Committed> {
        let _turn = open.committing.lock().await;
        let at = open.state.lock().tick(None);
        let committed = commit.await?;
        let mut ranges = super::DirtyRanges::default();
        ranges.truncate(at, size)?;
        open.state.lock().committed((committed.index, at), &ranges);
        Ok(committed)
    }

    pub(in crate::fs) async fn propose_for(
        &self,
        saver: &Saver,
        command: Command,
    ) -> FsResult<Committed> {
        let (bound_to, fence) = saver.grant.unzip();
        let proposal = Proposal {
            author: saver.author.clone(),
            fence,
            command,
            bound_to,
        };
        let committed = self.proposer().propose(proposal).await?;
        committed.outcome?;
        Ok(committed)
    }

    /// Whether a change of `inode` failed because it lost its last name meanwhile: this node has it alone then, and the
    /// change can be made to its private copy.
    pub(in crate::fs) fn has_lost_its_name(&self, inode: InodeNo, failure: &Failure) -> bool {
        matches!(failure, Failure::Refused(FsError::NotFound))
            && self.state().tree().inode(inode).is_none()
            && self.known.gone(inode).is_some()
    }

    pub(in crate::fs) fn is_in_tree(&self, open: &OpenInode) -> bool {
        self.state().tree().inode(open.number).is_some()
    }

    /// Puts what is uncommitted into the private copy of a file that has no name any more.
    pub(in crate::fs) fn keep_private(&self, open: &OpenInode) {
        let mut state = open.state.lock();
        if !state.is_dirty() {
            return;
        }
        self.known.change_gone(open.number, |inode| {
            if let Kind::Regular(content) = &mut inode.kind {
                let (seen, time) = state.take_private(content);
                *content = seen;
                if let Some(time) = time {
                    inode.mtime = time;
                    inode.ctime = inode.ctime.max(time);
                }
            }
        });
    }

    pub(super) fn path_text(&self, inode: InodeNo) -> String {
        let path = self.state().tree().path_of(inode).unwrap_or_default();
        format!("/{}", String::from_utf8_lossy(&path))
    }
}

/// Whether a save was for a revision that is not the file's any more.
fn is_outdated(failure: &Failure) -> bool {
    matches!(failure, Failure::Refused(FsError::RevisionChanged))
}

fn append_update(truncate: bool, data: &[u8]) -> ContentUpdate {
    ContentUpdate::Append {
        truncate,
        data: data.to_vec(),
    }
}

/// Uncommitted bytes that travel in the entry of a rename or link; dropped, its handle has them again.
pub(in crate::fs) struct CarriedBytes(InFlight);

impl CarriedBytes {
    /// The entry that carried the bytes was committed.
    pub(in crate::fs) fn committed(self, index: LogIndex) {
        self.0.saver().owe_close_notice();
        self.0.settle(Settlement::Committed(index));
    }
}
