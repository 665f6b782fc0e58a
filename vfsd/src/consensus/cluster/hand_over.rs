//! A leader that goes gives the leadership to the voter that has the most of its log.
//!
//! Not here: what follows when it goes without a word (`cluster/succession.rs`).

use openraft::ServerState;

use crate::consensus::cluster::peers::Peers;
use crate::consensus::view::View;
use crate::limits::HAND_OVER_TIMEOUT;

/// If this node leads and another voter is up to date: gives it the leadership and waits until it has it.
pub async fn hand_over(view: &View, peers: &Peers) {
    let metrics = view.metrics();
    if metrics.state != ServerState::Leader {
        return;
    }
    let voters: Vec<u64> = metrics.membership_config.voter_ids().collect();
    let matched = metrics.replication.unwrap_or_default();
    let best = voters
        .into_iter()
        .filter(|id| *id != view.id && peers.is_heard(*id))
        .max_by_key(|id| matched.get(id).copied().flatten());
    let Some(best) = best else { return };
    if view.raft.trigger().transfer_leader(best).await.is_err() {
        return;
    }
    let moved = view
        .raft
        .wait(Some(HAND_OVER_TIMEOUT))
        .metrics(|metrics| metrics.state != ServerState::Leader, "hand over")
        .await;
    match moved {
        Ok(_) => tracing::info!(to = best, "handed the leadership over"),
        // What openraft says besides is its whole state.
        Err(_) => tracing::warn!(to = best, "nobody took the leadership over in time"),
    }
}
