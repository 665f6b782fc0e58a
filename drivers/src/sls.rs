//! SLS, the internal state library: what holds on a machine afterwards, and how it is brought about.
//!
//! Invariants: [`State::check`] only reads; [`converge`] trusts no `apply`, it checks again; a second [`converge`] is
//! `Unchanged`. The fence is the host's business ([`crate::host::fenced::FencedHost`]), so no state can forget it.
//! Not here: which states some software needs (catalog). Not in this version: repositories, mounts, sysctls, archives.

pub mod command;
pub mod directory;
pub mod file;
pub mod graph;
pub mod line;
pub mod package;
pub mod requisite;
pub mod service;
pub mod unit;
pub mod user;

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::driver::StateChange;
use crate::error::DriverError;
use crate::host::Host;

/// One thing that should hold on a machine.
pub trait State: Send + Sync {
    /// What it is about, `file /etc/nginx/nginx.conf`: unique in a graph, the subject of its changes.
    fn resource(&self) -> String;

    /// Whether it holds, and what differs if not. Reads only.
    ///
    /// # Errors
    /// `Retryable` when the machine did not answer.
    fn check(&self, host: &dyn Host) -> Result<Check, DriverError>;

    /// Makes it hold, or says why not. Called after [`State::check`] said `Drifted`; may run again after a crash.
    ///
    /// # Errors
    /// As the host's calls; `Permanent` where only a person can help.
    fn apply(&self, host: &dyn Host) -> Result<(), DriverError>;

    /// Called when it holds and a state that it watches has changed. What it did, if anything.
    ///
    /// # Errors
    /// As [`State::apply`].
    fn on_watched_change(&self, host: &dyn Host) -> Result<Vec<StateChange>, DriverError> {
        let _ = host;
        Ok(Vec::new())
    }
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// It holds.
    InDesiredState,
    /// It does not; these are the differences, from what is to what should be.
    Drifted(Vec<StateChange>),
}

/// What an application did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Applied {
    /// It held already.
    Unchanged,
    /// It holds now, after these changes.
    Changed(Vec<StateChange>),
}

impl Applied {
    /// The changes, none if it held already.
    pub fn into_changes(self) -> Vec<StateChange> {
        match self {
            Self::Unchanged => Vec::new(),
            Self::Changed(changes) => changes,
        }
    }
}

/// Checks, applies if needed, and checks again.
///
/// # Errors
/// As the state's; `Retryable` with code `not-converged` when it still does not hold afterwards.
pub fn converge(state: &dyn State, host: &dyn Host) -> Result<Applied, DriverError> {
    let Check::Drifted(changes) = state.check(host)? else {
        return Ok(Applied::Unchanged);
    };
    tracing::debug!(resource = state.resource(), "applying");
    state.apply(host)?;
    match state.check(host)? {
        Check::InDesiredState => Ok(Applied::Changed(changes)),
        Check::Drifted(left) => {
            let left: Vec<String> = left.iter().map(describe).collect();
            let message = format!(
                "{} does not hold after it was applied: {}",
                state.resource(),
                left.join("; ")
            );
            Err(DriverError::retryable("not-converged", message))
        }
    }
}

/// Converges several states one after the other and gathers their changes.
///
/// # Errors
/// The first failure; what was done before it stays.
pub fn converge_all(
    states: &[&dyn State],
    host: &dyn Host,
) -> Result<Vec<StateChange>, DriverError> {
    let mut changes = Vec::new();
    for state in states {
        changes.extend(converge(*state, host)?.into_changes());
    }
    Ok(changes)
}

/// A change without a diff.
pub fn change(
    resource: impl Into<String>,
    old: Option<String>,
    new: Option<String>,
) -> StateChange {
    StateChange {
        resource: resource.into(),
        old,
        new,
        diff: None,
    }
}

/// Whether nothing is at `path`; what is there is a change of `resource`.
fn check_absent(host: &dyn Host, path: &Path, resource: String) -> Result<Check, DriverError> {
    Ok(match host.metadata(path)? {
        None => Check::InDesiredState,
        Some(_) => Check::Drifted(vec![change(resource, Some("present".to_owned()), None)]),
    })
}

fn describe(change: &StateChange) -> String {
    let word = |value: &Option<String>| value.clone().unwrap_or_else(|| "absent".to_owned());
    format!(
        "{} is {}, should be {}",
        change.resource,
        word(&change.old),
        word(&change.new)
    )
}
