//! The log of one node's share of a generation: lines, their hash chain, and the table of legal transitions.
//!
//! Invariants: `prev` of a line is the SHA-256 of the bytes of the line before it, of the first one the plan's digest;
//! `seq` counts from 1 without gaps; a step's line may only be appended if the table allows it after the step's last
//! one.

use std::collections::BTreeMap;

use drivers::driver::{StateChange, StepId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::digest::sha256_hex;

/// What a line says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ev {
    /// The step is in the plan.
    Planned,
    /// It waits for something.
    Waiting,
    /// Its lock is held.
    LockAcquired,
    /// Its lock was lost.
    LockLost,
    /// Its first effect may follow.
    Started,
    /// How far it is.
    Progress,
    /// Its last effect is done.
    Succeeded,
    /// An attempt failed.
    Failed,
    /// It was not needed.
    Skipped,
    /// It is being taken back.
    UndoStarted,
    /// It was taken back.
    Undone,
    /// Taking back failed.
    UndoFailed,
    /// A newer generation made it void.
    Superseded,
    /// What existed was taken over.
    Adopted,
    /// A person gave it up.
    Abandoned,
    /// The planner decided something.
    Decision,
    /// Something changed by itself.
    Drift,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogLine {
    /// Counts from 1.
    pub seq: u64,
    /// See the head of this file.
    pub prev: String,
    /// When, for people.
    pub at: String,
    /// Fence of the writer's presence.
    pub fence: u64,
    /// The event itself.
    #[serde(flatten)]
    pub entry: Entry,
}

/// What a line carries beside its place in the chain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// What happened.
    pub ev: Ev,
    /// Which step, where it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<StepId>,
    /// Which attempt, from 1.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attempt: u32,
    /// Digest of operation, arguments and inputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_digest: Option<String>,
    /// What later steps may need.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub out: Value,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub err: Option<LineError>,
    /// Every state that changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<StateChange>,
    /// How long the attempt took, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dur_us: Option<u64>,
    /// Words: what is waited on, why it was skipped, how far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Of `decision` and `drift`: `{rule, inputs, choice}` or `{resource, expected, found}`.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub detail: Value,
}

/// A failure as the log keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LineError {
    /// Stable word for machines.
    pub code: String,
    /// Whether another attempt may follow.
    pub retryable: bool,
    /// What failed, with which values.
    pub msg: String,
    /// What a person can do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
}

fn is_zero(value: &u32) -> bool {
    *value == 0
}

impl Entry {
    /// An entry of `step` with nothing else in it.
    pub fn of(ev: Ev, step: &str, attempt: u32) -> Self {
        Self {
            ev,
            step: Some(step.to_owned()),
            attempt,
            ..Self::plain(ev)
        }
    }

    /// An entry about no step.
    pub fn plain(ev: Ev) -> Self {
        Self {
            ev,
            step: None,
            attempt: 0,
            in_digest: None,
            out: Value::Null,
            err: None,
            changes: Vec::new(),
            dur_us: None,
            note: None,
            detail: Value::Null,
        }
    }
}

/// Where a step stands, by the last line about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StepState {
    /// No line, or only such as change nothing.
    Ready,
    /// Started, no outcome.
    Running,
    /// Succeeded or skipped.
    Done,
    /// The last attempt failed; another may follow.
    FailedRetryable,
    /// It failed for good.
    FailedPermanent,
    /// Void: superseded, abandoned or taken back.
    Void,
}

/// Where a step is after `entry`, or why that entry may not follow.
///
/// # Errors
/// The pair that the table does not allow.
pub fn transition(from: StepState, entry: &Entry) -> Result<StepState, IllegalTransition> {
    use StepState as S;
    let to = match (from, entry.ev) {
        (_, Ev::Decision | Ev::Drift) => from,
        (S::Ready | S::FailedRetryable, Ev::Planned | Ev::Waiting | Ev::LockAcquired) => from,
        (S::Ready | S::FailedRetryable, Ev::LockLost) => from,
        // A second `started` follows a crash: the step is observed, then run again.
        (S::Ready | S::FailedRetryable | S::Running, Ev::Started) => S::Running,
        (S::Running, Ev::Progress | Ev::LockAcquired) => S::Running,
        (S::Running, Ev::LockLost) => S::FailedRetryable,
        (S::Running, Ev::Succeeded | Ev::Adopted) => S::Done,
        (S::Ready, Ev::Skipped | Ev::Adopted) => S::Done,
        (S::Running | S::FailedRetryable, Ev::Failed) => match &entry.err {
            Some(err) if err.retryable => S::FailedRetryable,
            _ => S::FailedPermanent,
        },
        (
            S::Ready | S::Running | S::FailedRetryable | S::FailedPermanent,
            Ev::Superseded | Ev::Abandoned,
        ) => S::Void,
        (S::Done, Ev::UndoStarted) => S::Done,
        (S::Done, Ev::Undone) => S::Void,
        (S::Done, Ev::UndoFailed) => S::FailedPermanent,
        _ => {
            return Err(IllegalTransition {
                step: entry.step.clone().unwrap_or_default(),
                from,
                ev: entry.ev,
            });
        }
    };
    Ok(to)
}

