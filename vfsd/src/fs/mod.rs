//! The filesystem by inode, without FUSE in it.
//!
//! Arrows: `fuse -> fs -> state_machine`; consensus is reached through the port in [`proposer`], and tells what it
//! applies through [`feed`].

pub mod attr;
mod call_grant;
pub mod caller;
pub mod difference;
pub mod errno;
pub mod feed;
mod file_io;
pub mod file_system;
mod found_names;
pub mod handles;
pub mod known_inodes;
pub mod listing;
mod names;
pub mod open_flags;
mod orphans;
pub mod proposer;
pub mod save;
pub mod virtual_tree;
mod xattrs;

pub use file_system::FileSystem;
