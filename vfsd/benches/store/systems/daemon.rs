//! One vfsd of a cluster and its mount.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, umount2};
use system_tests::wait::wait_until;

use super::processes::Process;
use crate::plan::WAIT_MAX;

/// A daemon; it and its mount end with this value.
pub struct Daemon {
    /// Name of the node.
    pub name: String,
    /// `ip:port` that it listens on.
    pub listen: String,
    /// Mount point.
    pub mount: PathBuf,
    /// Data directory.
    pub data: PathBuf,
    /// Where its admin socket lies.
    pub runtime: PathBuf,
    /// Its process.
    pub process: Process,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // What has ended or is unmounted already is what we want.
        let _ = self.process.kill();
        let _ = umount2(&self.mount, MntFlags::MNT_DETACH);
    }
}

/// Where a daemon's files lie.
pub struct Layout {
    pub name: String,
    pub listen: String,
    folder: PathBuf,
}

impl Layout {
    /// A member called `name` with its files in `folder`, and a free port.
    pub fn new(name: &str, folder: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            listen: format!("127.0.0.1:{}", free_port()?),
            folder: folder.join(name),
        })
    }

    /// Its data directory.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }
}

impl Daemon {
    /// Starts `program` on a data directory that is there, and waits for the mount.
    pub fn start(program: &Path, layout: &Layout) -> anyhow::Result<Self> {
        let at = |kind: &str| layout.folder.join(kind);
        let (data, runtime, mount) = (layout.data(), at("run"), at("vfs"));
        let daemon = Self {
            process: spawn(program, &data, &runtime, &mount)?,
            name: layout.name.clone(),
            listen: layout.listen.clone(),
            mount,
            data,
            runtime,
        };
        wait_until("a mount", WAIT_MAX, || {
            Ok(daemon.mount.join(".vfs").exists())
        })?;
        Ok(daemon)
    }

    /// Starts `program` again, after the process was killed, and waits until it sees a majority.
    pub fn start_again(&mut self, program: &Path) -> anyhow::Result<()> {
        self.process = spawn(program, &self.data, &self.runtime, &self.mount)?;
        wait_until("a killed daemon to be back", WAIT_MAX, || {
            Ok(self.status("quorum").as_deref() == Some("true"))
        })
    }

    /// A field of `status.json`, as text.
    pub fn status(&self, field: &str) -> Option<String> {
        let status = fs::read(self.mount.join(".vfs/status.json")).ok()?;
        let status: serde_json::Value = serde_json::from_slice(&status).ok()?;
        let field = &status[field];
        Some(
            field
                .as_str()
                .map_or_else(|| field.to_string(), str::to_owned),
        )
    }

    /// Last entry that is applied here.
    pub fn applied(&self) -> anyhow::Result<u64> {
        let applied = self
            .status("applied")
            .and_then(|applied| applied.parse().ok());
        applied
            .ok_or_else(|| anyhow::anyhow!("{} tells no `applied` in its status.json", self.name))
    }
}

fn spawn(program: &Path, data: &Path, runtime: &Path, mount: &Path) -> anyhow::Result<Process> {
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(data.with_file_name("log"))?;
    let mut command = Command::new(program);
    command.arg("run").arg("--data-dir").arg(data);
    command.arg("--runtime-dir").arg(runtime);
    command.arg("--mount").arg(mount).stderr(log);
    Process::spawn(&mut command)
}

/// A port that nobody listens on now.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