/// A line that must not be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("step {step}: {ev:?} may not follow the state {from:?}")]
pub struct IllegalTransition {
    /// The step.
    pub step: StepId,
    /// Where it stands.
    pub from: StepState,
    /// What was to be written.
    pub ev: Ev,
}

/// What is known of one step from a log.
#[derive(Debug, Clone, PartialEq)]
pub struct StepTrace {
    /// Where it stands.
    pub state: StepState,
    /// Highest attempt that was started.
    pub attempts: u32,
    /// Attempts that failed; crashes and lost locks are none.
    pub failures: u32,
    /// Output of the successful attempt.
    pub out: Value,
    /// The last failure.
    pub err: Option<LineError>,
    /// The last words of its progress.
    pub note: Option<String>,
    /// What its last line says that it waits for; nothing once it got it.
    pub waits: Option<String>,
}

/// A log as read: the place in the chain and what it says of each step.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeLog {
    /// Sequence number of the last line, 0 when there is none.
    pub seq: u64,
    /// `prev` of the next line.
    pub tail: String,
    /// Each step that has a line.
    pub steps: BTreeMap<StepId, StepTrace>,
    /// All lines, in order.
    pub lines: Vec<LogLine>,
}

/// Why a log cannot be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// A line is no line.
    #[error("line {line} is not a log line: {reason}")]
    Broken {
        /// Its number, from 1.
        line: u64,
        /// Why.
        reason: String,
    },
    /// The chain does not hold.
    #[error(
        "line {line} does not follow the line before it: {what} is {found}, {expected} was expected"
    )]
    Chain {
        /// Its number, from 1.
        line: u64,
        /// `seq` or `prev`.
        what: &'static str,
        /// As it stands there.
        found: String,
        /// As it should be.
        expected: String,
    },
    /// The table does not allow it.
    #[error("line {line}: {source}")]
    Transition {
        /// Its number, from 1.
        line: u64,
        /// The pair.
        #[source]
        source: IllegalTransition,
    },
}

impl NodeLog {
    /// The log before its first line, for the plan with this digest.
    pub fn empty(plan_digest: &str) -> Self {
        Self {
            seq: 0,
            tail: plan_digest.to_owned(),
            steps: BTreeMap::new(),
            lines: Vec::new(),
        }
    }

    /// Reads a whole log and checks chain and transitions.
    ///
    /// # Errors
    /// The first line that cannot be believed.
    pub fn parse(plan_digest: &str, bytes: &[u8]) -> Result<Self, LogError> {
        let mut log = Self::empty(plan_digest);
        for raw in bytes
            .split(|byte| *byte == b'\n')
            .filter(|raw| !raw.is_empty())
        {
            log.push(raw)?;
        }
        Ok(log)
    }

    /// Takes the next line, without its newline.
    ///
    /// # Errors
    /// Why it cannot be believed.
    pub fn push(&mut self, raw: &[u8]) -> Result<(), LogError> {
        let number = self.seq + 1;
        let line: LogLine = serde_json::from_slice(raw).map_err(|error| LogError::Broken {
            line: number,
            reason: error.to_string(),
        })?;
        if line.seq != number {
            return Err(LogError::Chain {
                line: number,
                what: "seq",
                found: line.seq.to_string(),
                expected: number.to_string(),
            });
        }
        if line.prev != self.tail {
            return Err(LogError::Chain {
                line: number,
                what: "prev",
                found: line.prev,
                expected: self.tail.clone(),
            });
        }
        self.note_step(&line.entry)
            .map_err(|source| LogError::Transition {
                line: number,
                source,
            })?;
        self.seq = number;
        self.tail = sha256_hex(raw);
        self.lines.push(line);
        Ok(())
    }

