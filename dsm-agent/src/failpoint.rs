//! A testing aid: ends or holds the agent at a step boundary, so that crash tests hit each of them and not random
//! times.
//!
//! Invariants: it does nothing unless it was armed (`DSM_CRASH_AT`, `--crash-at`, or the file `crash-at` in the state
//! directory); it fires once, and what fired is noted on disk first, so that the restarted agent goes on.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where, relative to a step's record and effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boundary {
    /// Before `started` is written.
    BeforeStarted,
    /// After `started`, before the first effect.
    AfterStarted,
    /// After the last effect, before `succeeded` is written.
    AfterEffect,
    /// After `succeeded`.
    AfterSucceeded,
}

impl Boundary {
    /// All of them with the words used in specifications.
    pub const ALL: [(Boundary, &'static str); 4] = [
        (Boundary::BeforeStarted, "before-started"),
        (Boundary::AfterStarted, "after-started"),
        (Boundary::AfterEffect, "after-effect"),
        (Boundary::AfterSucceeded, "after-succeeded"),
    ];

    fn word(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(boundary, _)| *boundary == self)
            .map_or("", |(_, word)| word)
    }
}

/// See the head of this file.
#[derive(Debug, Default)]
pub struct Failpoint {
    armed: Option<String>,
    directory: Option<PathBuf>,
}

/// File in the state directory that arms a failpoint without a restart.
const ORDER: &str = "crash-at";

/// File in the state directory that lists what fired.
const FIRED: &str = "crash-fired";

/// File that exists while a `:hold` failpoint holds.
const HELD: &str = "crash-held";

/// How often a held failpoint looks whether it may go on.
const HOLD_POLL: Duration = Duration::from_millis(20);

impl Failpoint {
    /// `spec` is `STEP:BOUNDARY` or `STEP:BOUNDARY:hold`; STEP may be `*`. `directory` keeps what fired.
    pub fn new(spec: Option<String>, directory: &Path) -> Self {
        Self {
            armed: spec,
            directory: Some(directory.to_owned()),
        }
    }

    /// Checks a specification.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(spec: &str) -> Result<(), String> {
        match parse(spec) {
            Some(_) => Ok(()),
            None => Err(format!(
                "{spec:?} is no failpoint; write STEP:BOUNDARY with one of {}",
                Boundary::ALL.map(|(_, word)| word).join(", ")
            )),
        }
    }

    /// Called at each boundary.
    pub fn reach(&self, step: &str, boundary: Boundary) {
        let Some(directory) = &self.directory else {
            return;
        };
        let order = fs::read_to_string(directory.join(ORDER)).ok();
        let order = order.map(|text| text.trim().to_owned());
        for (spec, is_file) in [(self.armed.clone(), false), (order, true)] {
            let Some(spec) = spec.filter(|spec| matches(spec, step, boundary)) else {
                continue;
            };
            let fired = fs::read_to_string(directory.join(FIRED)).unwrap_or_default();
            if !is_file
                && fired
                    .lines()
                    .any(|line| line.starts_with(&format!("{spec} ")))
            {
                continue;
            }
            fire(directory, &spec, step, boundary, is_file);
        }
    }
}

fn fire(directory: &Path, spec: &str, step: &str, boundary: Boundary, is_file: bool) {
    let line = format!("{spec} {step} {}\n", boundary.word());
    let noted = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(directory.join(FIRED))
        .and_then(|mut file| {
            file.write_all(line.as_bytes())
                .and_then(|()| file.sync_all())
        });
    if noted.is_err() || (is_file && fs::remove_file(directory.join(ORDER)).is_err()) {
        // It would fire again for ever: better not at all.
        return;
    }
    if !spec.ends_with(":hold") {
        tracing::warn!(
            step,
            boundary = boundary.word(),
            "failpoint reached: the agent ends here"
        );
        // SAFETY: raising a signal at ourselves touches no memory.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    }
    let held = directory.join(HELD);
    if fs::write(&held, &line).is_ok() {
        while held.exists() {
            std::thread::sleep(HOLD_POLL);
        }
    }
}

fn matches(spec: &str, step: &str, boundary: Boundary) -> bool {
    parse(spec).is_some_and(|(wanted, at)| at == boundary && (wanted == "*" || wanted == step))
}

fn parse(spec: &str) -> Option<(&str, Boundary)> {
    let spec = spec.strip_suffix(":hold").unwrap_or(spec);
    let (step, word) = spec.rsplit_once(':')?;
    let (boundary, _) = Boundary::ALL
        .into_iter()
        .find(|(_, known)| *known == word)?;
    (!step.is_empty()).then_some((step, boundary))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_specification_names_step_and_boundary() {
        assert!(matches(
            "n1/write:after-effect",
            "n1/write",
            Boundary::AfterEffect
        ));
        assert!(matches(
            "*:before-started:hold",
            "n1/write",
            Boundary::BeforeStarted
        ));
        assert!(!matches(
            "n1/write:after-effect",
            "n2/write",
            Boundary::AfterEffect
        ));
        assert!(Failpoint::check("n1/write").is_err());
        assert!(Failpoint::check("n1/write:sometimes").is_err());
    }

    #[test]
    fn a_failpoint_that_is_not_armed_does_nothing() {
        let directory = tempfile::tempdir().unwrap();
        Failpoint::new(None, directory.path()).reach("n1/write", Boundary::AfterEffect);
        assert!(!directory.path().join(FIRED).exists());
    }
}
