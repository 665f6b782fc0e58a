//! Ends waits of callers that were killed.
//!
//! The kernel's FUSE_INTERRUPT does not reach us (fuser answers it by itself), and a process stays unkillable until its
//! request is answered. So callers that wait for long are looked at, and the wait of a killed one ends.
//!
//! Invariant: while anybody waits one task looks, and soon after the last wait there is none: an idle member has no
//! timer of this.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::fs::caller::is_killed;
use crate::fs::errno::{Failure, FsResult};
use crate::limits::{KILLED_CALLER_AFTER, KILLED_CALLER_EVERY};

/// Callers that wait for an answer.
#[derive(Debug)]
pub struct Interrupts {
    runtime: tokio::runtime::Handle,
    waits: Mutex<Waits>,
}

#[derive(Debug, Default)]
struct Waits {
    next: u64,
    waiting: HashMap<u64, Waiting>,
    /// A task looks at them.
    is_watched: bool,
}

#[derive(Debug)]
struct Waiting {
    tid: u32,
    since: Instant,
    interrupt: oneshot::Sender<()>,
}

impl Interrupts {
    /// Nobody waits yet; who looks at those that will runs on `runtime`.
    pub fn new(runtime: tokio::runtime::Handle) -> Arc<Self> {
        Arc::new(Self {
            runtime,
            waits: Mutex::default(),
        })
    }

    /// Looks until nobody waits, or nobody else has this value any more.
    async fn look_out(interrupts: Weak<Self>) {
        loop {
            tokio::time::sleep(KILLED_CALLER_EVERY).await;
            let Some(interrupts) = interrupts.upgrade() else {
                return;
            };
            interrupts.end_waits_of_the_killed();
            let mut waits = interrupts.waits.lock();
            if waits.waiting.is_empty() {
                waits.is_watched = false;
                return;
            }
        }
    }

    /// Runs `operation` for the caller `tid`; a killed caller gets an answer early, and the operation is dropped
    /// (what it proposed is abandoned).
    pub async fn run<T>(
        self: &Arc<Self>,
        tid: u32,
        operation: impl Future<Output = FsResult<T>>,
    ) -> FsResult<T> {
        let (interrupt, interrupted) = oneshot::channel();
        let id = self.begin(tid, interrupt);
        let outcome = tokio::select! {
            biased;
            outcome = operation => outcome,
            Ok(()) = interrupted => Err(Failure::Interrupted),
        };
        self.waits.lock().waiting.remove(&id);
        outcome
    }

    fn begin(self: &Arc<Self>, tid: u32, interrupt: oneshot::Sender<()>) -> u64 {
        let waiting = Waiting {
            tid,
            since: Instant::now(),
            interrupt,
        };
        let mut waits = self.waits.lock();
        let id = waits.next;
        waits.next += 1;
        waits.waiting.insert(id, waiting);
        if !std::mem::replace(&mut waits.is_watched, true) {
            self.runtime.spawn(Self::look_out(Arc::downgrade(self)));
        }
        id
    }

    fn end_waits_of_the_killed(&self) {
        let now = Instant::now();
        let waited_long =
            |waiting: &Waiting| waiting.tid != 0 && now - waiting.since >= KILLED_CALLER_AFTER;
        let long: Vec<(u64, u32)> = {
            let waits = self.waits.lock();
            let waiting = waits.waiting.iter();
            waiting
                .filter(|(_, waiting)| waited_long(waiting))
                .map(|(id, waiting)| (*id, waiting.tid))
                .collect()
        };
        for (id, _) in long.into_iter().filter(|(_, tid)| is_killed(*tid)) {
            if let Some(waiting) = self.waits.lock().waiting.remove(&id) {
                // The operation may have ended in between; then nobody listens, which is fine.
                let _ = waiting.interrupt.send(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets the time of some looks pass.
    async fn some_looks() {
        for _ in 0..5 {
            tokio::time::advance(KILLED_CALLER_EVERY).await;
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn callers_are_looked_at_while_one_waits_and_not_after() {
        let interrupts = Interrupts::new(tokio::runtime::Handle::current());
        let tasks = || {
            let metrics = tokio::runtime::Handle::current().metrics();
            metrics.num_alive_tasks()
        };
        assert_eq!(tasks(), 0);
        // A number that no thread has counts as killed.
        let killed = interrupts.run(1 << 23, std::future::pending::<FsResult<()>>());
        assert!(matches!(killed.await, Err(Failure::Interrupted)));
        // Nobody can be asked about a caller of no number; it is answered all the same.
        let (answer, answered) = oneshot::channel();
        let waits = async {
            interrupts
                .run(0, async { answered.await.map_err(|_| Failure::BadHandle) })
                .await
        };
        let meanwhile = async {
            some_looks().await;
            assert_eq!(tasks(), 1);
            answer.send(()).unwrap();
        };
        let (waited, ()) = tokio::join!(waits, meanwhile);
        waited.unwrap();
        some_looks().await;
        assert_eq!(tasks(), 0);
    }
}
