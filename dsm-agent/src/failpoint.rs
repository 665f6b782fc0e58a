//! A testing aid: ends or holds the agent at a step boundary, so that crash tests hit each of them and not random
//! times.
//!
//! Invariants: it does nothing unless it was armed (`DSM_CRASH_AT`, `--crash-at`, or the file `crash-at` in the state
//! directory, with a specification on each line); each specification fires once, and what fired is noted on disk first,
//! so that the restarted agent goes on.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
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
    // Steps that run at once fire one after the other: each rewrites the files.
    firing: Mutex<()>,
}

/// File in the state directory that arms a failpoint without a restart.
const ORDER: &str = "crash-at";

/// What is left of `crash-at`, before it takes its name.
const ORDER_NEXT: &str = "crash-at.next";

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
            firing: Mutex::default(),
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
        if let Some(held) = self.fire(directory, step, boundary) {
            while held.exists() {
                std::thread::sleep(HOLD_POLL);
            }
        }
    }

    /// Fires if something is armed for here. Gives the file that must go before a held agent may go on.
    fn fire(&self, directory: &Path, step: &str, boundary: Boundary) -> Option<PathBuf> {
        let _turn = self.firing.lock().unwrap_or_else(PoisonError::into_inner);
        let spec = self.take_armed(directory, step, boundary)?;
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
        fs::write(&held, format!("{step} {}\n", boundary.word())).ok()?;
        Some(held)
    }

    /// The specification that is armed for here, used up on disk. What cannot be used up does not fire: it would fire
    /// for ever.
    fn take_armed(&self, directory: &Path, step: &str, boundary: Boundary) -> Option<String> {
        let fired = fs::read_to_string(directory.join(FIRED)).unwrap_or_default();
        let is_new = |spec: &&String| {
            let noted = format!("{spec} ");
            !fired.lines().any(|line| line.starts_with(&noted))
        };
        let given = self
            .armed
            .as_ref()
            .filter(|spec| matches(spec, step, boundary))
            .filter(is_new);
        if let Some(spec) = given {
            note_fired(directory, spec, step, boundary).ok()?;
            return Some(spec.clone());
        }
        let order = fs::read_to_string(directory.join(ORDER)).ok()?;
        let mut lines: Vec<&str> = order.lines().map(str::trim).collect();
        let position = lines
            .iter()
            .position(|spec| matches(spec, step, boundary))?;
        let spec = lines.remove(position).to_owned();
        note_fired(directory, &spec, step, boundary).ok()?;
        put_order(directory, &lines).ok()?;
        Some(spec)
    }
}

fn note_fired(directory: &Path, spec: &str, step: &str, boundary: Boundary) -> std::io::Result<()> {
    let mut file = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(directory.join(FIRED))?;
    writeln!(file, "{spec} {step} {}", boundary.word())?;
    file.sync_all()
}

/// Leaves `specs` armed, on disk too.
fn put_order(directory: &Path, specs: &[&str]) -> std::io::Result<()> {
    let order = directory.join(ORDER);
    if specs.is_empty() {
        fs::remove_file(&order)?;
    } else {
        let next = directory.join(ORDER_NEXT);
        fs::write(&next, specs.join("\n"))?;
        fs::File::open(&next)?.sync_all()?;
        fs::rename(&next, &order)?;
    }
    fs::File::open(directory)?.sync_all()
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
    fn each_line_of_the_file_fires_once() {
        let directory = tempfile::tempdir().unwrap();
        let order = directory.path().join(ORDER);
        fs::write(&order, "a:after-effect:hold\nb:after-started:hold\n").unwrap();
        let failpoint = Failpoint::new(None, directory.path());
        assert_eq!(
            failpoint.fire(directory.path(), "b", Boundary::AfterEffect),
            None
        );
        let held = failpoint.fire(directory.path(), "b", Boundary::AfterStarted);
        assert!(held.is_some_and(|held| held.exists()));
        assert_eq!(fs::read_to_string(&order).unwrap(), "a:after-effect:hold");
        assert_eq!(
            failpoint.fire(directory.path(), "b", Boundary::AfterStarted),
            None
        );
        assert!(
            failpoint
                .fire(directory.path(), "a", Boundary::AfterEffect)
                .is_some()
        );
        assert!(!order.exists());
    }

    #[test]
    fn a_failpoint_that_is_not_armed_does_nothing() {
        let directory = tempfile::tempdir().unwrap();
        Failpoint::new(None, directory.path()).reach("n1/write", Boundary::AfterEffect);
        assert!(!directory.path().join(FIRED).exists());
    }
}
