//! One member of a simulated cluster: a machine with a disk, on which the product runs, goes down and starts again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::task::JoinSet;
use tokio::time::Instant;
use vfsd::consensus::cluster::pledges::Known;
use vfsd::consensus::node::{Listen, Listening, Machine, Node, NodeSettings};
use vfsd::consensus::raft::types::EntryBytes;
use vfsd::fs::FileSystem;
use vfsd::fs::feed::{Publication, Subscriber};
use vfsd::state_machine::StateMachine;
use vfsd::state_machine::outcome::Change;
use vfsd::storage::append_log::AppendLog;
use vfsd::storage::disk::Disk;
use vfsd::storage::disk::fake::{DiskCopy, FakeDisk, Faults};
use vfsd::storage::record::{Pledge, StoredEntry};

use super::network::Network;
use super::{founding, trace};

/// Large enough for the largest save of the clients, and small: it is filled often, and a batch is a quarter of it, so
/// that what a member has missed comes to its disk in many.
pub const SEGMENT: u64 = 128 * 1024;
/// What a member remembers of the others.
pub const PLEDGES: &str = "/data/pledges";
/// How long work on a healthy disk takes at most.
pub const DISK_LATENCY: Duration = Duration::from_millis(3);

/// What a machine loses when it goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The process alone: the kernel keeps what was written.
    Process,
    /// All that was not flushed, and what lies in memory only.
    Power,
}

/// The product on a machine.
pub struct Running {
    /// Its consensus.
    pub node: Arc<Node>,
    /// Its tree.
    pub fs: Arc<FileSystem>,
    /// What runs on it for the test; ends with it.
    pub tasks: JoinSet<()>,
}

/// See the module.
pub struct Member {
    /// Its id.
    pub id: u64,
    /// Its disk, since the last start of its machine.
    pub disk: FakeDisk,
    /// What runs, if it does.
    pub running: Option<Running>,
    /// Whether its disk was told to fail since it came up.
    pub has_faults: bool,
    /// Until when its disk has no room: what fails by it stays down until then.
    pub full_until: Option<Instant>,
    /// Whether it was found to be unfit: its daemon does not start any more.
    pub is_out: bool,
    handles: u64,
}

/// Writes what is applied into the trace.
struct Feed(u64);

impl Subscriber for Feed {
    fn after(&self, publication: Publication<'_>, _state: &Arc<StateMachine>) {
        let Publication::Entry(entry) = publication else {
            return;
        };
        let entry = &entry.applied;
        let changes: Vec<_> = entry.changes.iter().map(kind_of).collect();
        let (id, index, node) = (self.0, entry.index, entry.node);
        let outcome = entry.outcome;
        trace::line(&format!(
            "n{id} applied {index} of n{node}: {changes:?} {outcome:?}"
        ));
    }
}

/// The beginning of a change's text: contents are long.
fn kind_of(change: &Change) -> String {
    let text = match change {
        Change::Gone(inode) => format!("Gone {}", inode.number),
        other => format!("{other:?}"),
    };
    text.chars().take(60).collect()
}

fn healthy() -> Faults {
    Faults {
        latency: DISK_LATENCY,
        ..Faults::default()
    }
}

impl Member {
    /// A machine whose log holds the first entries of the cluster.
    pub async fn new(id: u64, seed: u64, first: Vec<StoredEntry>) -> Self {
        let disk = FakeDisk::new(seed, healthy());
        for dir in ["/log", "/snapshots", "/data", "/run"] {
            disk.create_dir(Path::new(dir)).unwrap();
        }
        disk.sync_dir(Path::new("/")).unwrap();
        AppendLog::create_on(&disk, Path::new("/log"), SEGMENT).unwrap();
        let log = AppendLog::open_on(Arc::new(disk.clone()), Path::new("/log"), SEGMENT).unwrap();
        let (sender, written) = tokio::sync::oneshot::channel();
        log.append(first, Box::new(move |result| sender.send(result).unwrap()));
        written.await.unwrap().unwrap();
        disk.take_down();
        drop(log);
        Self {
            id,
            disk: disk.after_kill(),
            running: None,
            has_faults: false,
            full_until: None,
            is_out: false,
            handles: 0,
        }
    }

