//! Commands inside a node, with a watchdog.
//!
//! Invariants: the exit status and the output are the command's own, nothing is added; a command that does not end in
//! time is ended by aborting the node's FUSE connections and killing what entered from outside, without reading
//! anything of the stuck processes. Commands enter the node's control group, so freezing the node freezes them.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::node::Node;
use super::{fuse_connection, host_command};
use crate::limits;

/// How a command in a node ended.
#[derive(Debug)]
pub struct Finished {
    /// Its exit status.
    pub status: ExitStatus,
    /// What it wrote on standard output.
    pub stdout: Vec<u8>,
    /// What it wrote on standard error.
    pub stderr: Vec<u8>,
}

impl Finished {
    /// Its standard output as text.
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Its standard error as text.
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

impl Node {
    /// A command that will run inside, as root, in `/`, with a clean environment. Standard streams are inherited.
    ///
    /// # Errors
    /// If the node does not run.
    pub fn command(&self, words: &[&str]) -> Result<Command> {
        let init = self.running_init()?;
        let group = self.control_groups()?.exec_file()?;
        let mut command = Command::new("nsenter");
        command
            .args([
                "--all",
                "--root",
                "--wd",
                "--target",
                &init.pid.to_string(),
                "--",
            ])
            .args(words);
        command.env_clear().env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        );
        command.env("HOME", "/root").env("LANG", "C.UTF-8");
        command.env(
            "TERM",
            std::env::var_os("TERM").unwrap_or_else(|| "dumb".into()),
        );
        // SAFETY: between fork and exec only write(2) is called, on a descriptor that the closure owns.
        unsafe {
            command.pre_exec(move || {
                let written = libc::write(group.as_raw_fd(), c"0".as_ptr().cast(), 1);
                if written == 1 {
                    Ok(())
                } else {
                    Err(std::io::Error::last_os_error())
                }
            });
        }
        Ok(command)
    }

    /// Runs a command to its end, without input, for at most [`limits::COMMAND_MAX`].
    ///
    /// # Errors
    /// If it cannot be started or does not end in time; another status than 0 is not an error.
    pub fn run(&self, words: &[&str]) -> Result<Finished> {
        self.run_within(words, &[], limits::COMMAND_MAX)
    }

    /// Runs a command to its end with `input` on its standard input, for at most `limit`.
    ///
    /// # Errors
    /// If it cannot be started or does not end in time; another status than 0 is not an error.
    pub fn run_within(&self, words: &[&str], input: &[u8], limit: Duration) -> Result<Finished> {
        let mut command = self.command(words)?;
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let input = input.to_owned();
        let (sender, receiver) = mpsc::channel();
        // In a frozen node even the start waits, so that is watched too.
        std::thread::spawn(move || sender.send(finish(&mut command, input)));
        if let Ok(finished) = receiver.recv_timeout(limit) {
            return finished;
        }
        self.abort_commands()?;
        let ended = receiver.recv_timeout(limits::DEATH_MAX).is_ok();
        let then = if ended {
            "it was ended by force"
        } else {
            "it survives even the abort of its node's mounts"
        };
        let (line, name, limit) = (words.join(" "), self.name(), limit.as_secs_f64());
        bail!("{line} in {name}: no end within {limit:.1} s; {then}")
    }

    /// Runs a shell script that must succeed, and gives its standard output.
    ///
    /// # Errors
    /// If it does not end in time or with status 0; the message holds the script and its output.
    pub fn sh(&self, script: &str) -> Result<String> {
        self.sh_within(script, limits::COMMAND_MAX)
    }

    /// As [`Node::sh`], for at most `limit`.
    ///
    /// # Errors
    /// As [`Node::sh`].
    pub fn sh_within(&self, script: &str, limit: Duration) -> Result<String> {
        let finished = self.run_within(&["sh", "-c", script], &[], limit)?;
        if !finished.status.success() {
            let (out, err) = (finished.stdout_text(), finished.stderr_text());
            bail!(
                "{script:?} in {} ended with {}\n{out}{err}",
                self.name(),
                finished.status
            );
        }
        Ok(finished.stdout_text())
    }

    /// Writes `content` to `path` in one go, as `cat > path` does.
    ///
    /// # Errors
    /// If the node refuses.
    pub fn write(&self, path: &str, content: &[u8]) -> Result<()> {
        let finished = self.run_within(
            &["sh", "-c", "cat > \"$0\"", path],
            content,
            limits::COMMAND_MAX,
        )?;
        if !finished.status.success() {
            bail!(
                "cannot write {path} in {}: {}",
                self.name(),
                finished.stderr_text()
            );
        }
        Ok(())
    }

    /// Ends whatever waits for the node's mounts or entered from outside.
    ///
    /// # Errors
    /// If the node does not run.
    pub fn abort_commands(&self) -> Result<()> {
        fuse_connection::abort_all(self.running_init()?.pid, &self.folder().join("fusectl"))?;
        self.control_groups()?.kill_commands()
    }
}

fn finish(command: &mut Command, input: Vec<u8>) -> Result<Finished> {
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {}", host_command::line(command)))?;
    let stdin = child.stdin.take();
    // A command may end without reading its input, so a failure to write it means nothing.
    let writer = std::thread::spawn(move || stdin.map(|mut stdin| stdin.write_all(&input)));
    let output = child.wait_with_output()?;
    drop(writer);
    Ok(Finished {
        status: output.status,
        stdout: output.stdout,
        stderr: output.stderr,
    })
}
