//! What the matrix does to a deployment: deploy, grow, change.
//!
//! Invariant: an operation always starts from the same state, and its end is checked against that of a run in which
//! nothing died.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use system_tests::cluster::Node;
use system_tests::deployment::Deployment;
use system_tests::limits;
use system_tests::mounted::Mounted;
use system_tests::postgres::{primary, sql, wait_for_rows, write_row};

/// What is deployed.
pub const DEPLOYMENT: Deployment<'static> = Deployment::new("mid/shop-db");

const DATABASE: &str = "shop";

/// A removal waits for its grace of ten seconds first.
const REMOVAL_MAX: Duration = Duration::from_secs(120);

/// A change of the deployment, from one wish to another.
pub struct Operation {
    /// Its word in the report.
    pub name: &'static str,
    before: Option<Value>,
    after: Value,
}

/// A step, and the node that runs it.
#[derive(Debug, Clone)]
pub struct Step {
    /// Its id in the plan.
    pub id: String,
    /// Name of the node.
    pub node: String,
}

/// What every run of an operation must end in.
#[derive(Debug, PartialEq, Eq)]
pub struct End(Vec<String>);

/// The operations of the matrix.
pub fn operations() -> [Operation; 3] {
    let all = ["n1", "n2", "n3"];
    [
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

impl Operation {
    /// Steps in the order of the plan, and the end, from a run in which nothing dies.
    pub fn rehearse(&self, mounted: &Mounted) -> Result<(Vec<Step>, End)> {
        let [n1, ..] = mounted.three()?;
        self.prepare(mounted)?;
        let generation = self.begin(n1)?;
        DEPLOYMENT.wait_for(n1, "Active", generation, limits::DEPLOYMENT_MAX)?;
        let record = DEPLOYMENT.record();
        let plan = n1.sh(&format!("cat {record}/plans/{generation:06}/plan.json"))?;
        let plan: Value = serde_json::from_str(&plan)?;
        let steps = plan["steps"].as_array().context("a plan without steps")?;
        let text = |value: &Value| {
            let text = value.as_str().map(str::to_owned);
            text.context("a step without id or node")
        };
        let step = |step: &Value| {
            Ok(Step {
                id: text(&step["id"])?,
                node: text(&step["node"])?,
            })
        };
        let steps = steps.iter().map(step).collect::<Result<_>>()?;
        Ok((steps, self.check(mounted)?))
    }

    /// Removes what is there with its data, and reaches the state that the operation starts from.
    pub fn prepare(&self, mounted: &Mounted) -> Result<()> {
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
        remove_packages(mounted)?;
        if let Some(before) = &self.before {
            let generation = DEPLOYMENT.generation(n1)? + 1;
            DEPLOYMENT.wish(n1, before)?;
            DEPLOYMENT.wait_for(n1, "Active", generation, limits::DEPLOYMENT_MAX)?;
            write_row(n1, DATABASE, 1)?;
        }
        Ok(())
    }

    /// Saves the wish on `node`; gives the generation that it makes.
    pub fn begin(&self, node: &Node) -> Result<u64> {
        let generation = DEPLOYMENT.generation(node)? + 1;
        DEPLOYMENT.wish(node, &self.after)?;
        Ok(generation)
    }

    /// Waits until the operation has ended, and checks that no acknowledged row is lost and n1 is the one primary.
    pub fn finish(&self, mounted: &Mounted, generation: u64, expected: &End) -> Result<()> {
        let [n1, ..] = mounted.three()?;
        DEPLOYMENT.wait_for(n1, "Active", generation, limits::DEPLOYMENT_MAX)?;
        let end = self.check(mounted)?;
        ensure!(
            end == *expected,
            "it ends in {end:?}, and in {expected:?} when nothing dies"
        );
        Ok(())
    }

    fn check(&self, mounted: &Mounted) -> Result<End> {
        let [n1, ..] = mounted.three()?;
        let first = primary(mounted.nodes(), DATABASE)?;
        if first.name() != "n1" {
            bail!("{} became primary", first.name());
        }
        write_row(n1, DATABASE, 2)?;
        let rows = if self.before.is_some() { 2 } else { 1 };
        for node in mounted.nodes() {
            wait_for_rows(node, DATABASE, rows)?;
        }
        mounted
            .nodes()
            .iter()
            .map(state)
            .collect::<Result<_>>()
            .map(End)
    }
}

/// A removal leaves the packages; without them there is something to install again.
fn remove_packages(mounted: &Mounted) -> Result<()> {
    let remove = |node: &Node| {
        let script =
            "DEBIAN_FRONTEND=noninteractive apt-get -qq purge --autoremove 'postgresql*' 2>&1";
        node.sh(script).map(drop)
    };
    std::thread::scope(|scope| {
        let nodes = mounted.nodes().iter();
        let removals: Vec<_> = nodes.map(|node| scope.spawn(|| remove(node))).collect();
        let outcome = |removal: std::thread::ScopedJoinHandle<'_, Result<()>>| {
            let panicked = |_| bail!("a thread that removes packages panicked");
            removal.join().unwrap_or_else(panicked)
        };
        removals.into_iter().try_for_each(outcome)
    })
}

/// What a server was told and has: everything that may not depend on what died on the way.
fn state(node: &Node) -> Result<String> {
    let questions = [
        "SELECT string_agg(name || '=' || setting, ' ' ORDER BY name) FROM pg_settings \
         WHERE source = 'configuration file' AND name NOT LIKE 'primary_conninfo'",
        "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database",
        "SELECT string_agg(rolname, ' ' ORDER BY rolname) FROM pg_roles",
        "SELECT string_agg(slot_name || ' ' || active, ' ' ORDER BY slot_name) FROM pg_replication_slots",
    ];
    let answers = questions.map(|question| sql(node, DATABASE, question));
    let answers = answers.into_iter().collect::<Result<Vec<_>>>()?;
    Ok(format!("{}: {}", node.name(), answers.join("; ")))
}
