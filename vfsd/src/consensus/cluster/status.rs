//! What this node knows of the cluster, gathered for readers.
//!
//! Invariant: reading it waits for nothing. Not here: how it is shown (`cli/`, `fs/virtual_tree`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Instant as _, RaftMetrics, ServerState};
use tokio::time::Instant;

use crate::clock;
use crate::consensus::cluster::quorum::QuorumState;
use crate::consensus::core::Core;
use crate::consensus::proposals::barrier::Barriers;
use crate::consensus::raft::types::TypeConfig;
use crate::fs::proposer::NodeStatus;
use crate::limits::QUORUM_SILENCE_MAX;
use crate::state_machine::ids::{LogIndex, NodeId};

/// See the module.
pub struct StatusBoard {
    core: Arc<Core>,
    barriers: Arc<Barriers>,
    name: String,
    led_term: AtomicU64,
    board: ArcSwap<NodeStatus>,
}

impl StatusBoard {
    /// The board of the node called `name`.
    pub fn new(core: Arc<Core>, barriers: Arc<Barriers>, name: String) -> Arc<Self> {
        let board = ArcSwap::from_pointee(NodeStatus {
            node: name.clone(),
            id: NodeId(core.view.id),
            role: "learner",
            stale: true,
            ..NodeStatus::default()
        });
        Arc::new(Self {
            core,
            barriers,
            name,
            led_term: AtomicU64::new(0),
            board,
        })
    }

    /// What is known now. Everything but the applied position and the quorum may be a beat old: who has just passed a
    /// barrier may write.
    pub fn current(&self) -> Arc<NodeStatus> {
        let board = self.board.load_full();
        let applied = self.core.view.published.state.load().applied();
        let has_turned = board.quorum != self.core.quorum.has();
        if board.applied == applied && !has_turned {
            return board;
        }
        let committed = board.committed.max(applied);
        let mut status = NodeStatus {
            applied,
            committed,
            ..NodeStatus::clone(&board)
        };
        if has_turned {
            self.show_quorum(&mut status, &self.core.quorum.state());
        }
        Arc::new(status)
    }

    /// Keeps the board and the quorum watch up to date until it is dropped.
    pub async fn run(self: Arc<Self>) {
        // Only what concerns the leadership wakes it at once; the positions of the log change with every entry.
        let mut metrics = self.core.view.raft.server_metrics();
        let mut beats = self.core.beat.every(1);
        loop {
            self.refresh();
            tokio::select! {
                changed = metrics.changed() => if changed.is_err() { return },
                () = beats.next() => {}
            }
        }
    }

    fn refresh(&self) {
        let core = &self.core;
        let metrics = core.view.metrics();
        core.link.leader.send_if_modified(|leader| {
            let changed = *leader != metrics.current_leader;
            *leader = metrics.current_leader;
            if changed {
                let (name, term) = (leader.map(|id| self.name_of(id)), metrics.current_term);
                tracing::info!(
                    leader = name.as_deref().unwrap_or("none"),
                    term,
                    "the leader changed"
                );
            }
            changed
        });
        let (has, missing, why) = self.judge(&metrics);
        core.quorum.publish(has, missing, why);
        let status = self.status(&metrics, &core.quorum.state());
        self.board.store(Arc::new(status));
    }

    fn judge(&self, metrics: &RaftMetrics<TypeConfig>) -> (bool, Vec<u64>, String) {
        let core = &self.core;
        if let Some(why) = core.why_apart() {
            return (false, Vec::new(), why);
        }
        let others = || {
            let own = core.view.id;
            metrics
                .membership_config
                .voter_ids()
                .filter(move |&id| id != own)
        };
        let silent = |id: &u64| !core.link.peers.is_heard(*id);
        if metrics.state == ServerState::Leader {
            // To be elected is to have heard from a majority; acknowledgements come a round trip later.
            if self.led_term.swap(metrics.current_term, Ordering::Relaxed) != metrics.current_term {
                core.quorum.leader_heard(true);
            }
            let missing: Vec<u64> = others().filter(silent).collect();
            let acked = metrics.last_quorum_acked.as_ref();
            let since = acked.map(|at| at.elapsed());
            // Nobody acknowledges anything to the only voter; it is its own majority.
            let alone = others().next().is_none().then_some(Duration::ZERO);
            if let Some(at) = alone
                .or(since)
                .and_then(|age| Instant::now().checked_sub(age))
            {
                core.quorum.confirmed_at(at);
            }
            let acked = since.is_some_and(|age| age <= QUORUM_SILENCE_MAX);
            let has = acked || others().next().is_none() || core.quorum.check_contact().is_ok();
            let why = if has {
                String::new()
            } else {
                self.describe(&missing)
            };
            return (has, missing, why);
        }
        match core.quorum.check_contact() {
            Ok(()) => (true, core.quorum.reported_missing(), String::new()),
            Err(reason) => {
                let missing: Vec<u64> = others().filter(silent).collect();
                let why = if missing.is_empty() {
                    reason
                } else {
                    self.describe(&missing)
                };
                (false, missing, why)
            }
        }
    }

    /// `n1, n2 do not answer (connection refused)`.
    fn describe(&self, missing: &[u64]) -> String {
        if missing.is_empty() {
            return "the voters have not agreed on a leader".into();
        }
        let names: Vec<_> = missing.iter().map(|&id| self.name_of(id)).collect();
        let reasons = missing
            .iter()
            .filter_map(|&id| self.core.link.peers.health(id).failure);
        let verb = if names.len() == 1 { "does" } else { "do" };
        let names = names.join(", ");
        match reasons.last() {
            Some(reason) => format!("{names} {verb} not answer ({reason})"),
            None => format!("{names} {verb} not answer"),
        }
    }

    fn name_of(&self, id: u64) -> String {
        let state = self.core.view.published.state.load();
        match state.member(NodeId(id)) {
            Some(member) => member.name.clone(),
            None => format!("node {id}"),
        }
    }

    fn status(&self, metrics: &RaftMetrics<TypeConfig>, quorum: &QuorumState) -> NodeStatus {
        let state = self.core.view.published.state.load();
        let committed = metrics.cluster_committed.map_or(0, |id| id.index);
        let mut status = NodeStatus {
            cluster: state.cluster().to_owned(),
            node: self.name.clone(),
            id: NodeId(self.core.view.id),
            role: match metrics.state {
                ServerState::Leader => "leader",
                ServerState::Follower => "follower",
                ServerState::Candidate => "candidate",
                ServerState::Learner | ServerState::Shutdown => "learner",
            },
            leader: metrics.current_leader.map(|id| self.name_of(id)),
            term: metrics.current_term,
            applied: state.applied(),
            committed: LogIndex(committed.max(state.applied().0)),
            voters: metrics.membership_config.voter_ids().collect(),
            stale: !self.barriers.passed_one(),
            ..NodeStatus::default()
        };
        self.show_quorum(&mut status, quorum);
        status
    }

    fn show_quorum(&self, status: &mut NodeStatus, quorum: &QuorumState) {
        status.quorum = quorum.has;
        status.quorum_since = clock::rfc3339(quorum.since);
        status.missing = quorum.missing.iter().map(|&id| self.name_of(id)).collect();
        status.why.clone_from(&quorum.why);
    }
}
