//! The filesystem by inode, without FUSE in it.
//!
//! Arrows: `fuse -> fs -> state_machine`; consensus is reached through the port in [`proposer`].

pub mod attr;
pub mod caller;
pub mod errno;
mod file_io;
pub mod file_system;
pub mod handles;
pub mod known_inodes;
mod names;
pub mod open_flags;
pub mod proposer;
pub mod save;
pub mod virtual_tree;
mod xattrs;

pub use file_system::FileSystem;
