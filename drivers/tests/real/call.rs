//! Calls of a driver that run inside a node: this program starts itself there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use drivers::catalog::postgres::PostgresDriver;
use drivers::driver::{
    Description, Driver, FieldError, Health, NodeName, Observation, Plan, PlanInput, Refusal,
    Scope, Secret, Secrets, Step, StepContext, StepOutcome, Verdict, Wish,
};
use drivers::error::DriverError;
use drivers::fence::Unfenced;
use drivers::host::Host;
use drivers::host::linux::LinuxHost;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::nodes::Nodes;

/// Environment variable that names the file of a call.
pub const CALL: &str = "CONTEXTOS_DRIVER_CALL";

#[derive(Serialize, Deserialize)]
struct Request {
    scope: Scope,
    /// The step to apply; else it observes.
    step: Option<Step>,
    secrets: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
enum Answer {
    Observed(Observation),
    Applied(StepOutcome),
    Failed {
        is_retryable: bool,
        code: String,
        message: String,
    },
}

/// Performs the call that the environment names, if it names one.
pub fn answer() {
    let Ok(path) = std::env::var(CALL) else {
        return;
    };
    let request: Request =
        serde_json::from_slice(&std::fs::read(&path).expect("the caller has written it"))
            .expect("the caller is this program");
    let secrets = Given(request.secrets);
    let result = match &request.step {
        None => PostgresDriver
            .observe(&LinuxHost, &request.scope)
            .map(Answer::Observed),
        Some(step) => {
            let context = StepContext {
                scope: &request.scope,
                fence: 1,
                guard: &Unfenced,
                inputs: &BTreeMap::new(),
                secrets: &secrets,
                progress: &|_| (),
            };
            PostgresDriver
                .apply(&LinuxHost, step, &context)
                .map(Answer::Applied)
        }
    };
    let answer = result.unwrap_or_else(|error| Answer::Failed {
        is_retryable: matches!(error, DriverError::Retryable { .. }),
        code: error.code().to_owned(),
        message: error.to_string(),
    });
    std::fs::write(
        format!("{path}.answer"),
        serde_json::to_vec(&answer).expect("it is plain data"),
    )
    .expect("/run of a node can be written");
}

/// Secrets that the caller has made before.
struct Given(BTreeMap<String, String>);

impl Secrets for Given {
    fn reveal(&self, key: &str) -> Result<Secret, DriverError> {
        let value = self
            .0
            .get(key)
            .ok_or_else(|| DriverError::permanent("no-secret", key, "name it in SECRETS"))?;
        Ok(Secret::new(value.clone()))
    }

    fn ensure_generated(&self, _: &str, _: usize) -> Result<(), DriverError> {
        Ok(())
    }
}

/// Keys that this test's deployments may ask for; each exists from the start.
const SECRETS: [&str; 3] = ["replication", "owner", "app"];

/// The driver, whose observations and steps run in their nodes.
pub struct InNode<'a> {
    pub driver: PostgresDriver,
    pub nodes: &'a Nodes,
}

impl InNode<'_> {
    fn call(
        &self,
        scope: &Scope,
        step: Option<&Step>,
        secrets: &dyn Secrets,
    ) -> Result<Answer, DriverError> {
        let mut given = BTreeMap::new();
        for key in SECRETS {
            // Observations see only what a step has made; the plan asks the deployment's own secrets.
            if step.is_some() {
                given.insert(key.to_owned(), format!("password-of-{key}-in-the-test"));
            }
        }
        if let Some(step) = step {
            let key = match step.op.as_str() {
                "replication-role" => Some("replication"),
                "role" => step.args["role"].as_str(),
                _ => None,
            };
            if let Some(key) = key {
                secrets.ensure_generated(key, 32)?;
                given.insert(key.to_owned(), secrets.reveal(key)?.expose().to_owned());
            }
            if let Ok(secret) = secrets.reveal("replication") {
                given.insert("replication".to_owned(), secret.expose().to_owned());
            }
        }
        let request = Request {
            scope: scope.clone(),
            step: step.cloned(),
            secrets: given,
        };
        let answer = self.nodes.call(
            &scope.node,
            Path::new(CALL),
            &serde_json::to_vec(&request).expect("it is plain data"),
        );
        match serde_json::from_slice(&answer).expect("the node runs this program") {
            Answer::Failed {
                is_retryable: true,
                code,
                message,
            } => Err(DriverError::retryable(
                "in-node",
                format!("{code}: {message}"),
            )),
            Answer::Failed { code, message, .. } => Err(DriverError::permanent(
                "in-node",
                format!("{code}: {message}"),
                "see the message",
            )),
            answer => Ok(answer),
        }
    }
}

impl Driver for InNode<'_> {
    fn describe(&self) -> Description {
        self.driver.describe()
    }

    fn check(&self, wish: &Wish) -> Result<(), Vec<FieldError>> {
        self.driver.check(wish)
    }

    fn observe(&self, _: &dyn Host, scope: &Scope) -> Result<Observation, DriverError> {
        let none = drivers::conformance::MemorySecrets::default();
        match self.call(scope, None, &none)? {
            Answer::Observed(observation) => Ok(observation),
            _ => panic!("a node answers what it was asked"),
        }
    }

    fn plan(&self, input: &PlanInput) -> Result<Plan, Refusal> {
        self.driver.plan(input)
    }

    fn apply(
        &self,
        _: &dyn Host,
        step: &Step,
        context: &StepContext<'_>,
    ) -> Result<StepOutcome, DriverError> {
        let started = std::time::Instant::now();
        let answer = self.call(context.scope, Some(step), context.secrets)?;
        println!("{:>24}  {:.1} s", step.id, started.elapsed().as_secs_f32());
        match answer {
            Answer::Applied(outcome) => Ok(outcome),
            _ => panic!("a node answers what it was asked"),
        }
    }

    fn undo(
        &self,
        _: &dyn Host,
        _: &Step,
        _: &Value,
        _: &StepContext<'_>,
    ) -> Result<StepOutcome, DriverError> {
        panic!("this test undoes nothing")
    }

    fn health(&self, input: &PlanInput) -> Health {
        self.driver.health(input)
    }

    fn ok_to_stop(&self, input: &PlanInput, members: &BTreeSet<NodeName>) -> Verdict {
        self.driver.ok_to_stop(input, members)
    }

    fn ok_to_promote(&self, input: &PlanInput, member: &NodeName) -> Verdict {
        self.driver.ok_to_promote(input, member)
    }
}
