//! Linearizable barriers: after one, this node has applied everything that was committed before it was asked for.
//!
//! Invariant: a caller is answered by a round that began after it asked; all who wait share one round. Not here: how a
//! majority confirms an index (`writer.rs`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::consensus::core::Core;
use crate::consensus::wire::{Reply, Request};
use crate::fs::proposer::ProposeError;
use crate::limits::{BARRIERS_WAITING_MAX, LEADER_RETRY_EVERY, QUORUM_SILENCE_MAX, WRITE_TIMEOUT};
use crate::state_machine::ids::LogIndex;

type Answer = Result<LogIndex, ProposeError>;

/// Where callers queue up.
pub struct Barriers {
    core: Arc<Core>,
    queue: mpsc::Sender<oneshot::Sender<Answer>>,
    passed_one: AtomicBool,
}

impl Barriers {
    /// The queue, and the future that serves it until the node stops.
    pub fn new(core: Arc<Core>) -> (Arc<Self>, impl Future<Output = ()> + Send + 'static) {
        let (queue, waiting) = mpsc::channel(BARRIERS_WAITING_MAX);
        let barriers = Arc::new(Self {
            core,
            queue,
            passed_one: AtomicBool::new(false),
        });
        (Arc::clone(&barriers), serve(barriers, waiting))
    }

    /// Whether this node was up to date at least once since it started.
    pub fn passed_one(&self) -> bool {
        self.passed_one.load(Ordering::Relaxed)
    }

    /// Waits for a round.
    ///
    /// # Errors
    /// [`ProposeError::NoQuorum`] at once, [`ProposeError::TimedOut`] after `WRITE_TIMEOUT`.
    pub async fn wait(&self) -> Answer {
        let started = Instant::now();
        if !self.core.quorum.has() {
            return Err(ProposeError::NoQuorum(self.core.quorum.state().why));
        }
        let (sender, receiver) = oneshot::channel();
        let mut quorum = self.core.quorum.subscribe();
        let answered = async {
            self.queue
                .send(sender)
                .await
                .map_err(|_| ProposeError::Stopping)?;
            receiver.await.unwrap_or(Err(ProposeError::Stopping))
        };
        tokio::select! {
            answer = answered => answer,
            _ = quorum.wait_for(|state| !state.has) => Err(timed_out(started)),
            () = self.core.stopping.cancelled() => Err(ProposeError::Stopping),
            () = tokio::time::sleep_until(started + WRITE_TIMEOUT) => Err(timed_out(started)),
        }
    }
}

fn timed_out(started: Instant) -> ProposeError {
    let elapsed = started.elapsed().as_millis();
    ProposeError::TimedOut(u64::try_from(elapsed).unwrap_or(u64::MAX))
}

async fn serve(barriers: Arc<Barriers>, mut waiting: mpsc::Receiver<oneshot::Sender<Answer>>) {
    while let Some(first) = waiting.recv().await {
        let mut callers = vec![first];
        while let Ok(caller) = waiting.try_recv() {
            callers.push(caller);
        }
        // Callers stop waiting by themselves; a round without any is not worth repeating.
        while !callers.iter().all(oneshot::Sender::is_closed) {
            if let Some(index) = round(&barriers.core).await {
                barriers.passed_one.store(true, Ordering::Relaxed);
                for caller in callers.drain(..) {
                    // A caller that gave up a moment ago needs no answer.
                    let _ = caller.send(Ok(index));
                }
                break;
            }
            tokio::time::sleep(LEADER_RETRY_EVERY).await;
        }
    }
}

async fn round(core: &Arc<Core>) -> Option<LogIndex> {
    let index = match core
        .link
        .ask_leader(Request::ReadIndex, QUORUM_SILENCE_MAX)
        .await
    {
        Ok(Reply::ReadIndex(index)) => index,
        Ok(_) | Err(_) => return None,
    };
    tokio::time::timeout(WRITE_TIMEOUT, core.view.wait_applied(index))
        .await
        .ok()?;
    Some(index)
}
