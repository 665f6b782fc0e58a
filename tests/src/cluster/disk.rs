//! A node's disk: an ext4 of its own on a loop device, so that its power can be cut.
//!
//! Invariants: what was not synced before [`Disk::power_cut`] is gone after it; what was, is there. A disk is mounted
//! at most once.
//! Not here: what lies on it (`node_root.rs`).

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use super::host_command;
use crate::limits;
use crate::wait::wait_until;

/// `EXT4_IOC_SHUTDOWN`: `_IOR('X', 125, __u32)` of the kernel's `fs/ext4/ext4.h`.
const EXT4_IOC_SHUTDOWN: libc::c_ulong = 0x8004_587d;

/// `EXT4_GOING_FLAGS_NOLOGFLUSH`: the journal is dropped as it is, which is what a power cut does.
const NO_LOG_FLUSH: u32 = 2;

/// The disk of one node.
#[derive(Debug, Clone)]
pub struct Disk {
    image: PathBuf,
    mount_point: PathBuf,
}

impl Disk {
    /// The disk whose image and mount point lie in `folder`; nothing is made yet.
    pub fn new(folder: &Path) -> Self {
        Self {
            image: folder.join("disk.img"),
            mount_point: folder.join("disk"),
        }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount_point
    }

    /// Makes the image if there is none, and mounts it if it is not mounted.
    ///
    /// # Errors
    /// If `mkfs.ext4` or the loop mount fails.
    pub fn ensure_mounted(&self) -> Result<()> {
        fs::create_dir_all(&self.mount_point)?;
        if !self.image.exists() {
            self.format()?;
        }
        if self.is_mounted()? {
            return Ok(());
        }
        let paths = [self.image.as_os_str(), self.mount_point.as_os_str()];
        host_command::run(
            "mount",
            ["-t", "ext4", "-o", "loop"]
                .map(AsRef::as_ref)
                .into_iter()
                .chain(paths),
        )?;
        Ok(())
    }

    fn format(&self) -> Result<()> {
        // Made beside its final name: an interrupted mkfs must not look like a disk.
        let fresh = self.image.with_extension("new");
        File::create(&fresh)?.set_len(limits::DISK_BYTES)?;
        let options = "lazy_itable_init=1,lazy_journal_init=1,nodiscard";
        let arguments = ["-q", "-F", "-m", "0", "-J", "size=32", "-E", options].map(AsRef::as_ref);
        host_command::run(
            "mkfs.ext4",
            arguments.into_iter().chain([fresh.as_os_str()]),
        )?;
        fs::rename(&fresh, &self.image)?;
        Ok(())
    }

    /// Ends all writing now, as a power cut does: later writes give EIO, unsynced data is lost.
    ///
    /// # Errors
    /// If the disk is not mounted or the kernel refuses.
    pub fn power_cut(&self) -> Result<()> {
        let folder = OpenOptions::new().read(true).open(&self.mount_point)?;
        let flags = NO_LOG_FLUSH;
        // SAFETY: the descriptor is open, and the ioctl reads one u32 that lives during the call.
        let result =
            unsafe { libc::ioctl(folder.as_raw_fd(), EXT4_IOC_SHUTDOWN, &raw const flags) };
        Errno::result(result)
            .with_context(|| format!("cannot cut the power of {}", self.mount_point.display()))?;
        Ok(())
    }

    /// Unmounts it, if it is mounted, as soon as the last process of its node is gone.
    ///
    /// # Errors
    /// If it stays busy for longer than [`limits::RELEASE_MAX`].
    pub fn ensure_unmounted(&self) -> Result<()> {
        let what = format!("{} to be free", self.mount_point.display());
        wait_until(&what, limits::RELEASE_MAX, || {
            if !self.is_mounted()? {
                return Ok(true);
            }
            match umount2(&self.mount_point, MntFlags::empty()) {
                Ok(()) | Err(Errno::EBUSY) => Ok(false),
                Err(errno) => Err(errno)
                    .with_context(|| format!("cannot unmount {}", self.mount_point.display())),
            }
        })
    }

    fn is_mounted(&self) -> Result<bool> {
        let table = fs::read_to_string("/proc/self/mountinfo")?;
        let wanted = self.mount_point.to_string_lossy();
        Ok(table
            .lines()
            .any(|line| line.split(' ').nth(4) == Some(&wanted)))
    }
}
