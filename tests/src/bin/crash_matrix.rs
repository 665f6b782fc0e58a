//! The crash matrix: something dies at every boundary of every step of deploying, growing and changing PostgreSQL.
//!
//! Invariants: every case starts from nothing, ends with one primary and every acknowledged row, and is one line of the
//! report; a failed case is told and the rest goes on. Takes hours: `scripts/crash-matrix.sh`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use serde_json::{Value, json};
use system_tests::crash::{BOUNDARIES, KINDS, Kind, arm, strike};
use system_tests::deployment::Deployment;
use system_tests::limits;
use system_tests::mounted::Mounted;
use system_tests::postgres::{primary, wait_for_rows, write_row};

const DEPLOYMENT: Deployment<'static> = Deployment::new("mid/shop-db");
const DATABASE: &str = "shop";

/// A removal waits for its grace of ten seconds first.
const REMOVAL_MAX: Duration = Duration::from_secs(120);

/// Something dies at every step boundary of a PostgreSQL deployment. Prints one line a case; takes hours.
#[derive(Debug, Parser)]
struct Arguments {
    /// Only cases whose line contains this text, for example `grow` or `power`
    #[arg(long, default_value = "")]
    only: String,
}

/// A change of the deployment, from one wish to another.
struct Operation {
    name: &'static str,
    before: Option<Value>,
    after: Value,
}

fn operations() -> Vec<Operation> {
    let all = ["n1", "n2", "n3"];
    vec![
        Operation {
            name: "deploy",
            before: None,
            after: wish(&all, 100),
        },
        Operation {
            name: "grow",
            before: Some(wish(&all[..2], 100)),
            after: wish(&all, 100),
        },
        Operation {
            name: "change",
            before: Some(wish(&all, 100)),
            after: wish(&all, 150),
        },
    ]
}

fn wish(nodes: &[&str], max_connections: u32) -> Value {
    let parameters = json!({ "max_connections": max_connections });
    let params = json!({"version": "15", "databases": [DATABASE], "parameters": parameters});
    json!({"driver": "postgres", "nodes": nodes, "params": params, "policy": {"on_delete": "purge"}})
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failed) => {
            eprintln!("error: {failed} cases failed");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<u32> {
    let mounted = Mounted::boot_with_agents(3)?;
    let mut failed = 0;
    for operation in operations() {
        let steps = steps(&mounted, &operation)?;
        println!("{}: {} steps", operation.name, steps.len());
        for (step, node) in &steps {
            for boundary in BOUNDARIES {
                for kind in KINDS {
                    let line = format!("{} {step} {boundary} {}", operation.name, kind.word());
                    if !line.contains(&arguments.only) {
                        continue;
                    }
                    let start = Instant::now();
                    match case(&mounted, &operation, (step, node), boundary, kind) {
                        Ok(()) => println!("{line}  ok {:.1} s", start.elapsed().as_secs_f64()),
                        Err(error) => {
                            failed += 1;
                            println!("{line}  FAILED {error:#}");
                        }
                    }
                }
            }
        }
    }
    Ok(failed)
}

/// Id and node of each step of `operation`, from a run in which nothing dies.
fn steps(mounted: &Mounted, operation: &Operation) -> Result<Vec<(String, String)>> {
    let [n1, ..] = mounted.three()?;
    prepare(mounted, operation)?;
    let generation = DEPLOYMENT.generation(n1)? + 1;
    DEPLOYMENT.wish(n1, &operation.after)?;
    DEPLOYMENT.wait_for(n1, "Active", generation, limits::DEPLOYMENT_MAX)?;
    let plan = n1.sh(&format!(
        "cat {}/plans/{generation:06}/plan.json",
        DEPLOYMENT.record()
    ))?;
    let plan: Value = serde_json::from_str(&plan)?;
    let steps = plan["steps"].as_array().context("a plan without steps")?;
    let text = |value: &Value| {
        value
            .as_str()
            .map(str::to_owned)
            .context("a step without id or node")
    };
    steps
        .iter()
        .map(|step| Ok((text(&step["id"])?, text(&step["node"])?)))
        .collect()
}

/// Removes what is there with its data, and reaches the state that `operation` starts from.
fn prepare(mounted: &Mounted, operation: &Operation) -> Result<()> {
    let [n1, ..] = mounted.three()?;
    for node in mounted.nodes() {
        node.boot()?;
        node.sh("rm -f /var/lib/dsm-agent/crash-at /var/lib/dsm-agent/crash-held")?;
    }
    let phase = DEPLOYMENT.status(n1)?.map(|status| status["phase"].clone());
    if phase.is_some_and(|phase| phase != "Removed") {
        n1.sh("rm -f /vfs/mid/shop-db.json")?;
        DEPLOYMENT.wait_for(n1, "Removed", 1, REMOVAL_MAX)?;
    }
    if let Some(before) = &operation.before {
        let generation = DEPLOYMENT.generation(n1)? + 1;
        DEPLOYMENT.wish(n1, before)?;
        DEPLOYMENT.wait_for(n1, "Active", generation, limits::DEPLOYMENT_MAX)?;
        write_row(n1, DATABASE, 1)?;
    }
    Ok(())
}

fn case(
    mounted: &Mounted,
    operation: &Operation,
    (step, node): (&str, &str),
    boundary: &str,
    kind: Kind,
) -> Result<()> {
    prepare(mounted, operation)?;
    let node = mounted.cluster().node(node)?;
    let [n1, ..] = mounted.three()?;
    arm(&node, step, boundary)?;
    let generation = DEPLOYMENT.generation(n1)? + 1;
    DEPLOYMENT.wish(n1, &operation.after)?;
    strike(&node, kind, DEPLOYMENT, generation)?;
    DEPLOYMENT.wait_for(n1, "Active", generation, limits::DEPLOYMENT_MAX)?;
    let first = primary(mounted.nodes(), DATABASE)?;
    if first.name() != "n1" {
        bail!("{} became primary", first.name());
    }
    write_row(n1, DATABASE, 2)?;
    let rows = if operation.before.is_some() { 2 } else { 1 };
    mounted
        .nodes()
        .iter()
        .try_for_each(|node| wait_for_rows(node, DATABASE, rows))
}
