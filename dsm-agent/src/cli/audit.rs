//! `audit`: verifies the record and prints spec -> decision -> step -> host -> change.

use serde_json::json;

use super::author::author_words;
use super::paper::lines;
use super::{Complaint, Exit, Place, print_json};
use crate::engine::id::DeploymentId;
use crate::engine::log::Ev;
use crate::engine::plan_text::{reason_words, short};
use crate::engine::record::PlannedStep;
use crate::engine::view::GenerationView;
use crate::mount::run_store::error_text;

/// Audits these deployments; refuses if anything does not verify.
pub(crate) fn audit(place: &Place, ids: &[DeploymentId]) -> Result<Exit, Complaint> {
    let mut documents = Vec::new();
    let mut faults = Vec::new();
    let node = place.node().unwrap_or_default();
    for id in ids {
        for number in place.store.generations(id)? {
            match place.store.generation(id, number) {
                Err(error) => {
                    faults.push(format!("{id} generation {number}: {}", error_text(&error)))
                }
                Ok(generation) => {
                    faults.extend(
                        verify(&generation).map(|why| format!("{id} generation {number}: {why}")),
                    );
                    if place.json {
                        documents.push(document(&generation));
                    } else {
                        print(&generation, &node);
                    }
                }
            }
        }
    }
    if place.json {
        print_json(
            &json!({ "verified": faults.is_empty(), "faults": faults, "generations": documents }),
        )?;
    } else {
        for fault in &faults {
            anstream::println!("NOT VERIFIED  {fault}");
        }
        if faults.is_empty() {
            anstream::println!("verified: every chain, every transition, every digest");
        }
    }
    Ok(if faults.is_empty() {
        Exit::Done
    } else {
        Exit::Refused
    })
}

/// What the chain (checked at reading) does not cover: digests of intent and plan, and that steps belong to the plan.
fn verify(generation: &GenerationView) -> impl Iterator<Item = String> {
    let mut faults = Vec::new();
    if generation.intent.spec.digest() != generation.intent.digest {
        faults.push("the spec does not have the digest that the intent names".to_owned());
    }
    for planned in &generation.plan.steps {
        if PlannedStep::of(planned.step.clone()).args_digest != planned.args_digest {
            faults.push(format!(
                "step {} does not have the digest that the plan names",
                planned.step.id
            ));
        }
    }
    for (node, log) in &generation.logs {
        for step in log.steps.keys() {
            let owner = generation.plan.step(step).map(|step| step.node.as_str());
            if owner != Some(node.as_str()) {
                faults.push(format!(
                    "the log of {node} has step {step}, which is not its own"
                ));
            }
        }
    }
    faults.into_iter()
}

fn document(generation: &GenerationView) -> serde_json::Value {
    let lines: Vec<_> = lines(generation)
        .into_iter()
        .map(|(node, line)| json!({ "node": node, "line": line }))
        .collect();
    json!({ "intent": generation.intent, "plan": generation.plan, "result": generation.result, "lines": lines })
}

fn print(generation: &GenerationView, node: &str) {
    let intent = &generation.intent;
    anstream::println!(
        "{}   generation {}   spec {} (revision {}, {})   {}",
        intent.deployment,
        intent.generation,
        short(&intent.digest),
        intent.revision,
        author_words(&intent.author, node),
        intent.at
    );
    anstream::println!(
        "  decision  {} decided on {} (fence {}): {}; plan {} from base {}",
        intent.driver.name,
        intent.planner.node,
        intent.planner.fence,
        reason_words(intent.reason),
        short(&generation.plan.digest),
        short(&generation.plan.base)
    );
    for (node, line) in lines(generation) {
        let Some(step) = &line.entry.step else {
            continue;
        };
        if !matches!(line.entry.ev, Ev::Succeeded | Ev::Failed) {
            continue;
        }
        let title = generation
            .plan
            .step(step)
            .map_or(step.as_str(), |step| step.title.as_str());
        let word = if line.entry.ev == Ev::Succeeded {
            "step    "
        } else {
            "failed  "
        };
        anstream::println!(
            "  {word}  {title}   on {node} (fence {})   {}",
            line.fence,
            line.at
        );
        for change in &line.entry.changes {
            let value =
                |value: &Option<String>| value.clone().unwrap_or_else(|| "absent".to_owned());
            anstream::println!(
                "    change  {}   {} -> {}",
                change.resource,
                value(&change.old),
                value(&change.new)
            );
        }
    }
    if let Some(result) = &generation.result {
        anstream::println!("  result    {:?}: {}", result.outcome, result.reason);
    }
}
