//! A plain directory with the fixed parts of a tree, an agent process in it, and the waits of the tests.
//!
//! Nothing of it is left afterwards: the agent is killed, the directories and the notes of the `file` driver removed.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use age::secrecy::ExposeSecret;
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(40);
const POLL: Duration = Duration::from_millis(20);

pub struct Sandbox {
    directory: tempfile::TempDir,
    agent: Option<Child>,
}

impl Sandbox {
    pub fn new() -> Self {
        let directory = tempfile::Builder::new()
            .prefix("dsm-agent-")
            .tempdir_in("/var/tmp")
            .unwrap();
        let sandbox = Self {
            directory,
            agent: None,
        };
        for name in ["mid", "ctx", "run", "lk/dsm", ".vfs"] {
            std::fs::create_dir_all(sandbox.tree().join(name)).unwrap();
        }
        let identity = age::x25519::Identity::generate();
        std::fs::create_dir_all(sandbox.path("vfsd")).unwrap();
        std::fs::write(
            sandbox.path("vfsd/identity.age"),
            identity.to_string().expose_secret(),
        )
        .unwrap();
        // The cluster's name is part of every uid: tests that run at once keep apart by it.
        let cluster: String = sandbox
            .path("")
            .display()
            .to_string()
            .chars()
            .rev()
            .filter(|c| c.is_ascii_alphanumeric())
            .take(6)
            .collect();
        let status = json!({ "cluster": cluster, "node": "n1", "quorum": true });
        sandbox.write_file(".vfs/status.json", &status.to_string());
        let member = json!({ "id": 1, "name": "n1", "address": "127.0.0.1:1", "role": "voter",
                             "age_public": identity.to_public().to_string() });
        let members = json!({ "cluster": cluster, "members": [member] });
        sandbox.write_file(".vfs/members.json", &members.to_string());
        sandbox
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn tree(&self) -> PathBuf {
        self.path("tree")
    }

    fn binary(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dsm-agent"));
        command
            .arg("--root")
            .arg(self.tree())
            .args(["--plain-tree", "n1"]);
        command.arg("--vfsd-data-dir").arg(self.path("vfsd"));
        command.arg("--config").arg(self.path("agent.toml"));
        command
    }

    pub fn start(&mut self, crash_at: Option<&str>) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.path("log"))
            .unwrap();
        let mut command = self.binary();
        command
            .arg("run")
            .arg("--state-dir")
            .arg(self.path("state"));
        if let Some(spec) = crash_at {
            command.args(["--crash-at", spec]);
        }
        self.agent = Some(command.stderr(log).spawn().unwrap());
    }

    pub fn wait_death(&mut self) {
        let until = Instant::now() + DEADLINE;
        let agent = self.agent.as_mut().unwrap();
        while agent.try_wait().unwrap().is_none() {
            assert!(Instant::now() < until, "the agent lives on");
            std::thread::sleep(POLL);
        }
    }

    pub fn command(&self, arguments: &[&str]) -> String {
        self.command_with_input(arguments, "")
    }

    pub fn command_with_input(&self, arguments: &[&str], input: &str) -> String {
        let mut child = self
            .binary()
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn wish_text(&self, name: &str, content: &str) -> String {
        let params = json!({ "path": self.target(name), "content": content });
        json!({ "driver": "file", "nodes": ["n1"], "params": params }).to_string()
    }

    pub fn wish(&self, name: &str, content: &str) {
        self.write_wish(name, &self.wish_text(name, content));
    }

    pub fn write_wish(&self, name: &str, text: &str) {
        self.write_file(&format!("mid/{name}.json"), text);
    }

    pub fn write_file(&self, path: &str, text: &str) {
        std::fs::write(self.tree().join(path), text).unwrap();
    }

    pub fn rename(&self, from: &str, to: &str) {
        std::fs::rename(self.tree().join(from), self.tree().join(to)).unwrap();
    }

    pub fn remove(&self, path: &str) {
        std::fs::remove_file(self.tree().join(path)).unwrap();
    }

    pub fn remove_tree(&self, path: &str) {
        std::fs::remove_dir_all(self.tree().join(path)).unwrap();
    }

    pub fn kill(&mut self) {
        let mut agent = self.agent.take().unwrap();
        agent.kill().unwrap();
        agent.wait().unwrap();
    }

    pub fn target(&self, name: &str) -> PathBuf {
        self.path("out").join(name)
    }

    pub fn content(&self, name: &str) -> String {
        std::fs::read_to_string(self.target(name)).unwrap_or_default()
    }

    pub fn status(&self, id: &str) -> Value {
        let path = self.tree().join("run").join(id).join("status.json");
        let bytes = std::fs::read(path).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    pub fn wait_phase(&self, id: &str, phase: &str) {
        self.wait(&format!("{id} to be {phase}"), |sandbox| {
            sandbox.status(id)["phase"] == phase
        });
    }

    pub fn wait(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let until = Instant::now() + DEADLINE;
        while !done(self) {
            if Instant::now() > until {
                let log = std::fs::read_to_string(self.path("log")).unwrap_or_default();
                panic!(
                    "no sign of {what}; status: {}\n{log}",
                    self.command(&["status", "--json"])
                );
            }
            std::thread::sleep(POLL);
        }
    }

    /// Lets time pass in which nothing must happen.
    pub fn wait_time(&self, time: Duration) {
        let until = Instant::now() + time;
        self.wait("the end of the time", |_| Instant::now() >= until);
    }

    pub fn generations(&self, id: &str) -> usize {
        let plans = self.tree().join("run").join(id).join("plans");
        let entries = std::fs::read_dir(plans)
            .unwrap()
            .map(|entry| entry.unwrap().file_name());
        entries
            .filter(|name| name.to_string_lossy().parse::<u64>().is_ok())
            .count()
    }

    pub fn evs(&self, id: &str, generation: u64) -> Vec<String> {
        let path = self
            .tree()
            .join("run")
            .join(id)
            .join(format!("log/n1/{generation:06}.jsonl"));
        let text = std::fs::read_to_string(path).unwrap();
        text.lines()
            .map(|line| {
                serde_json::from_str::<Value>(line).unwrap()["ev"]
                    .as_str()
                    .unwrap()
                    .to_owned()
            })
            .collect()
    }

    /// Change time of every file of the record.
    pub fn stamps(&self) -> BTreeMap<String, std::time::SystemTime> {
        let mut found = BTreeMap::new();
        walk(&self.tree().join("run"), &mut |path| {
            let stamp = path.metadata().unwrap().modified().unwrap();
            found.insert(path.display().to_string(), stamp);
        });
        found
    }

    pub fn all_record_bytes(&self) -> Vec<u8> {
        let mut all = Vec::new();
        walk(&self.tree().join("run"), &mut |path| {
            all.extend(std::fs::read(path).unwrap())
        });
        all
    }

    /// The uids of all deployments, which name the `file` driver's notes.
    pub fn uids(&self) -> Vec<String> {
        let mut uids = Vec::new();
        walk(&self.tree().join("run"), &mut |path| {
            if path.ends_with("plans/wish.json") {
                let record: Value =
                    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap_or_default();
                uids.extend(record["uid"].as_str().map(str::to_owned));
            }
        });
        uids
    }
}

fn walk(directory: &Path, visit: &mut dyn FnMut(&Path)) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            walk(&entry.path(), visit);
        } else if kind.is_file() {
            visit(&entry.path());
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Some(agent) = &mut self.agent {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        for uid in self.uids() {
            let _ = std::fs::remove_file(format!("/var/lib/contextos/file/{uid}.json"));
        }
    }
}
