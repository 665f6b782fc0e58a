//! Real daemons, each with a mount, on this machine's loopback and disk.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use system_tests::wait::{wait_for, wait_until};

use super::daemon::{Daemon, Layout};
use crate::figures::Build;
use crate::plan::WAIT_MAX;

/// Voters of one build.
pub struct Cluster {
    /// Which build it is.
    pub build: Build,
    /// Its members.
    pub daemons: Vec<Daemon>,
    program: PathBuf,
}

impl Cluster {
    /// Forms a cluster of so many voters.
    pub fn start(
        build: Build,
        program: &Path,
        folder: &Path,
        voters: usize,
    ) -> anyhow::Result<Self> {
        let mut cluster = Self {
            build,
            daemons: Vec::new(),
            program: program.to_owned(),
        };
        for number in 1..=voters {
            let layout = Layout::new(&format!("n{number}"), folder)?;
            cluster.make_data(&layout)?;
            cluster.daemons.push(Daemon::start(program, &layout)?);
            if number > 1 {
                cluster.ask_first(&["member", "promote", &layout.name])?;
            }
        }
        let last = cluster.daemons.last().context("a cluster of no voters")?;
        wait_until("the last member to see a majority", WAIT_MAX, || {
            Ok(last.status("quorum").as_deref() == Some("true"))
        })?;
        Ok(cluster)
    }

    fn make_data(&self, layout: &Layout) -> anyhow::Result<()> {
        let data = layout.data();
        let mut arguments: Vec<&OsStr> = Vec::new();
        let token;
        match self.daemons.first() {
            None => arguments.push("init".as_ref()),
            Some(first) => {
                token = self.ask_first(&["token", "create"])?;
                let join = ["join", "--peer", &first.listen, "--token", token.trim()];
                arguments.extend(join.map(OsStr::new));
            }
        }
        let rest = [
            "--node",
            &layout.name,
            "--listen",
            &layout.listen,
            "--data-dir",
        ];
        arguments.extend(rest.map(OsStr::new));
        arguments.push(data.as_os_str());
        self.vfsd(&arguments).map(drop)
    }

    /// Asks the first member over its admin socket.
    fn ask_first(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let first = self.daemons.first().context("nobody to ask yet")?;
        let mut arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
        arguments.extend([OsStr::new("--runtime-dir"), first.runtime.as_os_str()]);
        self.vfsd(&arguments)
    }

    fn vfsd(&self, arguments: &[&OsStr]) -> anyhow::Result<String> {
        let output = Command::new(&self.program).args(arguments).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        let program = self.program.display();
        ensure!(output.status.success(), "{program} {arguments:?}: {said}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Which daemon leads.
    pub fn leader(&self) -> anyhow::Result<usize> {
        let leads = |daemon: &Daemon| daemon.status("role").as_deref() == Some("leader");
        wait_for("a leader", WAIT_MAX, || {
            Ok(self.daemons.iter().position(leads))
        })
    }

    /// The mounts of the leader and of a follower.
    pub fn leader_and_follower(&self) -> anyhow::Result<[&Path; 2]> {
        let leader = self.leader()?;
        let follower = (leader + 1) % self.daemons.len();
        Ok([leader, follower].map(|node| self.daemons[node].mount.as_path()))
    }

    /// The daemons that follow.
    pub fn followers(&self) -> anyhow::Result<impl Iterator<Item = &Daemon>> {
        let leader = self.leader()?;
        let all = self.daemons.iter().enumerate();
        Ok(all
            .filter(move |(node, _)| *node != leader)
            .map(|(_, daemon)| daemon))
    }

    /// Starts a daemon that was killed again, and waits until it sees a majority.
    pub fn start_again(&mut self, node: usize) -> anyhow::Result<()> {
        self.daemons[node].start_again(&self.program)
    }

    /// Waits until all members have applied what the furthest has.
    pub fn wait_applied(&self) -> anyhow::Result<()> {
        let applied = self.daemons.iter().map(Daemon::applied);
        let furthest = applied.collect::<anyhow::Result<Vec<u64>>>()?;
        let furthest = furthest.into_iter().max().unwrap_or_default();
        wait_until("all members to apply the same", WAIT_MAX, || {
            Ok(self
                .daemons
                .iter()
                .all(|daemon| daemon.applied().is_ok_and(|applied| applied >= furthest)))
        })
    }
}
