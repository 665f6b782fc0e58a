//! Roles, databases and slots on the primary.

use rand::Rng;
use serde_json::Value;

use super::Work;
use crate::catalog::postgres::args;
use crate::catalog::postgres::layout::Layout;
use crate::catalog::postgres::params::{OWNER_ROLE, REPLICATION_KEY, REPLICATION_ROLE};
use crate::catalog::postgres::scram::{self, SALT_LEN_BYTES};
use crate::catalog::postgres::sql;
use crate::driver::{Secret, StateChange, StepOutcome};
use crate::error::DriverError;
use crate::sls::change;

/// Characters of a generated password: 190 bits.
const PASSWORD_LEN: usize = 32;

/// `replication-role`.
pub fn replication_role(work: &Work<'_>, args: &args::At) -> Result<StepOutcome, DriverError> {
    let layout = work.layout(&args.place);
    let secret = generated(work, REPLICATION_KEY)?;
    let (changes, _) = login_role(work, &layout, REPLICATION_ROLE, "REPLICATION", &secret)?;
    Ok(StepOutcome {
        changes,
        outputs: Value::Null,
    })
}

/// `role`.
pub fn role(work: &Work<'_>, args: &args::Role) -> Result<StepOutcome, DriverError> {
    let layout = work.layout(&args.place);
    let secret = generated(work, &args.role)?;
    let (mut changes, is_member) = login_role(work, &layout, &args.role, "", &secret)?;
    if args.role != OWNER_ROLE && !is_member {
        sql::run_ok(
            work.host,
            &layout,
            sql::GRANT_OWNER,
            &[("role", &args.role), ("owner", OWNER_ROLE)],
        )?;
        changes.push(change(
            format!("role {}", args.role),
            None,
            Some(format!("member of {OWNER_ROLE}")),
        ));
    }
    Ok(StepOutcome {
        changes,
        outputs: Value::Null,
    })
}

/// `database`.
pub fn database(work: &Work<'_>, args: &args::Database) -> Result<StepOutcome, DriverError> {
    let layout = work.layout(&args.place);
    if server_names(work, &layout, "databases")?.contains(&args.database) {
        return Ok(StepOutcome::default());
    }
    let variables = [("database", args.database.as_str()), ("owner", OWNER_ROLE)];
    sql::run_ok(work.host, &layout, sql::CREATE_DATABASE, &variables)?;
    let new = Some(format!("owned by {OWNER_ROLE}"));
    let changes = vec![change(format!("database {}", args.database), None, new)];
    Ok(StepOutcome {
        changes,
        outputs: Value::Null,
    })
}

/// `slots`.
pub fn slots(work: &Work<'_>, args: &args::Slots) -> Result<StepOutcome, DriverError> {
    let layout = work.layout(&args.place);
    let found = observed(work, &layout)?;
    let is_lost = |slot: &str| found["slots"][slot].as_bool();
    let mut changes = Vec::new();
    for slot in &args.drop {
        // A slot that is to be made anew was dropped and made already if it is not lost any more.
        let is_anew = args.create.contains(slot) && is_lost(slot) == Some(false);
        if is_lost(slot).is_some() && !is_anew {
            sql::run_ok(work.host, &layout, sql::DROP_SLOT, &[("slot", slot)])?;
            changes.push(change(
                format!("slot {slot}"),
                Some("present".to_owned()),
                None,
            ));
        }
    }
    for slot in &args.create {
        let was_dropped = args.drop.contains(slot) && is_lost(slot) == Some(true);
        if is_lost(slot).is_none() || was_dropped {
            sql::run_ok(work.host, &layout, sql::CREATE_SLOT, &[("slot", slot)])?;
            changes.push(change(
                format!("slot {slot}"),
                None,
                Some("present".to_owned()),
            ));
        }
    }
    Ok(StepOutcome {
        changes,
        outputs: Value::Null,
    })
}

fn generated(work: &Work<'_>, key: &str) -> Result<Secret, DriverError> {
    work.context.secrets.ensure_generated(key, PASSWORD_LEN)?;
    work.context.secrets.reveal(key)
}

/// Makes the role, or gives it the password that the record holds; says whether it is a member of the owner's role.
fn login_role(
    work: &Work<'_>,
    layout: &Layout,
    role: &str,
    options: &str,
    secret: &Secret,
) -> Result<(Vec<StateChange>, bool), DriverError> {
    let found = sql::query_json(
        work.host,
        layout,
        sql::ROLE,
        &[("role", role), ("owner", OWNER_ROLE)],
    )?;
    let is_member = found["is_member"].as_bool().unwrap_or(false);
    let known = found["verifier"].as_str();
    if known.is_some_and(|verifier| scram::is_verifier_of(verifier, secret.expose())) {
        return Ok((Vec::new(), is_member));
    }
    let mut salt = [0; SALT_LEN_BYTES];
    rand::rng().fill_bytes(&mut salt);
    let verifier = scram::verifier(secret.expose(), &salt);
    let variables = [
        ("role", role),
        ("options", options),
        ("verifier", verifier.as_str()),
    ];
    let script = if known.is_some() {
        sql::ALTER_ROLE
    } else {
        sql::CREATE_ROLE
    };
    sql::run_ok(work.host, layout, script, &variables)?;
    let old = known.map(|_| "another password".to_owned());
    Ok((
        vec![change(
            format!("role {role}"),
            old,
            Some("generated password".to_owned()),
        )],
        is_member,
    ))
}

fn observed(work: &Work<'_>, layout: &Layout) -> Result<Value, DriverError> {
    sql::query_json(work.host, layout, sql::OBSERVE, &[])
}

fn server_names(work: &Work<'_>, layout: &Layout, field: &str) -> Result<Vec<String>, DriverError> {
    let found = observed(work, layout)?;
    let names = found[field].as_array().cloned().unwrap_or_default();
    Ok(names
        .iter()
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect())
}
