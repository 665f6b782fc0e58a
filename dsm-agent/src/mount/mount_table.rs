//! The identity of what is mounted at a path. A remount under open handles and watches raises no event at all, so it is
//! looked at each second.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What is at the mount point now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountIdentity {
    /// `st_dev` of the root; changes with each mount.
    pub device: Option<u64>,
    /// The mount's id and source, as `/proc/self/mountinfo` has them; empty when nothing is mounted there.
    pub mount: String,
}

/// Looks at `/proc/self/mountinfo` first: it answers even if the filesystem does not.
pub fn identity(root: &Path) -> MountIdentity {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mount = mount_line(&table, root);
    let device = std::fs::metadata(root).map(|meta| meta.dev()).ok();
    MountIdentity { device, mount }
}

/// Mount id, device and source of the last mount at `root`.
fn mount_line(table: &str, root: &Path) -> String {
    let found = table.lines().rev().find(|line| {
        line.split(' ')
            .nth(4)
            .is_some_and(|point| Path::new(&unescape(point)) == root)
    });
    let Some(line) = found else {
        return String::new();
    };
    let words: Vec<&str> = line.split(' ').collect();
    let source = line.split(" - ").nth(1).unwrap_or_default();
    format!(
        "{} {} {source}",
        words.first().unwrap_or(&""),
        words.get(2).unwrap_or(&"")
    )
}

/// The kernel writes blank, tab, newline and backslash as octal.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_mount_at_a_path_counts_and_blanks_are_read() {
        let table = "22 1 254:1 / / rw - ext4 /dev/vda rw\n\
                     90 22 0:51 / /a\\040b rw - fuse vfsd rw\n\
                     91 22 0:52 / /a\\040b rw - fuse vfsd rw\n";
        assert_eq!(mount_line(table, Path::new("/a b")), "91 0:52 fuse vfsd rw");
        assert_eq!(mount_line(table, Path::new("/none")), "");
    }
}
