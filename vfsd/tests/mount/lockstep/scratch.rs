//! A folder on an ext4: what the tree is compared with.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, umount2};
use nix::sys::statfs::{EXT4_SUPER_MAGIC, statfs};

/// Dropping it takes everything away.
pub struct Scratch {
    folder: tempfile::TempDir,
    /// Where an ext4 of our own is mounted.
    mounted: Option<PathBuf>,
}

impl Scratch {
    /// On the machine's own ext4 if it has one where temporary files lie, otherwise on one in a file.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        if is_ext4(folder.path()) {
            return Self {
                folder,
                mounted: None,
            };
        }
        Self::in_a_file(folder)
    }

    fn in_a_file(folder: tempfile::TempDir) -> Self {
        let (image, mounted) = (folder.path().join("image"), folder.path().join("ext4"));
        std::fs::create_dir(&mounted).unwrap();
        let script = "truncate -s 512M $0; mkfs.ext4 -q $0; mount -o loop $0 $1";
        let mut command = Command::new("bash");
        let made = command
            .args(["-ec", script])
            .arg(&image)
            .arg(&mounted)
            .status();
        assert!(
            made.unwrap().success(),
            "no ext4 could be made on a loop device"
        );
        let mounted = Some(mounted);
        Self { folder, mounted }
    }

    pub fn path(&self) -> &Path {
        self.mounted.as_deref().unwrap_or(self.folder.path())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(mounted) = &self.mounted
            && let Err(error) = umount2(mounted, MntFlags::MNT_DETACH)
        {
            eprintln!("{} stays mounted: {error}", mounted.display());
        }
    }
}

fn is_ext4(path: &Path) -> bool {
    statfs(path).unwrap().filesystem_type() == EXT4_SUPER_MAGIC
}

#[test]
fn the_scratch_is_an_ext4_on_any_machine() {
    assert!(is_ext4(Scratch::new().path()));
    let own = Scratch::in_a_file(tempfile::tempdir().unwrap());
    assert!(is_ext4(own.path()) && own.mounted.is_some());
}
