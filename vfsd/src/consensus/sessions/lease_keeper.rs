//! The leader's clockwork: proposes the end of sessions that were not renewed, and of lock delays that are over.
//!
//! Invariants: a clock only ever proposes; what ends, ends by the log entry; an end that was judged in one term is not
//! written in another. Not here: renewals (`request_handler.rs`).

use std::sync::Arc;

use crate::clock;
use crate::consensus::core::Core;
use crate::state_machine::command::Command;

/// Runs until it is dropped; does nothing while this node does not lead.
pub async fn run(core: Arc<Core>) {
    let mut beats = core.beat.every(1);
    loop {
        beats.next().await;
        let Some(term) = core.view.leading_term() else {
            continue;
        };
        for command in due(&core, term) {
            tracing::debug!(?command, "the time has come");
            // Each write takes a round; meanwhile the leadership may have moved and come back.
            if !is_still_due(&core, term, &command)
                || core.writer.write_own_in_term(term, command).await.is_err()
            {
                break;
            }
        }
    }
}

fn is_still_due(core: &Core, term: u64, command: &Command) -> bool {
    let still = match command {
        Command::SessionEnd { session, .. } => core.leases.is_ending(term, *session),
        // A lock's delay only ever runs; `apply` looks at it again.
        _ => true,
    };
    still && core.view.leading_term() == Some(term)
}

fn due(core: &Core, term: u64) -> Vec<Command> {
    let state = core.view.state();
    let open = state.sessions().map(|(session, _)| session);
    let expired = core.leases.expired(term, open, clock::boottime());
    let mut commands: Vec<_> = expired
        .into_iter()
        .map(|session| Command::SessionEnd {
            session,
            clean: false,
        })
        .collect();
    commands.extend(state.due(core.writer.now(term)));
    commands
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::lone_member_test::{found, start};
    use crate::limits::SESSION_TTL;
    use crate::state_machine::ids::{FencingToken, InodeNo};

    /// Between the judgement and the write another leader may have renewed it, and this one be back.
    #[tokio::test]
    async fn an_end_is_due_in_the_term_in_which_it_was_judged_only() {
        let temp = tempfile::tempdir().unwrap();
        let node = start(temp.path(), &found(temp.path())).await;
        let core = node.core();
        let session = core.session.wait().await;
        let term = core.view.leading_term().unwrap();
        let clean = false;
        let end = Command::SessionEnd { session, clean };
        let (inode, fence) = (InodeNo::ROOT, FencingToken(1));
        let delay = Command::LockDelayEnd { inode, fence };
        assert!(
            !is_still_due(core, term, &end),
            "it was opened a moment ago"
        );
        // One thread runs all of it: nothing is written between these lines.
        core.leases.renew(term, session, clock::boottime());
        let late = clock::boottime() + 2 * SESSION_TTL;
        core.leases.expired(term, [session].into_iter(), late);
        assert!(is_still_due(core, term, &end) && is_still_due(core, term, &delay));
        for other in [term - 1, term + 1] {
            assert!(!is_still_due(core, other, &end));
            assert!(!is_still_due(core, other, &delay));
        }
        core.leases.renew(term + 1, session, late);
        assert!(!is_still_due(core, term, &end), "another leader renewed it");
        node.stop().await;
    }
}
