//! One node: a namespace of this machine with systemd, a disk, a cable and control groups of its own.
//!
//! Invariants: every operation may be repeated; what is known of a node lies in its folder, so that several programs
//! can act on it; operations that change a node exclude each other by a lock in that folder.
//! Not here: commands inside the node (`exec.rs`).

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::control_group::{ControlGroup, Layout};
use super::disk::Disk;
use super::launcher::{self, LaunchPlan};
use super::node_root::RootPlan;
use super::process::ProcessId;
use super::{Cluster, ClusterRecord};
use crate::limits;
use crate::wait::wait_until;

/// A node of a [`Cluster`].
#[derive(Debug, Clone)]
pub struct Node {
    name: String,
    index: u8,
    folder: PathBuf,
    cluster: ClusterRecord,
}

/// What is kept of a node.
#[derive(Debug, Default, Serialize, Deserialize)]
struct NodeRecord {
    /// Its init, since its last boot.
    init: Option<ProcessId>,
}

/// Whether an operation had something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It was so already.
    Unchanged,
    /// It is so now.
    Changed,
}

impl Node {
    /// The node `name` of `cluster`, which need not exist yet.
    ///
    /// # Errors
    /// If the name is not `n1` to `n39`.
    pub(super) fn new(cluster: &Cluster, name: &str) -> Result<Self> {
        let index = name
            .strip_prefix('n')
            .and_then(|digits| digits.parse::<u8>().ok());
        match index {
            Some(index @ 1..=limits::NODES_MAX) if name == format!("n{index}") => Ok(Self {
                name: name.to_owned(),
                index,
                folder: cluster.folder().join(name),
                cluster: cluster.record().clone(),
            }),
            _ => bail!(
                "{name:?} is not a node: nodes are n1 to n{}",
                limits::NODES_MAX
            ),
        }
    }

    /// Its name, which is its host name too.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address on the cluster's network.
    pub fn address(&self) -> String {
        self.cluster.switch().address(self.index)
    }

    /// Where its files lie on the host.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether it was ever made.
    pub fn exists(&self) -> bool {
        self.record_path().exists()
    }

    /// Its init, if it runs.
    ///
    /// # Errors
    /// If its record cannot be read.
    pub fn init(&self) -> Result<Option<ProcessId>> {
        Ok(self.record()?.init.filter(ProcessId::is_alive))
    }

    /// Its init.
    ///
    /// # Errors
    /// If it does not run.
    pub fn running_init(&self) -> Result<ProcessId> {
        self.init()?
            .with_context(|| format!("node {} does not run", self.name))
    }

    /// Makes it if it is not there, boots it if it does not run, and waits until its systemd has started all.
    ///
    /// # Errors
    /// If a part cannot be made or systemd is not ready in time.
    pub fn boot(&self) -> Result<Change> {
        let _lock = self.lock()?;
        if self.init()?.is_some() {
            return Ok(Change::Unchanged);
        }
        let groups = self.control_groups()?;
        groups.ensure_removed()?;
        groups.ensure()?;
        self.cluster.switch().ensure_cable(&self.name, self.index)?;
        self.disk().ensure_mounted()?;
        let pid = launcher::start(&self.cluster.launcher, &self.launch_plan(&groups)?)?;
        self.save(&NodeRecord {
            init: Some(ProcessId::of(pid)?),
        })?;
        self.wait_for_systemd()?;
        Ok(Change::Changed)
    }

    fn launch_plan(&self, groups: &ControlGroup) -> Result<LaunchPlan> {
        let switch = self.cluster.switch();
        let mount_point = self.folder.join("root");
        fs::create_dir_all(&mount_point)?;
        Ok(LaunchPlan {
            control_group_files: groups.init_files(),
            network_namespace: switch.namespace_path(&self.name),
            console: self.folder.join("console.log"),
            root: RootPlan {
                hostname: self.name.clone(),
                hosts: (1..=limits::NODES_MAX)
                    .map(|index| (switch.address(index), format!("n{index}")))
                    .collect(),
                machine_id: format!("{:032x}", 0x1000 + u32::from(self.index)),
                layers: self.cluster.layers.clone(),
                disk: self.disk().path().to_owned(),
                mount_point,
                control_groups: Layout::of_host()?,
            },
        })
    }

