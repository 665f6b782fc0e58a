//! Runs drivers: observations and steps, each on a thread of its own, and tells the engine how they ended.
//!
//! Invariants: a step's guard is read each second; losing it cancels the step; what a driver does not survive (a panic)
//! is a permanent failure of the step, not of the agent. An observation sees the machine through a read-only host.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use drivers::driver::{Observation, Scope, StateChange, StepContext, StepOutcome};
use drivers::error::DriverError;
use drivers::host::Host;
use drivers::host::read_only::ReadOnlyHost;
use drivers::registry::Registry;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::UnboundedSender;

use super::secrets::DeploymentSecrets;
use super::step_guard::StepGuard;
use crate::engine::action::StartStep;
use crate::engine::event::{Event, StepEnd};
use crate::engine::id::{DeploymentId, Generation};
use crate::engine::plan_rules::RESEAL_OP;
use crate::engine::record::{Answers, Trouble};
use crate::failpoint::{Boundary, Failpoint};
use crate::limits::{PROGRESS_INTERVAL, STEPS_AT_ONCE_MAX};
use crate::mount::paths;
use crate::mount::run_store::{RunStore, error_text};

type StepKey = (DeploymentId, Generation, String);

/// See the head of this file.
pub struct Executor {
    registry: Arc<Registry>,
    host: Arc<dyn Host>,
    store: Arc<RunStore>,
    node: String,
    identity: PathBuf,
    failpoint: Arc<Failpoint>,
    events: UnboundedSender<Event>,
    running: Mutex<BTreeMap<StepKey, Arc<StepGuard>>>,
    permits: Arc<Semaphore>,
}

/// What an executor is made of.
pub struct ExecutorParts {
    /// The drivers.
    pub registry: Arc<Registry>,
    /// The machine.
    pub host: Arc<dyn Host>,
    /// The record.
    pub store: Arc<RunStore>,
    /// This node.
    pub node: String,
    /// File with the node's age identity.
    pub identity: PathBuf,
    /// Testing aid.
    pub failpoint: Arc<Failpoint>,
    /// Where ends and progress go.
    pub events: UnboundedSender<Event>,
}

impl Executor {
    /// Nothing runs yet.
    pub fn new(parts: ExecutorParts) -> Self {
        Self {
            registry: parts.registry,
            host: parts.host,
            store: parts.store,
            node: parts.node,
            identity: parts.identity,
            failpoint: parts.failpoint,
            events: parts.events,
            running: Mutex::new(BTreeMap::new()),
            permits: Arc::new(Semaphore::new(STEPS_AT_ONCE_MAX)),
        }
    }

    /// Lets the driver look at this node; the answer comes as an event.
    pub fn observe(self: &Arc<Self>, driver: String, scope: Scope, answers: Answers) {
        let executor = Arc::clone(self);
        let Ok(deployment) = DeploymentId::parse(&scope.deployment) else {
            return;
        };
        tokio::spawn(async move {
            let worker = Arc::clone(&executor);
            let looked = tokio::task::spawn_blocking(move || worker.look(&driver, &scope)).await;
            let result = looked.unwrap_or_else(|error| {
                let reason = format!("the driver failed while observing: {error}");
                Err(Trouble::waits(reason, "report it with the agent's journal"))
            });
            executor.tell(Event::Observed {
                deployment,
                answers,
                result,
            });
        });
    }

    fn look(&self, driver: &str, scope: &Scope) -> Result<Observation, Trouble> {
        let found = self.registry.find(driver).map_err(Trouble::from)?;
        found
            .observe(&ReadOnlyHost::new(self.host.as_ref()), scope)
            .map_err(|error| match error {
                DriverError::Permanent { message, hint, .. } => {
                    Trouble::blocks(message, &hint).on(&self.node)
                }
                other => {
                    let reason = format!("node {} cannot be observed: {other}", self.node);
                    Trouble::waits(reason, "it is tried again by itself").on(&self.node)
                }
            })
    }

