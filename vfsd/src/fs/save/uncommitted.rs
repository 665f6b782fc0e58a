//! What the handles of one inode have written and not committed, in the order of the calls.
//!
//! A save has one life: pending, in flight, settled. In flight it is a value ([`InFlight`]) that gives the bytes back
//! when it is dropped: an interrupted commit goes back, it never vanishes. One save of an inode is in flight at a time,
//! so commits reach the log in the order in which they settle here.
//!
//! Invariants: readers of this node see every call, in order; a commit carries its own source's calls without what
//! later calls have decided that are committed already.

use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;

use super::budget::{Budget, Charge};
use super::dirty_ranges::{DirtyRanges, Order, lay_over};
use crate::fs::handles::{OpenInode, Saver};
use crate::state_machine::command::{ContentOp, Write};
use crate::state_machine::content::Content;
use crate::state_machine::fs_error::FsError;
use crate::state_machine::ids::{HandleId, LogIndex};
use crate::state_machine::log_time::WallTime;

/// Whose changes they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Calls on this handle.
    Handle(HandleId),
    /// Stores through shared mappings: the kernel writes them back through any handle.
    Mappings,
}

/// One source's uncommitted changes.
#[derive(Debug)]
pub struct Pending {
    /// Whose they are.
    pub source: Source,
    /// On whose behalf they are committed.
    pub saver: Arc<Saver>,
    /// What was changed since the last commit.
    pub dirty: DirtyRanges,
    /// What a commit under way carries.
    in_flight: Option<DirtyRanges>,
    /// Whether the size was set by a call of its own, not only by `O_TRUNC` at open.
    pub resized: bool,
    /// Place and time of the last change; `None` once an explicit `utimens` came after it.
    pub last_write: Option<(Order, WallTime)>,
    /// The call that truncated made the file: there was nothing to cut off.
    made: bool,
    /// The write that should have followed a truncation was refused: an empty file is nobody's save.
    refused: bool,
    /// Set once nobody waits for the save any more: it goes only onto this revision, or onto this node's own commits
    /// on top of it. An old save never covers another node's newer one.
    pub base: Option<LogIndex>,
}

impl Pending {
    /// Whether a FLUSH commits this: bytes or a size, not the truncation alone that a redirection begins with.
    pub fn is_due_at_flush(&self) -> bool {
        self.dirty.has_bytes() || (self.resized && !self.dirty.is_empty())
    }
}

/// How a save ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// This entry has it.
    Committed(LogIndex),
    /// It failed, and its source has it again.
    GivenBack,
    /// It failed, and its own caller was told: the bytes are gone.
    Dropped,
}

/// The uncommitted changes of an inode that is open here.
#[derive(Debug, Default)]
pub struct Uncommitted {
    charge: Charge,
    pending: Vec<Pending>,
    order: Order,
    last_source: Option<Source>,
    /// The last revision that this node made: local readers must see it.
    own_commit: LogIndex,
    /// The place of the last change whose time is committed: an older one does not turn it back.
    timed: Order,
    view: Option<(LogIndex, Content)>,
}

impl Uncommitted {
    /// Nothing yet; what comes is held within `budget`.
    pub fn new(budget: &Arc<Budget>) -> Self {
        Self {
            charge: Charge::new(budget),
            ..Self::default()
        }
    }

    fn account(&mut self) {
        let now = self.ranges().map(DirtyRanges::weight).sum();
        self.charge.set(now);
    }

    /// The place of a call that a source makes now; `None` for one that is committed at once.
    pub fn tick(&mut self, source: Option<Source>) -> Order {
        if source.is_none() || self.last_source != source {
            self.order.0 += 1;
        }
        self.last_source = source;
        self.order
    }

    /// Adds bytes to what `source` has pending.
    ///
    /// # Errors
    /// [`FsError::FileTooLarge`], [`FsError::NoSpace`].
    pub fn write(
        &mut self,
        (source, saver): (Source, &Arc<Saver>),
        offset: u64,
        data: &[u8],
        now: WallTime,
    ) -> Result<(), FsError> {
        self.charge.check_room(data.len() as u64)?;
        let at = self.tick(Some(source));
        let pending = self.pending_of(source, saver);
        pending.dirty.write(at, offset, data)?;
        pending.last_write = Some((at, now));
        pending.refused = false;
        // Stores through a mapping come after the last close that left others behind: somebody waits again.
        pending.base = None;
        self.account();
        self.see(|view| view.write(offset, data))
    }

    /// A write of `source` was refused before anything of it was taken.
    pub fn refuse(&mut self, source: Source) {
        if let Some(pending) = self.pending(source) {
            pending.refused = true;
        }
    }

