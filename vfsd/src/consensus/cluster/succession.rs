//! When this node stands for election, when it shows as leader that it lives, and that both cost little.
//!
//! Raft's own timer fires five times between two signs of life, to find out each time that nothing is due. Here it
//! rests while there is a leader: a leader gives its signs by the beat, and a follower sets the timer going once the
//! leader is silent for longer than it may be. The timer then decides as ever, by the time of the last sign.
//!
//! A leader whose daemon is gone need not be waited for any longer than its lease: its machine closes the connection
//! and refuses the next one. Invariant: to judge so wrongly costs nothing, since what follows is a question to the
//! others (pre-vote), which each answers by the lease that it knows of.

use std::sync::Arc;

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::time::sleep;

use crate::consensus::cluster::peers::Purpose;
use crate::consensus::core::Core;
use crate::consensus::wire::Request;
use crate::limits::{
    ELECTION_TIMEOUT_MAX, HEARTBEAT_INTERVAL, LEADER_SILENCE_MAX, SUCCESSION_STEP, SUCCESSION_TRIES,
};
use crate::transport::client::CallError;

/// Runs until it is dropped.
pub async fn run(core: Arc<Core>) {
    let mut changes = core.view.raft.server_metrics();
    let mut beats = core.beat.every(1);
    loop {
        core.view.raft.runtime_config().tick(needs_timer(&core));
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = core.link.leader_left.notified() => succeed(&core).await,
            () = beats.next() => {
                let leads = core.view.metrics().state == ServerState::Leader;
                if leads && core.view.raft.trigger().heartbeat().await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Whether an election may be due.
fn needs_timer(core: &Core) -> bool {
    let metrics = core.view.metrics();
    match metrics.state {
        ServerState::Leader => false,
        ServerState::Follower | ServerState::Learner if metrics.current_leader.is_some() => {
            let silence = core.quorum.silence();
            silence.is_none_or(|silence| silence > LEADER_SILENCE_MAX)
        }
        _ => true,
    }
}

/// The leader's connection has ended: if its daemon is gone, asks the others whether they would vote for this node.
async fn succeed(core: &Core) {
    let metrics = core.view.metrics();
    let Some(leader) = metrics
        .current_leader
        .filter(|&leader| leader != core.view.id)
    else {
        return;
    };
    let heirs = metrics
        .membership_config
        .voter_ids()
        .filter(|&id| id != leader);
    let Some(rank) = heirs.into_iter().position(|id| id == core.view.id) else {
        return;
    };
    core.view.raft.runtime_config().tick(true);
    if !is_gone(core, leader).await {
        return;
    }
    tracing::info!(leader, "the leader's daemon is gone");
    let lease = core.quorum.silence().unwrap_or(ELECTION_TIMEOUT_MAX);
    let left = ELECTION_TIMEOUT_MAX.saturating_sub(lease);
    // One after the other: two that ask at once split the votes.
    let rank = u32::try_from(rank).unwrap_or(u32::MAX);
    sleep(left + SUCCESSION_STEP.saturating_mul(rank)).await;
    for _ in 0..SUCCESSION_TRIES {
        let metrics = core.view.metrics();
        let waits =
            metrics.state == ServerState::Follower && metrics.current_leader == Some(leader);
        // This question is asked whether or not elections are let.
        let may = waits && core.may_stand();
        if !may || core.view.raft.trigger().elect(true).await.is_err() {
            return;
        }
        sleep(2 * SUCCESSION_STEP).await;
    }
}

/// Whether nothing answers at `leader`'s address any more, twice: the first question may meet the end of a connection
/// that both sides make anew.
async fn is_gone(core: &Core, leader: u64) -> bool {
    let Some(address) = core.view.address_of(leader) else {
        return false;
    };
    let channel = core.link.peers.channel(leader, &address, Purpose::Control);
    for _ in 0..2 {
        let asked = core.link.peers.call(
            leader,
            &*channel,
            Request::Overview.encode(),
            HEARTBEAT_INTERVAL,
        );
        if !matches!(asked.await, Err(CallError::Unreachable(_))) {
            return false;
        }
    }
    true
}
