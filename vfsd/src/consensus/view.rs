//! What a part of consensus may see of this node: the state, and how Raft stands.
//!
//! Invariant: to look waits for nothing and changes nothing. Not here: writing (`writer.rs`), asking another member
//! (`leader_link.rs`).

use std::sync::Arc;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{RaftMetrics, ServerState};

use crate::consensus::cluster::confirmation::Confirmation;
use crate::consensus::raft::state_machine::{Published, Raft};
use crate::consensus::raft::types::TypeConfig;
use crate::state_machine::StateMachine;
use crate::state_machine::ids::LogIndex;

/// See the module.
pub struct View {
    /// This node.
    pub id: u64,
    /// Raft.
    pub raft: Raft,
    /// The applied state and who waits for it.
    pub published: Arc<Published>,
    /// Whether a majority's confirmation is still one.
    pub confirmation: Confirmation,
}

impl View {
    /// What openraft says of itself now.
    pub fn metrics(&self) -> RaftMetrics<TypeConfig> {
        // Cloned at once: holding the guard would block the core.
        self.raft.metrics().borrow_watched().clone()
    }

    /// The applied state.
    pub fn state(&self) -> Arc<StateMachine> {
        self.published.state.load_full()
    }

    /// The term in which this node leads and has applied everything of its predecessors, if it does.
    pub fn leading_term(&self) -> Option<u64> {
        let metrics = self.metrics();
        let caught_up = metrics
            .last_applied
            .is_some_and(|id| id.leader_id.term == metrics.current_term);
        (metrics.state == ServerState::Leader && caught_up).then_some(metrics.current_term)
    }

    /// Whether a majority has confirmed this leader within `RENEW_CONFIRMED_MAX`.
    pub fn is_confirmed(&self) -> bool {
        let metrics = self.metrics();
        let is_alone = metrics.membership_config.voter_ids().eq([self.id]);
        let acked = metrics.last_quorum_acked;
        is_alone || acked.is_some_and(|at| self.confirmation.is_fresh(at.into_inner()))
    }

    /// Whether `node` votes in the effective membership, as far as this node knows.
    pub fn is_voter(&self, node: u64) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.voter_ids().any(|id| id == node)
    }

    /// Address of `node` in the membership.
    pub fn address_of(&self, node: u64) -> Option<String> {
        let metrics = self.metrics();
        let membership = metrics.membership_config.membership();
        membership.get_node(&node).map(|node| node.addr.clone())
    }

    /// Waits until the entry at `index` is applied here.
    pub async fn wait_applied(&self, index: LogIndex) {
        let mut applied = self.published.applied.subscribe();
        // The sender lives as long as this node.
        let _ = applied.wait_for(|&applied| applied >= index.0).await;
    }
}
