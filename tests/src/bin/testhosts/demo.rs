//! The demo: from nothing to a replicated PostgreSQL by writing one file.
//!
//! Invariants: what runs in the nodes is what a user would type; a second run finds everything in place, writes
//! nothing and says so.

use std::process::Stdio;

use anyhow::{Context, Result, bail};
use system_tests::cluster::{Change, Cluster, DEMO_SUBNET, Node, Product};
use system_tests::deployment::Deployment;
use system_tests::wait::{wait_for, wait_until};
use system_tests::{formation, limits, postgres};

use crate::operations::remark;
use crate::phase;

/// Name of the demo's cluster.
pub const CLUSTER: &str = "demo";

const NODES: u8 = 3;
const WISH_PATH: &str = "/vfs/mid/shop-db.json";
const NAME: &str = "mid/shop-db";
const DATABASE: &str = "shop";
const WISH: &str = r#"{"driver":"postgres","nodes":["n1","n2","n3"],"params":{"version":"15","databases":["shop"]}}"#;

/// Starts three nodes and forms the cluster.
pub fn up() -> Result<()> {
    let nodes = nodes_up()?;
    println!("Three nodes are up and nothing is deployed. Go on with:");
    println!("  scripts/demo.sh shell {}", nodes[1].name());
    Ok(())
}

/// The whole demo.
pub fn run() -> Result<()> {
    let nodes = nodes_up()?;
    let result = deploy(&nodes);
    if result.is_err() {
        nodes.iter().for_each(log_journal);
    }
    result
}

fn nodes_up() -> Result<Vec<Node>> {
    let product = Product::of_this_build()?;
    formation::require_product(&product)?;
    let mut cluster = None;
    phase::run("nodes' root filesystem", || {
        cluster = Some(Cluster::ensure(CLUSTER, DEMO_SUBNET, None, &product)?);
        Ok("")
    })?;
    let cluster = cluster.context("no cluster")?;
    let running = cluster
        .nodes()?
        .iter()
        .filter(|node| matches!(node.init(), Ok(Some(_))))
        .count();
    let mut nodes = Vec::new();
    phase::run("nodes n1 n2 n3 up", || {
        nodes = cluster.boot(NODES)?;
        Ok(if running >= usize::from(NODES) {
            "they were up already"
        } else {
            ""
        })
    })?;
    let formed = phase::run("cluster formed", || {
        let change = formation::form(&nodes)?;
        formation::start_agents(&nodes)?;
        Ok(remark(change, "it was formed already"))
    });
    if formed.is_err() {
        nodes.iter().for_each(log_journal);
    }
    formed?;
    if cluster.record().layers.first() != Some(&product.ensure_layer()?) {
        println!("The nodes run an older build. For this one: scripts/demo.sh down, then again.");
    }
    Ok(nodes)
}

fn deploy(nodes: &[Node]) -> Result<()> {
    let user = &nodes[1];
    let change = write_wish(user)?;
    let generation = Deployment::new(NAME).generation(user)?;
    watch(user)?;
    watch_servers_start(nodes, user, generation)?;
    show_replication(nodes)?;
    if change == Change::Unchanged {
        if Deployment::new(NAME).generation(user)? == generation {
            println!("\nEverything was in place: nothing was changed.");
        } else {
            println!("\nThe wish was in place; the agents have brought back what had stopped.");
        }
    }
    say_how_to_go_on();
    Ok(())
}

fn write_wish(user: &Node) -> Result<Change> {
    let there = user.run(&["cat", WISH_PATH])?;
    if there.status.success() && there.stdout_text().trim_end() == WISH {
        return Ok(Change::Unchanged);
    }
    let line = format!("echo '{WISH}' > {WISH_PATH}");
    println!("\nn2# {line}");
    user.sh(&line)?;
    Ok(Change::Changed)
}

