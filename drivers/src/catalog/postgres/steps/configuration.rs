//! Configuration files, unit, note and password file of one node.
//!
//! Invariant: the note is written first, so that whatever else lies on the node can be found again.

use std::time::Duration;

use serde_json::{Value, json};

use super::Work;
use crate::catalog::postgres::args;
use crate::catalog::postgres::conf;
use crate::catalog::postgres::facts::Note;
use crate::catalog::postgres::layout::{Layout, OS_USER, note_path};
use crate::catalog::postgres::params::REPLICATION_KEY;
use crate::catalog::postgres::sql;
use crate::driver::{StateChange, StepOutcome};
use crate::error::DriverError;
use crate::host::{Attributes, Command};
use crate::sls::directory::{DirPresent, make_parents};
use crate::sls::file::FilePresent;
use crate::sls::graph::Graph;
use crate::sls::requisite::{Kind, Requisite};
use crate::sls::unit::{self, UnitPresent};
use crate::sls::{Applied, State, converge, service};

const VALIDATE_TIMEOUT: Duration = Duration::from_secs(30);
const RELOAD_POLL: Duration = Duration::from_millis(50);
const RELOAD_POLLS_MAX: u32 = 200;

/// `configure`.
pub fn configure(work: &Work<'_>, args: &args::Configure) -> Result<StepOutcome, DriverError> {
    let layout = work.layout(&args.place);
    let mut changes = write_note(work, &layout)?;
    if args.is_standby {
        changes.extend(write_passfile(work, &layout)?);
    }
    changes.extend(files(&layout, args).run(work.host)?.into_result()?);
    changes.extend(reload(work, &layout)?);
    Ok(StepOutcome {
        changes,
        outputs: Value::Null,
    })
}

fn files(layout: &Layout, args: &args::Configure) -> Graph {
    // The server checks the whole file as it would when it starts, on the staged copy.
    let (postgres, data) = (
        layout.program("postgres"),
        layout.data().to_string_lossy().into_owned(),
    );
    let argv = [
        &postgres,
        "-D",
        &data,
        "-c",
        "config_file={}",
        "-C",
        "max_connections",
    ];
    let validator = Command::probe(VALIDATE_TIMEOUT, argv.map(AsRef::as_ref)).as_user(OS_USER);
    let readable = Attributes {
        owner: "root".to_owned(),
        group: OS_USER.to_owned(),
        mode: 0o640,
    };
    let conf = FilePresent::new(
        layout.conf(),
        conf::render(&args.settings),
        readable.clone(),
    )
    .validated_by(validator);
    let hba = FilePresent::new(layout.hba(), args.hba.as_bytes(), readable);
    let unit = UnitPresent {
        name: layout.unit(),
        text: conf::unit(layout),
    };
    let mut graph = Graph::default();
    let in_directory = || vec![Requisite::all(Kind::Require, ["directory"])];
    graph
        .add(
            "directory",
            DirPresent::new(layout.conf_dir(), Attributes::root(0o755)),
            vec![],
        )
        .add("hba", hba, in_directory())
        .add("conf", conf, in_directory())
        .add(
            "unit",
            unit,
            vec![Requisite::all(Kind::Require, ["conf", "hba"])],
        );
    graph
}

fn write_note(work: &Work<'_>, layout: &Layout) -> Result<Vec<StateChange>, DriverError> {
    let note = Note {
        deployment: work.context.scope.deployment.clone(),
        major: layout.place.major,
        data_directory: layout.data().to_owned(),
    };
    let path = note_path(layout.uid());
    make_parents(work.host, &path)?;
    let file = FilePresent::new(
        path,
        json!(note).to_string() + "\n",
        Attributes::root(0o644),
    );
    Ok(converge(&file, work.host)?.into_changes())
}

/// Puts the replication password where the standby's server reads it, for its user only.
pub fn write_passfile(work: &Work<'_>, layout: &Layout) -> Result<Vec<StateChange>, DriverError> {
    let directory = DirPresent::new(layout.conf_dir(), Attributes::root(0o755));
    let mut changes = converge(&directory, work.host)?.into_changes();
    let secret = work.context.secrets.reveal(REPLICATION_KEY)?;
    let line = zeroize::Zeroizing::new(format!("*:*:*:*:{}\n", secret.expose()));
    let file = FilePresent::new(
        layout.passfile(),
        line.as_bytes(),
        Attributes::of(OS_USER, 0o600),
    )
    .secret();
    changes.extend(converge(&file, work.host)?.into_changes());
    Ok(changes)
}

/// Reloads a running server that has not loaded what lies on disk, and waits until it has.
fn reload(work: &Work<'_>, layout: &Layout) -> Result<Vec<StateChange>, DriverError> {
    let unit = layout.unit();
    let files = layout.loaded_files();
    if !unit::status(work.host, &unit)?.is_active()
        || service::has_loaded(work.host, &unit, &files)?
    {
        return Ok(Vec::new());
    }
    let before = load_time(work, layout);
    let service = super::server::service(layout);
    let applied = converge(&service, work.host)?;
    // Without an answer before there is nothing to compare with: the server is starting, and reads the new files
    // anyway.
    if let (Applied::Changed(_), Some(before)) = (&applied, before) {
        await_load(work, layout, &before, &service.resource())?;
    }
    Ok(applied.into_changes())
}

fn await_load(
    work: &Work<'_>,
    layout: &Layout,
    before: &Value,
    resource: &str,
) -> Result<(), DriverError> {
    for _ in 0..RELOAD_POLLS_MAX {
        work.context.guard.check()?;
        if load_time(work, layout).is_some_and(|now| now != *before) {
            return Ok(());
        }
        work.host.pause(RELOAD_POLL);
    }
    // The note says that the files are loaded; the server will have read the signal before it answers again.
    tracing::warn!(
        resource,
        "the server has not confirmed that it has read its configuration"
    );
    Ok(())
}

fn load_time(work: &Work<'_>, layout: &Layout) -> Option<Value> {
    sql::query_json(work.host, layout, sql::CONF_LOAD_TIME, &[]).ok()
}
