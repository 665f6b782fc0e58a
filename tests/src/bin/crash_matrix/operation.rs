//! What the matrix does to a deployment: deploy, grow, change.
//!
//! Invariant: an operation always starts from the same state, under a new name, so that no record of an earlier run is
//! left; its end is checked against that of a run in which nothing died.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use system_tests::cluster::Node;
use system_tests::crash::release;
use system_tests::deployment::Deployment;
use system_tests::limits;
use system_tests::mounted::Mounted;
use system_tests::postgres::{primary, sql, wait_for_rows, write_row};

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

/// One run of an operation.
pub struct Run<'a> {
    operation: &'a Operation,
    mounted: &'a Mounted,
    name: String,
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
        let run = self.prepare(mounted)?;
        let generation = run.begin()?;
        let first = run.first();
        run.deployment()
            .wait_for(first, "Active", generation, limits::DEPLOYMENT_MAX)?;
        let record = run.deployment().record();
        let plan = first.sh(&format!("cat {record}/plans/{generation:06}/plan.json"))?;
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
        let end = run.check()?;
        run.remove()?;
        Ok((steps, end))
    }

    /// Reaches the state that the operation starts from, on nodes that have nothing of an earlier run.
    pub fn prepare<'a>(&'a self, mounted: &'a Mounted) -> Result<Run<'a>> {
        static RUNS: AtomicU32 = AtomicU32::new(1);
        for node in mounted.nodes() {
            node.boot()?;
            release(node)?;
        }
        remove_packages(mounted)?;
        let number = RUNS.fetch_add(1, Ordering::Relaxed);
        let run = Run {
            operation: self,
            mounted,
            name: format!("mid/shop-{number}"),
        };
        if let Some(before) = &self.before {
            let first = run.first();
            run.deployment().wish(first, before)?;
            run.deployment()
                .wait_for(first, "Active", 1, limits::DEPLOYMENT_MAX)?;
            write_row(first, DATABASE, 1)?;
        }
        Ok(run)
    }
}

impl Run<'_> {
    /// What is deployed.
    pub fn deployment(&self) -> Deployment<'_> {
        Deployment::new(&self.name)
    }

    fn first(&self) -> &Node {
        &self.mounted.nodes()[0]
    }

    /// Saves the wish; gives the generation that it makes.
    pub fn begin(&self) -> Result<u64> {
        let generation = self.deployment().generation(self.first())? + 1;
        self.deployment()
            .wish(self.first(), &self.operation.after)?;
        Ok(generation)
    }

    /// Waits until the operation has ended, checks that no acknowledged row is lost and n1 is the one primary, and
    /// removes it with its data.
    pub fn finish(&self, generation: u64, expected: &End) -> Result<()> {
        self.deployment()
            .wait_for(self.first(), "Active", generation, limits::DEPLOYMENT_MAX)?;
        let end = self.check()?;
        ensure!(
            end == *expected,
            "it ends in {end:?}, and in {expected:?} when nothing dies"
        );
        self.remove()
    }

    fn check(&self) -> Result<End> {
        let nodes = self.mounted.nodes();
        let primary = primary(nodes, DATABASE)?;
        if primary.name() != "n1" {
            bail!("{} became primary", primary.name());
        }
        write_row(primary, DATABASE, 2)?;
        let rows = if self.operation.before.is_some() {
            2
        } else {
            1
        };
        for node in nodes {
            wait_for_rows(node, DATABASE, rows)?;
        }
        let states = nodes.iter().map(|node| self.state(node));
        states.collect::<Result<_>>().map(End)
    }

    /// What a server was told and has: everything that may not depend on what died on the way.
    fn state(&self, node: &Node) -> Result<String> {
        let questions = [
            "SELECT string_agg(name || '=' || setting, ' ' ORDER BY name) FROM pg_settings \
             WHERE source = 'configuration file' AND name NOT IN ('primary_conninfo', 'unix_socket_directories')",
            "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database",
            "SELECT string_agg(rolname, ' ' ORDER BY rolname) FROM pg_roles",
            "SELECT string_agg(slot_name || ' ' || active, ' ' ORDER BY slot_name) FROM pg_replication_slots",
        ];
        let answers = questions.map(|question| sql(node, DATABASE, question));
        let answers = answers.into_iter().collect::<Result<Vec<_>>>()?;
        let text = format!("{}: {}", node.name(), answers.join("; "));
        let own_name = self.name.trim_start_matches("mid/");
        Ok(text
            .replace(own_name, "NAME")
            .replace(&own_name.replace('-', "_"), "NAME"))
    }

    fn remove(&self) -> Result<()> {
        self.first().sh(&format!("rm /vfs/{}.json", self.name))?;
        self.deployment()
            .wait_for(self.first(), "Removed", 1, REMOVAL_MAX)
            .map(drop)
    }

    /// What there is to know of a run that failed.
    pub fn explain(&self) -> String {
        let name = &self.name;
        let ask = |node: &Node| {
            let script = format!(
                "dsm-agent explain {name} 2>&1; cat /var/lib/dsm-agent/crash-*; \
                 journalctl --no-pager -n 60 -u vfsd -u dsm-agent"
            );
            node.sh(&script)
                .unwrap_or_else(|error| format!("{error:#}"))
        };
        let nodes = self.mounted.nodes().iter();
        nodes
            .map(|node| format!("== {}\n{}\n", node.name(), ask(node)))
            .collect()
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
