//! Driver `postgres`: a PostgreSQL 15 primary with streaming standbys.
//!
//! One file a concern: `params` (what a wish may say), `parameters` (the server's own), `layout` and `conf` (names and
//! files), `facts` and `observe` (what is there), `plan`, `steps`, `health`.
//! Invariants: one initdb in a deployment's life; a second primary is never made; a password is in no argument,
//! record or log; foreign data is refused.
//! Not in this version: switchover, failover, major upgrades, a change of port or data directory.

pub mod args;
mod conf;
pub mod facts;
mod health;
pub mod layout;
mod observe;
pub mod ops;
pub mod parameters;
pub mod params;
mod plan;
mod scram;
pub mod simulation;
mod slots;
mod sql;
mod steps;

use std::collections::BTreeSet;

use serde_json::Value;

use crate::driver::{
    Claim, Description, Driver, FieldError, Health, NodeName, Observation, Plan, PlanInput,
    Refusal, Scope, Step, StepContext, StepOutcome, Undo, Verdict, Wish,
};
use crate::error::DriverError;
use crate::host::Host;

/// The driver; it has no state.
#[derive(Debug, Clone, Copy, Default)]
pub struct PostgresDriver;

impl Driver for PostgresDriver {
    fn describe(&self) -> Description {
        Description {
            name: params::NAME.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            summary: "PostgreSQL 15: a primary and streaming standbys, databases and users"
                .to_owned(),
            params_schema: params::schema().clone(),
            ops: ops::ALL.map(ops::Op::describe).into(),
        }
    }

    fn check(&self, wish: &Wish) -> Result<(), Vec<FieldError>> {
        params::check(wish).map(drop)
    }

    fn claims(&self, wish: &Wish, uid: &str) -> Vec<Claim> {
        let Ok(checked) = params::check(wish) else {
            return Vec::new();
        };
        let place = checked.place(uid);
        let claim = |kind: &str, value: String, field: &str| Claim {
            kind: kind.to_owned(),
            value,
            field: field.to_owned(),
        };
        vec![
            claim("port", place.port.to_string(), "params.port"),
            claim(
                "path",
                place.data_directory.display().to_string(),
                "params.data_directory",
            ),
        ]
    }

    fn observe(&self, host: &dyn Host, scope: &Scope) -> Result<Observation, DriverError> {
        observe::observe(host, scope)
    }

    fn plan(&self, input: &PlanInput) -> Result<Plan, Refusal> {
        plan::plan(input)
    }

    fn apply(
        &self,
        host: &dyn Host,
        step: &Step,
        context: &StepContext<'_>,
    ) -> Result<StepOutcome, DriverError> {
        steps::apply(host, step, context)
    }

    fn undo(
        &self,
        _: &dyn Host,
        step: &Step,
        _: &Value,
        _: &StepContext<'_>,
    ) -> Result<StepOutcome, DriverError> {
        let why = match ops::Op::named(&step.op).map(ops::Op::undo) {
            Some(Undo::Impossible(why)) => why,
            Some(Undo::Op) | None => "the op is unknown".to_owned(),
        };
        Err(DriverError::permanent(
            "no-undo",
            format!("{} is not taken back: {why}", step.id),
            "write another wish",
        ))
    }

    fn health(&self, input: &PlanInput) -> Health {
        health::health(input)
    }

    fn ok_to_stop(&self, input: &PlanInput, members: &BTreeSet<NodeName>) -> Verdict {
        health::ok_to_stop(input, members)
    }

    fn ok_to_promote(&self, input: &PlanInput, member: &NodeName) -> Verdict {
        health::ok_to_promote(input, member)
    }
}
