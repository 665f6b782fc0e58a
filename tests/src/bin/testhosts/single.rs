//! One vfsd on this machine itself: to try the mount without namespaces.
//!
//! Invariant: everything lies in one folder; Ctrl-C unmounts and leaves the data there for the next time.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use system_tests::cluster::{Product, host_command};
use system_tests::limits;
use system_tests::wait::wait_until;

/// Address of the only member. Loopback: nobody else is meant to reach it.
const LISTEN: &str = "127.0.0.1:7601";

/// Mounts the filesystem below `folder` until a signal ends it.
pub fn run(folder: PathBuf) -> Result<()> {
    let vfsd = Product::of_this_build()?.build.join("vfsd");
    let (data, mount) = (folder.join("data"), folder.join("vfs"));
    std::fs::create_dir_all(&mount).with_context(|| format!("cannot make {}", mount.display()))?;
    if !data.join("config.toml").exists() {
        let arguments = ["init", "--node", "n1", "--listen", LISTEN, "--data-dir"];
        let mut command = Command::new(&vfsd);
        host_command::finish(command.args(arguments).arg(&data))?;
    }
    // Blocked before the daemon starts: Ctrl-C reaches both, and this process ends only after the daemon.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    let mut daemon = start(&vfsd, &folder, &data, &mount)?;
    let ready = wait_until("the mount", limits::CLUSTER_READY_MAX, || {
        if let Some(status) = daemon.try_wait()? {
            bail!("vfsd ended with {status}");
        }
        Ok(mount.join(".vfs/status.json").exists())
    });
    if ready.is_ok() {
        println!("Mounted at {}. Try, in another terminal:", mount.display());
        println!("  echo hello > {}/mid/hello.txt", mount.display());
        println!("  cat {}/.vfs/status.json", mount.display());
        println!("Ctrl-C unmounts it; the data stays in {}.", data.display());
        signals.wait()?;
    }
    let pid = Pid::from_raw(daemon.id().cast_signed());
    if daemon.try_wait()?.is_none() {
        kill(pid, Signal::SIGTERM)?;
    }
    daemon.wait()?;
    ready
}

fn start(vfsd: &Path, folder: &Path, data: &Path, mount: &Path) -> Result<Child> {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(vfsd);
    command
        .arg("run")
        .arg("--data-dir")
        .arg(data)
        .arg("--mount")
        .arg(mount);
    command.arg("--runtime-dir").arg(folder.join("run"));
    // A group of its own, so that Ctrl-C comes to it once, as SIGTERM from here.
    command.process_group(0);
    // SAFETY: only the signal mask of the child is changed, by a function that is safe after fork.
    unsafe {
        command.pre_exec(|| SigSet::empty().thread_set_mask().map_err(Into::into));
    }
    command
        .spawn()
        .with_context(|| format!("cannot start {}", vfsd.display()))
}
