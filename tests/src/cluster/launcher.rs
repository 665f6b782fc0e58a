//! Starts the init of a node: enters its control groups and network, makes its namespaces, and forks.
//!
//! Invariants: runs in a process of its own with one thread (`testhosts launch-node`), because a fork of a program with
//! threads may not do what the child does here. The caller learns the child's pid only when the child has become the
//! node's init; before that it learns the error.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{ForkResult, fork, pipe, setsid};
use serde::{Deserialize, Serialize};

use super::host_command;
use super::node_root::{self, RootPlan};

/// All that a node's init needs to know, decided before it starts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LaunchPlan {
    /// Files to write `0` into, one for each hierarchy of control groups.
    pub control_group_files: Vec<PathBuf>,
    /// The network namespace to enter.
    pub network_namespace: PathBuf,
    /// Where init's output goes.
    pub console: PathBuf,
    /// The node's root.
    pub root: RootPlan,
}

/// Starts a launcher for `plan` and gives the pid of the node's init.
///
/// # Errors
/// If the launcher or the first steps of init fail.
pub fn start(launcher: &std::path::Path, plan: &LaunchPlan) -> Result<i32> {
    let mut command = Command::new(launcher);
    command
        .arg("launch-node")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {}", launcher.display()))?;
    if let Some(mut stdin) = child.stdin.take() {
        serde_json::to_writer(&mut stdin, plan)?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "node {} did not start: {}",
            plan.root.hostname,
            host_command::said(&output)
        );
    }
    let pid = String::from_utf8_lossy(&output.stdout);
    pid.trim()
        .parse()
        .with_context(|| format!("the launcher gave {pid:?} instead of a pid"))
}

/// The launcher's own work: reads a plan on standard input, writes the pid of the node's init on standard output.
///
/// # Errors
/// If a step fails; nothing is left behind then but empty namespaces, which end with this process.
pub fn launch() -> Result<()> {
    let plan: LaunchPlan = serde_json::from_reader(std::io::stdin())?;
    for file in &plan.control_group_files {
        std::fs::write(file, "0").with_context(|| format!("cannot enter {}", file.display()))?;
    }
    let network =
        File::open(&plan.network_namespace).context("no network namespace for the node")?;
    setns(&network, CloneFlags::CLONE_NEWNET)?;
    setsid().context("the launcher is a session leader already")?;
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWCGROUP,
    )?;
    let console = File::options()
        .create(true)
        .append(true)
        .open(&plan.console)?;
    let (reader, writer) = pipe()?;
    // SAFETY: this process has one thread (it is `testhosts launch-node` and starts none).
    match unsafe { fork() }? {
        ForkResult::Child => {
            drop(reader);
            let error = become_init(&plan, &console)
                .err()
                .unwrap_or_else(|| anyhow::anyhow!("init returned"));
            // The parent reads this as the reason; there is nobody else to tell.
            let _ = File::from(writer).write_all(format!("{error:#}").as_bytes());
            std::process::exit(1);
        }
        ForkResult::Parent { child } => {
            drop(writer);
            let mut reason = String::new();
            // The pipe closes at exec: end of file without a word means that init runs.
            File::from(reader).read_to_string(&mut reason)?;
            if !reason.is_empty() {
                bail!("{reason}");
            }
            println!("{child}");
            Ok(())
        }
    }
}

fn become_init(plan: &LaunchPlan, console: &File) -> Result<std::convert::Infallible> {
    node_root::enter(&plan.root)?;
    let null = File::open("/dev/null")?;
    for (from, to) in [
        (null.as_raw_fd(), 0),
        (console.as_raw_fd(), 1),
        (console.as_raw_fd(), 2),
    ] {
        // SAFETY: both descriptors are open or free to be replaced, and nothing else uses 0, 1, 2 in this child.
        nix::errno::Errno::result(unsafe { libc::dup2(from, to) })?;
    }
    // SAFETY: marks the descriptors above 2 to be closed at exec; none is closed before.
    unsafe {
        libc::close_range(
            3,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC.cast_signed(),
        )
    };
    let init = c"/lib/systemd/systemd";
    let environment = [
        c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        c"HOME=/root",
        c"TERM=dumb",
        c"LANG=C.UTF-8",
        c"container=testhost",
    ];
    nix::unistd::execve(init, &[init], &environment).context("cannot start systemd")
}
