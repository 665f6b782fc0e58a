//! Ends waits of callers that were killed.
//!
//! The kernel's FUSE_INTERRUPT does not reach us (fuser answers it by itself), and a process stays unkillable until its
//! request is answered. So callers that wait for long are looked at, and the wait of a killed one ends.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::fs::caller::is_killed;
use crate::fs::errno::{Failure, FsResult};
use crate::limits::{KILLED_CALLER_AFTER, KILLED_CALLER_EVERY};

/// Callers that wait for an answer.
#[derive(Debug, Default)]
pub struct Interrupts {
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    tid: u32,
    since: Instant,
    interrupt: oneshot::Sender<()>,
}

impl Interrupts {
    /// Starts the look-out on `runtime`. It ends with the last other owner of the returned value.
    pub fn start(runtime: &tokio::runtime::Handle) -> Arc<Self> {
        let interrupts = Arc::new(Self::default());
        let watched = Arc::downgrade(&interrupts);
        runtime.spawn(async move {
            while let Some(interrupts) = watched.upgrade() {
                interrupts.end_waits_of_the_killed();
                drop(interrupts);
                tokio::time::sleep(KILLED_CALLER_EVERY).await;
            }
        });
        interrupts
    }

    /// Runs `operation` for the caller `tid`; a killed caller gets an answer early, and the operation is dropped
    /// (what it proposed is abandoned).
    pub async fn run<T>(
        &self,
        tid: u32,
        operation: impl Future<Output = FsResult<T>>,
    ) -> FsResult<T> {
        let (interrupt, interrupted) = oneshot::channel();
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.waiting.lock().insert(
            id,
            Waiting {
                tid,
                since: Instant::now(),
                interrupt,
            },
        );
        let outcome = tokio::select! {
            biased;
            outcome = operation => outcome,
            Ok(()) = interrupted => Err(Failure::Interrupted),
        };
        self.waiting.lock().remove(&id);
        outcome
    }

    fn end_waits_of_the_killed(&self) {
        let now = Instant::now();
        let waited_long =
            |waiting: &Waiting| waiting.tid != 0 && now - waiting.since >= KILLED_CALLER_AFTER;
        let long: Vec<(u64, u32)> = {
            let waiting = self.waiting.lock();
            waiting
                .iter()
                .filter(|(_, waiting)| waited_long(waiting))
                .map(|(id, waiting)| (*id, waiting.tid))
                .collect()
        };
        for (id, _) in long.into_iter().filter(|(_, tid)| is_killed(*tid)) {
            if let Some(waiting) = self.waiting.lock().remove(&id) {
                // The operation may have ended in between; then nobody listens, which is fine.
                let _ = waiting.interrupt.send(());
            }
        }
    }
}
