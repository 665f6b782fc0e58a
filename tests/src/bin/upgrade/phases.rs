//! The phases: all of the earlier build, two changed, one step back and forth again, the last changed, the newer rules,
//! and the refusal of the earlier build from then on.

use anyhow::{Context, Result, ensure};
use system_tests::cluster::Node;
use system_tests::formation;
use system_tests::limits;
use system_tests::mounted::Mounted;
use system_tests::wait::wait_until;

use crate::build::{self, Build};
use crate::load::{Account, End, Load};
use crate::{Arguments, phase};

/// The cluster under load.
struct Run<'a> {
    nodes: [&'a Node; 3],
    loads: Vec<Load<'a>>,
    account: Account,
}

/// Goes through all phases and gives the summary.
pub fn run(arguments: &Arguments) -> Result<String> {
    let mounted = phase("three members of the earlier build", || {
        Mounted::boot_prepared(3, |node| {
            build::prepare(node, &arguments.earlier, &arguments.unit)
        })
    })?;
    let mut run = Run {
        nodes: mounted.three()?,
        loads: Vec::new(),
        account: Account::default(),
    };
    phase("load on each", || run.start_loads())?;
    let leader = formation::wait_for_leader(run.nodes[0])?;
    let is_leader = |node: &&Node| node.name() == leader;
    let mut followers = run.nodes.into_iter().filter(|node| !is_leader(node));
    let (first, second) = followers
        .next()
        .zip(followers.next())
        .context("no two followers")?;
    let last = run.nodes.into_iter().find(is_leader).context("no leader")?;
    // What a node holds is its own still after its daemon was changed within the life of its session.
    let fence = "getfattr --only-values -n user.lk.fence /vfs/lk/kept";
    let granted = first.sh(&format!("mkdir /vfs/lk/kept && {fence}"))?;
    run.change(first, Build::This, "upgraded")?;
    ensure!(
        first.sh(fence)? == granted,
        "{} has lost its lock",
        first.name()
    );
    run.change(second, Build::This, "upgraded")?;
    run.compare("both builds have equal states")?;
    run.require_level(first, 0)?;
    run.change(first, Build::Earlier, "one step back")?;
    run.compare("again, after the step back")?;
    run.change(first, Build::This, "upgraded again")?;
    run.change(last, Build::This, "upgraded, it led")?;
    let known = build::levels(last)?.1;
    phase(
        &format!("the rules of level {known} count on all members"),
        || {
            run.nodes.into_iter().try_for_each(|node| {
                wait_until("the newer rules", limits::CLUSTER_READY_MAX, || {
                    Ok(build::levels(node)?.0 == known)
                })
            })
        },
    )?;
    run.progress()?;
    run.compare("all members have equal states")?;
    let said = phase(
        "the earlier build refuses the data of the newer rules",
        || run.refuse(second, known),
    )?;
    run.stop_loads()?;
    phase(
        "everything acknowledged is there, whole, on each member",
        || run.account.require_all(&run.nodes),
    )?;
    let entry = build::require_equal_states(&run.nodes)?;
    let summary = run.account.summary(run.nodes[0])?;
    let line = said
        .lines()
        .rfind(|line| !line.trim().is_empty())
        .unwrap_or_default();
    Ok(format!(
        "\n{summary}states equal at entry {entry}, rules of level {known}\nthe earlier build: {}\n",
        line.trim()
    ))
}

impl<'a> Run<'a> {
    fn start_loads(&mut self) -> Result<()> {
        for (node, other) in self
            .nodes
            .into_iter()
            .zip(self.nodes.into_iter().cycle().skip(1))
        {
            let load = Load::start(node, other, &mut self.account)?;
            self.loads.push(load);
        }
        self.progress()
    }

    /// Waits until every node's load has got something done.
    fn progress(&mut self) -> Result<()> {
        self.loads.iter_mut().try_for_each(Load::wait_for_progress)
    }

    fn stop_loads(&mut self) -> Result<()> {
        let mut loads = self.loads.drain(..);
        loads.try_for_each(|load| load.end(End::Asked, &mut self.account))
    }

    /// Changes the build of one member; the others' load goes on.
    fn change(&mut self, node: &'a Node, build: Build, what: &str) -> Result<()> {
        phase(&format!("{} {what}", node.name()), || {
            build::change(node, build)?;
            self.restart_load(node)
        })
    }

    /// What ran on `node` has lost its mount; the load begins there anew.
    fn restart_load(&mut self, node: &'a Node) -> Result<()> {
        let at = self
            .nodes
            .iter()
            .position(|other| other.name() == node.name());
        let at = at.context("a node of another cluster")?;
        let other = self.nodes[(at + 1) % self.nodes.len()];
        let load = self.loads.remove(at);
        load.end(End::WithMount, &mut self.account)?;
        let load = Load::start(node, other, &mut self.account)?;
        self.loads.insert(at, load);
        self.progress()
    }

    /// Compares the states in a moment without load.
    fn compare(&mut self, what: &str) -> Result<()> {
        phase(what, || {
            self.stop_loads()?;
            build::require_equal_states(&self.nodes)?;
            self.start_loads()
        })
    }

    fn require_level(&self, node: &Node, wanted: u64) -> Result<()> {
        let (level, _) = build::levels(node)?;
        ensure!(
            level == wanted,
            "{} applies by rules of level {level}, not {wanted}",
            node.name()
        );
        Ok(())
    }

    fn refuse(&mut self, node: &'a Node, level: u64) -> Result<String> {
        let said = build::require_refusal_of_earlier(node, level)?;
        self.restart_load(node)?;
        Ok(said)
    }
}
