//! Starting, restarting and waiting for the server.

use std::time::Duration;

use serde_json::Value;

use super::Work;
use crate::catalog::postgres::args;
use crate::catalog::postgres::facts::{Data, Server};
use crate::catalog::postgres::layout::Layout;
use crate::catalog::postgres::observe;
use crate::catalog::postgres::sql;
use crate::driver::StepOutcome;
use crate::error::DriverError;
use crate::host::Command;
use crate::sls::service::{OnChange, ServiceRunning};
use crate::sls::{State, converge, unit};

/// A start replays what a crash left, or what a standby has missed.
const START_TIMEOUT: Duration = Duration::from_secs(590);
const POLL: Duration = Duration::from_millis(100);
const CONNECTION_POLLS_MAX: u32 = 1200;
const STREAMING_POLLS_MAX: u32 = 600;
const CONTROL_POLLS_MAX: u32 = 300;
const CONTROL_TIMEOUT: Duration = Duration::from_secs(10);

/// The server's service.
pub fn service(layout: &Layout) -> ServiceRunning {
    ServiceRunning {
        unit: layout.unit(),
        config: layout.loaded_files(),
        on_change: OnChange::Reload,
        start_timeout: START_TIMEOUT,
    }
}

/// `start`.
pub fn start(work: &Work<'_>, args: &args::At) -> Result<StepOutcome, DriverError> {
    let layout = work.layout(&args.place);
    refuse_foreign(work, &layout)?;
    let changes = converge(&service(&layout), work.host)?.into_changes();
    await_server(
        work,
        &layout,
        "does not take connections",
        CONNECTION_POLLS_MAX,
        |_| true,
    )?;
    Ok(StepOutcome {
        changes,
        outputs: Value::Null,
    })
}

/// `restart`.
pub fn restart(work: &Work<'_>, args: &args::Restart) -> Result<StepOutcome, DriverError> {
    let layout = work.layout(&args.place);
    refuse_foreign(work, &layout)?;
    let mut changes = Vec::new();
    if needs_restart(work, &layout)? {
        await_control(work, &layout, args)?;
        changes.push(service(&layout).restart(work.host)?);
    } else {
        changes.extend(converge(&service(&layout), work.host)?.into_changes());
    }
    await_server(
        work,
        &layout,
        "does not take connections",
        CONNECTION_POLLS_MAX,
        |_| true,
    )?;
    if args.awaits_streaming {
        await_server(
            work,
            &layout,
            "does not stream from its primary",
            STREAMING_POLLS_MAX,
            |server| server.receiving,
        )?;
    }
    Ok(StepOutcome {
        changes,
        outputs: Value::Null,
    })
}

/// `await-streaming`.
pub fn await_streaming(work: &Work<'_>, args: &args::At) -> Result<StepOutcome, DriverError> {
    let layout = work.layout(&args.place);
    await_server(
        work,
        &layout,
        "does not stream from its primary",
        STREAMING_POLLS_MAX,
        |server| server.receiving,
    )?;
    Ok(StepOutcome::default())
}

/// A server is started on the deployment's own data only.
fn refuse_foreign(work: &Work<'_>, layout: &Layout) -> Result<(), DriverError> {
    match observe::data(work.host, layout)? {
        Data::Ours { .. } => Ok(()),
        Data::Absent | Data::Foreign { .. } => Err(DriverError::permanent(
            "foreign-data-directory",
            format!(
                "{} does not hold this deployment's data",
                layout.data().display()
            ),
            "the next plan looks again: save the wish once more",
        )),
    }
}

/// The server says so itself: a parameter waits for a restart, or its binaries are older than the package. One that is
/// active but does not answer is left to start.
fn needs_restart(work: &Work<'_>, layout: &Layout) -> Result<bool, DriverError> {
    if !unit::status(work.host, &layout.unit())?.is_active() {
        return Ok(false);
    }
    let facts = serde_json::from_value(observe::observe(work.host, work.context.scope)?.facts);
    let facts: crate::catalog::postgres::facts::Facts = facts.unwrap_or_default();
    let pending = facts
        .server
        .as_ref()
        .is_some_and(|server| !server.pending_restart.is_empty());
    Ok(pending || facts.runs_old_binaries())
}

/// A standby refuses to start with less than its primary had when its control file was written last.
fn await_control(
    work: &Work<'_>,
    layout: &Layout,
    args: &args::Restart,
) -> Result<(), DriverError> {
    if args.control_at_most.is_empty() {
        return Ok(());
    }
    let program = layout.program("pg_controldata");
    let data = layout.data().to_string_lossy().into_owned();
    let mut behind = String::new();
    for _ in 0..CONTROL_POLLS_MAX {
        work.context.guard.check()?;
        let output = work.host.run_ok(&Command::probe(
            CONTROL_TIMEOUT,
            [program.as_str(), "-D", &data],
        ))?;
        let text = output.text();
        let value = |name: &str| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(&format!("{name} setting:")))?;
            line.trim().parse::<u64>().ok()
        };
        let late = args
            .control_at_most
            .iter()
            .find(|(name, most)| value(name).is_some_and(|found| found > **most));
        let Some((name, _)) = late else { return Ok(()) };
        behind.clone_from(name);
        work.host.pause(POLL);
    }
    let message = format!(
        "the standby on {} has not yet replayed the primary's lower {behind}",
        work.step.node
    );
    Err(DriverError::retryable("standby-behind", message))
}

/// Asks the server again and again until `is_reached`.
fn await_server(
    work: &Work<'_>,
    layout: &Layout,
    complaint: &str,
    polls_max: u32,
    is_reached: impl Fn(&Server) -> bool,
) -> Result<(), DriverError> {
    let mut last_words = String::new();
    for _ in 0..polls_max {
        work.context.guard.check()?;
        let output = sql::run(work.host, layout, sql::OBSERVE, &[])?;
        if output.status == 0 {
            let mut answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            answer
                .as_object_mut()
                .map(|fields| fields.remove("measures"));
            match serde_json::from_value(answer) {
                Ok(server) if is_reached(&server) => return Ok(()),
                Ok(_) => last_words.clear(),
                Err(cause) => last_words = cause.to_string(),
            }
        } else {
            last_words = output.last_words();
        }
        if !unit::status(work.host, &layout.unit())?.is_loaded {
            break;
        }
        work.host.pause(POLL);
    }
    let resource = service(layout).resource();
    let message = format!(
        "{resource} on {} {complaint}{}",
        work.step.node,
        if last_words.is_empty() {
            String::new()
        } else {
            format!(": {last_words}")
        }
    );
    Err(DriverError::retryable("server-not-ready", message))
}
