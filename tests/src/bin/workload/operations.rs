//! Random operations on a few names of one folder, from a seed.
//!
//! No appends: the notice that raises their IN_CLOSE_WRITE elsewhere is not waited for, so what follows may overtake
//! it. No hard links: a write through one name is told under that name alone where it is made, and under all of them
//! on the other nodes.
//!
//! Invariants: only names that begin with the given prefix are touched, so several operators never meet on an object;
//! an operation that its own earlier ones made impossible is skipped, and every other failure is an error.

use std::fs::{self, FileTimes, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Names of one operator: few, so that operations meet on the same object.
const NAMES: u32 = 12;

/// Performs `count` operations and prints those that were possible: name, number of the kind, other name.
///
/// # Errors
/// If one fails for another reason than what lies there.
pub fn run(folder: &Path, prefix: &str, seed: u64, count: u32) -> Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..count {
        let path = folder.join(format!("{prefix}{}", random.random_range(0..NAMES)));
        let other = folder.join(format!("{prefix}{}", random.random_range(0..NAMES)));
        let operation = random.random_range(0..11_u8);
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
        _ => {
            // Both times, as touch does: the kernel tells of the time of change alone in another way.
            let time = UNIX_EPOCH + Duration::from_secs(random.random_range(0..1_000_000));
            let times = FileTimes::new().set_accessed(time).set_modified(time);
            fs::File::open(path)?.set_times(times)
        }
    }
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
