//! All parts of a member's consensus, for what needs many of them: the answers to requests, and changes of the cluster.
//!
//! A part that needs a few takes those. Not here: the parts.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::consensus::beat::Beat;
use crate::consensus::cluster::authority::Authority;
use crate::consensus::cluster::pledges::Pledges;
use crate::consensus::cluster::quorum::QuorumWatch;
use crate::consensus::cluster::unfit::Unfit;
use crate::consensus::leader_link::LeaderLink;
use crate::consensus::proposals::request_numbers::RequestNumbers;
use crate::consensus::raft::snapshot_store::SnapshotStore;
use crate::consensus::sessions::cell::SessionCell;
use crate::consensus::sessions::lease_table::LeaseTable;
use crate::consensus::view::View;
use crate::consensus::writer::Writer;
use crate::storage::append_log::AppendLog;

/// See the module.
pub struct Core {
    /// The state, and how Raft stands.
    pub view: Arc<View>,
    /// Writes while this node leads.
    pub writer: Writer,
    /// The way to the leader and to the others.
    pub link: LeaderLink,
    /// The log under Raft.
    pub log: Arc<AppendLog>,
    /// Snapshots of the state.
    pub snapshots: SnapshotStore,
    /// Whether a majority answers.
    pub quorum: Arc<QuorumWatch>,
    /// What this node remembers of the others, and whether it takes part.
    pub pledges: Arc<Pledges>,
    /// Whether this node must not go on.
    pub unfit: Unfit,
    /// Whether the disk under the log does nothing any more.
    pub is_stalled: AtomicBool,
    /// When to look at what needs a look now and then.
    pub beat: Arc<Beat>,
    /// Renewals while this node leads.
    pub leases: LeaseTable,
    /// This node's session.
    pub session: SessionCell,
    /// Numbers of this node's proposals.
    pub numbers: RequestNumbers,
    /// Rings when a number was given up.
    pub abandoned: Notify,
    /// The cluster's authority, on voters.
    pub authority: Authority,
    /// Held while this node, as leader, changes the members.
    pub changing: Arc<tokio::sync::Mutex<()>>,
    /// Cancelled when the node stops.
    pub stopping: CancellationToken,
}
