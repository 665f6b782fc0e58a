//! Clusters of real nodes on one machine: the one harness of the demo and of the system tests.
//!
//! A node is a network namespace, an overlay root over a frozen Debian, a disk of its own whose power can be cut, and
//! namespaces for mounts, processes, names and control groups, with systemd as its first process.
//!
//! Invariants: the host's routing, packages and services are never touched; what is known of a cluster lies in files,
//! so any number of programs act on it; every operation may be repeated; two clusters never see each other.
//! Not here: anything about vfsd or dsm-agent beyond copying their programs into the nodes (`product_layer.rs`).

pub mod background;
pub mod control_group;
pub mod disk;
pub mod exec;
pub mod frozen_root;
pub mod fuse_connection;
pub mod host_command;
pub mod launcher;
pub mod node;
pub mod node_root;
pub mod package_repository;
pub mod preconditions;
pub mod process;
pub mod product_layer;
pub mod registry;
pub mod switch;

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

pub use self::background::{Background, Ended};
pub use self::exec::Finished;
pub use self::node::{Change, Node};
use self::process::ProcessId;
pub use self::product_layer::Product;
use self::registry::Turn;
use self::switch::Switch;

/// Addresses of the demo's nodes: 10.77.0.1 and up.
pub const DEMO_SUBNET: [u8; 3] = [10, 77, 0];
/// Addresses of the tests' nodes. Networks of clusters are separate; other numbers only keep logs apart.
pub const TEST_SUBNET: [u8; 3] = [10, 78, 0];

/// What is kept of a cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// Its name: unique on this machine.
    pub name: String,
    /// The first three bytes of its nodes' addresses.
    pub subnet: [u8; 3],
    /// The process whose death makes it garbage; without one it lives until `down`.
    pub owner: Option<ProcessId>,
    /// The read-only layers of its nodes, uppermost first.
    pub layers: Vec<PathBuf>,
    /// The program that starts nodes.
    pub launcher: PathBuf,
}

impl ClusterRecord {
    /// Its network.
    pub fn switch(&self) -> Switch {
        Switch::new(&self.name, self.subnet)
    }
}

/// A cluster of nodes.
#[derive(Debug, Clone)]
pub struct Cluster {
    record: ClusterRecord,
}

impl Cluster {
    /// Gives the cluster `name`, making it without nodes if it is not there.
    ///
    /// # Errors
    /// If the frozen root cannot be built or the network not made.
    pub fn ensure(
        name: &str,
        subnet: [u8; 3],
        owner: Option<ProcessId>,
        product: &Product,
    ) -> Result<Self> {
        if let Some(cluster) = Self::open(name)? {
            cluster.record.switch().ensure_up()?;
            return Ok(cluster);
        }
        preconditions::check()?;
        let layers = vec![product.ensure_layer()?, frozen_root::ensure()?];
        let record = ClusterRecord {
            name: name.to_owned(),
            subnet,
            owner,
            layers,
            launcher: product.launcher(),
        };
        let cluster = Self { record };
        registry::save(&cluster.folder().join("cluster.json"), &cluster.record)?;
        cluster.record.switch().ensure_up()?;
        Ok(cluster)
    }

    /// The cluster `name`, if it is there.
    ///
    /// # Errors
    /// If its record cannot be read.
    pub fn open(name: &str) -> Result<Option<Self>> {
        let path = Path::new(registry::CLUSTERS)
            .join(name)
            .join("cluster.json");
        match fs::read(&path) {
            Ok(bytes) => {
                let record = serde_json::from_slice(&bytes)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                Ok(Some(Self { record }))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// What is kept of it.
    pub fn record(&self) -> &ClusterRecord {
        &self.record
    }

    /// Where its files lie.
    pub fn folder(&self) -> PathBuf {
        Path::new(registry::CLUSTERS).join(&self.record.name)
    }

    /// The node `name`, which need not exist yet.
    ///
    /// # Errors
    /// If `name` is no name of a node.
    pub fn node(&self, name: &str) -> Result<Node> {
        Node::new(self, name)
    }

    /// All nodes that exist, running or not, in the order of their numbers.
    ///
    /// # Errors
    /// If a name is refused.
    pub fn nodes(&self) -> Result<Vec<Node>> {
        let names = (1..=crate::limits::NODES_MAX).map(|index| format!("n{index}"));
        let mut nodes = names
            .map(|name| self.node(&name))
            .collect::<Result<Vec<_>>>()?;
        nodes.retain(Node::exists);
        Ok(nodes)
    }

    /// Makes and boots the nodes `n1` to `n<count>`, all at once.
    ///
    /// # Errors
    /// The first failure; the other nodes are booted nevertheless.
    pub fn boot(&self, count: u8) -> Result<Vec<Node>> {
        let nodes = (1..=count)
            .map(|index| self.node(&format!("n{index}")))
            .collect::<Result<Vec<_>>>()?;
        std::thread::scope(|scope| {
            let boots: Vec<_> = nodes
                .iter()
                .map(|node| scope.spawn(|| node.boot()))
                .collect();
            boots.into_iter().try_for_each(|boot| match boot.join() {
                Ok(result) => result.map(drop),
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })?;
        Ok(nodes)
    }

    /// Takes away all its nodes, its network and its files.
    ///
    /// # Errors
    /// The last failure; everything else is taken away nevertheless.
    pub fn down(&self) -> Result<()> {
        let mut result = Ok(());
        for node in self.nodes()? {
            result = node
                .remove()
                .with_context(|| format!("cannot remove {}", node.name()))
                .and(result);
        }
        result = self.record.switch().ensure_down().and(result);
        result?;
        fs::remove_dir_all(self.folder())?;
        Ok(())
    }
}

/// A cluster of a test: it goes when it is dropped, or with the garbage if the test is killed.
#[derive(Debug)]
pub struct TestCluster {
    cluster: Cluster,
    _turn: Turn,
}

impl TestCluster {
    /// Waits for its turn, takes away what killed tests left meanwhile, and boots `count` nodes.
    ///
    /// # Errors
    /// If this machine cannot have nodes, or one does not boot.
    pub fn boot(count: u8) -> Result<Self> {
        static SEQUENCE: AtomicU32 = AtomicU32::new(0);
        let turn = Turn::take()?;
        let product = Product {
            with_workload: true,
            ..Product::of_this_build()?
        };
        let name = format!(
            "t{}-{}",
            std::process::id(),
            SEQUENCE.fetch_add(1, Ordering::Relaxed)
        );
        let cluster = Cluster::ensure(&name, TEST_SUBNET, registry::this_owner()?, &product)?;
        let test = Self {
            cluster,
            _turn: turn,
        };
        test.cluster.boot(count)?;
        Ok(test)
    }
}

impl Deref for TestCluster {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        if let Err(error) = self.cluster.down() {
            eprintln!(
                "the cluster {} is not all gone: {error:#}",
                self.cluster.record.name
            );
        }
    }
}
