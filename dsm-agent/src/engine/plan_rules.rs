//! Rules that the core enforces on every driver's plan, and the step that it adds itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use drivers::driver::{ChangeLine, Disruption, NodeName, OpClass, Plan, Step, StepId, Undo};
use serde_json::json;

use super::record::Trouble;
use crate::limits::PLAN_STEPS_MAX;

/// Operation of the agent's own step that seals all secrets to the nodes in its arguments.
pub const RESEAL_OP: &str = "agent.reseal";

/// Longest time that resealing may take: a few small files in the tree.
const RESEAL_TIMEOUT: Duration = Duration::from_secs(30);

/// Checks that ids are unique, that a step comes after what it needs, and that every node can run its steps.
///
/// # Errors
/// The first rule broken: a fault of the driver.
pub fn check(plan: &Plan, present: &BTreeSet<NodeName>) -> Result<(), Trouble> {
    let fault = |what: String| {
        Err(Trouble::blocks(
            format!("the driver's plan is unusable: {what}"),
            "report it; nothing was changed",
        ))
    };
    if plan.steps.len() > PLAN_STEPS_MAX {
        return fault(format!(
            "{} steps, more than {PLAN_STEPS_MAX}",
            plan.steps.len()
        ));
    }
    let mut before: BTreeSet<&StepId> = BTreeSet::new();
    for step in &plan.steps {
        if let Some(need) = step.needs.iter().find(|need| !before.contains(need)) {
            return fault(format!(
                "step {} needs {need}, which does not come before it",
                step.id
            ));
        }
        if !before.insert(&step.id) {
            return fault(format!("two steps are called {}", step.id));
        }
        if !present.contains(&step.node) {
            return fault(format!(
                "step {} is for {}, which is not there",
                step.id, step.node
            ));
        }
        let lock_is_known = match step.lock.as_deref() {
            None | Some("slot") => true,
            Some(lock) => lock.strip_prefix("role/").is_some_and(|role| {
                !role.is_empty() && role.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            }),
        };
        if !lock_is_known {
            return fault(format!("step {} wants the lock {:?}", step.id, step.lock));
        }
    }
    Ok(())
}

/// Puts a reseal in front when a node of the wish cannot open the secrets yet.
///
/// # Errors
/// No member that can open them all is there.
pub fn add_reseal(
    plan: &mut Plan,
    nodes: &[NodeName],
    present: &BTreeSet<NodeName>,
    secrets: &BTreeMap<String, BTreeSet<NodeName>>,
) -> Result<(), Trouble> {
    let lacks = |node: &&NodeName| secrets.values().any(|sealed_to| !sealed_to.contains(*node));
    let new: Vec<NodeName> = nodes.iter().filter(lacks).cloned().collect();
    if new.is_empty() {
        return Ok(());
    }
    let opens_all = |node: &&NodeName| secrets.values().all(|sealed_to| sealed_to.contains(*node));
    let Some(old) = present.iter().find(opens_all) else {
        let who: BTreeSet<_> = secrets.values().flatten().map(String::as_str).collect();
        let who = who.into_iter().collect::<Vec<_>>().join(", ");
        return Err(Trouble::waits(
            format!(
                "no node that can open the secrets is there to seal them to {}",
                new.join(", ")
            ),
            &format!("start one of {who}"),
        ));
    };
    let id = format!("{old}/reseal-secrets");
    for step in plan
        .steps
        .iter_mut()
        .filter(|step| new.contains(&step.node))
    {
        step.needs.insert(0, id.clone());
    }
    let step = Step {
        id,
        node: old.clone(),
        op: RESEAL_OP.to_owned(),
        title: format!("seal secrets to {}", new.join(", ")),
        reason: "a new member needs them before its first step".to_owned(),
        args: json!({ "nodes": nodes }),
        needs: Vec::new(),
        lock: None,
        class: OpClass::Idempotent,
        disruption: Disruption::None,
        undo: Undo::Impossible("a secret that was shared stays shared".to_owned()),
        timeout: RESEAL_TIMEOUT,
    };
    plan.steps.insert(0, step);
    plan.changes.push(ChangeLine {
        sign: '~',
        subject: "secrets".to_owned(),
        detail: format!("sealed to {}", new.join(", ")),
        disruption: Disruption::None,
        reason: "a new member needs them".to_owned(),
    });
    Ok(())
}
