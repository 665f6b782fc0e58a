//! The entries that a simulated cluster is born with: all of its voters, and their names.

use std::collections::{BTreeMap, BTreeSet};

use openraft::EntryPayload;
use openraft::entry::RaftEntry as _;
use vfsd::consensus::raft::entry_format::{MembershipImage, stored_entry};
use vfsd::consensus::raft::types::{EntryBytes, RaftEntry, log_id};
use vfsd::state_machine::command::{Author, Command, Entry, Grant, Member};
use vfsd::state_machine::ids::NodeId;
use vfsd::storage::record::{Position, StoredEntry};

/// Its name.
pub const CLUSTER: &str = "simulated";

/// Name and address of a member.
pub fn name(id: u64) -> String {
    format!("n{id}")
}

/// The log of every member at the beginning.
pub fn entries(members: u64) -> Vec<StoredEntry> {
    let ids = 1..=members;
    let membership = MembershipImage {
        voters: vec![BTreeSet::from_iter(ids.clone())],
        addresses: BTreeMap::from_iter(ids.clone().map(|id| (id, name(id)))),
    };
    let membership = membership.into_membership().unwrap();
    let mut payloads = vec![EntryPayload::Membership(membership)];
    for id in ids {
        let member = Member {
            node: NodeId(id),
            name: name(id),
            address: name(id),
            grant: Grant::Writer,
            age_public: String::new(),
        };
        let author = Author {
            node: NodeId(1),
            ..Author::default()
        };
        let command = match id {
            1 => Command::ClusterInit {
                cluster: CLUSTER.into(),
                first: member,
            },
            _ => Command::MemberPut(member),
        };
        let entry = Entry::new(author.clone(), command);
        payloads.push(EntryPayload::Normal(EntryBytes(entry.encode().into())));
    }
    let stored = payloads.into_iter().zip(0..).map(|(payload, index)| {
        let at = log_id(Position { term: 0, index });
        stored_entry(&RaftEntry::new(at, payload))
    });
    stored.collect()
}
