//! How the driver speaks to a server: psql, by the Unix socket, as the operating system's user postgres.
//!
//! Invariants: scripts travel by standard input, values as psql variables that psql quotes; no password is in a script
//! (roles get SCRAM verifiers). Each script begins with a name, by which the simulation knows it.

use std::time::Duration;

use serde_json::Value;

use super::layout::{Layout, OS_USER};
use crate::error::DriverError;
use crate::host::{Command, Host, Output};

/// Longest time for a look.
const QUERY_TIMEOUT: Duration = Duration::from_secs(15);

/// Longest time for a change: with synchronous replication a commit waits for a standby.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);

/// A script for psql.
#[derive(Debug, Clone, Copy)]
pub struct Script {
    /// Begins with `-- contextos NAME`.
    pub text: &'static str,
    /// Whether it only reads.
    pub reads_only: bool,
}

/// All that an observation wants to know, as one JSON object.
pub const OBSERVE: Script = Script {
    text: include_str!("sql/observe.sql"),
    reads_only: true,
};
/// `conf_load_time`, to see that a reload has happened.
pub const CONF_LOAD_TIME: Script = Script {
    text: include_str!("sql/conf_load_time.sql"),
    reads_only: true,
};
/// Whether role `:role` exists, its verifier, and whether it is a member of `:owner`.
pub const ROLE: Script = Script {
    text: include_str!("sql/role.sql"),
    reads_only: true,
};
/// Makes login role `:role` with `:verifier`, with `:options`.
pub const CREATE_ROLE: Script = Script {
    text: include_str!("sql/create_role.sql"),
    reads_only: false,
};
/// Gives role `:role` the password of `:verifier`.
pub const ALTER_ROLE: Script = Script {
    text: include_str!("sql/alter_role.sql"),
    reads_only: false,
};
/// Makes `:role` a member of `:owner`.
pub const GRANT_OWNER: Script = Script {
    text: include_str!("sql/grant_owner.sql"),
    reads_only: false,
};
/// Makes database `:database` of `:owner`.
pub const CREATE_DATABASE: Script = Script {
    text: include_str!("sql/create_database.sql"),
    reads_only: false,
};
/// Makes physical slot `:slot`.
pub const CREATE_SLOT: Script = Script {
    text: include_str!("sql/create_slot.sql"),
    reads_only: false,
};
/// Drops slot `:slot`.
pub const DROP_SLOT: Script = Script {
    text: include_str!("sql/drop_slot.sql"),
    reads_only: false,
};

/// The port of the running server, from its pid file: after a change of the wish it may differ from the wish's.
///
/// # Errors
/// As [`Host::read_file`].
pub fn running_port(host: &dyn Host, layout: &Layout) -> Result<Option<u16>, DriverError> {
    let text = host
        .read_file(&layout.data().join("postmaster.pid"))?
        .unwrap_or_default();
    // Lines of the pid file: process, data directory, start time, port.
    Ok(String::from_utf8_lossy(&text)
        .lines()
        .nth(3)
        .and_then(|port| port.trim().parse().ok()))
}

/// Runs `script` with `variables` on the deployment's server.
///
/// # Errors
/// As [`Host::run`].
pub fn run(
    host: &dyn Host,
    layout: &Layout,
    script: Script,
    variables: &[(&str, &str)],
) -> Result<Output, DriverError> {
    let port = running_port(host, layout)?
        .unwrap_or(layout.place.port)
        .to_string();
    let socket_dir = layout.socket_dir();
    let (psql, socket_dir) = (layout.program("psql"), socket_dir.to_string_lossy());
    let argv = [
        &psql,
        "-X",
        "-q",
        "-A",
        "-t",
        "-w",
        "-h",
        &socket_dir,
        "-p",
        &port,
        "-d",
        "postgres",
    ];
    let argv = argv.into_iter().chain(["-v", "ON_ERROR_STOP=1", "-f", "-"]);
    let mut input = String::new();
    for (name, value) in variables {
        // Values go by standard input: verifiers of passwords are among them, and argv is for all to see.
        input.push_str(&format!(
            "\\set {name} '{}'\n",
            value.replace('\\', "\\\\").replace('\'', "''")
        ));
    }
    let timeout = if script.reads_only {
        QUERY_TIMEOUT
    } else {
        STATEMENT_TIMEOUT
    };
    let mut command = Command::effect(timeout, argv)
        .as_user(OS_USER)
        .with_stdin(input + script.text);
    command.reads_only = script.reads_only;
    host.run(
        &command
            .with_env("PGCONNECT_TIMEOUT", "10")
            .with_env("PGOPTIONS", SESSION_OPTIONS),
    )
}

/// Our own sessions are not slowed or refused by what the wish sets for the applications' sessions.
const SESSION_OPTIONS: &str =
    "-c statement_timeout=0 -c lock_timeout=0 -c default_transaction_read_only=off";

/// Runs `script`; a failure is an error with the server's own words.
///
/// # Errors
/// As [`run`], and `Retryable` with code `sql-failed`.
pub fn run_ok(
    host: &dyn Host,
    layout: &Layout,
    script: Script,
    variables: &[(&str, &str)],
) -> Result<String, DriverError> {
    let output = run(host, layout, script, variables)?;
    if output.status == 0 {
        return Ok(output.text());
    }
    let name = script
        .text
        .lines()
        .next()
        .unwrap_or_default()
        .trim_start_matches("-- contextos ");
    Err(DriverError::retryable(
        "sql-failed",
        format!("could not {name}: {}", output.last_words()),
    ))
}

/// Runs a script that answers with one JSON value.
///
/// # Errors
/// As [`run_ok`].
pub fn query_json(
    host: &dyn Host,
    layout: &Layout,
    script: Script,
    variables: &[(&str, &str)],
) -> Result<Value, DriverError> {
    let text = run_ok(host, layout, script, variables)?;
    serde_json::from_str(&text).map_err(|cause| {
        DriverError::retryable(
            "sql-failed",
            format!("the server's answer cannot be read ({cause}): {text}"),
        )
    })
}
