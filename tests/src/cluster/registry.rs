//! Where clusters are kept, who owns them, and taking away what nobody owns any more.
//!
//! Invariants: a cluster whose owner is dead is garbage; one without an owner lives until `down`. Records are replaced
//! whole. One heavy test runs at a time on a machine, whatever programs run tests.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;

use super::Cluster;
use super::frozen_root::CACHE;
use super::process::ProcessId;
use crate::limits;
use crate::wait::wait_for;

/// The folder of all clusters.
pub const CLUSTERS: &str = "/var/lib/contextos-testhosts";

/// The right to run a heavy test now. Ends when dropped, and with the process.
#[derive(Debug)]
pub struct Turn(#[expect(dead_code, reason = "held for its lock")] Flock<File>);

impl Turn {
    /// Takes away what killed tests left and waits for the right to run a heavy test.
    ///
    /// # Errors
    /// If another test keeps it for longer than [`limits::TURN_MAX`], or something cannot be taken away.
    pub fn take() -> Result<Self> {
        fs::create_dir_all(CLUSTERS)?;
        let mut file = Some(File::create(Path::new(CLUSTERS).join("turn.lock"))?);
        wait_for(
            "the heavy test before this one to end",
            limits::TURN_MAX,
            || {
                // Before the lock: a command that was frozen with its node between fork and exec holds the lock of its
                // dead parent, and goes only with the parent's cluster.
                collect_garbage()?;
                let Some(unlocked) = file.take() else {
                    return Ok(None);
                };
                match Flock::lock(unlocked, FlockArg::LockExclusiveNonblock) {
                    Ok(lock) => Ok(Some(Self(lock))),
                    Err((unlocked, Errno::EWOULDBLOCK)) => {
                        file = Some(unlocked);
                        Ok(None)
                    }
                    Err((_, errno)) => Err(errno.into()),
                }
            },
        )
    }
}

/// Names of all clusters of this machine.
///
/// # Errors
/// If the folder cannot be read.
pub fn names() -> Result<Vec<String>> {
    let Ok(entries) = fs::read_dir(CLUSTERS) else {
        return Ok(Vec::new());
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.path().join("cluster.json").exists() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Takes away clusters whose owner is dead and product layers that no cluster uses, and gives the clusters' names.
///
/// # Errors
/// If one cannot be taken away.
pub fn collect_garbage() -> Result<Vec<String>> {
    fs::create_dir_all(CLUSTERS)?;
    let lock = File::create(Path::new(CLUSTERS).join("garbage.lock"))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    let mut collected = Vec::new();
    let mut used = Vec::new();
    for name in names()? {
        let Some(cluster) = Cluster::open(&name)? else {
            continue;
        };
        match &cluster.record().owner {
            Some(owner) if !owner.is_alive() => {
                cluster
                    .down()
                    .with_context(|| format!("cannot take away the leftover cluster {name}"))?;
                collected.push(name);
            }
            _ => used.extend(cluster.record().layers.clone()),
        }
    }
    for layer in unused_layers(&used)? {
        fs::remove_dir_all(layer)?;
    }
    Ok(collected)
}

fn unused_layers(used: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let Ok(entries) = fs::read_dir(CACHE) else {
        return Ok(Vec::new());
    };
    let paths = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    let is_layer = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("product-"))
    };
    // A new one may belong to a cluster that is being made.
    let is_old = |path: &PathBuf| {
        let made = path.metadata().and_then(|metadata| metadata.created());
        made.is_ok_and(|made| {
            made.elapsed()
                .is_ok_and(|age| age > limits::UNUSED_LAYER_AGE_MIN)
        })
    };
    let unused = |path: &PathBuf| is_layer(path) && is_old(path) && !used.contains(path);
    Ok(paths.into_iter().filter(unused).collect())
}

/// Replaces the record at `path`.
///
/// # Errors
/// If it cannot be written.
pub fn save(path: &Path, record: &impl Serialize) -> Result<()> {
    let folder = path.parent().context("a record without a folder")?;
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(&serde_json::to_vec_pretty(record)?)?;
    file.persist(path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}

/// The process that a new test cluster belongs to.
///
/// # Errors
/// If `/proc` is not readable.
pub fn this_owner() -> Result<Option<ProcessId>> {
    Ok(Some(ProcessId::current()?))
}
