//! The filesystem by inode, without FUSE in it.

pub mod proposer;
