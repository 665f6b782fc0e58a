//! This node's session, and until when this node itself may rely on it.
//!
//! Invariant: the own deadline counts from when the successful renewal was *sent*, on `CLOCK_BOOTTIME`, so it passes
//! before the leader can give the session's locks away. Not here: renewing (`keeper.rs`).

use std::time::Duration;

use tokio::sync::watch;

use crate::clock;
use crate::limits::SESSION_SELF_DEADLINE;
use crate::state_machine::ids::SessionId;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    id: SessionId,
    renewed_at: Duration,
}

/// See the module.
#[derive(Debug)]
pub struct SessionCell {
    held: watch::Sender<Option<Held>>,
}

impl Default for SessionCell {
    fn default() -> Self {
        Self {
            held: watch::Sender::new(None),
        }
    }
}

impl SessionCell {
    /// The session, whether or not its deadline has passed.
    pub fn current(&self) -> Option<SessionId> {
        self.held.borrow().map(|held| held.id)
    }

    /// The session, if this node may rely on its locks now.
    pub fn live(&self) -> Option<SessionId> {
        let held = (*self.held.borrow())?;
        let age = clock::boottime().saturating_sub(held.renewed_at);
        (age < SESSION_SELF_DEADLINE).then_some(held.id)
    }

    /// The session was opened or renewed by a request that was sent at boot time `sent_at`.
    pub fn renewed(&self, id: SessionId, sent_at: Duration) {
        self.held.send_replace(Some(Held {
            id,
            renewed_at: sent_at,
        }));
    }

    /// The cluster knows no session `id` any more.
    pub fn ended(&self, id: SessionId) {
        self.held.send_if_modified(|held| {
            let is_it = held.is_some_and(|held| held.id == id);
            if is_it {
                *held = None;
            }
            is_it
        });
    }

    /// Waits until there is a session.
    pub async fn wait(&self) -> SessionId {
        let mut held = self.held.subscribe();
        let found = held.wait_for(Option::is_some).await;
        // The sender is this cell, so it outlives the wait.
        found
            .ok()
            .and_then(|held| *held)
            .expect("waited for a session")
            .id
    }

    /// Waits until there is none.
    pub async fn wait_ended(&self) {
        let mut held = self.held.subscribe();
        // As above.
        let _ = held.wait_for(Option::is_none).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_past_its_own_deadline_is_not_relied_on() {
        let cell = SessionCell::default();
        let now = clock::boottime();
        cell.renewed(SessionId(4), now);
        assert_eq!(cell.live(), Some(SessionId(4)));
        cell.renewed(SessionId(4), now.saturating_sub(SESSION_SELF_DEADLINE));
        assert_eq!((cell.live(), cell.current()), (None, Some(SessionId(4))));
        cell.ended(SessionId(3));
        assert_eq!(cell.current(), Some(SessionId(4)));
        cell.ended(SessionId(4));
        assert_eq!(cell.current(), None);
    }
}
