//! Who may change what: the node's grant, other sessions' locks, guards, and what user.lk attributes may say.
//!
//! Invariant: every command that a node can send passes [`Step::check_entries_of`] or [`Step::check_inode`] for each
//! place that it changes. Two pass others: the notice of a close changes nothing and needs [`Step::check_grant`] alone;
//! breaking a lock sets locks and guards aside on a person's word and needs [`Step::check_may_break`]. What a node says
//! of its own session and its own handles passes none, nor do the leader's own entries (session ends, delays).

use super::Step;
use crate::limits::{LOCK_DELAY_DEFAULT_MS, LOCK_DELAY_MAX_MS};
use crate::state_machine::StateMachine;
use crate::state_machine::command::Grant;
use crate::state_machine::fs_error::FsError;
use crate::state_machine::ids::{FencingToken, InodeNo};
use crate::state_machine::level::Level;
use crate::state_machine::lock::Lock;
use crate::state_machine::namespace::{LK, RUN};

/// The nearest guard of a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guard {
    /// The guarded directory.
    pub directory: InodeNo,
    /// The guarding lock's inode, if the lock exists now.
    pub lock: Option<InodeNo>,
    /// Its present fence, if it is held.
    pub fence: Option<FencingToken>,
}

impl StateMachine {
    /// The guard that counts for the entries of `directory`.
    pub fn guard_of_entries(&self, directory: InodeNo) -> Option<Guard> {
        let (guarded, value) = self.tree().nearest_xattr(directory, "user.lk.guard")?;
        let lock = self
            .tree()
            .resolve(value)
            .filter(|inode| self.locks().of(*inode).is_some());
        let held = lock
            .and_then(|inode| self.locks().of(inode))
            .filter(|lock| lock.ended_until.is_none());
        Some(Guard {
            directory: guarded,
            lock,
            fence: held.map(|lock| lock.fence),
        })
    }

    /// The guard that counts for an inode's own content and attributes: that of the directory it lies in, of a file
    /// with several names the first that there is. Several guards bind it all ([`Step::check_inode`]).
    pub fn guard_of_inode(&self, inode: InodeNo) -> Option<Guard> {
        if self.level() < Level::ALL_NAMES_BIND {
            return self.guard_of_entries(self.tree().inode(inode)?.parent()?);
        }
        self.places_of(inode)
            .find_map(|directory| self.guard_of_entries(directory))
    }

    /// The directories that an inode has names in, each once.
    fn places_of(&self, inode: InodeNo) -> impl Iterator<Item = InodeNo> {
        let inode = self.tree().inode(inode);
        let names = inode.into_iter().flat_map(|inode| &inode.names);
        let mut last = None;
        // Names are in the order of their directories.
        names
            .map(|(directory, _)| *directory)
            .filter(move |directory| last.replace(*directory) != Some(*directory))
    }

    /// The lock that `inode` is or lies in.
    pub fn enclosing_lock(&self, inode: InodeNo) -> Option<(InodeNo, &Lock)> {
        let tree = self.tree();
        tree.ancestors(inode)
            .take_while(|at| *at != LK)
            .find_map(|at| Some((at, self.locks().of(at)?)))
    }
}

