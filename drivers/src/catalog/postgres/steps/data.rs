//! Data directories: made, copied, adopted.
//!
//! Invariant: a directory is made beside its place and renamed when it is complete, marked, and (for a standby)
//! signalled as such. So what stands at the place is whole, and a standby's data can never start as a primary's.

use std::time::Duration;

use serde_json::json;

use super::Work;
use super::configuration::write_passfile;
use crate::catalog::postgres::args;
use crate::catalog::postgres::facts::Data;
use crate::catalog::postgres::layout::{Layout, MARKER, OS_USER};
use crate::catalog::postgres::observe::{self, marker_text};
use crate::catalog::postgres::params::REPLICATION_ROLE;
use crate::driver::{StateChange, StepOutcome};
use crate::error::DriverError;
use crate::host::{Attributes, Command};
use crate::limits::DATA_DISK_FREE_BYTES_MIN;
use crate::sls::change;
use crate::sls::directory::make_parents;

const INIT_TIMEOUT: Duration = Duration::from_secs(120);
const BASE_BACKUP_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// `init`.
pub fn init(work: &Work<'_>, args: &args::Init) -> Result<StepOutcome, DriverError> {
    let layout = work.layout(&args.place);
    if let Some(outcome) = already_ours(work, &layout, false)? {
        return Ok(outcome);
    }
    fresh_partial(work, &layout)?;
    let (initdb, partial) = (layout.program("initdb"), layout.partial());
    let argv = [
        &initdb,
        "--pgdata",
        &partial.to_string_lossy(),
        "--data-checksums",
        "--encoding=UTF8",
        "--locale=C.UTF-8",
        "--auth-local=peer",
        "--auth-host=scram-sha-256",
        "--no-instructions",
    ];
    work.host
        .run_ok(&Command::effect(INIT_TIMEOUT, argv).as_user(OS_USER))?;
    put_in_place(work, &layout, false)
}

/// `base-backup`.
pub fn base_backup(work: &Work<'_>, args: &args::BaseBackup) -> Result<StepOutcome, DriverError> {
    let layout = work.layout(&args.place);
    if let Some(outcome) = already_ours(work, &layout, true)? {
        return Ok(outcome);
    }
    write_passfile(work, &layout)?;
    fresh_partial(work, &layout)?;
    (work.context.progress)("copying");
    let (program, partial, passfile) = (
        layout.program("pg_basebackup"),
        layout.partial(),
        layout.passfile(),
    );
    let conninfo = format!(
        "host={} port={} user={REPLICATION_ROLE} application_name={}_base_backup connect_timeout=10",
        args.primary, args.place.port, work.step.node
    );
    let partial = partial.to_string_lossy();
    let argv = [
        &program,
        "--pgdata",
        &partial,
        "--wal-method=stream",
        "--slot",
        &args.slot,
        "--checkpoint=fast",
        "--no-password",
        "--dbname",
        &conninfo,
    ];
    let command = Command::effect(BASE_BACKUP_TIMEOUT, argv).as_user(OS_USER);
    let output = work
        .host
        .run(&command.with_env("PGPASSFILE", &passfile.to_string_lossy()))?;
    if output.status != 0 {
        let message = format!(
            "base backup from {} failed: {}",
            args.primary,
            output.last_words()
        );
        return Err(DriverError::retryable("base-backup-failed", message));
    }
    put_in_place(work, &layout, true)
}

/// `adopt`.
pub fn adopt(work: &Work<'_>, args: &args::Init) -> Result<StepOutcome, DriverError> {
    let layout = work.layout(&args.place);
    let (system_identifier, is_standby) = match observe::data(work.host, &layout)? {
        Data::Ours {
            system_identifier, ..
        } => return Ok(outcome(vec![], &system_identifier)),
        Data::Foreign {
            system_identifier: Some(found),
            is_standby,
            ..
        } if args.system_identifier.as_ref() == Some(&found) => (found, is_standby),
        Data::Foreign { .. } | Data::Absent => return Err(not_as_planned(&layout)),
    };
    refuse_running(work, &layout)?;
    let text = marker_text(
        layout.uid(),
        &work.context.scope.deployment,
        &system_identifier,
    );
    work.host.write_file(
        &layout.marker(),
        text.as_bytes(),
        &Attributes::of(OS_USER, 0o600),
    )?;
    let role = if is_standby { "standby" } else { "primary" };
    let new = Some(format!("adopted as {role}, system {system_identifier}"));
    Ok(outcome(
        vec![change(resource(&layout), Some("foreign".to_owned()), new)],
        &system_identifier,
    ))
}

