//! The product's programs and units as a read-only layer above the frozen root.
//!
//! Invariant: a layer never changes once a node uses it: another build is another layer. A program that is not built
//! yet is absent from the layer, and the nodes say so when they are asked to start it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::frozen_root::CACHE;

/// What is installed where: path in the build or source folder, path in the node.
const PROGRAMS: &[(&str, &str)] = &[("vfsd", "usr/bin/vfsd"), ("dsm-agent", "usr/bin/dsm-agent")];
/// The program that tests run in nodes.
const WORKLOAD: (&str, &str) = ("workload", "usr/bin/workload");
const UNITS: &[(&str, &str)] = &[
    (
        "vfsd/systemd/vfsd.service",
        "usr/lib/systemd/system/vfsd.service",
    ),
    (
        "dsm-agent/systemd/dsm-agent.service",
        "usr/lib/systemd/system/dsm-agent.service",
    ),
];

/// Where the programs of the product come from.
#[derive(Debug, Clone)]
pub struct Product {
    /// The folder with the programs, for example `target/release`.
    pub build: PathBuf,
    /// The repository.
    pub source: PathBuf,
    /// Whether nodes get the tests' own program too.
    pub with_workload: bool,
}

impl Product {
    /// The build that the running program belongs to: tests lie in `target/<profile>/deps`, others one folder higher.
    ///
    /// # Errors
    /// If the running program lies elsewhere.
    pub fn of_this_build() -> Result<Self> {
        let program = std::env::current_exe()?;
        let folder = program
            .parent()
            .context("the running program has no folder")?;
        let build = if folder.ends_with("deps") {
            folder.parent().unwrap_or(folder)
        } else {
            folder
        };
        let source = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("the tests crate has no parent")?;
        Ok(Self {
            build: build.to_owned(),
            source: source.to_owned(),
            with_workload: false,
        })
    }

    /// The program that makes nodes.
    pub fn launcher(&self) -> PathBuf {
        self.build.join("testhosts")
    }

    /// The programs that are not built.
    pub fn missing(&self) -> Vec<&'static str> {
        let names = PROGRAMS.iter().map(|(name, _)| *name);
        names
            .filter(|name| !self.build.join(name).exists())
            .collect()
    }

    /// Gives the layer of this build, making it if it is not there.
    ///
    /// # Errors
    /// If a file cannot be read or written.
    pub fn ensure_layer(&self) -> Result<PathBuf> {
        let files = self.files();
        let layer = Path::new(CACHE).join(format!("product-{}", digest(&files)?));
        if layer.exists() {
            return Ok(layer);
        }
        let partial = layer.with_extension(format!("partial-{}", std::process::id()));
        for (from, to) in &files {
            let to = partial.join(to);
            fs::create_dir_all(to.parent().context("a file without a folder")?)?;
            fs::copy(from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
        }
        fs::create_dir_all(partial.join("etc/contextos"))?;
        match fs::rename(&partial, &layer) {
            // Another test made the same layer meanwhile.
            Err(_) if layer.exists() => fs::remove_dir_all(&partial).map_err(Into::into),
            result => result.map_err(Into::into),
        }
        .map(|()| layer)
    }

    fn files(&self) -> Vec<(PathBuf, &'static str)> {
        let workload = self.with_workload.then_some(&WORKLOAD);
        let programs = PROGRAMS
            .iter()
            .chain(workload)
            .map(|(name, to)| (self.build.join(name), *to));
        let units = UNITS.iter().map(|(name, to)| (self.source.join(name), *to));
        programs
            .chain(units)
            .filter(|(from, _)| from.exists())
            .collect()
    }
}

/// Names a set of files by path, size and time of change: reading a hundred megabytes for each cluster is too slow.
fn digest(files: &[(PathBuf, &str)]) -> Result<String> {
    let mut digest = Sha256::new();
    for (from, to) in files {
        let metadata = from.metadata()?;
        let changed = metadata.modified()?.duration_since(UNIX_EPOCH)?.as_nanos();
        digest.update(format!(
            "{} {to} {} {changed}\n",
            from.display(),
            metadata.len()
        ));
    }
    Ok(hex::encode(&digest.finalize()[..6]))
}
