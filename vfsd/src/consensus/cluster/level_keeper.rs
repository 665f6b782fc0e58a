//! Raises the cluster's level: writes that entries count by newer rules from here on, once every member knows them.
//!
//! Invariants: a level is raised only while this node is connected to every other member and each has said on that
//! connection that it knows it; one member of an earlier build, or one that is away, keeps the cluster on its level.
//! Not here: what the rules are (`state_machine/level.rs`), how members say it (`transport/tls.rs`).

use std::sync::Arc;

use crate::consensus::core::Core;
use crate::limits::LEVEL_CHECK_BEATS;
use crate::state_machine::command::Command;
use crate::state_machine::level::Level;

/// Runs until it is dropped; does nothing while this node does not lead.
pub async fn run(core: Arc<Core>) {
    let mut beats = core.beat.every(LEVEL_CHECK_BEATS);
    loop {
        beats.next().await;
        if core.view.state().level() >= Level::KNOWN || core.view.leading_term().is_none() {
            continue;
        }
        if known_by_all(&core) < Level::KNOWN {
            continue;
        }
        match core
            .writer
            .write_own(Command::RaiseLevel(Level::KNOWN))
            .await
        {
            Ok(_) => {
                tracing::info!(level = %Level::KNOWN, "every member knows the newer rules: they count from now on");
            }
            Err(error) => tracing::debug!(%error, "the level could not be raised yet"),
        }
    }
}

/// The newest level that every member knows, as far as they have said so.
fn known_by_all(core: &Core) -> Level {
    let metrics = core.view.metrics();
    let membership = metrics.membership_config.membership();
    let others = membership.nodes().filter(|(id, _)| **id != core.view.id);
    let levels = others.map(|(id, _)| core.link.peers.level(*id).unwrap_or_default());
    levels.min().unwrap_or(Level::KNOWN)
}
