//! `/.vfs/status.json`: the cluster as this node sees it. Not here: what its fields mean (`proposer::NodeStatus`).

use super::{Document, Facts, as_json};
use crate::fs::proposer::NodeStatus;

/// See the module.
pub const PART: Document = Document {
    name: "status.json",
    bytes: status,
};

fn status(facts: &dyn Facts) -> Vec<u8> {
    #[derive(serde::Serialize)]
    struct Status<'a> {
        #[serde(flatten)]
        status: &'a NodeStatus,
        replay_lag: u64,
        pending: Vec<String>,
        dropped: Vec<String>,
    }
    let unsaved = facts.unsaved();
    as_json(&Status {
        status: &facts.status(),
        replay_lag: facts.replay_lag(),
        pending: unsaved.pending,
        dropped: unsaved.dropped,
    })
}
