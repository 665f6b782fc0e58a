//! A command that runs in a node while the test goes on.
//!
//! Invariant: it ends with its test: dropping it closes its input and kills it.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdin, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::node::Node;
use crate::wait::wait_for;

/// A running command, whose output is read line by line.
#[derive(Debug)]
pub struct Background {
    what: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    errors: Option<JoinHandle<String>>,
}

/// How a background command ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// The lines that were not taken before.
    pub lines: Vec<String>,
    /// What it wrote on standard error.
    pub errors: String,
}

impl Node {
    /// Starts a command that runs until its input is closed or it ends by itself.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(&self, words: &[&str]) -> Result<Background> {
        let mut command = self.command(words)?;
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let what = format!("{} in {}", words.join(" "), self.name());
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {what}"))?;
        let stdout = child.stdout.take().context("no standard output")?;
        let mut stderr = child.stderr.take().context("no standard error")?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            // Ends with the command, or when nobody wants lines any more.
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            lines
                .map(|line| sender.send(line))
                .take_while(Result::is_ok)
                .for_each(drop);
        });
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            // What can be read is enough for a message.
            let _ = stderr.read_to_string(&mut text);
            text
        });
        let stdin = child.stdin.take();
        Ok(Background {
            what,
            child,
            stdin,
            lines,
            errors: Some(errors),
        })
    }
}

impl Background {
    /// The next line of its output.
    ///
    /// # Errors
    /// If none comes within `limit`.
    pub fn line(&self, limit: Duration) -> Result<String> {
        self.lines
            .recv_timeout(limit)
            .with_context(|| format!("no line from {}", self.what))
    }

    /// The line that was written last, and none if there was none since the last look.
    pub fn last_line(&self) -> Option<String> {
        self.lines.try_iter().last()
    }

    /// The lines that it wrote since the last look.
    pub fn lines(&self) -> Vec<String> {
        self.lines.try_iter().collect()
    }

    /// Closes its input and waits for its end.
    ///
    /// # Errors
    /// If it does not end within `limit`.
    pub fn stop(mut self, limit: Duration) -> Result<Ended> {
        self.stdin.take();
        self.wait(limit)
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// If it does not end within `limit`.
    pub fn finish(mut self, limit: Duration) -> Result<Ended> {
        self.wait(limit)
    }

    fn wait(&mut self, limit: Duration) -> Result<Ended> {
        let child = &mut self.child;
        let status = wait_for(&format!("the end of {}", self.what), limit, || {
            Ok(child.try_wait()?)
        })?;
        let errors = self
            .errors
            .take()
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default();
        Ok(Ended {
            status,
            lines: self.lines.iter().collect(),
            errors,
        })
    }
}

impl Ended {
    /// Its lines, if it ended well.
    ///
    /// # Errors
    /// If its status is not 0; the message holds what it said.
    pub fn ok(self) -> Result<Vec<String>> {
        if !self.status.success() {
            bail!(
                "a background command ended with {}: {}",
                self.status,
                self.errors.trim()
            );
        }
        Ok(self.lines)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stdin.take();
        // It may have ended already; its node's end will reap what a stuck mount holds.
        let _ = self.child.kill();
        let _ = self.child.try_wait();
    }
}
