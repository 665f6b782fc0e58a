//! A Debian package repository in a folder: what a node installs from when it has no network.
//!
//! Invariant: the index names each package's size and SHA-256, so apt checks what it reads.
//! Not here: how the packages come into the folder (`frozen_root.rs`).

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::host_command;

/// Writes the `Packages` index of the `.deb` files in `folder`.
///
/// # Errors
/// If there is none, or one cannot be read.
pub fn write_index(folder: &Path) -> Result<usize> {
    let mut packages: Vec<_> = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    packages.retain(|entry| {
        entry
            .path()
            .extension()
            .is_some_and(|extension| extension == "deb")
    });
    packages.sort_by_key(fs::DirEntry::file_name);
    if packages.is_empty() {
        bail!("no packages in {}", folder.display());
    }
    let stanzas = packages
        .iter()
        .map(|entry| stanza(&entry.path()))
        .collect::<Result<Vec<_>>>()?;
    fs::write(folder.join("Packages"), stanzas.join("\n"))?;
    Ok(packages.len())
}

fn stanza(package: &Path) -> Result<String> {
    let control = host_command::run("dpkg-deb", ["--field".as_ref(), package.as_os_str()])?;
    let name = package
        .file_name()
        .context("a package without a name")?
        .to_string_lossy();
    let mut digest = Sha256::new();
    let size = io::copy(&mut fs::File::open(package)?, &mut digest)?;
    let digest = hex::encode(digest.finalize());
    Ok(format!(
        "{}\nFilename: ./{name}\nSize: {size}\nSHA256: {digest}\n",
        control.trim_end()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_packages_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(write_index(folder.path()).is_err());
    }
}
