//! An agent on each node of a cluster.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::daemon::Daemon;
use super::processes::Process;

/// Starts `program` on each of `daemons`, with its state and its log in `folder`.
pub fn start(program: &Path, daemons: &[Daemon], folder: &Path) -> anyhow::Result<Vec<Process>> {
    let agents = daemons.iter().map(|daemon| {
        let state = folder.join(format!("{}-agent", daemon.name));
        fs::create_dir_all(&state)?;
        let mut command = Command::new(program);
        command.arg("--root").arg(&daemon.mount);
        command.arg("--vfsd-data-dir").arg(&daemon.data);
        command
            .args(["--config", "/dev/null", "run", "--state-dir"])
            .arg(&state);
        command.stderr(fs::File::create(state.with_extension("log"))?);
        Process::spawn(&mut command)
    });
    agents.collect()
}
