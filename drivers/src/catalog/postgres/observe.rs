//! Reads what is on a node. Nothing here changes anything; absent and foreign things are facts, not errors.

use std::path::Path;

use serde_json::{Value, json};

use super::conf;
use super::facts::{Data, Facts, Note, Package, Server};
use super::layout::{Layout, MARKER, Place, note_path};
use super::params::{check, is_version};
use super::sql;
use crate::driver::{Observation, Scope};
use crate::error::DriverError;
use crate::host::Host;
use crate::host::read_only::ReadOnlyHost;
use crate::sls::file::digest;
use crate::sls::{package, service, unit};

/// The package that holds the server.
pub fn package_name(major: u32) -> String {
    format!("postgresql-{major}")
}

/// Observes the deployment on this node.
///
/// # Errors
/// `Retryable` when the machine did not answer.
pub fn observe(host: &dyn Host, scope: &Scope) -> Result<Observation, DriverError> {
    let host = &ReadOnlyHost::new(host);
    let note = read_note(host, &scope.uid)?;
    let checked = scope.wish.as_ref().and_then(|wish| check(wish).ok());
    let wished = checked.as_ref().map(|checked| checked.place(&scope.uid));
    let Some(place) = place(note.as_ref(), wished.as_ref()) else {
        return Ok(Observation {
            facts: json!(Facts::default()),
            measures: Value::Null,
        });
    };
    let layout = Layout::new(&scope.uid, place);
    let mut facts = Facts {
        note,
        ..files(host, &layout)?
    };
    let version = checked
        .as_ref()
        .map(|checked| checked.params.version.as_str());
    facts.package = package(host, layout.place.major, version)?;
    let mut measures = Value::Null;
    let running_port = if facts.is_running {
        sql::running_port(host, &layout)?
    } else {
        None
    };
    if running_port.is_some() && facts.package.installed.is_some() {
        (facts.server, measures) = server(host, &layout)?;
    }
    if let Some(wished) = wished {
        facts.port_is_taken =
            running_port != Some(wished.port) && !host.port_is_free(wished.port)?;
    }
    Ok(Observation {
        facts: json!(facts),
        measures,
    })
}

/// Reads the note about deployment `uid`.
///
/// # Errors
/// `Permanent` if it cannot be understood.
pub fn read_note(host: &dyn Host, uid: &str) -> Result<Option<Note>, DriverError> {
    let path = note_path(uid);
    let Some(text) = host.read_file(&path)? else {
        return Ok(None);
    };
    serde_json::from_slice(&text).map(Some).map_err(|cause| {
        DriverError::permanent(
            "broken-note",
            format!("{} cannot be read: {cause}", path.display()),
            "it names the deployment's data directory and port: write it again by the form in docs/DRIVERS.md",
        )
    })
}

/// The note knows where the data lies, also after the wish is gone.
fn place(note: Option<&Note>, wished: Option<&Place>) -> Option<Place> {
    let Some(note) = note else {
        return wished.cloned();
    };
    // Only a running server's port is asked for without a wish, and that stands in its pid file.
    let port = wished.map_or(0, |wished| wished.port);
    Some(Place {
        major: note.major,
        data_directory: note.data_directory.clone(),
        port,
    })
}

fn files(host: &dyn Host, layout: &Layout) -> Result<Facts, DriverError> {
    let text = |path: &Path| -> Result<Option<Vec<u8>>, DriverError> { host.read_file(path) };
    let unit = layout.unit();
    let settings =
        text(&layout.conf())?.and_then(|bytes| conf::parse(std::str::from_utf8(&bytes).ok()?));
    Ok(Facts {
        data: data(host, layout)?,
        has_partial: host.metadata(&layout.partial())?.is_some(),
        settings,
        hba_digest: text(&layout.hba())?.map(|bytes| digest(&bytes)),
        unit_digest: text(&unit::unit_path(&unit))?.map(|bytes| digest(&bytes)),
        has_passfile: host.metadata(&layout.passfile())?.is_some(),
        is_running: unit::status(host, &unit)?.is_up(),
        has_loaded: service::has_loaded(host, &unit, &layout.loaded_files())?,
        ..Facts::default()
    })
}

