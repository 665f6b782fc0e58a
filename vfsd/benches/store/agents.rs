//! From a wish to the first step: three agents on the mounts, and the driver `file`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use serde_json::{Value, json};

use crate::Plan;
use crate::cluster::wait_until;
use crate::report::Report;

const WISHES: usize = 20;
const KEY: &str = "first_started_ms";
const LABEL: &str = "close of a wish to the first step's started";

/// A node's mount, and the data directory of its daemon.
pub struct Place {
    /// Name of the node.
    pub node: String,
    /// Mount point.
    pub mount: PathBuf,
    /// Data directory of vfsd.
    pub data: PathBuf,
}

/// Agents that end with this value.
struct Agents(Vec<Child>);

impl Drop for Agents {
    fn drop(&mut self) {
        for agent in &mut self.0 {
            // What has ended already is what we want.
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }
}

/// Adds the rows of the agents, or why they are not there.
pub fn measure(plan: &Plan, places: &[Place], report: &mut Report) -> anyhow::Result<()> {
    let program = plan.vfsd.with_file_name("dsm-agent");
    if !program.exists() {
        let why = format!("{} is not there", program.display());
        report.absent(KEY, LABEL, why);
        return Ok(());
    }
    let mut agents = Agents(Vec::new());
    for place in places {
        agents.0.push(start(plan, &program, place)?);
    }
    let bench = Bench {
        mount: places[0].mount.clone(),
        nodes: places.iter().map(|place| place.node.clone()).collect(),
        file: plan.dir.join("deployed"),
    };
    let samples = (0..=WISHES)
        .map(|number| bench.first_started(number))
        .collect::<anyhow::Result<Vec<f64>>>()?;
    // The first one makes the record's folders.
    report.times(KEY, LABEL, samples[1..].to_vec());
    let entries = bench.entries_while_idle(plan.idle_for)?;
    let label = "log entries of idle agents";
    report.number("idle_entries", label, entries);
    fs::remove_file(bench.wish())?;
    wait_until("the removal", || bench.phase("Removed"))
}

fn start(plan: &Plan, program: &Path, place: &Place) -> anyhow::Result<Child> {
    let log = fs::File::create(plan.dir.join(format!("{}-agent.log", place.node)))?;
    Command::new(program)
        .arg("--root")
        .arg(&place.mount)
        .arg("--vfsd-data-dir")
        .arg(&place.data)
        .args(["--config", "/dev/null", "run", "--state-dir"])
        .arg(plan.dir.join(format!("{}-agent", place.node)))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .with_context(|| program.display().to_string())
}

struct Bench {
    mount: PathBuf,
    nodes: Vec<String>,
    file: PathBuf,
}

impl Bench {
    fn wish(&self) -> PathBuf {
        self.mount.join("mid/bench.json")
    }

    fn record(&self, path: &str) -> PathBuf {
        self.mount.join("run/mid/bench").join(path)
    }

    fn save(&self, number: usize) -> anyhow::Result<()> {
        let params = json!({"path": self.file, "content": format!("{number}\n")});
        let wish = json!({"driver": "file", "nodes": self.nodes, "params": params});
        Ok(fs::write(self.wish(), wish.to_string())?)
    }

    fn phase(&self, phase: &str) -> bool {
        let status = fs::read(self.record("status.json")).unwrap_or_default();
        let status: Value = serde_json::from_slice(&status).unwrap_or_default();
        status["phase"] == phase
    }

    /// Milliseconds from the return of the save to the first `started` of its generation, by the clock of this machine.
    fn first_started(&self, number: usize) -> anyhow::Result<f64> {
        self.save(number)?;
        let closed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
        let generation = number + 1;
        let name = format!("{generation:06}");
        wait_until("a deployment", || {
            let result = self.record(&format!("plans/{name}/result.json"));
            result.exists() && self.phase("Active")
        })?;
        let mut first = f64::INFINITY;
        for node in &self.nodes {
            let log = fs::read_to_string(self.record(&format!("log/{node}/{name}.jsonl")))?;
            for line in log.lines() {
                let line: Value = serde_json::from_str(line)?;
                if line["ev"] == "started" {
                    let at: jiff::Timestamp = line["at"].as_str().unwrap_or_default().parse()?;
                    first = first.min(at.as_microsecond() as f64 / 1e6);
                }
            }
        }
        Ok((first - closed) * 1e3)
    }

    /// Log entries while three agents look after a deployment that is as wished.
    fn entries_while_idle(&self, during: Duration) -> anyhow::Result<f64> {
        // What follows the last deployment (observations, status) is not idleness.
        let mut before = self.applied()?;
        wait_until("the agents to come to rest", || {
            std::thread::park_timeout(Duration::from_secs(1));
            let Ok(now) = self.applied() else {
                return false;
            };
            std::mem::replace(&mut before, now) == now
        })?;
        // Nothing tells of a pass that did nothing: time is all that can be waited for.
        std::thread::park_timeout(during);
        Ok((self.applied()? - before) as f64)
    }

    fn applied(&self) -> anyhow::Result<i64> {
        let status = fs::read(self.mount.join(".vfs/status.json"))?;
        let status: Value = serde_json::from_slice(&status)?;
        status["applied"]
            .as_i64()
            .context("a status without applied")
    }
}
