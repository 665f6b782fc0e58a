//! Aborting the FUSE connections of a node whose daemon does not answer.
//!
//! Invariant: of `/proc` only the mount table of the node's init is read; nothing here can wait for the stuck daemon.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Aborts every FUSE connection that the process `init` sees mounted, and gives their number. Whoever waits for one
/// gets ENOTCONN or ECONNABORTED at once.
///
/// # Errors
/// If the mount table or the control filesystem of FUSE cannot be read.
pub fn abort_all(init: i32, scratch: &Path) -> Result<usize> {
    let table = fs::read_to_string(format!("/proc/{init}/mountinfo"))
        .context("the node has no mount table")?;
    let mut connections: Vec<&str> = table.lines().filter_map(connection).collect();
    connections.sort_unstable();
    connections.dedup();
    if connections.is_empty() {
        return Ok(0);
    }
    // A mount of our own: the host need not have /sys/fs/fuse/connections mounted.
    fs::create_dir_all(scratch)?;
    mount(
        Some("fusectl"),
        scratch,
        Some("fusectl"),
        MsFlags::empty(),
        None::<&str>,
    )
    .context("cannot mount fusectl")?;
    let aborted = connections
        .iter()
        .filter(|name| fs::write(scratch.join(name).join("abort"), "1").is_ok())
        .count();
    umount2(scratch, MntFlags::MNT_DETACH)?;
    Ok(aborted)
}

/// The connection number of a line of mountinfo, which is the minor number of the device, if the mount is FUSE.
fn connection(line: &str) -> Option<&str> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let kind = filesystem.split(' ').next()?;
    let is_fuse = kind == "fuse" || kind.starts_with("fuse.");
    is_fuse
        .then(|| {
            mount
                .split(' ')
                .nth(2)?
                .split_once(':')
                .map(|(_, minor)| minor)
        })
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fuse_mounts_have_a_connection() {
        let fuse = "60 28 0:54 / /vfs rw,nosuid,nodev shared:9 - fuse vfsd rw,user_id=0";
        let named = "60 28 0:55 / /x rw - fuse.sshfs host rw";
        let control = "61 28 0:42 / /sys/fs/fuse/connections rw - fusectl fusectl rw";
        assert_eq!(
            [fuse, named, control].map(connection),
            [Some("54"), Some("55"), None]
        );
    }
}
