//! The machines below the agents, and a driver whose plan has roles, slots and dependencies between nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use drivers::driver::{
    ChangeLine, Description, Desired, Disruption, Driver, FieldError, Health, MemberHealth,
    Observation, OpClass, OpDescription, Plan, PlanInput, Refusal, RetryPolicy, Scope, Step,
    StepContext, StepOutcome, Undo, Verdict, Wish,
};
use drivers::error::DriverError;
use drivers::host::Host;
use serde_json::{Value, json};

/// What is on one machine: operation -> the value it left.
pub type Machine = BTreeMap<String, String>;

/// Its plan: prepare everywhere, lead on the first node, join on the others, finish everywhere.
pub struct SimDriver;

const PREPARE: &str = "prepare";
const LEAD: &str = "lead";
const JOIN: &str = "join";
const FINISH: &str = "finish";
const CLEAN: &str = "clean";

/// The effect of a step.
pub fn apply(machine: &mut Machine, step: &Step) {
    if step.op == CLEAN {
        machine.clear();
        return;
    }
    let value = step.args["value"].as_str().unwrap();
    if step.op == LEAD || step.op == JOIN {
        machine.remove(if step.op == LEAD { JOIN } else { LEAD });
    }
    machine.insert(step.op.clone(), value.to_owned());
}

/// What a driver sees.
pub fn facts(machine: &Machine) -> Observation {
    Observation {
        facts: json!(machine),
        measures: Value::Null,
    }
}

/// What a machine looks like when all is as wished.
pub fn wanted(value: &str, is_first: bool) -> Machine {
    let middle = if is_first { LEAD } else { JOIN };
    [PREPARE, middle, FINISH]
        .into_iter()
        .map(|op| (op.to_owned(), value.to_owned()))
        .collect()
}

fn step(node: &str, op: &str, value: &str, needs: Vec<String>, lock: Option<&str>) -> Step {
    Step {
        id: format!("{node}/{op}"),
        node: node.to_owned(),
        op: op.to_owned(),
        title: format!("{op} {value}"),
        reason: "the wish".to_owned(),
        args: json!({ "value": value }),
        needs,
        lock: lock.map(str::to_owned),
        class: OpClass::Idempotent,
        disruption: if op == JOIN {
            Disruption::Restart
        } else {
            Disruption::None
        },
        undo: Undo::Impossible("a simulation".to_owned()),
        timeout: Duration::from_secs(10),
    }
}

struct Builder<'a> {
    input: &'a PlanInput,
    plan: Plan,
}

impl Builder<'_> {
    fn has(&self, node: &str, op: &str, value: &str) -> bool {
        let seen = self.input.observed.get(node);
        seen.and_then(|seen| seen.facts.get(op))
            .and_then(Value::as_str)
            == Some(value)
    }

    fn want(&mut self, node: &str, op: &str, value: &str, needs: &[String], lock: Option<&str>) {
        if self.has(node, op, value) || !self.input.present.contains(node) {
            return;
        }
        let planned: BTreeSet<&String> = self.plan.steps.iter().map(|step| &step.id).collect();
        let needs = needs
            .iter()
            .filter(|need| planned.contains(need))
            .cloned()
            .collect();
        self.plan.changes.push(ChangeLine {
            sign: '+',
            subject: node.to_owned(),
            detail: op.to_owned(),
            disruption: Disruption::None,
            reason: value.to_owned(),
        });
        self.plan.steps.push(step(node, op, value, needs, lock));
    }
}

impl Driver for SimDriver {
    fn describe(&self) -> Description {
        let op = |op: &str| OpDescription {
            op: op.to_owned(),
            summary: op.to_owned(),
            class: OpClass::Idempotent,
            disruption: Disruption::None,
            undo: Undo::Impossible("a simulation".to_owned()),
            timeout: Duration::from_secs(10),
            retry: RetryPolicy {
                attempts_max: 50,
                ..RetryPolicy::default()
            },
        };
        Description {
            name: "sim".to_owned(),
            version: "1".to_owned(),
            summary: "a simulation".to_owned(),
            params_schema: json!({ "type": "object" }),
            ops: [PREPARE, LEAD, JOIN, FINISH, CLEAN].map(op).into(),
        }
    }

    fn check(&self, _: &Wish) -> Result<(), Vec<FieldError>> {
        Ok(())
    }

    fn observe(&self, _: &dyn Host, _: &Scope) -> Result<Observation, DriverError> {
        unreachable!("the world observes")
    }

    fn plan(&self, input: &PlanInput) -> Result<Plan, Refusal> {
        let (wish, removed) = match &input.desired {
            Desired::Running(wish) => (wish, false),
            Desired::Removed { wish, .. } => (wish, true),
        };
        let members: Vec<String> = if removed {
            Vec::new()
        } else {
            wish.nodes.clone()
        };
        let value = wish.params["value"].as_str().unwrap().to_owned();
        let mut builder = Builder {
            input,
            plan: Plan::default(),
        };
        let all = |op: &str| {
            members
                .iter()
                .map(|node| format!("{node}/{op}"))
                .collect::<Vec<_>>()
        };
        for node in &members {
            builder.want(node, PREPARE, &value, &[], None);
        }
        if let Some((first, rest)) = members.split_first() {
            builder.want(first, LEAD, &value, &all(PREPARE), Some("role/primary"));
            for node in rest {
                builder.want(
                    node,
                    JOIN,
                    &value,
                    &[format!("{first}/{LEAD}")],
                    Some("slot"),
                );
            }
        }
        let middle = [all(LEAD), all(JOIN)].concat();
        for node in &members {
            builder.want(node, FINISH, &value, &middle, None);
        }
        for (node, seen) in &input.observed {
            let is_clean = seen.facts.as_object().is_none_or(serde_json::Map::is_empty);
            if !members.contains(node) && !is_clean && input.present.contains(node) {
                builder
                    .plan
                    .steps
                    .push(step(node, CLEAN, &value, Vec::new(), None));
            }
        }
        Ok(builder.plan)
    }

    fn apply(
        &self,
        _: &dyn Host,
        _: &Step,
        _: &StepContext<'_>,
    ) -> Result<StepOutcome, DriverError> {
        unreachable!("the world applies")
    }

    fn undo(
        &self,
        _: &dyn Host,
        _: &Step,
        _: &Value,
        _: &StepContext<'_>,
    ) -> Result<StepOutcome, DriverError> {
        unreachable!("nothing is taken back")
    }

    fn health(&self, input: &PlanInput) -> Health {
        let (Desired::Running(wish) | Desired::Removed { wish, .. }) = &input.desired;
        let member = |node: &String| MemberHealth {
            node: node.clone(),
            role: "-".to_owned(),
            state: "-".to_owned(),
            note: String::new(),
        };
        Health {
            members: wish.nodes.iter().map(member).collect(),
            ..Health::default()
        }
    }

    fn ok_to_stop(&self, _: &PlanInput, _: &BTreeSet<String>) -> Verdict {
        Verdict::Yes
    }

    fn ok_to_promote(&self, _: &PlanInput, _: &String) -> Verdict {
        Verdict::Yes
    }
}
