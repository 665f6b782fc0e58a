//! The control groups of a node: one parent to freeze and to kill, `init` for what systemd runs, `exec` for commands
//! that enter from outside.
//!
//! Invariants: works on a pure cgroup2 host and on a hybrid one (cgroup2 beside the named v1 hierarchy of systemd);
//! a group is removed with its node. The v1 controllers of a hybrid host are left alone: nodes have no limits there.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::process;
use crate::limits;
use crate::wait::wait_until;

const CGROUP_ROOT: &str = "/sys/fs/cgroup";
const PARENT: &str = "contextos-testhosts";

/// How the host arranges its control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// cgroup2 at `/sys/fs/cgroup`.
    Pure,
    /// cgroup2 at `/sys/fs/cgroup/unified`, the v1 hierarchy `name=systemd` beside it.
    Hybrid,
}

impl Layout {
    /// What this machine has.
    ///
    /// # Errors
    /// If there is no writable cgroup2.
    pub fn of_host() -> Result<Self> {
        if Path::new(CGROUP_ROOT).join("cgroup.procs").exists() {
            return Ok(Self::Pure);
        }
        if Path::new(CGROUP_ROOT).join("unified/cgroup.procs").exists() {
            return Ok(Self::Hybrid);
        }
        bail!("no cgroup2 at {CGROUP_ROOT} or {CGROUP_ROOT}/unified: nodes need one")
    }

    /// The hierarchies that a node is placed in, cgroup2 first.
    fn hierarchies(self) -> &'static [&'static str] {
        match self {
            Self::Pure => &[""],
            Self::Hybrid => &["unified", "systemd"],
        }
    }
}

/// The control groups of one node.
#[derive(Debug, Clone)]
pub struct ControlGroup {
    folders: Vec<PathBuf>,
}

impl ControlGroup {
    /// The groups of `node` in `cluster`; nothing is made yet.
    ///
    /// # Errors
    /// If the host has no cgroup2.
    pub fn new(cluster: &str, node: &str) -> Result<Self> {
        let hierarchies = Layout::of_host()?.hierarchies();
        let folder = |name: &&str| {
            Path::new(CGROUP_ROOT)
                .join(name)
                .join(PARENT)
                .join(cluster)
                .join(node)
        };
        Ok(Self {
            folders: hierarchies.iter().map(folder).collect(),
        })
    }

    /// Makes the groups.
    ///
    /// # Errors
    /// If the kernel refuses, for example because `/sys/fs/cgroup` is read-only in a container.
    pub fn ensure(&self) -> Result<()> {
        for folder in &self.folders {
            for leaf in ["init", "exec"] {
                let path = folder.join(leaf);
                fs::create_dir_all(&path)
                    .with_context(|| format!("cannot make {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// The files a process writes `0` into to become the node's init, one a hierarchy.
    pub fn init_files(&self) -> Vec<PathBuf> {
        self.folders
            .iter()
            .map(|folder| folder.join("init/cgroup.procs"))
            .collect()
    }

    /// The open file a process writes `0` into to be frozen and killed with the node.
    ///
    /// # Errors
    /// If the group is not there.
    pub fn exec_file(&self) -> Result<File> {
        let path = self.unified().join("exec/cgroup.procs");
        OpenOptions::new()
            .write(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))
    }

    /// Freezes or thaws all processes of the node and waits until it is so.
    ///
    /// # Errors
    /// If the group is not there or does not change its state.
    pub fn set_frozen(&self, frozen: bool) -> Result<()> {
        let group = self.unified();
        fs::write(group.join("cgroup.freeze"), if frozen { "1" } else { "0" })?;
        let what = format!("{} to be frozen {}", group.display(), i32::from(frozen));
        wait_until(&what, limits::RELEASE_MAX, || {
            let events = fs::read_to_string(group.join("cgroup.events"))?;
            let is_so = events.contains(&format!("frozen {}", i32::from(frozen)));
            Ok(is_so || frozen && nothing_runs(group))
        })
    }

    /// Kills every command that entered from outside.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn kill_commands(&self) -> Result<()> {
        let path = self.unified().join("exec/cgroup.kill");
        if path.exists() {
            fs::write(&path, "1").with_context(|| path.display().to_string())
        } else {
            Ok(())
        }
    }

    /// Removes the groups of a dead node.
    ///
    /// # Errors
    /// If a process is still in one after [`limits::RELEASE_MAX`].
    pub fn ensure_removed(&self) -> Result<()> {
        for folder in &self.folders {
            wait_until(
                &format!("{} to be empty", folder.display()),
                limits::RELEASE_MAX,
                || Ok(remove_tree(folder)),
            )?;
        }
        Ok(())
    }

    /// Removes the groups above, if no other node has one: only once this node never boots again, because others may
    /// boot meanwhile.
    pub fn remove_parents(&self) {
        for folder in &self.folders {
            for parent in folder.ancestors().skip(1).take(2) {
                // Fails while another node has its groups there, which is right.
                let _ = fs::remove_dir(parent);
            }
        }
    }

    fn unified(&self) -> &Path {
        &self.folders[0]
    }
}

/// Whether no thread in the frozen group `folder` or below it runs.
///
/// The kernel calls a group frozen when its last thread has come to the freezer, and one that waits for the tree
/// cannot: it sleeps until the daemon answers, which is frozen. It stands still all the same. Who sleeps so that a
/// signal wakes him was woken when the group was told to freeze, so of those that do not run each is at the freezer, or
/// goes there before its program goes on.
fn nothing_runs(folder: &Path) -> bool {
    let threads = fs::read_to_string(folder.join("cgroup.threads")).unwrap_or_default();
    let mut threads = threads.lines().filter_map(|line| line.parse().ok());
    if threads.any(|thread| process::state(thread) == Some('R')) {
        return false;
    }
    let Ok(entries) = fs::read_dir(folder) else {
        return true;
    };
    let mut below = entries.flatten().map(|entry| entry.path());
    below.all(|path| !path.is_dir() || nothing_runs(&path))
}

/// Removes `folder` and the groups below it, leaves first. `false` while a process is in one of them.
fn remove_tree(folder: &Path) -> bool {
    let Ok(entries) = fs::read_dir(folder) else {
        return true;
    };
    for entry in entries.flatten() {
        if entry.path().is_dir() && !remove_tree(&entry.path()) {
            return false;
        }
    }
    match fs::remove_dir(folder) {
        Ok(()) => true,
        Err(error) => error.raw_os_error() == Some(Errno::ENOENT as i32),
    }
}
