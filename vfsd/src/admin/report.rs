//! Gathers what `vfsd status` shows: this node's own view, and what the leader knows of the members.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::protocol::{MemberReport, StatusReport};
use crate::clock;
use crate::consensus::node::Node;
use crate::consensus::wire::{MemberHealth, Reply, Request};
use crate::fs::proposer::NodeStatus;
use crate::limits::CONNECT_TIMEOUT;
use crate::state_machine::command::Member;
use crate::state_machine::level::Level;

/// The report of this node now. Without a leader it says less, and waits for at most a second.
pub(super) async fn status(node: &Arc<Node>) -> StatusReport {
    let core = node.core();
    let known = node.status().current();
    let overview = match core
        .link
        .ask_leader(Request::Overview, CONNECT_TIMEOUT)
        .await
    {
        Ok(Reply::Overview(members)) => members,
        Ok(_) | Err(_) => Vec::new(),
    };
    let health: BTreeMap<u64, MemberHealth> = overview
        .into_iter()
        .map(|member| (member.id, member))
        .collect();
    let metrics = core.view.metrics();
    let voters: BTreeSet<u64> = metrics.membership_config.voter_ids().collect();
    let state = core.view.state();
    let members = state.members().map(|member| {
        let id = member.node.0;
        MemberReport {
            id,
            name: member.name.clone(),
            role: (if voters.contains(&id) {
                "voter"
            } else {
                "learner"
            })
            .into(),
            state: standing(&known, member, metrics.current_leader, health.get(&id)).into(),
            behind: health.get(&id).and_then(|health| health.behind),
            round_trip_ms: health
                .get(&id)
                .and_then(|health| health.round_trip_us)
                .map(|us| us as f64 / 1000.0),
            address: member.address.clone(),
            grant: member.grant,
            age_public: member.age_public.clone(),
        }
    });
    StatusReport {
        cluster: known.cluster.clone(),
        node: known.node.clone(),
        id: known.id.0,
        role: known.role.into(),
        leader: known.leader.clone(),
        term: known.term,
        applied: known.applied.0,
        committed: known.committed.0,
        quorum: known.quorum,
        quorum_since: known.quorum_since.clone(),
        quorum_age_secs: clock::wall().secs - core.quorum.state().since.secs,
        missing: known.missing.clone(),
        why: known.why.clone(),
        stale: known.stale,
        voters: voters.len(),
        members: members.collect(),
        log_bytes: core.log.disk_bytes(),
        tree_inodes: state.tree().inode_count(),
        tree_bytes: state.tree().stored_bytes(),
        locks: state.locks().iter().count(),
        session: core.session.live().map(|session| session.0),
        level: state.level().0,
        level_known: Level::KNOWN.0,
    }
}

/// How a member is doing, in a word.
fn standing(
    known: &NodeStatus,
    member: &Member,
    leader: Option<u64>,
    health: Option<&MemberHealth>,
) -> &'static str {
    let is_leader = leader == Some(member.node.0);
    match health {
        _ if member.node == known.id && !known.quorum => "no quorum",
        _ if is_leader && known.quorum => "leader",
        Some(health) if health.answers => "following",
        Some(_) => "missing",
        None if known.missing.contains(&member.name) => "missing",
        None => "unknown",
    }
}
