//! Asking the databases of a deployment, as the operating system's user `postgres` over the local socket.

use anyhow::{Result, bail};

use crate::cluster::Node;
use crate::limits;
use crate::wait::wait_until;

/// Runs `statement` in `database` on `node` and gives the rows, unaligned.
///
/// # Errors
/// If the server does not answer or refuses.
pub fn sql(node: &Node, database: &str, statement: &str) -> Result<String> {
    let script = "exec runuser -u postgres -- /usr/lib/postgresql/15/bin/psql -X -A -t -q -v ON_ERROR_STOP=1 \
                  -h \"$(echo /run/contextos-postgres-*)\" -d \"$0\" -c \"$1\"";
    let finished = node.run(&["sh", "-c", script, database, statement])?;
    if !finished.status.success() {
        bail!(
            "{statement:?} on {}: {}",
            node.name(),
            finished.stderr_text().trim()
        );
    }
    Ok(finished.stdout_text().trim().to_owned())
}

/// The one node that takes writes.
///
/// # Errors
/// If a server does not answer, or not exactly one takes writes.
pub fn primary<'a>(nodes: &'a [Node], database: &str) -> Result<&'a Node> {
    let mut primaries = Vec::new();
    for node in nodes {
        if sql(node, database, "SELECT pg_is_in_recovery()")? == "f" {
            primaries.push(node);
        }
    }
    let names: Vec<&str> = primaries.iter().map(|node| node.name()).collect();
    let [primary] = primaries.as_slice() else {
        bail!("primaries: {names:?}, not one")
    };
    Ok(primary)
}

/// Writes the row `number` on `primary`, making the table `rows` if it is not there.
///
/// # Errors
/// If the server does not acknowledge it.
pub fn write_row(primary: &Node, database: &str, number: u32) -> Result<()> {
    sql(
        primary,
        database,
        "CREATE TABLE IF NOT EXISTS rows (number int PRIMARY KEY)",
    )?;
    sql(
        primary,
        database,
        &format!("INSERT INTO rows VALUES ({number})"),
    )
    .map(drop)
}

/// Waits until the table `rows` has `count` rows on `node`.
///
/// # Errors
/// If that does not come within [`limits::REPLICATION_MAX`].
pub fn wait_for_rows(node: &Node, database: &str, count: u32) -> Result<()> {
    wait_until(
        &format!("{count} rows on {}", node.name()),
        limits::REPLICATION_MAX,
        || {
            Ok(sql(node, database, "SELECT count(*) FROM rows")
                .is_ok_and(|rows| rows == count.to_string()))
        },
    )
}
