//! The Raft rim: openraft behind one module.
//!
//! Nothing outside knows openraft's types; the filesystem sees [`crate::fs::proposer::Proposer`] only.

pub mod beat;
pub mod cluster;
pub mod core;
pub mod leader_link;
#[cfg(test)]
pub(crate) mod lone_member_test;
pub mod node;
pub mod permissions;
pub mod proposals;
pub mod raft;
pub mod request_handler;
pub mod sessions;
mod standing;
pub mod view;
pub mod wire;
pub mod writer;