/// Somebody else's server must not run on data that becomes ours.
fn refuse_running(work: &Work<'_>, layout: &Layout) -> Result<(), DriverError> {
    let pid_file = work
        .host
        .read_file(&layout.data().join("postmaster.pid"))?
        .unwrap_or_default();
    let pid = String::from_utf8_lossy(&pid_file)
        .lines()
        .next()
        .and_then(|line| line.trim().parse::<u32>().ok());
    let Some(pid) = pid else { return Ok(()) };
    if work
        .host
        .metadata(std::path::Path::new(&format!("/proc/{pid}")))?
        .is_none()
    {
        return Ok(());
    }
    Err(DriverError::permanent(
        "server-runs",
        format!("process {pid} runs a server on {}", layout.data().display()),
        format!(
            "stop it on {0} and keep it from starting: systemctl disable --now postgresql@15-main",
            work.step.node
        ),
    ))
}

fn already_ours(
    work: &Work<'_>,
    layout: &Layout,
    is_standby: bool,
) -> Result<Option<StepOutcome>, DriverError> {
    match observe::data(work.host, layout)? {
        Data::Absent => Ok(None),
        Data::Ours {
            system_identifier,
            is_standby: found,
            ..
        } if found == is_standby => Ok(Some(outcome(vec![], &system_identifier))),
        Data::Ours { .. } | Data::Foreign { .. } => Err(not_as_planned(layout)),
    }
}

fn not_as_planned(layout: &Layout) -> DriverError {
    DriverError::permanent(
        "foreign-data-directory",
        format!(
            "{} is not what it was when the plan was made",
            layout.data().display()
        ),
        "the next plan looks again: save the wish once more",
    )
}

/// An empty directory beside the place; what an interrupted attempt left goes first.
fn fresh_partial(work: &Work<'_>, layout: &Layout) -> Result<(), DriverError> {
    let partial = layout.partial();
    work.host.remove_tree(&partial)?;
    let free = work.host.disk_free_bytes(&partial)?;
    if free < DATA_DISK_FREE_BYTES_MIN {
        let (free, least) = (free >> 20, DATA_DISK_FREE_BYTES_MIN >> 20);
        let message = format!(
            "{} has {free} MiB free, {least} are needed",
            partial.display()
        );
        return Err(DriverError::retryable("disk-full", message));
    }
    make_parents(work.host, &partial)?;
    work.host
        .make_dir(&partial, &Attributes::of(OS_USER, 0o700))
}

fn put_in_place(
    work: &Work<'_>,
    layout: &Layout,
    is_standby: bool,
) -> Result<StepOutcome, DriverError> {
    let (host, partial) = (work.host, layout.partial());
    let owned = Attributes::of(OS_USER, 0o600);
    let Some(system_identifier) = observe::system_identifier(host, &partial)? else {
        let message = format!(
            "{} is not complete: it has no global/pg_control",
            partial.display()
        );
        return Err(DriverError::retryable("data-not-complete", message));
    };
    let text = marker_text(
        layout.uid(),
        &work.context.scope.deployment,
        &system_identifier,
    );
    host.write_file(&partial.join(MARKER), text.as_bytes(), &owned)?;
    if is_standby {
        host.write_file(&partial.join("standby.signal"), b"", &owned)?;
    }
    // An empty directory may stand at the place; what is not empty makes the rename fail.
    if host
        .list_dir(layout.data())?
        .is_some_and(|names| names.is_empty())
    {
        host.remove_tree(layout.data())?;
    }
    host.rename(&partial, layout.data())?;
    let role = if is_standby { "standby" } else { "primary" };
    let new = Some(format!("{role}, system {system_identifier}"));
    Ok(outcome(
        vec![change(resource(layout), None, new)],
        &system_identifier,
    ))
}

fn resource(layout: &Layout) -> String {
    format!("data directory {}", layout.data().display())
}

fn outcome(changes: Vec<StateChange>, system_identifier: &str) -> StepOutcome {
    StepOutcome {
        changes,
        outputs: json!({ "system_identifier": system_identifier }),
    }
}
