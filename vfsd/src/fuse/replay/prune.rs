//! Lets the kernel forget directories that are known only because their creation was replayed.
//!
//! Invariant: it runs on a thread that serves no request and waits for no answer. Not here: which directories
//! (`replayer.rs`).

use std::fs::File;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender};

use crate::state_machine::ids::InodeNo;

/// A mount as the replay thread knows it. Holds no descriptor: the replay thread has a table of its own.
pub struct MountRoot {
    /// Directories that nobody may need, to the thread that tells this mount's connection.
    pub unneeded: SyncSender<InodeNo>,
}

/// Tells the kernel of directories that nobody may need, until nobody can send any more.
///
/// This thread has the connection open, so it must never wait for an answer on it: killed, the daemon would stay for
/// ever (see [`super::Replayer::run`]). Pruning waits for none: the kernel looks the inode up in its cache and drops
/// its unused entries; a directory has no pages here whose lock or writeback could be waited for. Dropping the pages
/// of a file by `FUSE_NOTIFY_INVAL_INODE` does wait for both, hence for this daemon: the replay thread does that by
/// an open.
pub fn prune_unneeded(device: &File, unneeded: &Receiver<InodeNo>) {
    for directory in unneeded {
        if let Err(error) = prune(device, directory) {
            // A mount that ends, or an older kernel: the replay does more than it must, and nothing else.
            tracing::trace!(%directory, %error, "the kernel does not prune");
        }
    }
}

/// Lets the kernel drop `inode` from its cache if nobody uses or watches it (`FUSE_NOTIFY_PRUNE`, Linux 6.18). A
/// directory that is known only because its creation was replayed would have every change in it replayed too.
fn prune(mut device: &File, inode: InodeNo) -> io::Result<()> {
    const NOTIFY_PRUNE: i32 = 9;
    const MESSAGE_BYTES: u32 = 40;
    let mut message = Vec::with_capacity(MESSAGE_BYTES as usize);
    // struct fuse_out_header: length, notification, no request.
    message.extend(MESSAGE_BYTES.to_ne_bytes());
    message.extend(NOTIFY_PRUNE.to_ne_bytes());
    message.extend(0u64.to_ne_bytes());
    // struct fuse_notify_prune_out: one node, padding and spare; then the node.
    message.extend(1u32.to_ne_bytes());
    message.extend([0; 12]);
    message.extend(inode.0.to_ne_bytes());
    device.write_all(&message)
}
