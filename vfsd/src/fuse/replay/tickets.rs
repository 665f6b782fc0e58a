//! How a request of the replay thread is told from a user's, and what it is answered.
//!
//! The replay thread repeats a system call of another node on this node's own mount. Its requests carry its thread
//! id, and while it works it holds a ticket: names are answered as they were before the entry, everything else as it
//! is now. The thread id alone would not do: RELEASE carries none, and the thread also makes calls of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;

use crate::state_machine::ids::InodeNo;
use crate::state_machine::inode::Inode;

/// The handle number that replayed opens get: no user's handle ever has it.
pub const REPLAY_HANDLE: u64 = u64::MAX;

/// A system call that is being repeated.
#[derive(Debug, Clone, Default)]
pub struct Ticket {
    /// What names stood for before the entry.
    pub before: Vec<NameBefore>,
    /// What a create, link or open is answered with.
    pub inode: Option<Arc<Inode>>,
}

/// What a name stood for before the entry.
#[derive(Debug, Clone)]
pub struct NameBefore {
    /// Directory.
    pub parent: InodeNo,
    /// Name.
    pub name: Vec<u8>,
    /// The inode, or nothing.
    pub inode: Option<Arc<Inode>>,
}

/// The ticket of the one replay thread.
#[derive(Debug, Default)]
pub struct Tickets {
    tid: AtomicU32,
    current: Mutex<Option<Arc<Ticket>>>,
}

impl Tickets {
    /// Makes the calling thread the replay thread.
    pub fn enter(&self) {
        self.tid.store(
            nix::unistd::gettid().as_raw().unsigned_abs(),
            Ordering::Release,
        );
    }

    /// Runs `call` under `ticket`.
    pub fn under<T>(&self, ticket: Ticket, call: impl FnOnce() -> T) -> T {
        *self.current.lock() = Some(Arc::new(ticket));
        let result = call();
        *self.current.lock() = None;
        result
    }

    /// The ticket, if a request of thread `tid` is part of a replay.
    pub fn of(&self, tid: u32) -> Option<Arc<Ticket>> {
        if tid == 0 || tid != self.tid.load(Ordering::Acquire) {
            return None;
        }
        self.current.lock().clone()
    }
}

impl Ticket {
    /// What `name` stood for, if this ticket says.
    pub fn name_before(&self, parent: u64, name: &[u8]) -> Option<&NameBefore> {
        self.before
            .iter()
            .find(|before| before.parent.0 == parent && before.name == name)
    }
}