    /// The bytes of the next line, newline included, after checking that it may follow.
    ///
    /// # Errors
    /// The pair that the table does not allow.
    ///
    /// # Panics
    /// Never for entries of this module: they have text keys only.
    pub fn next_line(
        &self,
        entry: Entry,
        fence: u64,
        at: String,
    ) -> Result<Vec<u8>, IllegalTransition> {
        if let Some(step) = &entry.step {
            transition(self.state(step), &entry)?;
        }
        let line = LogLine {
            seq: self.seq + 1,
            prev: self.tail.clone(),
            at,
            fence,
            entry,
        };
        let mut bytes = serde_json::to_vec(&line).expect("a line has text keys only");
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Where `step` stands.
    pub fn state(&self, step: &str) -> StepState {
        self.steps
            .get(step)
            .map_or(StepState::Ready, |trace| trace.state)
    }

    fn note_step(&mut self, entry: &Entry) -> Result<(), IllegalTransition> {
        let Some(step) = &entry.step else {
            return Ok(());
        };
        let state = transition(self.state(step), entry)?;
        let trace = self.steps.entry(step.clone()).or_insert(StepTrace {
            state,
            attempts: 0,
            failures: 0,
            out: Value::Null,
            err: None,
            note: None,
            waits: None,
        });
        trace.state = state;
        trace.attempts = trace.attempts.max(entry.attempt);
        match entry.ev {
            Ev::Succeeded | Ev::Skipped | Ev::Adopted => trace.out = entry.out.clone(),
            Ev::Failed => {
                trace.err = entry.err.clone();
                trace.failures += 1;
            }
            Ev::Progress => trace.note = entry.note.clone(),
            Ev::Waiting => trace.waits = entry.note.clone(),
            Ev::LockAcquired | Ev::Started => trace.waits = None,
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(retryable: bool) -> Entry {
        Entry {
            err: Some(LineError {
                code: "x".into(),
                retryable,
                msg: "m".into(),
                hint: String::new(),
            }),
            ..Entry::of(Ev::Failed, "a", 1)
        }
    }

    #[test]
    fn a_chain_that_was_written_is_read_back_and_any_flipped_byte_is_noticed() {
        let mut bytes = Vec::new();
        for ev in [Ev::Started, Ev::Progress, Ev::Succeeded] {
            let log = NodeLog::parse("plan", &bytes).unwrap();
            bytes.extend(log.next_line(Entry::of(ev, "a", 1), 7, "t".into()).unwrap());
        }
        let log = NodeLog::parse("plan", &bytes).unwrap();
        assert_eq!((log.seq, log.state("a")), (3, StepState::Done));
        assert!(NodeLog::parse("other plan", &bytes).is_err());
        // The last line's content is covered once another line follows; all before it at once.
        let first_two = bytes
            .iter()
            .enumerate()
            .filter(|(_, b)| **b == b'\n')
            .nth(1)
            .unwrap()
            .0;
        for at in (0..first_two).step_by(7) {
            let mut torn = bytes.clone();
            torn[at] ^= 1;
            assert!(NodeLog::parse("plan", &torn).is_err(), "byte {at}");
        }
    }

    #[test]
    fn legal_transitions_are_exactly_these() {
        use StepState as S;
        let all = [
            S::Ready,
            S::Running,
            S::Done,
            S::FailedRetryable,
            S::FailedPermanent,
            S::Void,
        ];
        let allowed = |entry: &Entry| -> Vec<S> {
            all.into_iter()
                .filter(|from| transition(*from, entry).is_ok())
                .collect()
        };
        let of = |ev| Entry::of(ev, "a", 1);
        assert_eq!(
            allowed(&of(Ev::Started)),
            [S::Ready, S::Running, S::FailedRetryable]
        );
        assert_eq!(allowed(&of(Ev::Succeeded)), [S::Running]);
        assert_eq!(allowed(&of(Ev::Progress)), [S::Running]);
        assert_eq!(allowed(&of(Ev::Skipped)), [S::Ready]);
        assert_eq!(allowed(&failed(true)), [S::Running, S::FailedRetryable]);
        let open = [S::Ready, S::Running, S::FailedRetryable, S::FailedPermanent];
        assert_eq!(allowed(&of(Ev::Superseded)), open);
        assert_eq!(allowed(&of(Ev::Undone)), [S::Done]);
        assert_eq!(allowed(&of(Ev::Decision)), all);
    }

    #[test]
    fn a_failure_is_final_only_if_it_says_so() {
        assert_eq!(
            transition(StepState::Running, &failed(true)),
            Ok(StepState::FailedRetryable)
        );
        assert_eq!(
            transition(StepState::Running, &failed(false)),
            Ok(StepState::FailedPermanent)
        );
    }
}
