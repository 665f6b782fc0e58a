//! Our log, network and state machine under openraft, in our own formats.

pub mod blob_store;
pub(super) mod disk_watch;
pub mod entry_format;
#[cfg(test)]
mod images_test;
pub mod incoming_snapshot;
pub mod lineages;
pub mod log_compaction;
pub mod log_store;
pub mod network;
pub mod snapshot_store;
pub mod state_machine;
pub mod types;
