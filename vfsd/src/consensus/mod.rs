//! The Raft rim: openraft behind one module.
//!
//! Nothing outside knows openraft's types; the filesystem sees [`crate::fs::proposer::Proposer`] only.

pub mod authority;
mod authority_change;
pub mod barrier;
pub mod blob_store;
mod change_steps;
pub mod confirmation;
pub mod core;
pub mod enrolment;
pub mod entry_format;
#[cfg(test)]
mod images_test;
pub mod incoming_snapshot;
pub mod lease_keeper;
pub mod lease_table;
pub mod level_keeper;
pub mod lineage_watch;
pub mod log_compaction;
pub mod membership;
pub mod node;
pub mod node_name;
pub mod peers;
pub mod peers_file;
pub mod permissions;
pub mod proposer;
pub mod quorum;
pub mod raft_log_store;
pub mod raft_network;
pub mod raft_state_machine;
pub mod request_handler;
pub mod request_numbers;
pub mod session_cell;
pub mod session_keeper;
pub mod snapshot_store;
pub mod stamp_clock;
pub mod status;
pub mod types;
pub mod waiters;
pub mod wire;
