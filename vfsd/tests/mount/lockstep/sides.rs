//! The same calls on both sides, each answer compared before the next call.
//!
//! Invariant: a worker that does not answer in time is killed, its mount is aborted, and the next run begins with a
//! cluster of its own: a call that hangs is a difference like any other.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use system_tests::wait::wait_for;

use super::scratch::Scratch;
use super::times::{Times, without_fixed};
use super::{walk, worker};
use crate::{Cluster, kernel_is_at_least};

/// A call that takes longer hangs.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// What the last close leaves to the mount is committed, and seen on the other node, within this time.
const SETTLED_MAX: Duration = Duration::from_secs(10);
/// How often a call is made again that was answered with ESTALE beside another node's calls (docs/SEMANTICS.md).
const STALE_TRIES_MAX: usize = 5;
/// Processes of each side.
pub const WORKERS: usize = 3;

/// Where the tree and ext4 answered differently.
#[derive(Clone, Debug)]
pub struct Difference {
    /// Which call of the sequence; its length if it shows after everything is closed.
    pub at: usize,
    /// The call, or what was looked at in the end.
    pub call: String,
    pub ext4: String,
    pub tree: String,
}

impl Difference {
    /// What makes two differences the same kind: the call, and the kind of both answers.
    pub fn kind(&self) -> String {
        let call = self
            .call
            .trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
        let word = |text: &str| {
            let word = text.split(' ').next().unwrap_or_default();
            // Of a walk the first word is a path, whichever it is.
            if word.starts_with("./") {
                "entry"
            } else {
                word
            }
            .to_owned()
        };
        format!("{} {} {}", word(call), word(&self.ext4), word(&self.tree))
    }
}

/// A process that performs calls.
struct Worker {
    child: Child,
    calls: Option<ChildStdin>,
    answers: Receiver<String>,
    is_gone: bool,
}

impl Worker {
    fn start() -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["lockstep::worker::worker_process", "--exact", "--nocapture"])
            .env(worker::VARIABLE, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let Some(answer) = line.strip_prefix(worker::ANSWER) else {
                    continue;
                };
                if sender.send(answer.to_owned()).is_err() {
                    break;
                }
            }
        });
        let calls = child.stdin.take();
        Self {
            child,
            calls,
            answers,
            is_gone: false,
        }
    }

    fn tell(&mut self, call: &str) {
        if let Some(calls) = &mut self.calls {
            // A worker that is gone does not answer, and that is noticed.
            let _ = writeln!(calls, "{call}");
        }
    }

    fn hear(&mut self) -> String {
        let answer = self.answers.recv_timeout(ANSWER_MAX);
        answer.unwrap_or_else(|_| {
            self.is_gone = true;
            "no answer".to_owned()
        })
    }

    fn ask(&mut self, call: &str) -> String {
        self.tell(call);
        self.hear()
    }
}

impl Worker {
    /// As [`Worker::ask`], on a node beside which others move directories.
    fn ask_beside_others(&mut self, call: &str) -> String {
        let mut answer = self.ask(call);
        for _ in 0..STALE_TRIES_MAX {
            if answer != "ESTALE" {
                break;
            }
            answer = self.ask(call);
        }
        answer
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The end of its input ends it, unless it hangs.
        self.calls = None;
        if self.is_gone {
            let _ = self.child.kill();
        }
        let until = Instant::now() + ANSWER_MAX;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
            std::thread::yield_now();
        }
    }
}

/// Workers on a mounted node and on ext4, and one more on the second node.
pub struct Sides {
    tree: Vec<Worker>,
    ext4: Vec<Worker>,
    other: Worker,
    /// The node that each worker of the tree is on.
    nodes: [u64; WORKERS],
    /// Without one both sides are ext4: what differs then is a fault of the lockstep itself.
    cluster: Option<Cluster>,
    scratch: Scratch,
    runs: usize,
}

impl Sides {
    pub fn start() -> Self {
        Self::on(Some(Cluster::start()), [1; WORKERS])
    }

    /// With the second worker on the second node.
    pub fn of_two_nodes() -> Self {
        Self::on(Some(Cluster::start()), [1, 2, 1])
    }

    /// Both sides on ext4.
    pub fn of_ext4_alone() -> Self {
        Self::on(None, [1; WORKERS])
    }

    fn on(cluster: Option<Cluster>, nodes: [u64; WORKERS]) -> Self {
        let scratch = Scratch::new();
        std::fs::create_dir(scratch.path().join("tree")).unwrap();
        let workers = || (0..WORKERS).map(|_| Worker::start()).collect();
        Self {
            tree: workers(),
            ext4: workers(),
            other: Worker::start(),
            nodes,
            cluster,
            scratch,
            runs: 0,
        }
    }

    /// Runs `calls` in fresh folders up to the first difference.
    pub fn run(&mut self, calls: &[String]) -> Option<Difference> {
        self.runs += 1;
        let folder = format!("lockstep{}", self.runs);
        self.enter(&folder);
        let difference = self.perform(calls).or_else(|| self.end(calls));
        if self.has_hung() {
            self.abort();
            *self = Self::on(self.cluster.as_ref().map(|_| Cluster::start()), self.nodes);
        } else {
            self.leave();
        }
        difference
    }

    /// A folder of the tree, as this node sees it.
    fn folder(&self, node: u64, folder: &str) -> PathBuf {
        match &self.cluster {
            Some(cluster) => cluster.path(node, folder),
            None => self.scratch.path().join("tree").join(folder),
        }
    }

