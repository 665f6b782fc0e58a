//! Runs a set of states at once, each as soon as its requisites allow.
//!
//! Invariants: the graph is checked before anything runs (unknown ids, cycles, size); every state gets exactly one
//! outcome; a failure stops only what depends on it. A state runs after all its targets have an outcome (before them
//! for `prereq`), so the outcome does not depend on timing.
//! Not here: what the outcomes mean for each other (`requisite.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::requisite::{Gate, Kind, Outcome, Requisite, gate_of_targets};
use super::{Applied, Check, State, converge};
use crate::driver::StateChange;
use crate::error::DriverError;
use crate::host::Host;
use crate::limits::{GRAPH_STATES_MAX, GRAPH_WORKERS_MAX};

/// States with their requisites.
#[derive(Default)]
pub struct Graph {
    states: Vec<Entry>,
}

struct Entry {
    id: String,
    state: Box<dyn State>,
    requisites: Vec<Requisite>,
}

/// What became of a graph.
#[derive(Debug, Default)]
pub struct Report {
    /// Outcome by state id.
    pub outcomes: BTreeMap<String, Outcome>,
    /// All changes, in the order of the graph.
    pub changes: Vec<StateChange>,
    /// Errors of failed states, in the order of the graph, with their ids.
    pub errors: Vec<(String, DriverError)>,
}

impl Report {
    /// The changes if nothing failed, else the gravest error: `Fenced`, then `Permanent`, then `Retryable`.
    ///
    /// # Errors
    /// As said.
    pub fn into_result(self) -> Result<Vec<StateChange>, DriverError> {
        let gravity = |error: &DriverError| match error {
            DriverError::Fenced { .. } => 0,
            DriverError::Permanent { .. } => 1,
            DriverError::Retryable { .. } => 2,
        };
        match self
            .errors
            .into_iter()
            .min_by_key(|(_, error)| gravity(error))
        {
            Some((_, error)) => Err(error),
            None => Ok(self.changes),
        }
    }
}

/// A fault of a graph: always one of the driver that made it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// More states than fit.
    #[error("the state graph has {0} states, the most is {GRAPH_STATES_MAX}")]
    TooLarge(usize),
    /// Two states of one id.
    #[error("two states of the graph are called {0}")]
    Duplicate(String),
    /// A requisite names no state.
    #[error("state {from} depends on {to}, which is not in the graph")]
    Unknown {
        /// Who depends.
        from: String,
        /// On what.
        to: String,
    },
    /// States that wait for each other.
    #[error("the states {} wait for each other", .0.join(", "))]
    Cycle(Vec<String>),
}

impl From<GraphError> for DriverError {
    fn from(fault: GraphError) -> Self {
        Self::permanent(
            "bad-state-graph",
            fault.to_string(),
            "this is a fault of the driver",
        )
    }
}

impl Graph {
    /// Adds a state; `id` names it in requisites.
    pub fn add(
        &mut self,
        id: &str,
        state: impl State + 'static,
        requisites: Vec<Requisite>,
    ) -> &mut Self {
        self.states.push(Entry {
            id: id.to_owned(),
            state: Box::new(state),
            requisites,
        });
        self
    }

    /// What would change, state by state, without changing it. What follows from a change (`watch`, `onchanges`) is not
    /// foretold.
    ///
    /// # Errors
    /// As [`State::check`].
    pub fn dry_run(&self, host: &dyn Host) -> Result<Vec<StateChange>, DriverError> {
        let mut changes = Vec::new();
        for entry in &self.states {
            if let Check::Drifted(found) = entry.state.check(host)? {
                changes.extend(found);
            }
        }
        Ok(changes)
    }

    /// Brings all states about.
    ///
    /// # Errors
    /// [`GraphError`] before anything runs; what fails later stands in the report.
    pub fn run(&self, host: &dyn Host) -> Result<Report, GraphError> {
        let waits_for = self.waits_for()?;
        let run = Run {
            graph: self,
            host,
            waits_for,
            progress: Mutex::default(),
            moved: Condvar::new(),
        };
        let workers = self.states.len().min(GRAPH_WORKERS_MAX);
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| run.work());
            }
        });
        Ok(run.report())
    }

    /// By state: the states that must have an outcome before it runs.
    fn waits_for(&self) -> Result<Vec<BTreeSet<usize>>, GraphError> {
        if self.states.len() > GRAPH_STATES_MAX {
            return Err(GraphError::TooLarge(self.states.len()));
        }
        let mut index = BTreeMap::new();
        for (number, entry) in self.states.iter().enumerate() {
            if index.insert(entry.id.as_str(), number).is_some() {
                return Err(GraphError::Duplicate(entry.id.clone()));
            }
        }
        let mut waits_for = vec![BTreeSet::new(); self.states.len()];
        for (number, entry) in self.states.iter().enumerate() {
            for requisite in &entry.requisites {
                for target in &requisite.targets {
                    let to = *index
                        .get(target.as_str())
                        .ok_or_else(|| GraphError::Unknown {
                            from: entry.id.clone(),
                            to: target.clone(),
                        })?;
                    match requisite.kind {
                        Kind::Prereq => waits_for[to].insert(number),
                        _ => waits_for[number].insert(to),
                    };
                }
            }
        }
        self.refuse_cycles(&waits_for)?;
        Ok(waits_for)
    }

    fn refuse_cycles(&self, waits_for: &[BTreeSet<usize>]) -> Result<(), GraphError> {
        let mut left: BTreeSet<usize> = (0..self.states.len()).collect();
        loop {
            let free: Vec<usize> = left
                .iter()
                .copied()
                .filter(|n| waits_for[*n].is_disjoint(&left))
                .collect();
            if free.is_empty() {
                break;
            }
            left.retain(|number| !free.contains(number));
        }
        if left.is_empty() {
            return Ok(());
        }
        Err(GraphError::Cycle(
            left.into_iter()
                .map(|number| self.states[number].id.clone())
                .collect(),
        ))
    }
}