impl Step<'_> {
    /// Whether entries of `directory` may change.
    pub(super) fn check_entries_of(&self, directory: InodeNo) -> Result<(), FsError> {
        self.check_grant(directory)?;
        self.check_lock(directory)?;
        self.check_guard(self.state.guard_of_entries(directory))
    }

    /// Whether the content or attributes of `inode` may change. A file with several names is bound by the place of
    /// each: whoever may change it by one name changes what everybody sees by the others.
    pub(super) fn check_inode(&self, inode: InodeNo) -> Result<(), FsError> {
        self.check_grant(inode)?;
        self.check_lock(inode)?;
        if self.follows(Level::ALL_NAMES_BIND) && !self.is_directory(inode) {
            let mut places = self.state.places_of(inode);
            return places.try_for_each(|directory| self.check_entries_of(directory));
        }
        self.check_guard(self.state.guard_of_inode(inode))
    }

    /// Whether `child`, an entry of `directory`, may be taken away by its own node: locks of others may not, and an
    /// ended lock only by the node that held it. A guarded directory needs its own grant too.
    pub(super) fn check_removal(&self, directory: InodeNo, child: InodeNo) -> Result<(), FsError> {
        if crate::state_machine::namespace::Namespace::is_fixed(child) {
            return Err(FsError::NotPermitted);
        }
        self.check_entries_of(directory)?;
        if let Some(lock) = self.state.locks().of(child) {
            let own_ended = lock.ended_until.is_some() && lock.node == self.entry.author.node;
            if !own_ended && !self.holds(lock) {
                return Err(FsError::NotPermitted);
            }
        }
        let own = self
            .state
            .guard_of_entries(child)
            .filter(|guard| guard.directory == child);
        match own {
            Some(guard) if !self.holds_guard(&guard) => Err(FsError::FenceRevoked),
            _ => Ok(()),
        }
    }

    /// Whether `inode` may get another name or place: neither a lock nor an ancestor of one.
    pub(super) fn check_holds_no_lock(&self, inode: InodeNo) -> Result<(), FsError> {
        let tree = self.state.tree();
        let held = tree.is_within(inode, LK)
            && self
                .state
                .locks()
                .iter()
                .any(|(lock, _)| tree.is_within(lock, inode));
        if held {
            Err(FsError::NotPermitted)
        } else {
            Ok(())
        }
    }

    /// Whether this entry's session holds the guarding lock now, whatever fence it carries.
    pub(super) fn holds_guard(&self, guard: &Guard) -> bool {
        guard
            .lock
            .and_then(|inode| self.state.locks().of(inode))
            .is_some_and(|lock| self.holds(lock))
    }

    fn holds(&self, lock: &Lock) -> bool {
        self.session()
            .is_some_and(|session| lock.is_held_by(session))
    }

    /// Whether this node may end other sessions' locks: one that is confined to a part of the tree may not, since locks
    /// keep the nodes beside it apart.
    pub(super) fn check_may_break(&self) -> Result<(), FsError> {
        match self.entry.author.grant {
            Grant::Writer => Ok(()),
            Grant::Agent | Grant::Reader => Err(FsError::AccessDenied),
        }
    }

    /// Whether the node's grant covers the place where `inode` lies.
    pub(super) fn check_grant(&self, inode: InodeNo) -> Result<(), FsError> {
        match self.entry.author.grant {
            Grant::Writer => Ok(()),
            Grant::Agent => {
                let allowed = self
                    .state
                    .tree()
                    .ancestors(inode)
                    .any(|at| at == RUN || at == LK);
                if allowed {
                    Ok(())
                } else {
                    Err(FsError::AccessDenied)
                }
            }
            Grant::Reader => Err(FsError::AccessDenied),
        }
    }

    fn check_lock(&self, inode: InodeNo) -> Result<(), FsError> {
        match self.state.enclosing_lock(inode) {
            Some((_, lock)) if !self.holds(lock) => Err(FsError::NotPermitted),
            _ => Ok(()),
        }
    }

    fn check_guard(&self, guard: Option<Guard>) -> Result<(), FsError> {
        match guard {
            None => Ok(()),
            Some(guard) if self.holds_guard(&guard) && self.entry.fence == guard.fence => Ok(()),
            Some(_) => Err(FsError::FenceRevoked),
        }
    }

    /// The time that a lock stays taken after an abnormal end.
    pub(super) fn lock_delay_ms(&self, inode: InodeNo) -> u64 {
        let own = self.state.tree().nearest_xattr(inode, "user.lk.delay");
        own.and_then(|(_, value)| delay_ms(value))
            .unwrap_or(LOCK_DELAY_DEFAULT_MS)
    }
}

/// A delay as people write it: seconds, with up to three decimals.
pub(super) fn delay_ms(value: &str) -> Option<u64> {
    let (whole, part) = value.trim().split_once('.').unwrap_or((value.trim(), ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(part) || part.len() > 3 {
        return None;
    }
    let millis: u64 = format!("{part:0<3}").parse().ok()?;
    let total = whole
        .parse::<u64>()
        .ok()?
        .checked_mul(1000)?
        .checked_add(millis)?;
    (total <= LOCK_DELAY_MAX_MS).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_seconds_with_up_to_three_decimals() {
        assert_eq!(delay_ms("2"), Some(2000));
        assert_eq!(delay_ms("0.25\n"), Some(250));
        assert_eq!(delay_ms("0"), Some(0));
        assert_eq!(delay_ms("3600"), Some(LOCK_DELAY_MAX_MS));
        for bad in [
            "",
            "-1",
            "1s",
            "1.2345",
            ".5",
            "3600.001",
            "99999999999999999999",
        ] {
            assert_eq!(delay_ms(bad), None, "{bad:?}");
        }
    }
}
