//! Random operations on a few names of one folder, from a seed.
//!
//! Hard links are made among names of their own (`linked-`): a write through one name is told under that name alone
//! where it is made, and under all of them on the other nodes.
//!
//! Invariants: only names that begin with the given prefix are touched, so several operators never meet on an object;
//! an operation that its own earlier ones made impossible is skipped, and every other failure is an error.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Names of one operator: few, so that operations meet on the same object.
const NAMES: u32 = 12;

/// Kinds of operations on names that are the only one of their object; the one above them makes hard links.
const KINDS: u8 = 14;

/// Performs `count` operations and prints those that were possible: name, number of the kind, other name.
///
/// # Errors
/// If one fails for another reason than what lies there.
pub fn run(folder: &Path, prefix: &str, seed: u64, count: u32) -> Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..count {
        let (group, kinds) = match random.random_bool(0.3) {
            true => ("linked-", 0..KINDS + 1),
            false => ("", 0..KINDS),
        };
        let mut name = || folder.join(format!("{prefix}{group}{}", random.random_range(0..NAMES)));
        let (path, other) = (name(), name());
        let operation = random.random_range(kinds);
        match perform(operation, &path, &other, &mut random) {
            Ok(()) => println!("{} {operation} {}", path.display(), other.display()),
            Err(error) if is_in_the_way(&error) => {}
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("operation {operation} on {}", path.display()));
            }
        }
    }
    Ok(())
}

fn perform(
    operation: u8,
    path: &PathBuf,
    other: &PathBuf,
    random: &mut StdRng,
) -> std::io::Result<()> {
    match operation {
        0 | 1 => fs::write(path, random.random::<u64>().to_string()),
        2 => OpenOptions::new()
            .write(true)
            .open(path)?
            .write_all(b"over"),
        3 => fs::remove_file(path),
        4 => fs::rename(path, other),
        5 => fs::set_permissions(
            path,
            Permissions::from_mode(0o600 + random.random_range(0..64)),
        ),
        6 => nix::unistd::truncate(path, random.random_range(0..9)).map_err(Into::into),
        7 => fs::create_dir(path),
        8 => fs::remove_dir(path),
        9 => symlink("nowhere/target", path),
        // As a shell's `>>` does.
        10 | 11 => OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)?
            .write_all(b"more"),
        // As touch does, but for the descriptor that it opens for writing: closing one that wrote nothing is seen on
        // its own node only.
        12 => set_times(path, TimeSpec::UTIME_NOW, random),
        // As `touch -m` does: the kernel tells of it as of a modification.
        13 => set_times(path, TimeSpec::UTIME_OMIT, random),
        _ => fs::hard_link(path, other),
    }
}

fn set_times(path: &Path, access: TimeSpec, random: &mut StdRng) -> std::io::Result<()> {
    let modification = TimeSpec::new(random.random_range(0..1_000_000), 0);
    let flag = UtimensatFlags::NoFollowSymlink;
    Ok(utimensat(AT_FDCWD, path, &access, &modification, flag)?)
}

/// Whether what lies there already, or does not, is the reason.
fn is_in_the_way(error: &std::io::Error) -> bool {
    let kinds = [
        ErrorKind::NotFound,
        ErrorKind::AlreadyExists,
        ErrorKind::IsADirectory,
        ErrorKind::NotADirectory,
        ErrorKind::DirectoryNotEmpty,
        ErrorKind::PermissionDenied,
    ];
    kinds.contains(&error.kind()) || error.raw_os_error() == Some(libc::ELOOP)
}
