//! A process that outlives the one that started it: named by pid and start time, so that a reused pid is never hit.
//!
//! Invariant: waiting uses a pidfd and never lists processes: a process that waits for a stuck FUSE request blocks
//! everyone who reads its `/proc/<pid>/cmdline`.

use std::fs;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

/// One process of this boot of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its pid in the host's namespace.
    pub pid: i32,
    /// Clock ticks from the machine's start to the process's start.
    pub started_ticks: u64,
}

impl ProcessId {
    /// The calling process.
    ///
    /// # Errors
    /// If `/proc` is not readable.
    pub fn current() -> Result<Self> {
        Self::of(std::process::id().cast_signed())
    }

    /// The process that has `pid` now.
    ///
    /// # Errors
    /// If there is none.
    pub fn of(pid: i32) -> Result<Self> {
        let (started_ticks, _) = stat(pid).with_context(|| format!("no process {pid}"))?;
        Ok(Self { pid, started_ticks })
    }

    /// Whether it runs: a zombie does not.
    pub fn is_alive(&self) -> bool {
        stat(self.pid).is_some_and(|(ticks, state)| {
            ticks == self.started_ticks && state != 'Z' && state != 'X'
        })
    }

    /// Kills it, if it runs, and waits for its end.
    ///
    /// # Errors
    /// If it is not dead within `limit`.
    pub fn kill(&self, limit: Duration) -> Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        let Some(pidfd) = self.pidfd()? else {
            return Ok(());
        };
        let raw = std::os::fd::AsRawFd::as_raw_fd(&pidfd);
        // SAFETY: pidfd_send_signal takes an open pidfd, a signal, no siginfo and no flags.
        let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, raw, libc::SIGKILL, 0, 0) };
        if sent != 0 && Errno::last() != Errno::ESRCH {
            bail!("cannot kill process {}: {}", self.pid, Errno::last());
        }
        self.wait(&pidfd, limit)
    }

    fn wait(&self, pidfd: &OwnedFd, limit: Duration) -> Result<()> {
        let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        let mut set = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        if poll(&mut set, timeout)? == 0 {
            bail!(
                "process {} is not dead {:.0} s after SIGKILL",
                self.pid,
                limit.as_secs_f64()
            );
        }
        Ok(())
    }

    fn pidfd(&self) -> Result<Option<OwnedFd>> {
        // SAFETY: pidfd_open takes a pid and no flags, and gives a descriptor that is ours.
        let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, self.pid, 0) };
        if raw < 0 {
            return match Errno::last() {
                Errno::ESRCH => Ok(None),
                errno => bail!("cannot open process {}: {errno}", self.pid),
            };
        }
        let raw = i32::try_from(raw).context("pidfd_open gave no descriptor")?;
        // SAFETY: the descriptor was given to us just now and nobody else knows it.
        let pidfd = unsafe { OwnedFd::from_raw_fd(raw) };
        // The pid may have been reused between the last look and the open.
        Ok(self.is_alive().then_some(pidfd))
    }
}

/// The state of a process or thread, in the letters of `proc(5)`, if it is there. Of `/proc` nothing is read that waits
/// for a stuck process.
pub fn state(id: i32) -> Option<char> {
    stat(id).map(|(_, state)| state)
}

/// Start time and state of `pid`: fields 22 and 3 of its `stat`.
fn stat(pid: i32) -> Option<(u64, char)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name may hold blanks and parentheses; the fields after the last `)` hold none.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let ticks = fields.nth(18)?.parse().ok()?;
    Some((ticks, state))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_killed_process_is_not_alive() {
        let mut child = Command::new("tail")
            .args(["-f", "/dev/null"])
            .spawn()
            .unwrap();
        let process = ProcessId::of(child.id().cast_signed()).unwrap();
        assert!(process.is_alive());
        process.kill(Duration::from_secs(5)).unwrap();
        assert!(!process.is_alive());
        child.wait().unwrap();
        process.kill(Duration::ZERO).unwrap();
    }

    #[test]
    fn a_reused_pid_is_another_process() {
        let mut other = ProcessId::current().unwrap();
        other.started_ticks += 1;
        assert!(!other.is_alive());
        other.kill(Duration::ZERO).unwrap();
    }
}
