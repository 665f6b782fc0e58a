//! What this machine must have to hold nodes.
//!
//! Invariant: every missing thing is named in one message, with what to do, before anything is made.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use nix::unistd::Uid;

use super::control_group::Layout;

/// Programs that the harness runs, and the Debian package of each.
const PROGRAMS: &[(&str, &str)] = &[
    ("apt-config", "apt"),
    ("dpkg-deb", "dpkg"),
    ("ip", "iproute2"),
    ("mkfs.ext4", "e2fsprogs"),
    ("mmdebstrap", "mmdebstrap"),
    ("mount", "mount"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
];

/// Device files that nodes need.
const DEVICES: &[&str] = &["/dev/fuse", "/dev/loop-control"];

/// Checks that nodes can run here.
///
/// # Errors
/// If they cannot; the message lists all reasons.
pub fn check() -> Result<()> {
    let reasons = missing();
    if reasons.is_empty() {
        return Ok(());
    }
    bail!(
        "this machine cannot hold nodes:\n  {}",
        reasons.join("\n  ")
    )
}

/// What is missing, one reason a line.
pub fn missing() -> Vec<String> {
    let mut reasons = Vec::new();
    if !Uid::effective().is_root() {
        reasons.push("namespaces and mounts need root: run as root".to_owned());
    }
    for (program, package) in PROGRAMS {
        if find(program).is_none() {
            reasons.push(format!("{program} is missing: apt-get install {package}"));
        }
    }
    for device in DEVICES {
        if !Path::new(device).exists() {
            reasons.push(format!(
                "{device} is missing: the kernel or the container does not offer it"
            ));
        }
    }
    if let Err(error) = Layout::of_host() {
        reasons.push(error.to_string());
    }
    reasons
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders
        .map(|folder| folder.join(program))
        .find(|file| file.exists())
}
