//! How much this node may hold that is not committed, over all its handles.
//!
//! A write that finds no room waits for commits to make some, as a write on any filesystem waits for its disk, and
//! fails with ENOSPC when none comes within the write timeout.
//!
//! Invariant: what is held exceeds the maximum by one write of each thread that answers the kernel at the most. Not
//! here: what counts (`dirty_ranges.rs`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

use crate::limits::{DIRTY_RANGE_OVERHEAD_BYTES, UNCOMMITTED_BYTES_MAX, WRITE_TIMEOUT};
use crate::state_machine::fs_error::FsError;

/// The sum of what is held.
#[derive(Debug)]
pub struct Budget {
    used: AtomicU64,
    max: u64,
    freed: Notify,
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(UNCOMMITTED_BYTES_MAX)
    }
}

impl Budget {
    pub(super) fn new(max: u64) -> Self {
        Self {
            used: AtomicU64::new(0),
            max,
            freed: Notify::new(),
        }
    }

    /// Whether `bytes` more may be held.
    pub fn has_room(&self, bytes: u64) -> bool {
        self.used.load(Ordering::Relaxed).saturating_add(bytes) <= self.max
    }

    /// Waits until `bytes` more may be held.
    ///
    /// # Errors
    /// [`FsError::NoSpace`] if that takes longer than a write may.
    pub async fn room_for(&self, bytes: u64) -> Result<(), FsError> {
        let room = async {
            loop {
                let mut freed = std::pin::pin!(self.freed.notified());
                // Registered before the look, so that no news is missed in between.
                freed.as_mut().enable();
                if self.has_room(bytes) {
                    return;
                }
                freed.await;
            }
        };
        let waited = tokio::time::timeout(WRITE_TIMEOUT, room).await;
        waited.map_err(|_| FsError::NoSpace)
    }

    /// What one holder has goes from `before` to `now`.
    fn change(&self, before: u64, now: u64) {
        if now >= before {
            self.used.fetch_add(now - before, Ordering::Relaxed);
        } else {
            self.used.fetch_sub(before - now, Ordering::Relaxed);
            self.freed.notify_waiters();
        }
    }
}

/// What one inode takes of a budget, until it is dropped.
#[derive(Debug, Default)]
pub(super) struct Charge {
    budget: Arc<Budget>,
    taken: u64,
}

impl Charge {
    pub(super) fn new(budget: &Arc<Budget>) -> Self {
        Self {
            budget: budget.clone(),
            taken: 0,
        }
    }

    /// It holds `now` from now on.
    pub(super) fn set(&mut self, now: u64) {
        self.budget.change(self.taken, now);
        self.taken = now;
    }

    /// Whether a range of `bytes` more may be held.
    pub(super) fn check_room(&self, bytes: u64) -> Result<(), FsError> {
        let has_room = self.budget.has_room(bytes + DIRTY_RANGE_OVERHEAD_BYTES);
        if has_room {
            Ok(())
        } else {
            Err(FsError::NoSpace)
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_room_waits_for_some_and_then_gives_up() {
        let budget = Budget::new(100);
        budget.change(0, 90);
        assert_eq!(budget.room_for(10).await, Ok(()));
        let begun = tokio::time::Instant::now();
        assert_eq!(budget.room_for(11).await, Err(FsError::NoSpace));
        assert_eq!(begun.elapsed().as_secs(), WRITE_TIMEOUT.as_secs());
        let (waits, ()) = tokio::join!(budget.room_for(60), async { budget.change(90, 40) });
        assert_eq!(waits, Ok(()));
        assert!(budget.has_room(60) && !budget.has_room(61));
    }
}
