//! `plan FILE`: what a wish would change. Changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use clap::Args;
use drivers::driver::{Desired as DriverDesired, Driver, Observation, PlanInput, Scope};
use drivers::host::fake::FakeHost;
use drivers::host::linux::LinuxHost;
use drivers::host::read_only::ReadOnlyHost;
use serde_json::Value;

use super::validate::{id_of, members, print_faults, read_wish};
use super::{Complaint, Exit, Place, print_json};
use crate::engine::desired::Desired;
use crate::engine::digest::canonical_digest;
use crate::engine::id::DeploymentId;
use crate::engine::plan_text::{change_lines, short};
use crate::engine::record::Observed;
use crate::mount::paths;
use crate::mount::run_store::text;

/// Options of `plan`.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// A wish file, anywhere.
    file: PathBuf,
    /// The deployment that it is for, if its name does not say: mid/NAME or ctx/NAME.
    #[arg(long = "as", value_name = "NAME")]
    name: Option<String>,
}

/// Shows the plan that the agents would make now.
pub(crate) fn plan(place: &Place, args: &PlanArgs) -> Result<Exit, Complaint> {
    let id = match &args.name {
        Some(name) => DeploymentId::parse(name).map_err(|why| Complaint::usage(why, ""))?,
        None => id_of(place, &args.file)?,
    };
    let registry = drivers::registry::builtin();
    let known = members(place).ok_or_else(|| {
        Complaint::new(
            format!("{}/{} cannot be read", place.root.display(), paths::MEMBERS),
            "is the tree mounted? see: vfsd status",
        )
    })?;
    let checked = read_wish(&args.file)?
        .and_then(|desired| desired.check(&id, &known, &registry).map(|()| desired));
    let desired = match checked {
        Ok(desired) => desired,
        Err(faults) => {
            print_faults(&args.file.display().to_string(), &faults);
            return Ok(Exit::Refused);
        }
    };
    let driver = registry
        .find(&desired.spec.driver)
        .map_err(|fault| Complaint::new(fault.reason, fault.hint))?;
    let (input, guessed) = plan_input(place, &id, &desired, driver)?;
    let plan = driver.plan(&input).map_err(|refusal| {
        let field = refusal
            .field
            .map(|field| format!("{field}: "))
            .unwrap_or_default();
        Complaint::new(format!("{field}{}", refusal.reason), refusal.hint)
    })?;
    let digest = canonical_digest(&(
        &desired.spec,
        &input.observed.keys().collect::<Vec<_>>(),
        &plan,
    ));
    let last = place
        .store
        .generations(&id)?
        .last()
        .map_or(0, |last| last.0);
    if place.json {
        print_json(&serde_json::json!({
            "deployment": id, "generation": last + 1, "digest": digest, "plan": plan, "assumed_empty": guessed,
        }))?;
        return Ok(Exit::Done);
    }
    let changes = match plan.changes.len() {
        1 => "1 change".to_owned(),
        count => format!("{count} changes"),
    };
    anstream::println!(
        "{id}   generation {last} -> {}    {changes}; steps: {}",
        last + 1,
        plan.steps.len()
    );
    anstream::print!("{}", change_lines(&plan.changes));
    for step in &plan.steps {
        anstream::println!("  {}  {}", step.node, step.title);
    }
    if !guessed.is_empty() {
        anstream::println!("Not looked at yet, taken as empty: {}.", guessed.join(", "));
    }
    anstream::println!(
        "Nothing has been changed. Write the file to {}/{id}.json to do it.   plan {}",
        place.root.display(),
        short(&digest)
    );
    Ok(Exit::Done)
}

fn plan_input(
    place: &Place,
    id: &DeploymentId,
    desired: &Desired,
    driver: &dyn Driver,
) -> Result<(PlanInput, Vec<String>), Complaint> {
    let record = place.store.wish_record(id)?;
    let uid = record
        .as_ref()
        .map_or_else(|| "new".to_owned(), |record| record.uid.clone());
    let mut participants: BTreeSet<String> = desired.spec.nodes.iter().cloned().collect();
    if let Some(record) = &record {
        participants.extend(record.spec.nodes.iter().cloned());
    }
    let status = place.store.json_any(paths::STATUS)?.unwrap_or(Value::Null);
    let here = text(&status, "node");
    let cluster = place.store.cluster(&here, None)?;
    let seen: BTreeMap<String, Observed> = place.store.observations(id)?;
    let mut observed = BTreeMap::new();
    let mut guessed = Vec::new();
    for node in &participants {
        let scope = Scope {
            deployment: id.to_string(),
            uid: uid.clone(),
            node: node.clone(),
            wish: Some(desired.spec.wish(id)),
        };
        let observation = if *node == here {
            driver.observe(&ReadOnlyHost::new(&LinuxHost), &scope)
        } else if let Some(seen) = seen.get(node) {
            Ok(Observation {
                facts: seen.facts.clone(),
                measures: Value::Null,
            })
        } else {
            guessed.push(node.clone());
            driver.observe(&FakeHost::alone(node), &scope)
        };
        let observation = observation
            .map_err(|error| Complaint::new(format!("{node} cannot be observed: {error}"), ""))?;
        observed.insert(node.clone(), observation);
    }
    let secrets = place.store.tree().list(&paths::secrets(id))?;
    let input = PlanInput {
        deployment: id.to_string(),
        uid,
        desired: DriverDesired::Running(desired.spec.wish(id)),
        observed,
        present: participants,
        facts: cluster.facts,
        secrets: secrets.into_iter().map(|entry| entry.name).collect(),
    };
    Ok((input, guessed))
}
