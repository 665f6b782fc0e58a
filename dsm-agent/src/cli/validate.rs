//! `validate`, `drivers` and `schema`: what can be said of a wish before it is written.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;
use drivers::driver::FieldError;
use serde_json::Value;

use super::{Complaint, Exit, Place, not_in_this_version, print_json};
use crate::engine::desired::Desired;
use crate::engine::document::{self, Format};
use crate::engine::id::DeploymentId;
use crate::mount::paths;
use crate::mount::run_store::text;
use crate::status::columns;

/// Options of `validate`.
#[derive(Debug, Args)]
pub(crate) struct ValidateArgs {
    /// A file that ends in .json, .cbor or .msgpack.
    file: PathBuf,
}

/// Options of `drivers`.
#[derive(Debug, Args)]
pub(crate) struct DriversArgs {
    #[command(subcommand)]
    command: Option<DriversCommand>,
}

#[derive(Debug, clap::Subcommand)]
enum DriversCommand {
    /// Not in this version.
    #[command(hide = true)]
    Test {
        /// The driver's executable.
        path: PathBuf,
    },
}

/// Reads a wish file from anywhere.
pub(crate) fn read_wish(
    file: &std::path::Path,
) -> Result<Result<Desired, Vec<FieldError>>, Complaint> {
    let name = file.to_string_lossy();
    let Some((_, format)) = Format::split(&name) else {
        return Err(Complaint::usage(
            format!("{name} does not end in .json, .cbor or .msgpack"),
            "rename it, so that its ending says its format",
        ));
    };
    let bytes = std::fs::read(file)
        .map_err(|error| Complaint::new(format!("cannot read {name}: {error}"), ""))?;
    Ok(document::decode(format, &bytes)
        .map_err(|fault| vec![fault])
        .and_then(|document| Desired::from_document(&document)))
}

/// Names of the members, or none if the tree does not say.
pub(crate) fn members(place: &Place) -> Option<BTreeSet<String>> {
    let members = place.store.json_any(paths::MEMBERS).ok().flatten()?;
    let list = members.get("members").and_then(Value::as_array)?.clone();
    Some(list.iter().map(|member| text(member, "name")).collect())
}

/// The deployment that a file would be, by its place or name.
pub(crate) fn id_of(place: &Place, file: &std::path::Path) -> Result<DeploymentId, Complaint> {
    let full = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    let name = match full.strip_prefix(&place.root) {
        Ok(inside) => inside.to_string_lossy().into_owned(),
        Err(_) => {
            let name = full
                .file_name()
                .map(|name| name.to_string_lossy().into_owned());
            format!("mid/{}", name.unwrap_or_default())
        }
    };
    DeploymentId::parse(&name)
        .map_err(|reason| Complaint::usage(reason, "choose another file name"))
}

/// Checks a wish as the agents would.
pub(crate) fn validate(place: &Place, args: &ValidateArgs) -> Result<Exit, Complaint> {
    let registry = drivers::registry::builtin();
    let id = id_of(place, &args.file)?;
    let known = members(place);
    let checked = read_wish(&args.file)?.and_then(|desired| {
        // Without a tree nothing is known of the members; all else is checked.
        let named = desired.spec.nodes.iter().cloned().collect();
        desired
            .check(&id, known.as_ref().unwrap_or(&named), &registry)
            .map(|()| desired)
    });
    let faults = checked.as_ref().err().cloned().unwrap_or_default();
    if place.json {
        print_json(&serde_json::json!({
            "deployment": id, "valid": faults.is_empty(), "faults": faults,
            "digest": checked.as_ref().ok().map(|desired| desired.spec.digest()),
            "members_checked": known.is_some(),
        }))?;
    } else if faults.is_empty() {
        let note = if known.is_some() {
            ""
        } else {
            " (the members are not known here: nodes unchecked)"
        };
        anstream::println!("{} is a valid wish{note}.", args.file.display());
    } else {
        print_faults(&args.file.display().to_string(), &faults);
    }
    Ok(if faults.is_empty() {
        Exit::Done
    } else {
        Exit::Refused
    })
}

/// Prints faults as what, where, do.
pub(crate) fn print_faults(file: &str, faults: &[FieldError]) {
    for fault in faults {
        anstream::println!("  what    {} {}", fault.field, fault.reason);
        anstream::println!("  where   {file}, field {}", fault.field);
        anstream::println!("  do      {}", fault.hint);
    }
}

/// Lists the drivers.
pub(crate) fn drivers(place: &Place, args: &DriversArgs) -> Result<Exit, Complaint> {
    if args.command.is_some() {
        return Err(not_in_this_version("drivers test"));
    }
    let descriptions = drivers::registry::builtin().descriptions();
    if place.json {
        print_json(&descriptions)?;
        return Ok(Exit::Done);
    }
    let mut rows = vec![["DRIVER", "VERSION", "WHAT IT DOES"].map(str::to_owned)];
    for driver in descriptions {
        rows.push([driver.name, driver.version, driver.summary]);
    }
    anstream::print!("{}", columns(&rows));
    Ok(Exit::Done)
}

/// Prints a driver's schema.
pub(crate) fn schema(driver: &str) -> Result<Exit, Complaint> {
    let registry = drivers::registry::builtin();
    let found = registry
        .find(driver)
        .map_err(|fault| Complaint::new(fault.reason, fault.hint))?;
    print_json(&found.describe().params_schema)?;
    Ok(Exit::Done)
}
