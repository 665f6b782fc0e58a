//! The root filesystem that all nodes share, read-only: Debian 12 with systemd, tools for tests, and a local package
//! repository as its only apt source.
//!
//! Invariants: it is built once for each recipe and never changed afterwards; the host is not touched and nothing of
//! the host's apt hooks gets in. An interrupted build leaves no root behind.
//! Not here: the product's own programs (`product_layer.rs`).

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

use super::{host_command, package_repository};

/// Where roots are kept between runs.
pub const CACHE: &str = "/var/cache/contextos";

/// The packages of every node.
const PACKAGES: &[&str] = &[
    "acl",
    "attr",
    "ca-certificates",
    "dbus",
    "fuse3",
    "git",
    "inotify-tools",
    "iproute2",
    "iputils-ping",
    "less",
    "netbase",
    "nftables",
    "procps",
    "python3-minimal",
    "rsync",
    "sqlite3",
    "strace",
    "systemd",
    "systemd-sysv",
    "vim-tiny",
];

/// The packages that drivers install in the nodes; what they depend on comes along.
const REPOSITORY_PACKAGES: &[&str] = &["postgresql-15"];

/// Where the repository lies in a node.
const REPOSITORY: &str = "usr/share/contextos/packages";

/// Units that make no sense without hardware, consoles or a network to ask.
const MASKED_UNITS: &[&str] = &[
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "console-getty.service",
    "dev-hugepages.mount",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty@tty1.service",
    "proc-sys-fs-binfmt_misc.automount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-binfmt.service",
    "systemd-modules-load.service",
    "systemd-networkd.service",
    "systemd-networkd.socket",
    "systemd-random-seed.service",
    "systemd-remount-fs.service",
    "systemd-resolved.service",
    "systemd-timesyncd.service",
    "systemd-udev-trigger.service",
    "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket",
    "systemd-udevd.service",
    "systemd-update-utmp.service",
];

/// Raised when the steps below change without a change of the lists above.
const RECIPE_VERSION: u32 = 1;

const SUITE: &str = "bookworm";
const FALLBACK_SOURCES: &str = "deb http://deb.debian.org/debian bookworm main";
const HOST_SOURCES: &str = "/etc/apt/sources.list.d/debian.sources";

/// Gives the root, building it if this recipe was never built here (about a minute, 600 MB).
///
/// # Errors
/// If a package cannot be fetched or the build fails.
pub fn ensure() -> Result<PathBuf> {
    let root = Path::new(CACHE).join(format!("root-{}", recipe_digest()));
    fs::create_dir_all(CACHE)?;
    let lock = File::create(Path::new(CACHE).join("build.lock"))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    if root.exists() {
        return Ok(root);
    }
    let partial = root.with_extension("partial");
    remove_if_there(&partial)?;
    bootstrap(&partial)?;
    let repository = partial.join(REPOSITORY);
    remove_if_there(&repository.join("partial"))?;
    package_repository::write_index(&repository)?;
    configure(&partial)?;
    fs::rename(&partial, &root)?;
    Ok(root)
}

fn recipe_digest() -> String {
    let recipe =
        format!("{RECIPE_VERSION} {SUITE} {PACKAGES:?} {REPOSITORY_PACKAGES:?} {MASKED_UNITS:?}");
    hex::encode(&Sha256::digest(recipe)[..6])
}

fn bootstrap(target: &Path) -> Result<()> {
    let mut command = Command::new("mmdebstrap");
    command.env("LC_ALL", "C").args([
        "--quiet",
        "--variant=minbase",
        "--mode=root",
        "--format=directory",
    ]);
    command.arg(format!("--include={}", PACKAGES.join(",")));
    for path in ["doc", "info", "locale", "man"] {
        command.arg(format!("--dpkgopt=path-exclude=/usr/share/{path}/*"));
    }
    for option in host_fetch_options()? {
        command.arg(format!("--aptopt={option}"));
    }
    // This apt-get runs outside the root with the root's configuration: it fetches what the root lacks.
    let fetch = format!(
        "mkdir -p \"$1/{REPOSITORY}\" && APT_CONFIG=\"$MMDEBSTRAP_APT_CONFIG\" apt-get --yes --download-only \
         -o Dir::Cache::archives=\"$1/{REPOSITORY}/\" -o APT::Sandbox::User=root install {}",
        REPOSITORY_PACKAGES.join(" ")
    );
    command.arg(format!("--customize-hook={fetch}"));
    command.arg(SUITE).arg(target);
    command.arg(if Path::new(HOST_SOURCES).exists() {
        HOST_SOURCES
    } else {
        FALLBACK_SOURCES
    });
    host_command::finish(&mut command).context("cannot build the nodes' root filesystem")?;
    Ok(())
}

/// The host's options on how to reach its mirror, and no others: hooks of the host's apt.conf stay out.
fn host_fetch_options() -> Result<Vec<String>> {
    let dump = host_command::run("apt-config", ["dump"])?;
    let wanted = |line: &&str| {
        let key = line.split_once(' ').map_or("", |(key, _)| key);
        let reach = ["Acquire::http::", "Acquire::https::", "Acquire::Check-"];
        reach.iter().any(|prefix| key.starts_with(prefix)) && !line.ends_with(" \"\";")
    };
    Ok(dump
        .lines()
        .filter(wanted)
        .map(|line| line.trim_end_matches(';').to_owned())
        .collect())
}

fn configure(root: &Path) -> Result<()> {
    let etc = root.join("etc");
    fs::write(etc.join("fstab"), "")?;
    fs::write(
        etc.join("apt/sources.list"),
        format!("deb [trusted=yes] file:/{REPOSITORY} ./\n"),
    )?;
    let extra_sources = etc.join("apt/sources.list.d");
    for entry in fs::read_dir(extra_sources)? {
        fs::remove_file(entry?.path())?;
    }
    // What reached the mirror through the host's proxy must not be asked for by a node.
    remove_if_there(&etc.join("apt/apt.conf.d/99mmdebstrap"))?;
    let units = etc.join("systemd/system");
    for unit in MASKED_UNITS {
        remove_if_there(&units.join(unit))?;
        symlink("/dev/null", units.join(unit))?;
    }
    remove_if_there(&units.join("default.target"))?;
    symlink(
        "/lib/systemd/system/multi-user.target",
        units.join("default.target"),
    )?;
    for folder in ["data", "var/lib/containers", "var/log/journal"] {
        fs::create_dir_all(root.join(folder))?;
    }
    host_command::run(
        "chroot",
        [root.as_os_str(), "apt-get".as_ref(), "update".as_ref()],
    )?;
    Ok(())
}

fn remove_if_there(path: &Path) -> Result<()> {
    let result = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    result.with_context(|| format!("cannot remove {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_and_unit_lists_are_sorted() {
        assert!(PACKAGES.is_sorted());
        assert!(MASKED_UNITS.is_sorted());
    }
}