#[derive(Default)]
struct Progress {
    started: BTreeSet<usize>,
    outcomes: BTreeMap<usize, Outcome>,
    changes: BTreeMap<usize, Vec<StateChange>>,
    errors: BTreeMap<usize, DriverError>,
}

struct Run<'a> {
    graph: &'a Graph,
    host: &'a dyn Host,
    waits_for: Vec<BTreeSet<usize>>,
    /// Held only to look and to note, never while a state runs.
    progress: Mutex<Progress>,
    moved: Condvar,
}

impl Run<'_> {
    fn work(&self) {
        while let Some((number, known)) = self.next() {
            let entry = &self.graph.states[number];
            let result = self.run_one(entry, number, &known);
            let mut progress = self.lock();
            match result {
                Ok((outcome, changes)) => {
                    progress.outcomes.insert(number, outcome);
                    progress.changes.insert(number, changes);
                }
                Err(error) => {
                    progress.outcomes.insert(number, Outcome::Failed);
                    progress.errors.insert(number, error);
                }
            }
            drop(progress);
            self.moved.notify_all();
        }
    }

    /// The next state that may run, with the outcomes so far; `None` when all are taken.
    fn next(&self) -> Option<(usize, BTreeMap<usize, Outcome>)> {
        let mut progress = self.lock();
        loop {
            if progress.started.len() == self.graph.states.len() {
                return None;
            }
            let ready = (0..self.graph.states.len()).find(|number| {
                !progress.started.contains(number)
                    && self.waits_for[*number]
                        .iter()
                        .all(|target| progress.outcomes.contains_key(target))
            });
            if let Some(number) = ready {
                progress.started.insert(number);
                return Some((number, progress.outcomes.clone()));
            }
            progress = self
                .moved
                .wait(progress)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn run_one(
        &self,
        entry: &Entry,
        number: usize,
        known: &BTreeMap<usize, Outcome>,
    ) -> Result<(Outcome, Vec<StateChange>), DriverError> {
        let mut word = self.blocked_by_prereq(number, known);
        for requisite in &entry.requisites {
            let targets = requisite
                .targets
                .iter()
                .map(|target| self.target(requisite.kind, target, known));
            let targets: Vec<Outcome> = targets.collect::<Result<_, _>>()?;
            word = word.max(gate_of_targets(
                requisite.kind,
                requisite.quantity,
                &targets,
            ));
        }
        match word {
            Gate::Blocked => return Ok((Outcome::Blocked, vec![])),
            Gate::NotNeeded => return Ok((Outcome::NotNeeded, vec![])),
            Gate::Open | Gate::Told => {}
        }
        let mut changes = match converge(entry.state.as_ref(), self.host)? {
            // Its own application has read what it watches.
            Applied::Changed(changes) => return Ok((Outcome::Changed, changes)),
            Applied::Unchanged => Vec::new(),
        };
        if word == Gate::Told {
            changes.extend(entry.state.on_watched_change(self.host)?);
        }
        let outcome = if changes.is_empty() {
            Outcome::Unchanged
        } else {
            Outcome::Changed
        };
        Ok((outcome, changes))
    }

    /// A state whose `prereq` could not be brought about must not change: the backup before it is missing.
    fn blocked_by_prereq(&self, number: usize, known: &BTreeMap<usize, Outcome>) -> Gate {
        let own: BTreeSet<&String> = self.graph.states[number]
            .requisites
            .iter()
            .flat_map(|requisite| &requisite.targets)
            .collect();
        let failed = self.waits_for[number].iter().any(|target| {
            !own.contains(&self.graph.states[*target].id)
                && matches!(known.get(target), Some(Outcome::Failed | Outcome::Blocked))
        });
        if failed { Gate::Blocked } else { Gate::Open }
    }

    fn target(
        &self,
        kind: Kind,
        id: &str,
        known: &BTreeMap<usize, Outcome>,
    ) -> Result<Outcome, DriverError> {
        let number = self.graph.states.iter().position(|entry| entry.id == id);
        let number = number.expect("waits_for() has found every target");
        if kind != Kind::Prereq {
            return Ok(known[&number]);
        }
        Ok(match self.graph.states[number].state.check(self.host) {
            Ok(Check::Drifted(_)) => Outcome::Changed,
            Ok(Check::InDesiredState) => Outcome::Unchanged,
            Err(error @ DriverError::Fenced { .. }) => return Err(error),
            Err(_) => Outcome::Failed,
        })
    }

    fn report(self) -> Report {
        let progress = self
            .progress
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let id = |number: usize| self.graph.states[number].id.clone();
        Report {
            outcomes: progress
                .outcomes
                .into_iter()
                .map(|(number, outcome)| (id(number), outcome))
                .collect(),
            changes: progress.changes.into_values().flatten().collect(),
            errors: progress
                .errors
                .into_iter()
                .map(|(number, error)| (id(number), error))
                .collect(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "graph/graph_test.rs"]
mod tests;
