//! Who waits for which proposal of this node to be applied here.
//!
//! Invariants: a waiter is answered by the first apply of its number, in the order of the log; an answer is taken, or
//! its entry is handed back, so that whoever follows the changes learns that nobody has seen it.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::fs::feed::AppliedEntry;
use crate::fs::proposer::Committed;
use crate::state_machine::ids::{RequestNo, SessionId};

/// Identity of a proposal of this node.
pub type ProposalId = (SessionId, RequestNo);

/// An answer on its way; without the entry, if a snapshot brought it.
type Answer = (Committed, Option<Arc<AppliedEntry>>);

/// Waiters by proposal.
#[derive(Debug, Default)]
pub struct Waiters {
    // Leaf lock: nothing is called while it is held.
    waiting: Mutex<HashMap<ProposalId, oneshot::Sender<Answer>>>,
}

/// The wait for one answer.
#[derive(Debug)]
pub struct Waiting(oneshot::Receiver<Answer>);

/// Somebody who may wait for an answer; the holder is about to give it.
#[derive(Debug)]
pub struct Waiter(oneshot::Sender<Answer>);

impl Waiters {
    /// Waits for `id`.
    pub fn wait_for(&self, id: ProposalId) -> Waiting {
        let (sender, receiver) = oneshot::channel();
        self.waiting.lock().insert(id, sender);
        Waiting(receiver)
    }

    /// Nobody waits for `id` any more.
    pub fn forget(&self, id: ProposalId) {
        self.waiting.lock().remove(&id);
    }

    /// Who waits for `id`, if anybody does: to be answered by the taker.
    pub fn take(&self, id: ProposalId) -> Option<Waiter> {
        self.waiting.lock().remove(&id).map(Waiter)
    }

    /// A snapshot brought what the entries before it did: answers those whose numbers it has.
    pub fn complete_from(&self, answer: impl Fn(ProposalId) -> Option<Committed>) {
        let waiting: Vec<ProposalId> = self.waiting.lock().keys().copied().collect();
        for (id, committed) in waiting.into_iter().filter_map(|id| Some((id, answer(id)?))) {
            if let Some(Waiter(waiter)) = self.take(id) {
                // The receiver may have given up a moment ago; it has abandoned the number then.
                let _ = waiter.send((committed, None));
            }
        }
    }
}

impl Waiter {
    /// Whether somebody waits, as of now.
    pub fn is_there(&self) -> bool {
        !self.0.is_closed()
    }

    /// Gives the answer.
    ///
    /// # Errors
    /// The entry, if nobody waits any more.
    pub fn answer(
        self,
        committed: Committed,
        entry: Arc<AppliedEntry>,
    ) -> Result<(), Arc<AppliedEntry>> {
        match self.0.send((committed, Some(entry))) {
            Err((_, Some(entry))) => Err(entry),
            _ => Ok(()),
        }
    }
}

impl Waiting {
    /// Ends the wait. The entry, if it was applied and its answer not taken: an answer after this is handed back.
    pub fn give_up(&mut self) -> Option<Arc<AppliedEntry>> {
        self.0.close();
        self.0.try_recv().ok()?.1
    }
}

impl Future for Waiting {
    /// `None` if nobody will ever answer.
    type Output = Option<Committed>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Committed>> {
        let answer = std::task::ready!(Pin::new(&mut self.0).poll(context));
        Poll::Ready(answer.ok().map(|(committed, _)| committed))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::state_machine::command::Author;
    use crate::state_machine::ids::{LogIndex, NodeId};
    use crate::state_machine::log_time::WallTime;
    use crate::state_machine::outcome::{Applied, Done};

    const ID: ProposalId = (SessionId(1), RequestNo(2));
    const COMMITTED: Committed = Committed {
        index: LogIndex(7),
        outcome: Ok(Done::Unit),
    };

    fn entry() -> Arc<AppliedEntry> {
        Arc::new(AppliedEntry {
            applied: Applied {
                index: LogIndex(7),
                node: NodeId(1),
                outcome: Ok(Done::Unit),
                changes: Vec::new(),
                uncalled: 0,
            },
            author: Author::default(),
            wall: WallTime::default(),
            is_awaited: true,
        })
    }

    #[test]
    fn an_answer_is_taken_or_its_entry_is_handed_back_to_one_side() {
        let waiters = Waiters::default();
        let mut waiting = waiters.wait_for(ID);
        let waiter = waiters.take(ID).unwrap();
        assert!(waiter.is_there());
        waiter.answer(COMMITTED, entry()).unwrap();
        let left = waiting.give_up();
        assert_eq!(left.unwrap().applied.index, LogIndex(7), "nobody took it");

        let mut waiting = waiters.wait_for(ID);
        let waiter = waiters.take(ID).unwrap();
        assert!(waiting.give_up().is_none(), "there was no answer yet");
        assert!(!waiter.is_there());
        assert!(waiter.answer(COMMITTED, entry()).is_err());
    }

    #[test]
    fn a_snapshot_answers_whose_number_it_has() {
        let waiters = Waiters::default();
        let [later, gone]: [ProposalId; 2] = [3, 4].map(|number| (SessionId(1), RequestNo(number)));
        let (first, second) = (waiters.wait_for(ID), waiters.wait_for(later));
        drop(waiters.wait_for(gone));
        waiters.complete_from(|id| (id != later).then_some(COMMITTED));
        let answer = first.now_or_never().flatten();
        assert_eq!(answer.map(|answer| answer.index), Some(LogIndex(7)));
        assert!(waiters.take(ID).is_none() && waiters.take(gone).is_none());
        let waiter = waiters.take(later).unwrap();
        assert!(waiter.is_there(), "its entry is still to come");
        waiter.answer(COMMITTED, entry()).unwrap();
        assert!(second.now_or_never().flatten().is_some());
    }

    #[tokio::test]
    async fn an_answer_that_was_taken_is_handed_back_to_nobody() {
        let waiters = Waiters::default();
        let mut waiting = waiters.wait_for(ID);
        let waiter = waiters.take(ID).unwrap();
        waiter.answer(COMMITTED, entry()).unwrap();
        assert_eq!((&mut waiting).await.unwrap().index, LogIndex(7));
        assert!(waiting.give_up().is_none());
    }
}
