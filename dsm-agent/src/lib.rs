//! The per-node agent of ContextOS: turns wishes in the tree into running software.
//!
//! Arrows: `agent -> everything`; `mount, host -> engine`; `host -> drivers`; `engine -> drivers`' data types only. The
//! agent links no part of vfsd: the file tree is their interface.

pub mod engine;
pub mod limits;