    fn wait_for_systemd(&self) -> Result<()> {
        wait_until(
            &format!("node {} to boot", self.name),
            limits::BOOT_MAX,
            || {
                // It waits by itself once systemd listens; before that it fails at once.
                let answer = self.run(&["systemctl", "is-system-running", "--wait"])?;
                let state = answer.stdout_text();
                if state.trim() == "degraded" {
                    let failed = self
                        .run(&["systemctl", "--failed", "--plain", "--no-legend"])?
                        .stdout_text();
                    bail!(
                        "node {} booted with failed units: {}",
                        self.name,
                        failed.trim()
                    );
                }
                Ok(state.trim() == "running")
            },
        )
    }

    /// Cuts its power: what was not synced is lost, then all its processes end at once.
    ///
    /// # Errors
    /// If a process survives or the disk stays busy.
    pub fn power_cut(&self) -> Result<Change> {
        let _lock = self.lock()?;
        let Some(init) = self.init()? else {
            return Ok(Change::Unchanged);
        };
        self.disk().power_cut()?;
        self.end(Some(init))?;
        Ok(Change::Changed)
    }

    /// Ends its processes and gives back what holds memory or mounts; its disk and cable stay.
    fn end(&self, init: Option<ProcessId>) -> Result<()> {
        let groups = self.control_groups()?;
        if let Some(init) = init {
            init.kill(limits::DEATH_MAX)?;
        }
        groups.kill_commands()?;
        groups.ensure_removed()?;
        self.disk().ensure_unmounted()?;
        self.save(&NodeRecord::default())
    }

    /// Freezes (or thaws) every process of it.
    ///
    /// # Errors
    /// If it does not run.
    pub fn set_frozen(&self, frozen: bool) -> Result<()> {
        self.running_init()?;
        self.control_groups()?.set_frozen(frozen)
    }

    /// Cuts it off from all other nodes.
    ///
    /// # Errors
    /// If the switch refuses.
    pub fn cut(&self) -> Result<()> {
        self.cluster.switch().cut(&self.name)
    }

    /// Drops what it sends to `other`; what `other` sends still arrives.
    ///
    /// # Errors
    /// If the switch refuses.
    pub fn cut_towards(&self, other: &Node) -> Result<()> {
        self.cluster.switch().cut_direction(&self.name, &other.name)
    }

    /// Ends every cut that concerns it.
    ///
    /// # Errors
    /// If the switch refuses.
    pub fn heal(&self) -> Result<()> {
        self.cluster.switch().heal(&self.name)
    }

    /// Whether it is cut off.
    ///
    /// # Errors
    /// If the switch does not answer.
    pub fn is_cut(&self) -> Result<bool> {
        self.cluster.switch().is_cut(&self.name)
    }

    /// Takes it away with all it holds.
    ///
    /// # Errors
    /// If a part cannot be taken away; the others are.
    pub fn remove(&self) -> Result<()> {
        let ended = self.end(self.init()?);
        self.control_groups()?.remove_parents();
        let unplugged = self.cluster.switch().ensure_no_cable(&self.name);
        ended.and(unplugged)?;
        fs::remove_dir_all(&self.folder)
            .with_context(|| format!("cannot remove {}", self.folder.display()))
    }

    pub(super) fn control_groups(&self) -> Result<ControlGroup> {
        ControlGroup::new(&self.cluster.name, &self.name)
    }

    fn disk(&self) -> Disk {
        Disk::new(&self.folder)
    }

    fn record_path(&self) -> PathBuf {
        self.folder.join("node.json")
    }

    fn record(&self) -> Result<NodeRecord> {
        match fs::read(self.record_path()) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(NodeRecord::default()),
            Err(error) => {
                Err(error).with_context(|| format!("cannot read the record of {}", self.name))
            }
        }
    }

    fn save(&self, record: &NodeRecord) -> Result<()> {
        super::registry::save(&self.record_path(), record)
    }

    fn lock(&self) -> Result<Flock<File>> {
        fs::create_dir_all(&self.folder)?;
        let file = File::create(self.folder.join("lock"))?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
    }
}
