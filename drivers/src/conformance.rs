//! The kit that every driver must pass, and the small deployment loop that it runs drivers with.
//!
//! What it shows of a driver: observation and plan change nothing; a plan made twice is the same bytes; a step
//! applied twice changes nothing the second time, and taken back restores what was; after success the plan is empty;
//! after a crash at any host call a new pass ends the same; a lost fence stops a step without a further effect.
//! Not here: recording, locks, scheduling (dsm-agent). Steps run one after the other, in the plan's order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use crate::driver::{
    Desired, Driver, NodeFacts, NodeName, Observation, Plan, PlanInput, Refusal, Scope, Secret,
    Secrets, Step, StepContext, StepId, StepOutcome, Undo, Wish,
};
use crate::error::DriverError;
use crate::fence::{FenceGuard, Unfenced};
use crate::host::Host;
use crate::host::fake::{CrashPoint, FakeCluster, FakeHost, Machines};

/// Passes until a deployment must have come to rest: one to do it, one to see that it is done, and spare ones for a
/// crash.
const PASSES_MAX: usize = 5;

/// What the kit found.
#[derive(Debug, thiserror::Error)]
pub enum KitError {
    /// The driver makes no plan.
    #[error("no plan: {} (hint: {})", .0.reason, .0.hint)]
    Refused(Refusal),
    /// A call of the driver failed.
    #[error("{step}: {error}")]
    Failed {
        /// The step, or `observe NODE`.
        step: String,
        /// Why.
        #[source]
        error: DriverError,
    },
    /// The driver breaks the contract.
    #[error("the driver breaks the contract: {0}")]
    Broken(String),
}

/// A deployment of one driver on some hosts.
pub struct Deployment<'a> {
    /// The driver.
    pub driver: &'a dyn Driver,
    /// The machines.
    pub hosts: BTreeMap<NodeName, &'a dyn Host>,
    /// Their general facts.
    pub facts: BTreeMap<NodeName, NodeFacts>,
    /// Nodes whose agent is there.
    pub present: BTreeSet<NodeName>,
    /// Id of the deployment.
    pub name: String,
    /// Its stable id.
    pub uid: String,
    /// Its secrets.
    pub secrets: MemorySecrets,
}

/// Secrets kept in memory.
#[derive(Default)]
pub struct MemorySecrets(Mutex<BTreeMap<String, Secret>>);

impl MemorySecrets {
    /// The keys that exist.
    pub fn keys(&self) -> BTreeSet<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .keys()
            .cloned()
            .collect()
    }
}

impl Secrets for MemorySecrets {
    fn reveal(&self, key: &str) -> Result<Secret, DriverError> {
        let secrets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        secrets.get(key).cloned().ok_or_else(|| {
            DriverError::permanent(
                "no-secret",
                format!("there is no secret {key}"),
                "a step before this one makes it",
            )
        })
    }

    fn ensure_generated(&self, key: &str, len: usize) -> Result<(), DriverError> {
        let mut secrets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let value = || {
            Secret::new(
                key.chars()
                    .cycle()
                    .filter(char::is_ascii_alphanumeric)
                    .take(len)
                    .collect(),
            )
        };
        secrets.entry(key.to_owned()).or_insert_with(value);
        Ok(())
    }
}

impl<'a> Deployment<'a> {
    /// A deployment of `driver` on `hosts`, which reach each other at `addresses`; all agents are there.
    pub fn new(
        driver: &'a dyn Driver,
        name: &str,
        uid: &str,
        hosts: BTreeMap<NodeName, &'a dyn Host>,
        addresses: &BTreeMap<NodeName, String>,
    ) -> Self {
        let facts = |(node, address): (&NodeName, &String)| {
            let facts = NodeFacts {
                address: address.clone(),
                os: "debian 12".to_owned(),
                cpus: 2,
                memory_mib: 1024,
                labels: BTreeMap::new(),
            };
            (node.clone(), facts)
        };
        Self {
            driver,
            present: hosts.keys().cloned().collect(),
            facts: addresses.iter().map(facts).collect(),
            hosts,
            name: name.to_owned(),
            uid: uid.to_owned(),
            secrets: MemorySecrets::default(),
        }
    }

