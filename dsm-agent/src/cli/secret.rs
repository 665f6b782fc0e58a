//! `secret set|show|list`: secrets of a deployment, sealed to its nodes.

use std::io::Read;
use std::sync::Arc;

use clap::Subcommand;
use zeroize::Zeroizing;

use super::{Complaint, Exit, Place, deployment, print_json};
use crate::engine::id::DeploymentId;
use crate::engine::record::SealedSecret;
use crate::engine::view::WishFile;
use crate::host::secrets::DeploymentSecrets;
use crate::limits::SECRET_BYTES_MAX;
use crate::mount::paths;
use crate::status::columns;

/// What to do with secrets.
#[derive(Debug, Subcommand)]
pub(crate) enum SecretCommand {
    /// Seal the value on stdin to the deployment's nodes.
    Set {
        /// mid/NAME or ctx/NAME.
        name: String,
        /// Name of the secret.
        key: String,
    },
    /// Print a secret; works on a node of the deployment, as root.
    Show {
        /// mid/NAME or ctx/NAME.
        name: String,
        /// Name of the secret.
        key: String,
    },
    /// List the secrets and who can open them.
    List {
        /// mid/NAME or ctx/NAME.
        name: String,
    },
}

/// Runs a secret command.
pub(crate) fn secret(place: &Place, command: &SecretCommand) -> Result<Exit, Complaint> {
    match command {
        SecretCommand::Set { name, key } => set(place, &deployment(name)?, key),
        SecretCommand::Show { name, key } => {
            let id = deployment(name)?;
            let hint = format!("run it as root on a node of {id}; see: dsm-agent secret list {id}");
            let value = secrets(place, &id, Vec::new())
                .open(key)
                .map_err(|error| Complaint {
                    hint,
                    ..Complaint::from(error)
                })?;
            if place.json {
                print_json(&serde_json::json!({ "key": key, "value": value.expose() }))?;
            } else {
                anstream::println!("{}", value.expose());
            }
            Ok(Exit::Done)
        }
        SecretCommand::List { name } => list(place, &deployment(name)?),
    }
}

fn secrets(place: &Place, id: &DeploymentId, nodes: Vec<String>) -> DeploymentSecrets {
    DeploymentSecrets::new(
        Arc::clone(&place.store),
        place.identity.clone(),
        id.clone(),
        nodes,
    )
}

fn set(place: &Place, id: &DeploymentId, key: &str) -> Result<Exit, Complaint> {
    let nodes = match (place.store.wish_record(id)?, place.store.wish_file(id)?) {
        (_, WishFile::Present(document)) => document
            .desired
            .map(|desired| desired.spec.nodes)
            .map_err(|faults| {
                let fault = faults
                    .first()
                    .map(|fault| format!("{} {}", fault.field, fault.reason));
                Complaint::new(fault.unwrap_or_default(), "correct the wish first")
            })?,
        (Some(record), _) => record.spec.nodes,
        (None, _) => {
            return Err(Complaint::new(
                format!("there is no deployment {id}, so its nodes are not known"),
                "write the wish first",
            ));
        }
    };
    let mut value = Zeroizing::new(String::new());
    let limit = u64::try_from(SECRET_BYTES_MAX).unwrap_or(u64::MAX) + 1;
    std::io::stdin().take(limit).read_to_string(&mut value)?;
    let value = value.strip_suffix('\n').unwrap_or(&value);
    if value.is_empty() {
        return Err(Complaint::usage(
            "no value on stdin",
            "echo VALUE | dsm-agent secret set NAME KEY",
        ));
    }
    secrets(place, id, nodes.clone()).seal(key, value, true)?;
    if place.json {
        print_json(&serde_json::json!({ "key": key, "nodes": nodes }))?;
    } else {
        anstream::println!("{key} of {id} is sealed to {}", nodes.join(", "));
    }
    Ok(Exit::Done)
}

fn list(place: &Place, id: &DeploymentId) -> Result<Exit, Complaint> {
    let mut rows = vec![["SECRET", "SEALED TO"].map(str::to_owned)];
    let mut document = serde_json::Map::new();
    for entry in place.store.tree().list(&paths::secrets(id))? {
        let sealed: Option<SealedSecret> = place.store.json(&paths::secret(id, &entry.name))?;
        let nodes: Vec<String> = sealed
            .map(|sealed| sealed.recipients.into_keys().collect())
            .unwrap_or_default();
        rows.push([entry.name.clone(), nodes.join(", ")]);
        document.insert(entry.name, serde_json::json!(nodes));
    }
    if place.json {
        print_json(&document)?;
    } else {
        anstream::print!("{}", columns(&rows));
    }
    Ok(Exit::Done)
}
