//! Says whether a running step may go on: its lock still has the fence it began with, and its time is not over.
//!
//! Invariants: a loss is final; a fence that could not be read for a while counts as lost, well before the session's
//! end gives the lock to another node.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use drivers::error::DriverError;
use drivers::fence::FenceGuard;

use crate::limits::FENCE_UNSEEN_MAX;
use crate::mount::run_store::error_text;
use crate::mount::shared_tree::SharedTree;

/// See the head of this file.
#[derive(Debug)]
pub struct StepGuard {
    /// Path of the lock file in the tree.
    lock: String,
    fence: u64,
    deadline: Instant,
    timeout: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    seen_at: Instant,
    lost: Option<String>,
}

impl StepGuard {
    /// Guards one attempt that starts now under `lock` with `fence` and may take `timeout`.
    pub fn new(lock: String, fence: u64, timeout: Duration) -> Self {
        let now = Instant::now();
        Self {
            lock,
            fence,
            deadline: now + timeout,
            timeout,
            state: Mutex::new(State {
                seen_at: now,
                lost: None,
            }),
        }
    }

    /// Reads the lock's fence; called each second while the step runs.
    pub fn look(&self, tree: &dyn SharedTree) {
        let lost = match tree.fence(&self.lock) {
            Ok(Some(fence)) if fence == self.fence => None,
            Ok(Some(fence)) => Some(format!("it has fence {fence} now")),
            Ok(None) => Some("it is void or gone".to_owned()),
            Err(error) => Some(error_text(&error)),
        };
        let mut state = self.state();
        match lost {
            None => state.seen_at = Instant::now(),
            Some(reason) => {
                state.lost.get_or_insert(reason);
            }
        }
    }

    /// Ends the step from outside.
    pub fn cancel(&self, reason: &str) {
        self.state().lost.get_or_insert_with(|| reason.to_owned());
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // A panic elsewhere leaves both fields whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FenceGuard for StepGuard {
    fn check(&self) -> Result<(), DriverError> {
        let now = Instant::now();
        let state = self.state();
        let unseen = now.saturating_duration_since(state.seen_at);
        let reason = match &state.lost {
            Some(reason) => Some(reason.clone()),
            None if unseen > FENCE_UNSEEN_MAX => Some(format!(
                "its fence could not be read for {} s",
                unseen.as_secs()
            )),
            None => None,
        };
        if let Some(reason) = reason {
            return Err(DriverError::Fenced {
                fence: self.fence,
                reason,
            });
        }
        if now >= self.deadline {
            return Err(DriverError::Retryable {
                code: "timeout",
                message: format!("it was not done within {} s", self.timeout.as_secs_f64()),
            });
        }
        Ok(())
    }
}
