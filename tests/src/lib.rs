//! System tests: real daemons on real mounts, in nodes that are namespaces of this machine.
//!
//! Invariants: nothing here touches the host's routing, packages or services; what a test makes it takes away, also
//! when it fails, and `testhosts gc` takes away what a killed test left.
//! Not here: any logic of the product. This crate knows vfsd and dsm-agent by their command lines and files only.

pub mod cluster;
pub mod crash;
pub mod deployment;
pub mod events;
pub mod formation;
pub mod limits;
pub mod mounted;
pub mod postgres;
pub mod seed;
pub mod sources;
pub mod wait;
