//! Commands on the host: run to their end, refused loudly.
//!
//! Invariant: a failure's message holds the whole command line and what the command said.
//! Not here: commands inside a node (`exec.rs`).

use std::ffi::OsStr;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

use crate::limits;

/// Runs `program` with `arguments` and gives its standard output.
///
/// # Errors
/// If it cannot be started or ends with another status than 0.
pub fn run<S: AsRef<OsStr>>(
    program: &str,
    arguments: impl IntoIterator<Item = S>,
) -> Result<String> {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .env("LC_ALL", "C");
    finish(&mut command)
}

/// Runs the prepared `command` and gives its standard output.
///
/// # Errors
/// If it cannot be started or ends with another status than 0.
pub fn finish(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot start {}", line(command)))?;
    if !output.status.success() {
        bail!(
            "{} ended with {}: {}",
            line(command),
            output.status,
            said(&output)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command line, for messages.
pub fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

/// The end of what a command said, errors first.
pub fn said(output: &Output) -> String {
    let text = if output.stderr.is_empty() {
        &output.stdout
    } else {
        &output.stderr
    };
    let start = text.len().saturating_sub(limits::ERROR_OUTPUT_BYTES_MAX);
    String::from_utf8_lossy(&text[start..]).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_what_it_said() {
        let error = run("sh", ["-c", "echo reason >&2; exit 3"])
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "sh -c echo reason >&2; exit 3 ended with exit status: 3: reason"
        );
    }

    #[test]
    fn a_success_gives_the_output() {
        assert_eq!(run("echo", ["x"]).unwrap(), "x\n");
    }
}