    /// The handle was opened with `O_TRUNC`; `changes` unless the same call made the file.
    ///
    /// # Errors
    /// As [`Uncommitted::write`].
    pub fn truncate_at_open(
        &mut self,
        (source, saver): (Source, &Arc<Saver>),
        changes: bool,
        now: WallTime,
    ) -> Result<(), FsError> {
        let at = self.tick(Some(source));
        let pending = self.pending_of(source, saver);
        pending.dirty.truncate(at, 0)?;
        pending.last_write = changes.then_some((at, now));
        pending.made = !changes;
        self.account();
        self.see(|view| view.truncate(0))
    }

    /// Sets the size.
    ///
    /// # Errors
    /// As [`Uncommitted::write`].
    pub fn truncate(
        &mut self,
        (source, saver): (Source, &Arc<Saver>),
        size: u64,
        now: WallTime,
    ) -> Result<(), FsError> {
        self.resize((source, saver), now, |dirty, at| dirty.truncate(at, size))?;
        self.see(|view| view.truncate(size))
    }

    /// Makes the file at least `size` bytes long.
    ///
    /// # Errors
    /// As [`Uncommitted::write`].
    pub fn extend(
        &mut self,
        (source, saver): (Source, &Arc<Saver>),
        size: u64,
        now: WallTime,
    ) -> Result<(), FsError> {
        self.charge.check_room(0)?;
        self.resize((source, saver), now, |dirty, at| dirty.extend(at, size))?;
        self.see(|view| view.apply_op(&ContentOp::Extend(size)))
    }

    /// Makes a hole from `offset` to `end`, which lies within the file.
    ///
    /// # Errors
    /// As [`Uncommitted::write`].
    pub fn punch(
        &mut self,
        (source, saver): (Source, &Arc<Saver>),
        (offset, end): (u64, u64),
        now: WallTime,
    ) -> Result<(), FsError> {
        self.charge.check_room(0)?;
        self.resize((source, saver), now, |dirty, at| {
            dirty.zero(at, offset, end)
        })?;
        self.see(|view| {
            view.zero(offset, end.saturating_sub(offset));
            Ok(())
        })
    }

    fn resize(
        &mut self,
        (source, saver): (Source, &Arc<Saver>),
        now: WallTime,
        change: impl FnOnce(&mut DirtyRanges, Order) -> Result<(), FsError>,
    ) -> Result<(), FsError> {
        let at = self.tick(Some(source));
        let pending = self.pending_of(source, saver);
        change(&mut pending.dirty, at)?;
        pending.resized = true;
        // It says something whatever the open and a refused write have said.
        (pending.made, pending.refused) = (false, false);
        pending.last_write = Some((at, now));
        self.account();
        Ok(())
    }

    /// What `source` has pending, if anything.
    pub fn pending(&mut self, source: Source) -> Option<&mut Pending> {
        self.pending
            .iter_mut()
            .find(|pending| pending.source == source)
    }

    fn in_flight(&mut self, source: Source) -> Option<&mut DirtyRanges> {
        self.pending(source)?.in_flight.as_mut()
    }

    /// Whoever has something to commit, in the order of their first change.
    pub fn sources(&self) -> Vec<Source> {
        let pending = self.pending.iter();
        let dirty = pending.filter(|pending| !pending.dirty.is_empty());
        dirty.map(|pending| pending.source).collect()
    }

    fn pending_of(&mut self, source: Source, saver: &Arc<Saver>) -> &mut Pending {
        let found = self.pending.iter().position(|p| p.source == source);
        let position = found.unwrap_or_else(|| {
            self.pending.push(Pending {
                source,
                saver: saver.clone(),
                dirty: DirtyRanges::default(),
                in_flight: None,
                resized: false,
                last_write: None,
                made: false,
                refused: false,
                base: None,
            });
            self.pending.len() - 1
        });
        &mut self.pending[position]
    }

    /// Keeps a cached view in step instead of building it anew after each write.
    fn see(
        &mut self,
        change: impl FnOnce(&mut Content) -> Result<(), FsError>,
    ) -> Result<(), FsError> {
        self.view.as_mut().map_or(Ok(()), |(_, view)| change(view))
    }

    /// Drops what `source` has pending.
    pub fn forget(&mut self, source: Source) {
        if let Some(pending) = self.pending(source) {
            pending.dirty = DirtyRanges::default();
        }
        self.tidy();
    }

    /// An explicit modification time was set: it wins over that of the writes before it.
    pub fn keep_time(&mut self) {
        self.pending
            .iter_mut()
            .for_each(|pending| pending.last_write = None);
    }

