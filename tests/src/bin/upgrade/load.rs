//! What runs on each node while members change: one that makes files, one that saves documents, one that reads those of
//! another node. And the account of what they were told is done.

use anyhow::{Context, Result, ensure};
use system_tests::cluster::{Background, Node};
use system_tests::limits;
use system_tests::mounted::barrier;
use system_tests::wait::wait_until;

/// Files that each node must have made before a phase goes on: enough to know that the load runs.
const PROGRESS_MIN: usize = 20;

/// The longest time between two files of all nodes, in seconds, as their times tell it.
const LONGEST_PAUSE: &str = "find /vfs/load -type f -printf '%T@\\n' | sort -n |
    awk 'NR > 1 && $1 - last > most { most = $1 - last } { last = $1 } END { printf \"%.1f\", most }'";

/// What was acknowledged on all nodes.
#[derive(Debug, Default)]
pub struct Account {
    /// Names in `/vfs/load`.
    made: Vec<String>,
    /// Nodes and the numbers of their newest documents.
    saved: Vec<(String, u64)>,
    reads: u64,
    /// What was refused for want of a majority, as the programs told it.
    refused: Vec<String>,
    runs: u32,
}

/// The programs of one node.
#[derive(Debug)]
pub struct Load<'a> {
    node: &'a Node,
    prefix: String,
    create: Background,
    made: Vec<String>,
    save: Background,
    first_saved: u64,
    read: Background,
}

/// Why the programs end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// They are asked to: then all was well, or they say what was not.
    Asked,
    /// Their mount went away: then they fail, with the kernel's word for it.
    WithMount,
}

impl<'a> Load<'a> {
    /// Starts the programs on `node`; its reader reads what `other` saves, where there is something by now.
    pub fn start(node: &'a Node, other: &Node, account: &mut Account) -> Result<Self> {
        account.runs += 1;
        let prefix = format!("{}-{}-", node.name(), account.runs);
        let first_saved = account.newest_saved(node) + 1;
        node.sh("mkdir -p /vfs/load /vfs/saves")?;
        let (own, others) = (document(node), document(other));
        let read_start =
            format!("until test -s {others}; do sleep 0.1; done; exec workload read {others}");
        Ok(Self {
            node,
            create: node.start(&["workload", "create", "/vfs/load", &prefix, "--go-on"])?,
            made: Vec::new(),
            prefix,
            save: node.start(&[
                "workload",
                "save",
                &own,
                &first_saved.to_string(),
                "--go-on",
            ])?,
            first_saved,
            read: node.start(&["sh", "-c", &read_start])?,
        })
    }

    /// Waits until it has made some more files.
    pub fn wait_for_progress(&mut self) -> Result<()> {
        let what = format!("files of {}", self.node.name());
        let enough = self.made.len() + PROGRESS_MIN;
        wait_until(&what, limits::COMMAND_MAX, || {
            self.made.extend(self.create.lines());
            Ok(self.made.len() >= enough)
        })
    }

    /// Ends the programs, or sees them end, and enters what they were told into `account`.
    pub fn end(mut self, end: End, account: &mut Account) -> Result<()> {
        let programs = [self.create, self.save, self.read];
        let ended = programs.map(|program| match end {
            End::Asked => program.stop(limits::COMMAND_MAX),
            End::WithMount => program.finish(limits::COMMAND_MAX),
        });
        let [create, save, read] = ended;
        let (create, save, read) = (create?, save?, read?);
        let name = self.node.name();
        for ended in [&create, &save, &read] {
            // What the kernel refuses has its number; what a program finds wrong by itself has none.
            let last = ended.errors.lines().last().unwrap_or_default();
            let is_fine =
                ended.status.success() || end == End::WithMount && last.contains("os error");
            ensure!(is_fine, "on {name}: {}", ended.errors);
            let refused = ended
                .errors
                .lines()
                .filter(|line| line.starts_with("change"));
            account
                .refused
                .extend(refused.map(|line| format!("{name}: {line}")));
        }
        self.made.extend(create.lines);
        let made = self
            .made
            .iter()
            .map(|number| format!("{}{number}", self.prefix));
        account.made.extend(made);
        let newest = save
            .lines
            .last()
            .map_or(Ok(self.first_saved - 1), |line| line.parse())?;
        account.saved.push((name.to_owned(), newest));
        let reads = read
            .lines
            .last()
            .and_then(|line| line.split(' ').next()?.parse::<u64>().ok());
        account.reads += reads.unwrap_or(0);
        Ok(())
    }
}

impl Account {
    /// The number of the newest document that `node` was told is saved; 0 if none.
    fn newest_saved(&self, node: &Node) -> u64 {
        let of_node = self.saved.iter().filter(|(name, _)| name == node.name());
        of_node.map(|(_, number)| *number).max().unwrap_or(0)
    }

    /// Looks on each of `nodes` that everything acknowledged is there, whole.
    pub fn require_all(&self, nodes: &[&Node]) -> Result<()> {
        for node in nodes {
            barrier(node)?;
            let there = node.sh("workload check /vfs/load")?;
            let there: std::collections::BTreeSet<&str> = there.lines().collect();
            let lost: Vec<&String> = self
                .made
                .iter()
                .filter(|name| !there.contains(name.as_str()))
                .collect();
            ensure!(lost.is_empty(), "{} has lost {lost:?}", node.name());
            for saver in nodes {
                let text = node.sh(&format!("cat {}", document(saver)))?;
                let value: serde_json::Value = serde_json::from_str(&text)?;
                let number = value["number"]
                    .as_u64()
                    .context("a document without a number")?;
                let newest = self.newest_saved(saver);
                ensure!(
                    number >= newest,
                    "{} has document {number} after {newest}",
                    node.name()
                );
            }
        }
        Ok(())
    }

    /// What was done, for people.
    pub fn summary(&self, node: &Node) -> Result<String> {
        let mut names: Vec<&String> = self.saved.iter().map(|(name, _)| name).collect();
        names.sort();
        names.dedup();
        let newest = |name: &String| {
            self.saved
                .iter()
                .filter(|(of, _)| of == name)
                .map(|(_, number)| *number)
                .max()
        };
        let saves: u64 = names.into_iter().filter_map(newest).sum();
        let refused: String = self
            .refused
            .iter()
            .map(|line| format!("  {line}\n"))
            .collect();
        Ok(format!(
            "files made {}, documents saved {saves}, reads {}: none lost, none older\n\
             refused for want of a majority {}\n{refused}\
             longest time in which no node could make a file {} s\n",
            self.made.len(),
            self.reads,
            self.refused.len(),
            node.sh(LONGEST_PAUSE)?
        ))
    }
}

fn document(node: &Node) -> String {
    format!("/vfs/saves/{}", node.name())
}
