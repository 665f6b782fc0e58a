//! Locks: which inodes under `/lk` are held, by whom, under which fence, and until when after an abnormal end.
//!
//! Invariants: a fence is the log index of its grant, so it is granted once and only grows; a lock ends by a log entry,
//! never by a clock. Not here: which paths make locks and who may touch them (`apply/rules.rs`).

use imbl::OrdMap;

use super::ids::{FencingToken, HandleId, InodeNo, NodeId, SessionId};
use super::log_time::LogTime;

/// A lock file or lock directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lock {
    /// Session that made it.
    pub session: SessionId,
    /// Node of that session.
    pub node: NodeId,
    /// Log index of the grant.
    pub fence: FencingToken,
    /// What keeps it alive.
    pub hold: Hold,
    /// Set when it ended abnormally: it stays taken until then, its fence is void.
    pub ended_until: Option<LogTime>,
}

/// What keeps a lock alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hold {
    /// The session of its node.
    Session,
    /// The open handle that created it.
    Handle(HandleId),
}

impl Lock {
    /// Whether `session` holds it now.
    pub fn is_held_by(&self, session: SessionId) -> bool {
        self.ended_until.is_none() && self.session == session
    }
}

/// All locks, by inode.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LockTable {
    locks: OrdMap<InodeNo, Lock>,
}

impl LockTable {
    /// The lock that `inode` is, if it is one.
    pub fn of(&self, inode: InodeNo) -> Option<&Lock> {
        self.locks.get(&inode)
    }

    /// All locks in the order of their inodes.
    pub fn iter(&self) -> impl Iterator<Item = (InodeNo, &Lock)> {
        self.locks.iter().map(|(inode, lock)| (*inode, lock))
    }

    /// Records a grant.
    pub fn grant(&mut self, inode: InodeNo, lock: Lock) {
        self.locks.insert(inode, lock);
    }

    /// Forgets a lock: its file is gone, or it became a container.
    pub fn forget(&mut self, inode: InodeNo) {
        self.locks.remove(&inode);
    }

    /// Ends a lock abnormally: taken until `until`, its fence void. A lock that has ended already is left alone.
    pub fn end(&mut self, inode: InodeNo, until: LogTime) {
        if let Some(lock) = self
            .locks
            .get(&inode)
            .filter(|lock| lock.ended_until.is_none())
        {
            let ended = Lock {
                ended_until: Some(until),
                ..*lock
            };
            self.locks.insert(inode, ended);
        }
    }

    /// Held locks that `ends` says end now.
    pub fn held_where(&self, ends: impl Fn(&Lock) -> bool) -> Vec<InodeNo> {
        self.iter()
            .filter(|(_, lock)| lock.ended_until.is_none() && ends(lock))
            .map(|(inode, _)| inode)
            .collect()
    }

    /// Ended locks whose delay is over at `now`.
    pub fn over_at(&self, now: LogTime) -> impl Iterator<Item = (InodeNo, FencingToken)> {
        self.iter()
            .filter(move |(_, lock)| lock.ended_until.is_some_and(|until| until <= now))
            .map(|(inode, lock)| (inode, lock.fence))
    }
}