    /// Takes everything as the content of a file that has no name any more: nobody commits it.
    pub fn take_private(&mut self, content: &Content) -> (Content, Option<WallTime>) {
        let (seen, time) = (self.view(LogIndex(0), content), self.last_write());
        self.pending.clear();
        self.tidy();
        (seen, time)
    }

    fn tidy(&mut self) {
        self.pending
            .retain(|pending| !pending.dirty.is_empty() || pending.in_flight.is_some());
        self.view = None;
        self.account();
    }

    /// Whether anything is uncommitted.
    pub fn is_dirty(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether somebody without privileges has changed it since the last commit.
    pub fn is_changed_by_ordinary_users(&self) -> bool {
        let mut pending = self.pending.iter();
        pending.any(|pending| pending.last_write.is_some() && pending.saver.author.uid != 0)
    }

    /// Whether local readers must see a newer revision than `pinned` because this node made one.
    pub fn is_newer_than(&self, pinned: LogIndex) -> bool {
        self.own_commit > pinned
    }

    /// The bytes as processes of this node see them: `committed` with the uncommitted changes on top.
    pub fn view(&mut self, revision: LogIndex, committed: &Content) -> Content {
        if self.pending.is_empty() {
            return committed.clone();
        }
        if let Some((at, content)) = &self.view
            && *at == revision
        {
            return content.clone();
        }
        let content = lay_over(committed, self.ranges());
        self.view = Some((revision, content.clone()));
        content
    }

    fn ranges(&self) -> impl Iterator<Item = &DirtyRanges> {
        let pending = self.pending.iter();
        pending.flat_map(|pending| pending.in_flight.iter().chain([&pending.dirty]))
    }

    /// When the content was last changed by an uncommitted write.
    pub fn last_write(&self) -> Option<WallTime> {
        let times = self.pending.iter().filter_map(|pending| pending.last_write);
        let newer = times.filter(|&(at, _)| at > self.timed);
        newer.max_by_key(|&(at, _)| at).map(|(_, time)| time)
    }

    /// Whether a change that is not committed gives the file another size than `committed` has.
    pub fn moves_the_end(&mut self, revision: LogIndex, committed: &Content) -> bool {
        self.is_dirty() && self.view(revision, committed).size() != committed.size()
    }

    /// A change of this node was committed as `index`, the last of it made at `at`; older uncommitted ones give way to
    /// it.
    pub fn committed(&mut self, (index, at): (LogIndex, Order), ranges: &DirtyRanges) {
        self.timed = self.timed.max(at);
        for pending in &mut self.pending {
            pending.dirty.give_way_to(ranges);
            if let Some(in_flight) = &mut pending.in_flight {
                in_flight.give_way_to(ranges);
            }
        }
        self.own_commit = self.own_commit.max(index);
        self.tidy();
    }

    /// A commit of this node took the content from one revision to the next.
    fn rebase(&mut self, from: LogIndex, to: LogIndex) {
        let pending = self.pending.iter_mut();
        for pending in pending.filter(|pending| pending.base == Some(from)) {
            pending.base = Some(to);
        }
    }

    /// This node's append of `data` was committed at `start` of what is now `content`. With `moved_end` it was made
    /// while uncommitted changes had moved the end of the file as readers here see it.
    pub fn appended(
        &mut self,
        (index, at): (LogIndex, Order),
        (start, data): (u64, &[u8]),
        content: &Content,
        moved_end: bool,
    ) {
        if !self.is_dirty() {
            self.own_commit = self.own_commit.max(index);
            self.timed = self.timed.max(at);
        } else if !moved_end || self.carry_append(at, start, data, content).is_none() {
            let mut ranges = DirtyRanges::default();
            ranges
                .write(at, start, data)
                .expect("what the state machine accepted fits a file");
            self.committed((index, at), &ranges);
        } else {
            self.own_commit = self.own_commit.max(index);
            self.timed = self.timed.max(at);
            self.tidy();
        }
    }

    /// Readers here saw the append go to the end as uncommitted changes had moved it, the entry put it to the committed
    /// end. So one of those whose changes moved the end brings it to its place with its own save; where the entry put
    /// it, the file looks as that save leaves it. `None` if both are the same place after all.
    fn carry_append(
        &mut self,
        at: Order,
        start: u64,
        data: &[u8],
        content: &Content,
    ) -> Option<()> {
        let len = data.len() as u64;
        let mut before = content.clone();
        if content.size() == start + len {
            before.truncate(start).ok()?;
        }
        let mut seen = lay_over(&before, self.ranges());
        let end = seen.size();
        seen.write(end, data).ok().filter(|()| end != start)?;
        let moves = |pending: &&mut Pending| {
            let ranges = pending.in_flight.iter().chain([&pending.dirty]);
            lay_over(&before, ranges).size() != before.size()
        };
        let carrier = self.pending.iter_mut().find(moves)?;
        let there = seen.read(start, data.len());
        carrier.dirty.write(at, start, &there).ok()?;
        carrier.dirty.write(at, end, data).ok()
    }
}

/// A save on its way into the log. Dropped before it is settled, it gives the bytes back.
pub struct InFlight {
    inode: Arc<OpenInode>,
    source: Source,
    saver: Arc<Saver>,
    /// The revision that its entry goes onto, and no other; `None` if it goes onto any.
    base: Option<LogIndex>,
    /// Only for those that wait for that revision: it may as well go onto another.
    is_guarded: bool,
    last: Order,
    is_settled: bool,
    _turn: OwnedMutexGuard<()>,
}

impl InFlight {
    /// Takes what `source` has pending on top of the committed content and its revision; `None` if nothing is to be
    /// proposed. `turn` is the turn of this inode's commits. With `guards` it goes onto that revision alone while
    /// another save waits for it: only so that one may follow.
    pub fn begin(
        inode: &Arc<OpenInode>,
        turn: OwnedMutexGuard<()>,
        source: Source,
        (revision, committed): (LogIndex, &Content),
        (closes, guards): (bool, bool),
    ) -> Option<(Self, Write)> {
        let mut state = inode.state.lock();
        let timed = state.timed;
        let is_waited_for = guards && state.pending.iter().any(|p| p.base == Some(revision));
        let pending = state.pending(source)?;
        let says_nothing = pending.refused || (committed.size() == 0 && pending.made);
        if pending.dirty.only_empties() && says_nothing {
            // An open with O_TRUNC that made the file, or half of a save whose bytes were refused.
            state.forget(source);
            return None;
        }
        if pending.dirty.is_empty() {
            return None;
        }
        let dirty = std::mem::take(&mut pending.dirty);
        let last_write = pending.last_write.filter(|&(at, _)| at > timed);
        let is_guarded = pending.base.is_none() && is_waited_for;
        let base = pending.base.or(is_guarded.then_some(revision));
        let write = Write {
            inode: inode.number,
            base,
            update: dirty.to_update(),
            mtime: last_write.map(|(_, time)| time),
            closes,
        };
        let in_flight = Self {
            inode: inode.clone(),
            source,
            saver: pending.saver.clone(),
            base,
            is_guarded,
            last: last_write.map_or(Order(0), |(at, _)| at),
            is_settled: false,
            _turn: turn,
        };
        pending.in_flight = Some(dirty);
        pending.resized = false;
        // What comes now comes after what is in flight, also through the same handle.
        state.last_source = None;
        Some((in_flight, write))
    }

