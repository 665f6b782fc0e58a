//! The per-node agent of ContextOS: turns wishes in the tree into running software.
//!
//! Arrows: `agent -> everything`; `mount, host -> engine`; `host -> drivers`; `engine -> drivers`' data types only. The
//! agent links no part of vfsd: the file tree is their interface.

pub mod agent;
pub mod cli;
pub mod clock;
pub mod config;
pub mod engine;
pub mod failpoint;
pub mod host;
pub mod limits;
pub mod mount;
pub mod reconciler;
pub mod status;
