//! The root of a node as its init sees it: overlay, devices, proc, sys, run, tmp, control groups.
//!
//! Invariants: called once, by the first process of new mount, uts and pid namespaces; nothing of it is visible on the
//! host. All that a node keeps lies on its own disk, so that cutting that disk's power cuts everything.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{chdir, pivot_root, sethostname};
use serde::{Deserialize, Serialize};

use super::control_group::Layout;

/// What the root of a node is made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RootPlan {
    /// Name of the node.
    pub hostname: String,
    /// Lines of `/etc/hosts` beside `localhost`: address and name.
    pub hosts: Vec<(String, String)>,
    /// 32 hexadecimal digits.
    pub machine_id: String,
    /// Read-only layers, uppermost first.
    pub layers: Vec<PathBuf>,
    /// Where the node's own disk is mounted.
    pub disk: PathBuf,
    /// An empty folder to mount the root on.
    pub mount_point: PathBuf,
    /// How control groups look.
    pub control_groups: Layout,
}

/// Character devices: name, major, minor.
const DEVICES: &[(&str, u64, u64)] = &[
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
    ("fuse", 10, 229),
];

/// Folders that are ext4 in the node, not overlay: databases, and containers, whose upper layer an overlay cannot be.
const PLAIN_FOLDERS: &[(&str, &str)] = &[("data", "data"), ("containers", "var/lib/containers")];

/// Makes the root and moves into it.
///
/// # Errors
/// If a mount or a file fails; the message names it.
pub fn enter(plan: &RootPlan) -> Result<()> {
    let root = plan.mount_point.as_path();
    // Nothing that is mounted from here on may travel back to the host.
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )?;
    sethostname(&plan.hostname)?;
    mount_overlay(plan)?;
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    attach("proc", &root.join("proc"), plain | MsFlags::MS_NOEXEC, "")?;
    attach("sysfs", &root.join("sys"), plain | MsFlags::MS_NOEXEC, "")?;
    attach("tmpfs", &root.join("run"), plain, "mode=755")?;
    attach("tmpfs", &root.join("tmp"), plain, "mode=1777")?;
    fs::create_dir(root.join("run/lock"))?;
    make_devices(&root.join("dev"))?;
    for (name, target) in PLAIN_FOLDERS {
        let source = plan.disk.join(name);
        fs::create_dir_all(&source)?;
        mount(
            Some(&source),
            &root.join(target),
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .with_context(|| format!("cannot bind {target}"))?;
    }
    mount_control_groups(plan.control_groups, &root.join("sys/fs/cgroup"))?;
    write_identity(plan, &root.join("etc"))?;
    change_root(root)
}

fn mount_overlay(plan: &RootPlan) -> Result<()> {
    let (upper, work) = (plan.disk.join("upper"), plan.disk.join("work"));
    fs::create_dir_all(&upper)?;
    fs::create_dir_all(&work)?;
    let layers = plan
        .layers
        .iter()
        .map(|layer| layer.display().to_string())
        .collect::<Vec<_>>()
        .join(":");
    let options = format!(
        "lowerdir={layers},upperdir={},workdir={}",
        upper.display(),
        work.display()
    );
    attach("overlay", &plan.mount_point, MsFlags::empty(), &options)
}

fn attach(kind: &str, target: &Path, flags: MsFlags, options: &str) -> Result<()> {
    mount(Some(kind), target, Some(kind), flags, Some(options)).with_context(|| {
        format!(
            "cannot mount {kind} on {} with {options:?}",
            target.display()
        )
    })
}

fn make_devices(dev: &Path) -> Result<()> {
    attach("tmpfs", dev, MsFlags::MS_NOSUID, "mode=755")?;
    // The mask of whoever started this would take the group's and others' rights away.
    nix::sys::stat::umask(Mode::empty());
    let everyone = Mode::from_bits_truncate(0o666);
    for (name, major, minor) in DEVICES {
        mknod(
            &dev.join(name),
            SFlag::S_IFCHR,
            everyone,
            makedev(*major, *minor),
        )
        .with_context(|| format!("cannot make the device {name}"))?;
    }
    nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
    for folder in ["pts", "shm", "mqueue"] {
        fs::create_dir(dev.join(folder))?;
    }
    let no_programs = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    attach(
        "devpts",
        &dev.join("pts"),
        no_programs,
        "newinstance,ptmxmode=0666,mode=620,gid=5",
    )?;
    attach(
        "tmpfs",
        &dev.join("shm"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        "mode=1777",
    )?;
    attach(
        "mqueue",
        &dev.join("mqueue"),
        no_programs | MsFlags::MS_NODEV,
        "",
    )?;
    let links = [
        ("pts/ptmx", "ptmx"),
        ("/proc/self/fd", "fd"),
        ("fd/0", "stdin"),
        ("fd/1", "stdout"),
        ("fd/2", "stderr"),
    ];
    for (target, name) in links {
        symlink(target, dev.join(name))?;
    }
    fs::write(dev.join("console"), "")?;
    Ok(())
}

fn mount_control_groups(layout: Layout, folder: &Path) -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    if layout == Layout::Pure {
        return attach("cgroup2", folder, flags, "");
    }
    attach("tmpfs", folder, flags, "mode=755")?;
    for name in ["systemd", "unified"] {
        fs::create_dir(folder.join(name))?;
    }
    attach(
        "cgroup",
        &folder.join("systemd"),
        flags,
        "none,name=systemd",
    )?;
    attach("cgroup2", &folder.join("unified"), flags, "")
}

fn write_identity(plan: &RootPlan, etc: &Path) -> Result<()> {
    fs::write(etc.join("hostname"), format!("{}\n", plan.hostname))?;
    fs::write(etc.join("machine-id"), format!("{}\n", plan.machine_id))?;
    let others = plan
        .hosts
        .iter()
        .map(|(address, name)| format!("{address} {name}\n"))
        .collect::<String>();
    fs::write(etc.join("hosts"), format!("127.0.0.1 localhost\n{others}"))?;
    Ok(())
}

fn change_root(root: &Path) -> Result<()> {
    let old = root.join(".host");
    fs::create_dir_all(&old)?;
    chdir(root)?;
    pivot_root(".", ".host").context("cannot change the root")?;
    chdir("/")?;
    umount2("/.host", MntFlags::MNT_DETACH)?;
    fs::remove_dir("/.host")?;
    // As systemd does on a machine and not in what it takes for a container: a mount that is made later reaches the
    // services that have a mount namespace of their own. The host is left by now.
    let shared = MsFlags::MS_REC | MsFlags::MS_SHARED;
    mount(None::<&str>, "/", None::<&str>, shared, None::<&str>)?;
    Ok(())
}
