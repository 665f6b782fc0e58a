//! The leader's clockwork: proposes the end of sessions that were not renewed, and of lock delays that are over.
//!
//! Invariant: a clock only ever proposes; what ends, ends by the log entry. Not here: renewals (`request_handler.rs`).

use std::sync::Arc;

use super::core::Core;
use crate::clock;
use crate::limits::LEASE_CHECK_EVERY;
use crate::state_machine::command::Command;

/// Runs until it is dropped; does nothing while this node does not lead.
pub async fn run(core: Arc<Core>) {
    let mut tick = tokio::time::interval(LEASE_CHECK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let Some(term) = core.leading_term() else {
            continue;
        };
        for command in due(&core, term) {
            tracing::debug!(?command, "the time has come");
            if core.write_own(command).await.is_err() {
                break;
            }
        }
    }
}

fn due(core: &Core, term: u64) -> Vec<Command> {
    let state = core.state();
    let open = state.sessions().map(|(session, _)| session);
    let expired = core.leases.expired(term, open, clock::boottime());
    let mut commands: Vec<_> = expired
        .into_iter()
        .map(|session| Command::SessionEnd {
            session,
            clean: false,
        })
        .collect();
    commands.extend(state.due(core.clock.now(term, state.log_time())));
    commands
}
