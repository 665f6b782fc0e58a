//! The life of sessions, and how locks end.

use super::Step;
use crate::state_machine::fs_error::FsError;
use crate::state_machine::ids::{FencingToken, HandleId, InodeNo, LogIndex, NodeId, SessionId};
use crate::state_machine::level::Level;
use crate::state_machine::lock::{Hold, Lock};
use crate::state_machine::outcome::{Change, Done, Outcome};
use crate::state_machine::session::Session;

impl Step<'_> {
    pub(super) fn session_open(&mut self, node: NodeId) -> Outcome {
        let older: Vec<SessionId> = self
            .state
            .sessions()
            .filter(|(_, session)| session.node == node)
            .map(|(id, _)| id)
            .collect();
        older.into_iter().for_each(|id| self.end_session(id));
        let id = SessionId(self.index.0);
        self.state.sessions_mut().open(id, Session::new(node));
        Ok(Done::Session(id))
    }

    pub(super) fn session_end(&mut self, session: SessionId) -> Outcome {
        if self.state.session(session).is_none() {
            return Err(FsError::SessionExpired);
        }
        self.end_session(session);
        Ok(Done::Unit)
    }

    pub(super) fn handle_closed(&mut self, session: SessionId, handle: HandleId) -> Outcome {
        self.end_locks_where(|lock| lock.session == session && lock.hold == Hold::Handle(handle));
        Ok(Done::Unit)
    }

    pub(super) fn lock_delay_end(&mut self, inode: InodeNo, fence: FencingToken) -> Outcome {
        let lock = self.state.locks().of(inode).ok_or(FsError::NotFound)?;
        let now = self.entry.stamp.log_time;
        if lock.fence != fence || lock.ended_until.is_none_or(|until| until > now) {
            return Err(FsError::Invalid);
        }
        self.take_away_tree(inode)?;
        Ok(Done::Unit)
    }

    pub(super) fn lock_break(&mut self, inode: InodeNo) -> Outcome {
        if self.follows(Level::GRANTS_FOR_ALL) {
            self.check_may_break()?;
        }
        self.state.locks().of(inode).ok_or(FsError::NotFound)?;
        self.end_lock(inode);
        Ok(Done::Unit)
    }

    /// Removes locks that were granted to callers who were told of a failure: nobody knows that they hold them.
    pub(super) fn release_grants_of(&mut self, granted: &[LogIndex]) {
        let mine = |lock: &Lock| granted.iter().any(|index| index.0 == lock.fence.0);
        for inode in self.state.locks().held_where(mine) {
            // The lock table and the tree agree (invariants.rs), so a lock's inode can always be taken away.
            self.take_away_tree(inode).expect("a lock's inode exists");
        }
    }

    fn end_session(&mut self, session: SessionId) {
        self.end_locks_where(|lock| lock.session == session);
        self.state.sessions_mut().close(session);
    }

    fn end_locks_where(&mut self, ends: impl Fn(&Lock) -> bool) {
        for inode in self.state.locks().held_where(ends) {
            self.end_lock(inode);
        }
    }

    fn end_lock(&mut self, inode: InodeNo) {
        let until = self.entry.stamp.log_time.plus_ms(self.lock_delay_ms(inode));
        self.state.locks_mut().end(inode, until);
        self.changes.push(Change::Attributes { inode });
    }
}
