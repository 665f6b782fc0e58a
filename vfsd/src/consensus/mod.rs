//! The Raft rim: openraft behind one module.
//!
//! Nothing outside knows openraft's types; the filesystem sees [`crate::fs::proposer::Proposer`] only.

pub mod entry_format;
pub mod raft_log_store;
pub mod raft_state_machine;
pub mod snapshot_store;
pub mod types;
pub mod waiters;