    /// Starts the product. An error is a fault of it, or of the disk while `disk.is_up()` is false.
    ///
    /// # Errors
    /// As the start says.
    pub async fn start(&mut self, network: &Network) -> anyhow::Result<()> {
        self.handles += 1;
        trace::line(&format!("n{} starts", self.id));
        let fs = FileSystem::new(self.handles << 32, tokio::runtime::Handle::current());
        let (network_of, id, disk) = (network.clone(), self.id, self.disk.clone());
        let listen: Listen = Box::new(move |service| {
            network_of.join(id, service, disk);
            Box::pin(async { Ok(Box::new(()) as Listening) })
        });
        let machine = Machine {
            disk: Arc::new(self.disk.clone()),
            dialer: network.dialer(self.id, self.disk.clone()),
            listen,
            tls: None,
        };
        let node = Node::start_on(machine, self.settings(), Arc::clone(fs.feed())).await?;
        fs.attach(node.proposer());
        fs.feed().subscribe(Arc::new(Feed(self.id)));
        self.running = Some(Running {
            node: Arc::new(node),
            fs,
            tasks: JoinSet::new(),
        });
        Ok(())
    }

    fn settings(&self) -> NodeSettings {
        NodeSettings {
            id: self.id,
            name: founding::name(self.id),
            cluster: founding::CLUSTER.into(),
            listen: founding::name(self.id),
            log_dir: "/log".into(),
            log_segment_bytes: SEGMENT,
            snapshot_dir: "/snapshots".into(),
            tls_dir: PathBuf::from("/nonexistent/tls"),
            session_file: "/run/session".into(),
            peers_file: "/data/peers".into(),
            starts_file: "/data/starts".into(),
            pledges_file: PLEDGES.into(),
            // Nothing is encrypted here.
            identity: vfsd::transport::identity::NodeIdentity {
                certificate: CertificateDer::from(Vec::new()),
                key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(Vec::new())),
                ca: CertificateDer::from(Vec::new()),
                also_trusted: None,
            },
        }
    }

    /// The machine goes down, now or a moment ago at a call of its disk; it can be started again.
    pub fn crash(&mut self, network: &Network, loss: Loss) {
        trace::line(&format!("n{} is down: {loss:?}", self.id));
        self.disk.take_down();
        network.leave(self.id);
        if let Some(running) = self.running.take() {
            let core = Arc::clone(running.node.core());
            core.stopping.cancel();
            // Nothing that it does still comes out: its disk and its ways are dead.
            tokio::spawn(async move { drop(core.view.raft.shutdown().await) });
        }
        self.disk = match loss {
            Loss::Process => self.disk.after_kill(),
            Loss::Power => self.disk.after_power_cut(),
        };
        self.disk.set_faults(healthy());
        self.has_faults = false;
        if loss == Loss::Power && self.disk.remove(Path::new("/run/session")).is_ok() {
            self.disk.sync_dir(Path::new("/run")).unwrap();
        }
    }

    /// What is on its disk now, if it runs, and what others may remember of it without knowing that it was copied.
    pub fn copy(&self) -> Option<(DiskCopy, Known)> {
        let core = self.running.as_ref()?.node.core();
        let held = Known {
            starts: core.pledges.starts(),
            pledge: Pledge {
                vote: core.log.vote(),
                last: core.log.bounds().last,
            },
        };
        Some((self.disk.copy(), held))
    }

    /// What it remembers of `node`, as its disk says.
    pub fn remembers(&self, node: u64) -> Option<Known> {
        let text = self.disk.peek(Path::new(PLEDGES))?;
        let known: BTreeMap<u64, Known> = serde_json::from_slice(&text).unwrap();
        known.get(&node).copied()
    }

    /// The machine, which is down, will start with an older copy of its disk.
    pub fn put_back(&mut self, copy: &DiskCopy) {
        assert!(self.running.is_none());
        trace::line(&format!("the disk of n{} is put back", self.id));
        self.disk = self.disk.after_put_back(copy);
        self.disk.set_faults(healthy());
        self.has_faults = false;
    }

    /// From now on its disk has no room for more, until `until`.
    pub fn fill_disk(&mut self, until: Instant) {
        trace::line(&format!("the disk of n{} is full", self.id));
        self.full_until = Some(until);
        self.set_faults(Faults {
            capacity: Some(0),
            ..Faults::default()
        });
    }

    /// Whether its disk has no room; it gets some when the time has come.
    pub fn is_full(&mut self) -> bool {
        if self.full_until.is_some_and(|until| Instant::now() >= until) {
            self.full_until = None;
            self.set_faults(Faults::default());
        }
        self.full_until.is_some()
    }

    /// What its disk does wrong from now on.
    pub fn set_faults(&mut self, faults: Faults) {
        self.has_faults = true;
        self.disk.set_faults(Faults {
            latency: faults.latency.max(DISK_LATENCY),
            ..faults
        });
    }
}

/// The digest of a log's entry.
pub fn digest_of(entry: &StoredEntry) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[entry.kind]);
    hasher.update(&EntryBytes(entry.payload.clone()).0);
    *hasher.finalize().as_bytes()
}
