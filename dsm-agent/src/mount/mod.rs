//! The rim towards the tree: reading what decisions rest on, performing what was decided, and noticing changes.

pub mod kept;
pub mod lock_file;
pub mod mark_directory;
pub mod mount_table;
pub mod paths;
pub mod performer;
pub mod posix_tree;
pub mod run_store;
pub mod shared_tree;
pub mod watcher;
pub mod wish_index;
pub mod xattr;