/// What lies at the data directory.
///
/// # Errors
/// As the host's calls.
pub fn data(host: &dyn Host, layout: &Layout) -> Result<Data, DriverError> {
    let directory = layout.data();
    let names = host.list_dir(directory)?;
    if names.is_none() && host.metadata(directory)?.is_none()
        || names.as_ref().is_some_and(Vec::is_empty)
    {
        return Ok(Data::Absent);
    }
    let foreign = |why: &str| Data::Foreign {
        why: why.to_owned(),
        system_identifier: None,
        version: None,
        is_standby: false,
    };
    let Some(version) = host.read_file(&directory.join("PG_VERSION"))? else {
        return Ok(foreign("it is no data directory of PostgreSQL"));
    };
    let version = String::from_utf8_lossy(&version).trim().to_owned();
    let is_standby = host.metadata(&directory.join("standby.signal"))?.is_some();
    let Some(system_identifier) = system_identifier(host, directory)? else {
        return Ok(foreign("its global/pg_control cannot be read"));
    };
    let marker = host.read_file(&directory.join(MARKER))?;
    let marker: Option<Value> = marker.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let owner = marker.as_ref().and_then(|marker| marker["uid"].as_str());
    let marked = marker
        .as_ref()
        .and_then(|marker| marker["system_identifier"].as_str());
    let why = match owner {
        Some(uid) if uid == layout.uid() && marked == Some(&system_identifier) => {
            return Ok(Data::Ours {
                system_identifier,
                version,
                is_standby,
            });
        }
        Some(uid) if uid == layout.uid() => "its marker names another system identifier".to_owned(),
        Some(uid) => format!("it belongs to the deployment with uid {uid}"),
        None => "no deployment has made it".to_owned(),
    };
    Ok(Data::Foreign {
        why,
        system_identifier: Some(system_identifier),
        version: Some(version),
        is_standby,
    })
}

/// The content of a marker file.
pub fn marker_text(uid: &str, deployment: &str, system_identifier: &str) -> String {
    json!({ "format": 1, "uid": uid, "deployment": deployment, "system_identifier": system_identifier }).to_string()
        + "\n"
}

/// The first eight bytes of `global/pg_control`, in the machine's order: stable since PostgreSQL 8.0.
///
/// # Errors
/// As [`Host::read_file`].
pub fn system_identifier(host: &dyn Host, directory: &Path) -> Result<Option<String>, DriverError> {
    let control = host
        .read_file(&directory.join("global/pg_control"))?
        .unwrap_or_default();
    Ok(control
        .first_chunk()
        .map(|bytes| u64::from_ne_bytes(*bytes).to_string()))
}

/// Asks for the repositories' versions only if the installed one is not as wished: the lists are large, and what they
/// offer tomorrow is no change of this deployment.
fn package(host: &dyn Host, major: u32, wanted: Option<&str>) -> Result<Package, DriverError> {
    let name = package_name(major);
    let installed = package::installed(host, &[&name])?
        .remove(&name)
        .filter(|package| package.is_configured)
        .map(|package| package.version);
    let is_right = installed
        .as_deref()
        .is_some_and(|version| wanted.is_none_or(|wanted| is_version(wanted, version)));
    if is_right {
        return Ok(Package {
            installed,
            ..Package::default()
        });
    }
    let policy = package::policy(host, &name)?;
    let names = package::search_names(host, "^postgresql-[0-9]+$")?;
    Ok(Package {
        installed,
        candidate: policy.candidate,
        versions: policy.versions,
        majors: names
            .iter()
            .filter_map(|name| name.strip_prefix("postgresql-")?.parse().ok())
            .collect(),
    })
}

fn server(host: &dyn Host, layout: &Layout) -> Result<(Option<Server>, Value), DriverError> {
    let output = sql::run(host, layout, sql::OBSERVE, &[])?;
    if output.status != 0 {
        return Ok((None, Value::Null));
    }
    let mut answer: Value = serde_json::from_slice(&output.stdout).map_err(|cause| {
        DriverError::retryable(
            "sql-failed",
            format!("the server's answer cannot be read: {cause}"),
        )
    })?;
    let measures = answer
        .as_object_mut()
        .and_then(|fields| fields.remove("measures"))
        .unwrap_or_default();
    let server: Server = serde_json::from_value(answer).map_err(|cause| {
        DriverError::retryable(
            "sql-failed",
            format!("the server's answer is not as asked for: {cause}"),
        )
    })?;
    Ok((Some(server), measures))
}
