//! How a Raft entry becomes a kind and bytes, on disk and on the wire alike.
//!
//! Invariants: kinds are only ever added; an unknown one is an error, never skipped.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use bytes::Bytes;
use openraft::entry::RaftEntry as _;
use openraft::impls::BasicNode;
use openraft::{EntryPayload, Membership};
use serde::{Deserialize, Serialize};

use crate::consensus::raft::types::{EntryBytes, RaftEntry, StoredMembership, log_id, position};
use crate::storage::record::{Position, StoredEntry};

const KIND_BLANK: u8 = 0;
const KIND_COMMAND: u8 = 1;
const KIND_MEMBERSHIP: u8 = 2;

/// Members as they are stored and sent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MembershipImage {
    /// Sets of voters; two while the membership changes.
    pub voters: Vec<BTreeSet<u64>>,
    /// Address of every voter and learner.
    pub addresses: BTreeMap<u64, String>,
}

impl MembershipImage {
    /// The stored form of `membership`.
    pub fn of(membership: &Membership<u64, BasicNode>) -> Self {
        Self {
            voters: membership.get_joint_config().clone(),
            addresses: membership
                .nodes()
                .map(|(id, node)| (*id, node.addr.clone()))
                .collect(),
        }
    }

    /// The membership.
    ///
    /// # Errors
    /// If a voter has no address.
    pub fn into_membership(self) -> io::Result<Membership<u64, BasicNode>> {
        let nodes: BTreeMap<_, _> = self
            .addresses
            .into_iter()
            .map(|(id, addr)| (id, BasicNode { addr }))
            .collect();
        Membership::new(self.voters, nodes).map_err(invalid)
    }
}

/// A membership and the entry that set it, as in a snapshot's head.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StoredMembershipImage {
    /// The entry.
    pub position: Option<Position>,
    /// The members.
    pub membership: MembershipImage,
}

impl StoredMembershipImage {
    /// The stored form of `stored`.
    pub fn of(stored: &StoredMembership) -> Self {
        Self {
            position: stored.log_id().as_ref().map(position),
            membership: MembershipImage::of(stored.membership()),
        }
    }

    /// The membership.
    ///
    /// # Errors
    /// As [`MembershipImage::into_membership`].
    pub fn into_stored(self) -> io::Result<StoredMembership> {
        Ok(StoredMembership::new(
            self.position.map(log_id),
            self.membership.into_membership()?,
        ))
    }
}

/// The stored form of a Raft entry. Command bytes are shared, not copied.
pub fn stored_entry(entry: &RaftEntry) -> StoredEntry {
    let (kind, payload) = match &entry.payload {
        EntryPayload::Blank => (KIND_BLANK, Bytes::new()),
        EntryPayload::Normal(command) => (KIND_COMMAND, command.0.clone()),
        EntryPayload::Membership(membership) => {
            let image = MembershipImage::of(membership);
            let bytes = postcard::to_stdvec(&image).expect("plain data always encodes into memory");
            (KIND_MEMBERSHIP, bytes.into())
        }
    };
    StoredEntry {
        position: position(&entry.log_id),
        kind,
        payload,
    }
}

/// The Raft entry that was stored or received.
///
/// # Errors
/// If the kind is unknown or the payload is not what the kind says.
pub fn raft_entry(stored: StoredEntry) -> io::Result<RaftEntry> {
    let payload = match stored.kind {
        KIND_BLANK => EntryPayload::Blank,
        KIND_COMMAND => EntryPayload::Normal(EntryBytes(stored.payload)),
        KIND_MEMBERSHIP => {
            let image: MembershipImage = postcard::from_bytes(&stored.payload).map_err(invalid)?;
            EntryPayload::Membership(image.into_membership()?)
        }
        kind => {
            let index = stored.position.index;
            return Err(invalid(format!(
                "entry {index} has kind {kind}, which this version does not know; upgrade this node"
            )));
        }
    };
    Ok(RaftEntry::new(log_id(stored.position), payload))
}

fn invalid(reason: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_string())
}

/// The first entries of a new cluster: its one voter, and `commands`.
pub fn first_entries(node: u64, address: &str, commands: Vec<Bytes>) -> Vec<StoredEntry> {
    let image = MembershipImage {
        voters: vec![BTreeSet::from([node])],
        addresses: BTreeMap::from([(node, address.to_owned())]),
    };
    let membership = postcard::to_stdvec(&image).expect("plain data always encodes into memory");
    let payloads = std::iter::once((KIND_MEMBERSHIP, membership.into()));
    let commands = commands.into_iter().map(|command| (KIND_COMMAND, command));
    let entries = (0..).zip(payloads.chain(commands));
    entries
        .map(|(index, (kind, payload))| StoredEntry {
            position: Position { term: 0, index },
            kind,
            payload,
        })
        .collect()
}
