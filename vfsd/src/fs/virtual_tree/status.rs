//! `/.vfs/status.json`: the cluster as this node sees it. Not here: what its fields mean (`proposer::NodeStatus`).

use std::sync::Arc;

use super::{Facts, FixedBytes, OpenVirtual, Part, as_json, fixed_attr};
use crate::fs::attr::Attr;
use crate::fs::errno::FsResult;
use crate::fs::proposer::NodeStatus;

/// See the module.
pub struct Status;

impl Part for Status {
    fn name(&self) -> &'static str {
        "status.json"
    }

    fn attr(&self, facts: &dyn Facts, _node: u64) -> FsResult<Attr> {
        fixed_attr(facts, document(facts).len() as u64)
    }

    fn open(&self, facts: &dyn Facts, _node: u64) -> FsResult<Arc<dyn OpenVirtual>> {
        Ok(Arc::new(FixedBytes(document(facts))))
    }
}

fn document(facts: &dyn Facts) -> Vec<u8> {
    #[derive(serde::Serialize)]
    struct Document<'a> {
        #[serde(flatten)]
        status: &'a NodeStatus,
        replay_lag: u64,
        pending: Vec<String>,
        dropped: Vec<String>,
    }
    let unsaved = facts.unsaved();
    as_json(&Document {
        status: &facts.status(),
        replay_lag: facts.replay_lag(),
        pending: unsaved.pending,
        dropped: unsaved.dropped,
    })
}
