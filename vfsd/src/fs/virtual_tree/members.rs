//! `/.vfs/members.json`: who belongs to the cluster.

use super::{Document, Facts, as_json};
use crate::state_machine::command::Grant;

/// See the module.
pub const PART: Document = Document {
    name: "members.json",
    bytes: members,
};

fn members(facts: &dyn Facts) -> Vec<u8> {
    #[derive(serde::Serialize)]
    struct Members<'a> {
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
    as_json(&Members {
        cluster: state.cluster(),
        members: members.collect(),
    })
}