    fn enter(&mut self, folder: &str) {
        let ext4 = self.scratch.path().join(folder);
        for number in 0..WORKERS {
            let tree = self.folder(self.nodes[number], folder);
            for (worker, folder) in [
                (&mut self.tree[number], tree),
                (&mut self.ext4[number], ext4.clone()),
            ] {
                assert_eq!(worker.ask(&format!("enter {}", folder.display())), "ok");
            }
        }
    }

    fn perform(&mut self, calls: &[String]) -> Option<Difference> {
        let is_exact = kernel_is_at_least(6, 13);
        let [mut tree_times, mut ext4_times] = [Times::new(is_exact), Times::new(is_exact)];
        let is_mapped = calls.iter().any(|call| call.contains(" mmap "));
        for (at, line) in calls.iter().enumerate() {
            let (number, call) = line.split_once(' ').unwrap();
            let number: usize = number.parse().unwrap();
            let [on_tree, on_ext4] =
                [&mut self.tree, &mut self.ext4].map(|workers| addressed(workers, call));
            // Both at once: they do not touch each other.
            self.ext4[number].tell(&on_ext4);
            let worker = &mut self.tree[number];
            let tree = if self.nodes.iter().all(|node| *node == self.nodes[0]) {
                worker.ask(&on_tree)
            } else {
                worker.ask_beside_others(&on_tree)
            };
            let tree = tree_times.compared(call, &tree);
            let ext4 = ext4_times.compared(call, &self.ext4[number].hear());
            // The kernel asks for holes without telling of stores through a mapping that it has not written back.
            let is_told =
                !(is_mapped && ["data", "hole"].iter().any(|verb| call.starts_with(verb)));
            if tree != ext4 && is_told {
                return Some(Difference {
                    at,
                    call: line.clone(),
                    ext4,
                    tree,
                });
            }
        }
        None
    }

    /// Closes what is open, and looks at everything: at once here, and on the second node when it is committed.
    fn end(&mut self, calls: &[String]) -> Option<Difference> {
        let at = calls.len();
        for number in 0..WORKERS {
            let tree = self.tree[number].ask("closeall");
            let ext4 = self.ext4[number].ask("closeall");
            if tree != ext4 {
                let call = format!("{number} closeall");
                return Some(Difference {
                    at,
                    call,
                    ext4,
                    tree,
                });
            }
        }
        let is_mapped = calls.iter().any(|call| call.contains(" mmap "));
        let walk = |worker: &mut Worker| {
            let seen = worker.ask("walk");
            if is_mapped {
                without_fixed(&seen)
            } else {
                seen
            }
        };
        let ext4 = walk(&mut self.ext4[0]);
        let tree = walk(&mut self.tree[0]);
        if let Some(difference) = differing(at, "walk after all closes", &ext4, &tree) {
            return Some(difference);
        }
        let folder = self.folder(2, &format!("lockstep{}", self.runs));
        let mut seen = self.other.ask(&format!("enter {}", folder.display()));
        // What it ends with is compared below; in vain means that it differs.
        let _ = wait_for("the second node", SETTLED_MAX, || {
            seen = walk(&mut self.other);
            Ok((seen == ext4 || self.other.is_gone).then_some(()))
        });
        let later = walk(&mut self.tree[0]);
        differing(at, "walk of the second node", &ext4, &seen)
            .or_else(|| differing(at, "walk after the second node's", &ext4, &later))
    }

    fn leave(&mut self) {
        assert_eq!(self.other.ask("depart"), "ok");
        for workers in [&mut self.tree, &mut self.ext4] {
            let (first, rest) = workers.split_first_mut().unwrap();
            for worker in rest {
                assert_eq!(worker.ask("depart"), "ok");
            }
            let left = first.ask("leave");
            assert_eq!(left, "ok", "the folder of the run cannot be removed");
        }
    }

    fn has_hung(&self) -> bool {
        let workers = self.tree.iter().chain(&self.ext4);
        workers.chain([&self.other]).any(|worker| worker.is_gone)
    }

    /// Ends the connections of both mounts, so that whoever waits for an answer gets an error.
    fn abort(&self) {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        for node in 1..=2 {
            let point = self.folder(node, "");
            let mut lines = table
                .lines()
                .map(|line| line.split(' ').collect::<Vec<_>>());
            let line = lines.find(|fields| Path::new(fields[4]) == point);
            if let Some((_, minor)) = line.and_then(|fields| fields[2].split_once(':')) {
                // Without the control filesystem the end of the cluster has to do.
                let _ = std::fs::write(format!("/sys/fs/fuse/connections/{minor}/abort"), "1");
            }
        }
    }
}

/// A call for one side: the descriptor that `adopt` takes is known there by its process and number.
fn addressed(workers: &mut [Worker], call: &str) -> String {
    let words: Vec<&str> = call.split(' ').collect();
    let ["adopt", handle, from, other] = *words else {
        return call.to_owned();
    };
    let from: usize = from.parse().unwrap();
    let answer = workers[from].ask(&format!("number {other}"));
    let address = answer.strip_prefix("ok ").unwrap_or("none");
    format!("adopt {handle} {address}")
}

/// The entries that differ of two walks.
fn differing(at: usize, call: &str, ext4: &str, tree: &str) -> Option<Difference> {
    if ext4 == tree {
        return None;
    }
    let only = |one: &str, other: &str| {
        let other: Vec<&str> = other.split(walk::BETWEEN).collect();
        let one = one
            .split(walk::BETWEEN)
            .filter(|entry| !other.contains(entry));
        one.collect::<Vec<_>>().join(walk::BETWEEN)
    };
    let (ext4, tree) = (only(ext4, tree), only(tree, ext4));
    Some(Difference {
        at,
        call: call.to_owned(),
        ext4,
        tree,
    })
}
