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
