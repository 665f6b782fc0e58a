//! Who is asking: what this node knows of a member whose certificate was checked.
//!
//! Not here: what it may ask (`permissions.rs`).

use crate::consensus::core::Core;
use crate::consensus::permissions::{Peer, Standing};
use crate::state_machine::ids::NodeId;

/// What this node knows of `node`, whose certificate was checked.
pub(in crate::consensus) fn peer_of(core: &Core, node: u64) -> Peer {
    let state = core.view.published.state.load();
    let standing = match state.member(NodeId(node)) {
        Some(member) => Standing::Member(member.grant),
        None if state.enrolment_after(NodeId(node)).is_some() => Standing::Replaced,
        // Ids are log indexes: one beyond what is applied here may be a member that this node has not heard of yet.
        None if node > state.applied().0 => Standing::Unheard,
        None => Standing::Gone,
    };
    Peer {
        node: NodeId(node),
        standing,
        is_voter: core.view.is_voter(node),
    }
}
