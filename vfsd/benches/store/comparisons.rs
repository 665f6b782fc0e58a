//! What the rows come to, and the aims. A number more is an entry more.

use crate::figures::Aim::{Above, AtMost, Below};
use crate::figures::Comparison;
use crate::figures::Turn;
use crate::figures::Unit::{Entries, Millis, PercentOfACore, Times};

/// A save cannot be quicker than its round and its calls of FUSE.
fn bound(turn: &Turn) -> Option<f64> {
    Some(turn.get("raw_round_ms")? + turn.get("fuse_floor_ms")?)
}

/// A new file is two entries, for its name and for its content, one behind the other.
fn new_file_bound(turn: &Turn) -> Option<f64> {
    Some(2.0 * turn.get("raw_round_ms")? + turn.get("fuse_floor_ms")?)
}

/// All of them, in the order in which they are shown.
pub const COMPARISONS: &[Comparison] = &[
    Comparison {
        key: "save_by_bound",
        label: "save over a file / (raw round + FUSE)",
        unit: Times,
        of: |turn| Some(turn.get("save_ms")? / bound(turn)?),
        aim: Some(AtMost(1.2)),
    },
    Comparison {
        key: "save_follower_by_bound",
        label: "the same at a follower",
        unit: Times,
        of: |turn| Some(turn.get("save_follower_ms")? / bound(turn)?),
        aim: None,
    },
    Comparison {
        key: "save_by_etcd",
        label: "save over a file / etcd put",
        unit: Times,
        of: |turn| Some(turn.get("save_ms")? / turn.get("etcd_put_ms")?),
        aim: Some(Below(1.0)),
    },
    Comparison {
        key: "new_file_by_bound",
        label: "new file / (2 raw rounds + FUSE)",
        unit: Times,
        of: |turn| Some(turn.get("new_file_ms")? / new_file_bound(turn)?),
        aim: Some(AtMost(1.2)),
    },
    Comparison {
        key: "new_file_follower_by_bound",
        label: "the same at a follower",
        unit: Times,
        of: |turn| Some(turn.get("new_file_follower_ms")? / new_file_bound(turn)?),
        aim: None,
    },
    Comparison {
        key: "rate_16_by_etcd",
        label: "16 writers / etcd's",
        unit: Times,
        of: |turn| Some(turn.get("saves_per_s_16")? / turn.get("etcd_puts_per_s_16")?),
        aim: Some(Above(1.0)),
    },
    Comparison {
        key: "rate_64_by_etcd",
        label: "64 writers / etcd's",
        unit: Times,
        of: |turn| Some(turn.get("saves_per_s_64")? / turn.get("etcd_puts_per_s_64")?),
        aim: Some(Above(1.0)),
    },
    Comparison {
        key: "voters_5_by_3",
        label: "save with 5 voters / with 3",
        unit: Times,
        of: |turn| Some(turn.get("save_5_voters_ms")? / turn.get("save_3_voters_ms")?),
        aim: None,
    },
    Comparison {
        key: "voters_7_by_3",
        label: "save with 7 voters / with 3",
        unit: Times,
        of: |turn| Some(turn.get("save_7_voters_ms")? / turn.get("save_3_voters_ms")?),
        aim: None,
    },
    Comparison {
        key: "leader_kill_gap",
        label: "gap, leader killed",
        unit: Millis,
        of: |turn| turn.get("leader_kill_gap_ms"),
        aim: Some(AtMost(700.0)),
    },
    Comparison {
        key: "event_after_close",
        label: "event on another node after the close's return",
        unit: Millis,
        of: |turn| turn.get("event_after_close_ms"),
        aim: Some(AtMost(1.0)),
    },
    Comparison {
        key: "first_started",
        label: "wish to the first step's started",
        unit: Millis,
        of: |turn| turn.get("first_started_ms"),
        aim: Some(AtMost(200.0)),
    },
    Comparison {
        key: "idle_entries",
        label: "entries of agents that have nothing to do",
        unit: Entries,
        of: |turn| turn.get("idle_entries"),
        aim: Some(AtMost(0.0)),
    },
    Comparison {
        key: "idle_cpu",
        label: "an idle member, the busiest of them",
        unit: PercentOfACore,
        of: |turn| {
            Some(
                turn.get("idle_leader_cpu")?
                    .max(turn.get("idle_follower_cpu")?),
            )
        },
        aim: Some(AtMost(0.3)),
    },
    Comparison {
        key: "idle_cpu_agents",
        label: "the same while agents look after deployments",
        unit: PercentOfACore,
        of: |turn| {
            let leader = turn.get("idle_leader_cpu_agents")?;
            Some(leader.max(turn.get("idle_follower_cpu_agents")?))
        },
        aim: Some(AtMost(0.3)),
    },
];