    /// Observes every node that is there, as an answer to `wish`.
    ///
    /// # Errors
    /// The first node that could not be observed.
    pub fn observe(&self, desired: &Desired) -> Result<BTreeMap<NodeName, Observation>, KitError> {
        let mut observed = BTreeMap::new();
        for node in &self.present {
            let scope = self.scope(node, desired);
            let observation = self.driver.observe(self.hosts[node], &scope);
            let observation = observation.map_err(|error| KitError::Failed {
                step: format!("observe {node}"),
                error,
            })?;
            observed.insert(node.clone(), observation);
        }
        Ok(observed)
    }

    /// All that a plan may depend on, freshly observed.
    ///
    /// # Errors
    /// As [`Deployment::observe`].
    pub fn input(&self, desired: &Desired) -> Result<PlanInput, KitError> {
        Ok(PlanInput {
            deployment: self.name.clone(),
            uid: self.uid.clone(),
            desired: desired.clone(),
            observed: self.observe(desired)?,
            present: self.present.clone(),
            facts: self.facts.clone(),
            secrets: self.secrets.keys(),
        })
    }

    /// Observes and plans, twice, and compares the bytes.
    ///
    /// # Errors
    /// A refusal, a failure, or plans that differ or are not in order.
    pub fn plan(&self, desired: &Desired) -> Result<Plan, KitError> {
        let input = self.input(desired)?;
        let plan = self.driver.plan(&input).map_err(KitError::Refused)?;
        let again = self.driver.plan(&input).map_err(KitError::Refused)?;
        if bytes(&plan) != bytes(&again) {
            return Err(KitError::Broken(
                "two plans of the same input differ".to_owned(),
            ));
        }
        check_order(&plan)?;
        Ok(plan)
    }

    /// Runs one step.
    ///
    /// # Errors
    /// As the step's.
    pub fn apply(
        &self,
        step: &Step,
        desired: &Desired,
        guard: &dyn FenceGuard,
    ) -> Result<StepOutcome, DriverError> {
        self.in_context(step, desired, guard, |host, context| {
            self.driver.apply(host, step, context)
        })
    }

    /// Takes a step back.
    ///
    /// # Errors
    /// As [`Driver::undo`].
    pub fn undo(
        &self,
        step: &Step,
        outcome: &StepOutcome,
        desired: &Desired,
    ) -> Result<StepOutcome, DriverError> {
        let undo = |host: &dyn Host, context: &StepContext<'_>| {
            self.driver.undo(host, step, &outcome.outputs, context)
        };
        self.in_context(step, desired, &Unfenced, undo)
    }

    fn in_context<T>(
        &self,
        step: &Step,
        desired: &Desired,
        guard: &dyn FenceGuard,
        call: impl FnOnce(&dyn Host, &StepContext<'_>) -> T,
    ) -> T {
        let inputs = BTreeMap::new();
        let scope = self.scope(&step.node, desired);
        let context = StepContext {
            scope: &scope,
            fence: 1,
            guard,
            inputs: &inputs,
            secrets: &self.secrets,
            progress: &|_| (),
        };
        call(self.hosts[&step.node], &context)
    }

    /// Plans and runs until the plan is empty; gives the steps that were run.
    ///
    /// # Errors
    /// A refusal, a failed step, or a deployment that does not come to rest.
    pub fn converge(&self, desired: &Desired) -> Result<Vec<Step>, KitError> {
        let mut done = Vec::new();
        for _ in 0..PASSES_MAX {
            let plan = self.plan(desired)?;
            if plan.steps.is_empty() {
                return Ok(done);
            }
            for step in plan.steps {
                self.apply(&step, desired, &Unfenced)
                    .map_err(|error| KitError::Failed {
                        step: step.id.clone(),
                        error,
                    })?;
                done.push(step);
            }
        }
        let left: Vec<StepId> = self
            .plan(desired)?
            .steps
            .into_iter()
            .map(|step| step.id)
            .collect();
        Err(KitError::Broken(format!(
            "after {PASSES_MAX} passes there is still to do: {}",
            left.join(", ")
        )))
    }

    fn scope(&self, node: &str, desired: &Desired) -> Scope {
        let wish = match desired {
            Desired::Running(wish) => Some(wish.clone()),
            Desired::Removed { .. } => None,
        };
        Scope {
            deployment: self.name.clone(),
            uid: self.uid.clone(),
            node: node.to_owned(),
            wish,
        }
    }
}

fn bytes(plan: &Plan) -> Vec<u8> {
    serde_json::to_vec(plan).expect("a plan is plain data")
}