    /// Runs a step whose `started` is durable; its end comes as an event.
    pub fn start(self: &Arc<Self>, start: StartStep) {
        let lock = match &start.lock {
            Some(lock) => paths::lock(&start.deployment, lock),
            None => paths::presence(&self.node),
        };
        let guard = Arc::new(StepGuard::new(lock, start.fence, start.step.timeout));
        let key = (
            start.deployment.clone(),
            start.generation,
            start.step.id.clone(),
        );
        self.steps().insert(key.clone(), Arc::clone(&guard));
        let executor = Arc::clone(self);
        tokio::spawn(async move {
            // The semaphore lives as long as the executor and is never closed.
            let permit = Arc::clone(&executor.permits).acquire_owned().await;
            let began = Instant::now();
            let worker = Arc::clone(&executor);
            let (step, attempt) = (start.step.id.clone(), start.attempt);
            let ran = tokio::task::spawn_blocking(move || worker.run(&start, &guard)).await;
            drop(permit);
            let end = ran.unwrap_or_else(|error| StepEnd::Failed {
                code: "driver-panicked".to_owned(),
                message: format!("the driver failed: {error}"),
                hint: "report it with the agent's journal".to_owned(),
                retryable: false,
            });
            executor.steps().remove(&key);
            executor.tell(Event::StepEnded {
                deployment: key.0,
                generation: key.1,
                step,
                attempt,
                end,
                dur_us: u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX),
            });
        });
    }

    fn run(&self, start: &StartStep, guard: &StepGuard) -> StepEnd {
        let nodes = match &start.scope.wish {
            Some(wish) => wish.nodes.clone(),
            None => Vec::new(),
        };
        let result = if start.step.op == RESEAL_OP {
            self.reseal(start)
        } else {
            self.apply(start, guard, nodes)
        };
        if result.is_ok() {
            self.failpoint.reach(&start.step.id, Boundary::AfterEffect);
        }
        match result {
            Ok(outcome) => StepEnd::Succeeded(outcome),
            Err(DriverError::Fenced { reason, .. }) => StepEnd::Fenced { reason },
            Err(DriverError::Retryable { code, message }) => StepEnd::Failed {
                code: code.to_owned(),
                message,
                hint: String::new(),
                retryable: true,
            },
            Err(DriverError::Permanent {
                code,
                message,
                hint,
            }) => StepEnd::Failed {
                code: code.to_owned(),
                message,
                hint,
                retryable: false,
            },
        }
    }

    fn apply(
        &self,
        start: &StartStep,
        guard: &StepGuard,
        nodes: Vec<String>,
    ) -> Result<StepOutcome, DriverError> {
        let driver = self
            .registry
            .find(&start.driver)
            .map_err(|fault| DriverError::Permanent {
                code: "unknown-driver",
                message: format!("{} {}", fault.field, fault.reason),
                hint: fault.hint,
            })?;
        let secrets = self.secrets(&start.deployment, nodes);
        let said_at = Mutex::new(Instant::now());
        let progress = |note: &str| {
            let mut said_at = said_at.lock().unwrap_or_else(PoisonError::into_inner);
            if said_at.elapsed() < PROGRESS_INTERVAL {
                return;
            }
            *said_at = Instant::now();
            self.tell(Event::StepProgress {
                deployment: start.deployment.clone(),
                generation: start.generation,
                step: start.step.id.clone(),
                attempt: start.attempt,
                note: note.to_owned(),
            });
        };
        let context = StepContext {
            scope: &start.scope,
            fence: start.fence,
            guard,
            inputs: &start.inputs,
            secrets: &secrets,
            progress: &progress,
        };
        driver.apply(self.host.as_ref(), &start.step, &context)
    }

    /// The agent's own step: seals all secrets to the nodes in its arguments.
    fn reseal(&self, start: &StartStep) -> Result<StepOutcome, DriverError> {
        let nodes = start
            .step
            .args
            .get("nodes")
            .and_then(|nodes| nodes.as_array());
        let nodes: Vec<String> = nodes
            .into_iter()
            .flatten()
            .filter_map(|node| node.as_str().map(str::to_owned))
            .collect();
        let secrets = self.secrets(&start.deployment, nodes.clone());
        let keys = secrets.reseal().map_err(|error| DriverError::Retryable {
            code: "reseal-failed",
            message: error_text(&error),
        })?;
        let change = |key: String| StateChange {
            resource: format!("secret {key}"),
            old: None,
            new: Some(format!("sealed to {}", nodes.join(", "))),
            diff: None,
        };
        Ok(StepOutcome {
            changes: keys.into_iter().map(change).collect(),
            ..StepOutcome::default()
        })
    }

    fn secrets(&self, deployment: &DeploymentId, nodes: Vec<String>) -> DeploymentSecrets {
        DeploymentSecrets::new(
            Arc::clone(&self.store),
            self.identity.clone(),
            deployment.clone(),
            nodes,
        )
    }

    /// Ends a running step.
    pub fn cancel(&self, deployment: &DeploymentId, generation: Generation, step: &str) {
        let key = (deployment.clone(), generation, step.to_owned());
        if let Some(guard) = self.steps().get(&key) {
            guard.cancel("the step was cancelled");
        }
    }

    /// Ends all running steps.
    pub fn cancel_all(&self, reason: &str) {
        for guard in self.steps().values() {
            guard.cancel(reason);
        }
    }

    /// Whether nothing runs.
    pub fn is_idle(&self) -> bool {
        self.steps().is_empty()
    }

    /// Reads the fences of all running steps; blocks as long as the tree does.
    pub fn look_at_fences(&self) {
        let guards: Vec<_> = self.steps().values().cloned().collect();
        for guard in guards {
            guard.look(self.store.tree().as_ref());
        }
    }

    fn steps(&self) -> std::sync::MutexGuard<'_, BTreeMap<StepKey, Arc<StepGuard>>> {
        // A panic elsewhere leaves whole entries only.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, event: Event) {
        // The receiver ends with the agent; the record is what counts then.
        let _ = self.events.send(event);
    }
}
