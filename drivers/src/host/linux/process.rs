//! Runs one program in a process group of its own, watched by time and fence.
//!
//! Invariants: the group is killed before the call returns early; the program is not reaped before the last signal is
//! sent, so the group's number cannot have become another's. Output is bounded, its end is kept.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Instant;

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, User};

use crate::error::DriverError;
use crate::fence::FenceGuard;
use crate::host::{Command, Output};
use crate::limits::{COMMAND_DRAIN_MAX, COMMAND_OUTPUT_BYTES_MAX, FENCE_POLL_INTERVAL, KILL_GRACE};

/// Search path of every program that a driver runs: the agent's own environment is not passed on.
const PROGRAM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs `command` to its end.
///
/// # Errors
/// As [`crate::host::Host::run_guarded`].
pub fn run(command: &Command, guard: &dyn FenceGuard) -> Result<Output, DriverError> {
    let mut child = spawn(command)?;
    let group = Pid::from_raw(i32::try_from(child.id()).expect("a process number fits pid_t"));
    feed(&mut child, command.stdin.clone());
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let ended = watch_end(group);

    let stopped = wait(command, guard, &ended);
    if stopped.is_err() {
        end_group(group, &ended);
    }
    let status = child
        .wait()
        .map_err(|cause| failed(command, "could not be waited for", &cause))?;
    stopped?;
    Ok(Output {
        status: status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
        stdout: stdout.recv_timeout(COMMAND_DRAIN_MAX).unwrap_or_default(),
        stderr: stderr.recv_timeout(COMMAND_DRAIN_MAX).unwrap_or_default(),
    })
}

fn spawn(command: &Command) -> Result<Child, DriverError> {
    let program = command.argv.first().ok_or_else(|| {
        DriverError::permanent(
            "no-program",
            "a command without a program",
            "this is a fault of the driver",
        )
    })?;
    let mut process = std::process::Command::new(program);
    process.args(&command.argv[1..]);
    process
        .env_clear()
        .env("PATH", PROGRAM_PATH)
        .env("LC_ALL", "C.UTF-8")
        .env("HOME", "/root");
    if let Some(name) = &command.user {
        let user = User::from_name(name)
            .map_err(|cause| failed(command, &format!("could not look up user {name}"), &cause))?
            .ok_or_else(|| {
                DriverError::retryable("no-such-user", format!("user {name} does not exist"))
            })?;
        process
            .uid(user.uid.as_raw())
            .gid(user.gid.as_raw())
            .env("HOME", user.dir);
    }
    process.envs(command.env.iter().map(|(name, value)| (name, value)));
    process.current_dir("/").process_group(0);
    process.stdin(if command.stdin.is_some() {
        Stdio::piped()
    } else {
        Stdio::null()
    });
    process.stdout(Stdio::piped()).stderr(Stdio::piped());
    process
        .spawn()
        .map_err(|cause| failed(command, "could not be started", &cause))
}

/// Writes standard input from a thread: a program may write more than a pipe holds before it reads.
fn feed(child: &mut Child, input: Option<Vec<u8>>) {
    if let (Some(mut pipe), Some(input)) = (child.stdin.take(), input) {
        // A program that ends without reading its input is judged by its status, not by the broken pipe.
        thread::spawn(move || pipe.write_all(&input).ok());
    }
}

/// Reads a stream to its end in a thread and keeps its last bytes.
fn drain(stream: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut kept = Vec::new();
        let mut chunk = [0; 8192];
        let Some(mut stream) = stream else { return };
        loop {
            match stream.read(&mut chunk) {
                Ok(0) => break,
                Ok(len) => kept.extend_from_slice(&chunk[..len]),
                Err(cause) if cause.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
            if kept.len() > 2 * COMMAND_OUTPUT_BYTES_MAX {
                kept.drain(..kept.len() - COMMAND_OUTPUT_BYTES_MAX);
            }
        }
        kept.drain(..kept.len().saturating_sub(COMMAND_OUTPUT_BYTES_MAX));
        // The receiver is gone when the command was killed; nobody wants the output then.
        sender.send(kept).ok();
    });
    receiver
}

/// Tells when the program has ended, without reaping it.
fn watch_end(pid: Pid) -> Receiver<()> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        while let Err(nix::errno::Errno::EINTR) =
            waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)
        {}
        sender.send(()).ok();
    });
    receiver
}

fn wait(
    command: &Command,
    guard: &dyn FenceGuard,
    ended: &Receiver<()>,
) -> Result<(), DriverError> {
    let started = Instant::now();
    loop {
        let left = command.timeout.saturating_sub(started.elapsed());
        match ended.recv_timeout(left.min(FENCE_POLL_INTERVAL)) {
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => guard.check()?,
        }
        if started.elapsed() >= command.timeout {
            return Err(DriverError::retryable(
                "command-timeout",
                format!(
                    "{} did not end within {} s and was killed",
                    command.program(),
                    command.timeout.as_secs()
                ),
            ));
        }
    }
}

/// SIGTERM, a short grace, SIGKILL, to the whole group. Errors mean that it is gone already.
fn end_group(group: Pid, ended: &Receiver<()>) {
    killpg(group, Signal::SIGTERM).ok();
    ended.recv_timeout(KILL_GRACE).ok();
    killpg(group, Signal::SIGKILL).ok();
}

fn failed(command: &Command, what: &str, cause: &dyn std::fmt::Display) -> DriverError {
    DriverError::retryable(
        "command-not-run",
        format!("{} {what}: {cause}", command.program()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fence::Unfenced;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    struct LostAfter(AtomicU32);

    impl FenceGuard for LostAfter {
        fn check(&self) -> Result<(), DriverError> {
            match self.0.fetch_sub(1, Ordering::SeqCst) {
                0 => Err(DriverError::Fenced {
                    fence: 7,
                    reason: "the test took it".to_owned(),
                }),
                _ => Ok(()),
            }
        }
    }

    #[test]
    fn run_passes_stdin_and_keeps_status_and_both_streams() {
        let script = "cat; echo err >&2; exit 3";
        let command =
            Command::probe(Duration::from_secs(5), ["/bin/sh", "-c", script]).with_stdin("in");
        let output = run(&command, &Unfenced).unwrap();
        assert_eq!(
            (output.status, output.text(), output.last_words()),
            (3, "in".to_owned(), "err".to_owned())
        );
    }

    #[test]
    fn run_kills_the_whole_group_when_time_is_up() {
        let command = Command::probe(
            Duration::from_millis(300),
            ["/bin/sh", "-c", "sleep 60 & wait"],
        );
        let started = Instant::now();
        assert_eq!(
            run(&command, &Unfenced).unwrap_err().code(),
            "command-timeout"
        );
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn run_kills_the_program_when_the_fence_is_lost() {
        let command = Command::effect(Duration::from_secs(60), ["/bin/sleep", "60"]);
        let error = run(&command, &LostAfter(AtomicU32::new(1))).unwrap_err();
        assert!(matches!(error, DriverError::Fenced { fence: 7, .. }));
    }

    #[test]
    fn run_keeps_the_end_of_long_output() {
        let command = Command::probe(Duration::from_secs(20), ["/bin/sh", "-c", "seq 1 600000"]);
        let output = run(&command, &Unfenced).unwrap();
        assert_eq!(output.stdout.len(), COMMAND_OUTPUT_BYTES_MAX);
        assert!(output.text().ends_with("600000"));
    }
}
