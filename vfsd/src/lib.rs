//! The filesystem daemon of ContextOS: one tree, mounted on every node, replicated by Raft.
//!
//! A pure core ([`state_machine`]) decides; rims touch the world. See `docs/ARCHITECTURE.md`.

pub mod admin;
pub mod cli;
pub mod clock;
pub mod config;
pub mod consensus;
pub mod daemon;
pub mod fs;
pub mod fuse;
pub mod inline_task;
pub mod limits;
pub mod state_machine;
pub mod storage;
pub mod telemetry;
pub mod transport;
mod trouble;
