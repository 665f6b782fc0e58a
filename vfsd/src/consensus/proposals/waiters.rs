//! Who waits for which proposal of this node to be applied here.
//!
//! Invariant: a waiter is answered by the first apply of its number, in the order of the log.

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::fs::proposer::Committed;
use crate::state_machine::ids::{RequestNo, SessionId};

/// Identity of a proposal of this node.
pub type ProposalId = (SessionId, RequestNo);

/// Waiters by proposal.
#[derive(Debug, Default)]
pub struct Waiters {
    // Leaf lock: nothing is called while it is held.
    waiting: Mutex<HashMap<ProposalId, oneshot::Sender<Committed>>>,
}

impl Waiters {
    /// Waits for `id`.
    pub fn wait_for(&self, id: ProposalId) -> oneshot::Receiver<Committed> {
        let (sender, receiver) = oneshot::channel();
        self.waiting.lock().insert(id, sender);
        receiver
    }

    /// Nobody waits for `id` any more.
    pub fn forget(&self, id: ProposalId) {
        self.waiting.lock().remove(&id);
    }

    /// Who waits for `id`, if anybody does: to be answered by the taker.
    pub fn take(&self, id: ProposalId) -> Option<oneshot::Sender<Committed>> {
        self.waiting.lock().remove(&id)
    }

    /// A snapshot brought what the entries before it did: answers those whose numbers it has.
    pub fn complete_from(&self, answer: impl Fn(ProposalId) -> Option<Committed>) {
        let waiting: Vec<ProposalId> = self.waiting.lock().keys().copied().collect();
        for (id, committed) in waiting.into_iter().filter_map(|id| Some((id, answer(id)?))) {
            if let Some(waiter) = self.take(id) {
                // The receiver may have given up a moment ago; it has abandoned the number then.
                let _ = waiter.send(committed);
            }
        }
    }
}
