//! A child process that ends with its value, and what the kernel tells of it.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use anyhow::Context;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{SysconfVar, sysconf};

/// A child; it is killed with this value.
pub struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // What has ended already is what we want.
        let _ = self.kill();
    }
}

impl Process {
    /// Starts `command` without an input or an output. It ends when this thread does, also if that is killed.
    pub fn spawn(command: &mut Command) -> anyhow::Result<Self> {
        // SAFETY: prctl is a system call and nothing else: it may be made between fork and exec.
        unsafe { command.pre_exec(|| Ok(set_pdeathsig(Signal::SIGKILL)?)) };
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let program = command.get_program().display();
        Ok(Self(
            child.with_context(|| format!("{program} does not start"))?,
        ))
    }

    /// Kills it and waits for its end.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }

    /// Bytes of memory that it has now.
    pub fn resident_bytes(&self) -> anyhow::Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.context("a status without VmRSS")?.trim();
        Ok(kib.trim_end_matches(" kB").parse::<f64>()? * 1024.0)
    }

    /// Seconds of a core that it has used since it started, those of ended threads included.
    pub fn cpu_secs(&self) -> anyhow::Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id()))?;
        // The name in brackets may hold anything. After it, user time is the twelfth field and system time the next.
        let (_, fields) = stat.rsplit_once(')').context("a stat without a name")?;
        let mut ticks = fields.split_whitespace().skip(11);
        let mut next = || {
            ticks
                .next()
                .context("a stat without times")?
                .parse::<f64>()
                .context("a time")
        };
        let used = next()? + next()?;
        let a_second = sysconf(SysconfVar::CLK_TCK)?.context("a clock tick of no length")?;
        Ok(used / a_second as f64)
    }
}
