//! Asking the databases of a deployment, as the operating system's user `postgres` over the local socket.

use anyhow::{Result, bail};

use crate::cluster::Node;

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