    /// On whose behalf it goes.
    pub fn saver(&self) -> &Arc<Saver> {
        &self.saver
    }

    /// Whether it went onto its revision for the sake of others.
    pub fn is_guarded(&self) -> bool {
        self.is_guarded
    }

    /// Another node's save came in between: it goes onto that one, and those that wait for the older do not follow.
    pub fn unguard(&mut self) {
        (self.is_guarded, self.base) = (false, None);
    }

    /// Its end.
    pub fn settle(mut self, settlement: Settlement) {
        self.end(settlement);
    }

    /// The truncation went in one entry with the bytes that follow it.
    pub fn settle_with(mut self, index: LogIndex, data: &[u8]) {
        let mut state = self.inode.state.lock();
        let at = state.tick(None);
        if let Some(in_flight) = state.in_flight(self.source) {
            in_flight
                .write(at, 0, data)
                .expect("what the state machine accepted fits a file");
        }
        drop(state);
        self.last = at;
        self.end(Settlement::Committed(index));
    }

    fn end(&mut self, settlement: Settlement) {
        self.is_settled = true;
        let mut state = self.inode.state.lock();
        // Nothing is there if the file lost its last name meanwhile: its private copy has the bytes.
        let Some(pending) = state.pending(self.source) else {
            return;
        };
        let Some(ranges) = pending.in_flight.take() else {
            return;
        };
        match settlement {
            Settlement::Committed(index) => {
                if let Some(base) = self.base {
                    state.rebase(base, index);
                }
                state.committed((index, self.last), &ranges);
            }
            Settlement::GivenBack => pending.dirty.take_back(ranges),
            Settlement::Dropped => {}
        }
        state.tidy();
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if !self.is_settled {
            self.end(Settlement::GivenBack);
        }
    }
}