fn check_order(plan: &Plan) -> Result<(), KitError> {
    let mut known = BTreeSet::new();
    for step in &plan.steps {
        if let Some(missing) = step.needs.iter().find(|id| !known.contains(*id)) {
            return Err(KitError::Broken(format!(
                "step {} needs {missing}, which does not come before it",
                step.id
            )));
        }
        if !known.insert(&step.id) {
            return Err(KitError::Broken(format!(
                "two steps are called {}",
                step.id
            )));
        }
    }
    Ok(())
}

/// The kit on fake machines: a driver, the machines it starts from, and the changes that it has to master one after the
/// other.
pub struct Kit<'a> {
    /// The driver.
    pub driver: &'a dyn Driver,
    /// The machines, in the state before the first change.
    pub cluster: FakeCluster,
    /// What is wished for, in turn.
    pub changes: Vec<Desired>,
}

/// What one run of the kit has covered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Steps that were run without a crash.
    pub steps: usize,
    /// Crashes that a new pass made good.
    pub crashes: usize,
    /// Losses of the fence that stopped a step.
    pub fences: usize,
}

impl Kit<'_> {
    /// Runs everything. At each host call that may change something one crash happens in its middle and one after it; a
    /// crash at a call that only reads is the same as one after the change before it.
    ///
    /// # Errors
    /// The first sentence of the contract that does not hold.
    pub fn run(&self) -> Result<Coverage, KitError> {
        let hosts: BTreeMap<NodeName, FakeHost> = self
            .cluster
            .machines()
            .keys()
            .map(|node| (node.clone(), self.cluster.host(node)))
            .collect();
        let addresses = self
            .cluster
            .machines()
            .iter()
            .map(|(node, machine)| (node.clone(), machine.address.clone()))
            .collect();
        let doors = hosts
            .iter()
            .map(|(node, host)| (node.clone(), host as &dyn Host))
            .collect();
        let deployment = Deployment::new(self.driver, "mid/kit", "kit-1", doors, &addresses);
        let mut coverage = Coverage::default();
        for desired in &self.changes {
            self.reading_changes_nothing(&deployment, desired)?;
            let before = self.cluster.machines().clone();
            deployment.converge(desired)?;
            let expected = self.facts(&deployment, desired)?;
            *self.cluster.machines() = before;
            self.change(&deployment, &hosts, desired, &expected, &mut coverage)?;
        }
        Ok(coverage)
    }

    fn change(
        &self,
        deployment: &Deployment<'_>,
        hosts: &BTreeMap<NodeName, FakeHost>,
        desired: &Desired,
        expected: &BTreeMap<NodeName, Value>,
        coverage: &mut Coverage,
    ) -> Result<(), KitError> {
        let plan = deployment.plan(desired)?;
        for step in &plan.steps {
            let host = &hosts[&step.node];
            let before = self.cluster.machines().clone();
            self.fence_stops(deployment, desired, step)?;
            coverage.fences += 1;
            *self.cluster.machines() = before.clone();

            self.undo_restores(deployment, desired, step)?;
            *self.cluster.machines() = before.clone();

            let calls = host.calls();
            self.step(deployment, desired, step)?;
            let effects = host.effects_since(calls);
            coverage.steps += 1;
            let after = self.cluster.machines().clone();
            for call in effects {
                for point in [CrashPoint::During, CrashPoint::After] {
                    *self.cluster.machines() = before.clone();
                    host.crash_at(call, point);
                    self.crash(deployment, desired, step, host)?;
                    coverage.crashes += 1;
                    let words = |what: String| {
                        let when = format!("after a crash {point:?} call {call} of {}", step.id);
                        KitError::Broken(format!("{when}: {what}"))
                    };
                    let pass = deployment.converge(desired);
                    pass.map_err(|error| words(error.to_string()))?;
                    if self.facts(deployment, desired)? != *expected {
                        return Err(words("it ended in another state".to_owned()));
                    }
                }
            }
            *self.cluster.machines() = after;
        }
        if let Some(step) = deployment.plan(desired)?.steps.first() {
            return Err(KitError::Broken(format!(
                "after success the plan still has {}",
                step.id
            )));
        }
        Ok(())
    }

    /// Runs a step into the crash that is planned for `host`, and ends the crash.
    fn crash(
        &self,
        deployment: &Deployment<'_>,
        desired: &Desired,
        step: &Step,
        host: &FakeHost,
    ) -> Result<(), KitError> {
        // A step may well end with success: the crash can hit a call whose failure it need not mind.
        deployment.apply(step, desired, &Unfenced).ok();
        if !host.has_crashed() {
            return Err(KitError::Broken(format!(
                "{} makes other calls when it runs again from the same state",
                step.id
            )));
        }
        host.recover();
        Ok(())
    }

    /// Applies a step twice: the second time nothing changes.
    fn step(
        &self,
        deployment: &Deployment<'_>,
        desired: &Desired,
        step: &Step,
    ) -> Result<(), KitError> {
        let failed = |error| KitError::Failed {
            step: step.id.clone(),
            error,
        };
        deployment.apply(step, desired, &Unfenced).map_err(failed)?;
        let after = self.world();
        let again = deployment.apply(step, desired, &Unfenced).map_err(failed)?;
        if let Some(change) = again.changes.first() {
            return Err(KitError::Broken(format!(
                "{} applied twice changes {} again",
                step.id, change.resource
            )));
        }
        if self.world() != after {
            return Err(KitError::Broken(format!(
                "{} applied twice changes something that it does not tell",
                step.id
            )));
        }
        Ok(())
    }

    /// What a step says it can take back, it takes back.
    fn undo_restores(
        &self,
        deployment: &Deployment<'_>,
        desired: &Desired,
        step: &Step,
    ) -> Result<(), KitError> {
        if step.undo != Undo::Op {
            return Ok(());
        }
        let failed = |error| KitError::Failed {
            step: format!("undo of {}", step.id),
            error,
        };
        let before = self.facts(deployment, desired)?;
        let outcome = deployment.apply(step, desired, &Unfenced).map_err(failed)?;
        deployment.undo(step, &outcome, desired).map_err(failed)?;
        if self.facts(deployment, desired)? != before {
            return Err(KitError::Broken(format!(
                "undo of {} does not restore what was observed before",
                step.id
            )));
        }
        Ok(())
    }

    fn reading_changes_nothing(
        &self,
        deployment: &Deployment<'_>,
        desired: &Desired,
    ) -> Result<(), KitError> {
        let before = self.world();
        deployment.plan(desired)?;
        if self.world() != before {
            return Err(KitError::Broken(
                "observe or plan changed something".to_owned(),
            ));
        }
        Ok(())
    }

    /// With a fence that is lost from the start, no step has an effect.
    fn fence_stops(
        &self,
        deployment: &Deployment<'_>,
        desired: &Desired,
        step: &Step,
    ) -> Result<(), KitError> {
        let before = self.world();
        let guard = LostFence(AtomicU64::new(0));
        let result = deployment.apply(step, desired, &guard);
        if self.world() != before {
            return Err(KitError::Broken(format!(
                "{} had an effect without its fence",
                step.id
            )));
        }
        match result {
            Err(DriverError::Fenced { .. }) | Ok(_) => Ok(()),
            Err(error) => Err(KitError::Failed {
                step: format!("{} without its fence", step.id),
                error,
            }),
        }
    }

    fn facts(
        &self,
        deployment: &Deployment<'_>,
        desired: &Desired,
    ) -> Result<BTreeMap<NodeName, Value>, KitError> {
        Ok(deployment
            .observe(desired)?
            .into_iter()
            .map(|(node, observation)| (node, observation.facts))
            .collect())
    }

    /// The machines without what a mere look changes.
    fn world(&self) -> Machines {
        let mut machines = self.cluster.machines().clone();
        machines
            .values_mut()
            .for_each(|machine| machine.forget_looks());
        machines
    }
}

/// A fence that is lost after some checks.
struct LostFence(AtomicU64);

impl FenceGuard for LostFence {
    fn check(&self) -> Result<(), DriverError> {
        let left = self.0.load(Ordering::SeqCst);
        if left == 0 {
            return Err(DriverError::Fenced {
                fence: 1,
                reason: "the kit took it".to_owned(),
            });
        }
        self.0.store(left - 1, Ordering::SeqCst);
        Ok(())
    }
}

/// The wish that the kit's deployments have.
pub fn wish(nodes: &[&str], params: Value) -> Desired {
    let nodes = nodes.iter().map(|node| (*node).to_owned()).collect();
    Desired::Running(Wish {
        deployment: "mid/kit".to_owned(),
        nodes,
        params,
    })
}
