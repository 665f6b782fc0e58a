//! `/.vfs/members.json`: who belongs to the cluster.

use std::sync::Arc;

use super::{Facts, FixedBytes, OpenVirtual, Part, as_json, fixed_attr};
use crate::fs::attr::Attr;
use crate::fs::errno::FsResult;
use crate::state_machine::command::Grant;

/// See the module.
pub struct Members;

impl Part for Members {
    fn name(&self) -> &'static str {
        "members.json"
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
        cluster: &'a str,
        members: Vec<Row<'a>>,
    }
    #[derive(serde::Serialize)]
    struct Row<'a> {
        id: u64,
        name: &'a str,
        address: &'a str,
        role: &'static str,
        grant: Grant,
        age_public: &'a str,
    }
    let (state, status) = (facts.state(), facts.status());
    let members = state.members().map(|member| Row {
        id: member.node.0,
        name: &member.name,
        address: &member.address,
        role: if status.voters.contains(&member.node.0) {
            "voter"
        } else {
            "learner"
        },
        grant: member.grant,
        age_public: &member.age_public,
    });
    as_json(&Document {
        cluster: state.cluster(),
        members: members.collect(),
    })
}