/// Shows the agent's own live view until the deployment is Active.
fn watch(user: &Node) -> Result<()> {
    println!("n2# dsm-agent status {NAME} --watch");
    let mut view = user.command(&["dsm-agent", "status", NAME, "--watch"])?;
    let mut view = view.stdin(Stdio::null()).spawn()?;
    let ended = wait_for("the deployment to end", limits::DEMO_MAX, || {
        Ok(view.try_wait()?)
    });
    if ended.is_err() {
        view.kill()?;
        view.wait()?;
    }
    ended?;
    let deployment = Deployment::new(NAME);
    let status = deployment.status(user)?.unwrap_or_default();
    if status["phase"] == "Failed" {
        bail!("{NAME} has failed; what it says above is what to do, in: scripts/demo.sh shell n2");
    }
    deployment
        .wait_for(user, "Active", 1, limits::REPLICATION_MAX)
        .map(drop)
}

/// Shows how the servers of nodes that have just booted are started: until an agent has looked, the record tells of the
/// time before.
fn watch_servers_start(nodes: &[Node], user: &Node, generation: u64) -> Result<()> {
    if postgres::primary(nodes, DATABASE).is_ok() {
        return Ok(());
    }
    println!("The nodes have just booted: their agents look and start the servers.");
    wait_until(
        "an agent to start the servers",
        limits::DEPLOYMENT_MAX,
        || {
            let taken_up = Deployment::new(NAME).generation(user)? > generation;
            Ok(taken_up || postgres::primary(nodes, DATABASE).is_ok())
        },
    )?;
    watch(user)
}

/// Writes a row at the primary, unless an earlier run has done it, and reads the last one at every standby.
fn show_replication(nodes: &[Node]) -> Result<()> {
    let primary = postgres::primary(nodes, DATABASE)?;
    println!();
    let table = postgres::sql(primary, DATABASE, "SELECT to_regclass('demo')")?;
    if table.is_empty() || postgres::sql(primary, DATABASE, "SELECT count(*) FROM demo")? == "0" {
        let note = "written at the primary";
        postgres::sql(
            primary,
            DATABASE,
            "CREATE TABLE IF NOT EXISTS demo (at timestamptz DEFAULT now(), note text)",
        )?;
        postgres::sql(
            primary,
            DATABASE,
            &format!("INSERT INTO demo (note) VALUES ('{note}')"),
        )?;
        println!("{}  wrote   {note}", primary.name());
    }
    let last = "SELECT note FROM demo ORDER BY at DESC LIMIT 1";
    let expected = postgres::sql(primary, DATABASE, last)?;
    for standby in nodes.iter().filter(|node| node.name() != primary.name()) {
        let what = format!("the row to arrive on {}", standby.name());
        wait_until(&what, limits::REPLICATION_MAX, || {
            Ok(postgres::sql(standby, DATABASE, last)? == expected)
        })?;
        println!("{}  read    {}", standby.name(), expected.trim());
    }
    Ok(())
}

fn log_journal(node: &Node) {
    let script = "journalctl --no-pager -o short-precise -n 200 -u vfsd -u dsm-agent 2>&1
                  cat /vfs/run/mid/*/status.txt 2>/dev/null || :";
    let text = node.sh(script).unwrap_or_else(|error| format!("{error:#}"));
    phase::log(&format!("--- {}\n{text}\n", node.name()));
}

fn say_how_to_go_on() {
    println!("\nThe nodes stay up. Go on with:");
    let hints = [
        (
            "shell n2",
            "look around: ls /vfs, dsm-agent status, vfsd status",
        ),
        ("kill n2", "cut its power; then: scripts/demo.sh boot n2"),
        ("cut n3", "cut its network; then: scripts/demo.sh heal n3"),
        ("add n4", "an empty node joins by a token"),
        ("exec n1 vfsd status", "the filesystem of one node"),
        ("down", "take everything away"),
    ];
    for (command, what) in hints {
        println!("  scripts/demo.sh {command:<22} {what}");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn the_wish_is_one_json_document() {
        let wish: Value = serde_json::from_str(WISH).unwrap();
        assert_eq!(wish["driver"], "postgres");
    }
}
