//! A running member: builds the parts of its consensus, starts them, stops them in order.
//!
//! Invariant: nothing answers before the log is recovered; on a stop the leadership is handed over before Raft ends.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Context;
use futures_util::FutureExt;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Config, SnapshotPolicy};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::consensus::cluster::authority::Authority;
use crate::consensus::cluster::authority_change;
use crate::consensus::cluster::confirmation::Confirmation;
use crate::consensus::cluster::hand_over::hand_over;
use crate::consensus::cluster::level_keeper;
use crate::consensus::cluster::lineage_watch;
use crate::consensus::cluster::peers::{Dialer, Peers, TlsDialer};
use crate::consensus::cluster::peers_file::PeersKeeper;
use crate::consensus::cluster::pledge_keeper::{self, PledgeKeeper};
use crate::consensus::cluster::pledges::Pledges;
use crate::consensus::cluster::quorum::QuorumWatch;
use crate::consensus::cluster::status::StatusBoard;
use crate::consensus::cluster::succession;
use crate::consensus::cluster::unfit::Unfit;
use crate::consensus::core::Core;
use crate::consensus::leader_link::LeaderLink;
use crate::consensus::proposals::barrier::Barriers;
use crate::consensus::proposals::proposer::{RaftProposer, tell_of_abandoned};
use crate::consensus::proposals::request_numbers::RequestNumbers;
use crate::consensus::raft::disk_watch;
use crate::consensus::raft::log_compaction;
use crate::consensus::raft::log_store::RaftLogStore;
use crate::consensus::raft::network::Network;
use crate::consensus::raft::snapshot_store::SnapshotStore;
use crate::consensus::raft::state_machine::{Published, Raft, RaftStateMachine};
use crate::consensus::request_handler::{OwnRequests, RequestHandler};
use crate::consensus::sessions::cell::SessionCell;
use crate::consensus::sessions::keeper::SessionKeeper;
use crate::consensus::sessions::lease_keeper;
use crate::consensus::sessions::lease_table::LeaseTable;
use crate::consensus::view::View;
use crate::consensus::writer::Writer;
use crate::fs::feed::ChangeFeed;
use crate::fs::proposer::Proposer;
use crate::limits::{
    ELECTION_TIMEOUT_MAX, ELECTION_TIMEOUT_MIN, HEARTBEAT_INTERVAL, LOG_ENTRIES_KEPT,
    LOG_SEGMENT_BYTES, SNAPSHOT_TIMEOUT, STOP_STEP_MAX,
};
use crate::storage::append_log::AppendLog;
use crate::storage::disk::{Disk, RealDisk};
use crate::storage::start_count::StartCount;
use crate::transport::identity::NodeIdentity;
use crate::transport::server::{Server, Service};
use crate::transport::tls::{LiveTls, TlsSettings};

/// What a member is started with.
pub struct NodeSettings {
    /// Its id.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Id of its cluster.
    pub cluster: String,
    /// `ip:port` to listen on.
    pub listen: String,
    /// Directory of the log.
    pub log_dir: PathBuf,
    /// Size of new log segments.
    pub log_segment_bytes: u64,
    /// Directory of the snapshots.
    pub snapshot_dir: PathBuf,
    /// Directory of the certificates and keys.
    pub tls_dir: PathBuf,
    /// File with the addresses of the members.
    pub peers_file: PathBuf,
    /// File that keeps the session over a restart.
    pub session_file: PathBuf,
    /// File with the count of its starts.
    pub starts_file: PathBuf,
    /// File with what it remembers of the others.
    pub pledges_file: PathBuf,
    /// Certificate and key.
    pub identity: NodeIdentity,
}

impl NodeSettings {
    /// The size that segments have unless a test says otherwise.
    pub const SEGMENT_BYTES: u64 = LOG_SEGMENT_BYTES;
}

/// Something that listens until it is dropped.
pub type Listening = Box<dyn Send>;

/// Begins to answer with a service.
pub type Listen = Box<
    dyn FnOnce(Arc<dyn Service>) -> Pin<Box<dyn Future<Output = anyhow::Result<Listening>> + Send>>
        + Send,
>;

/// What a member runs on: this machine, or a simulated one.
pub struct Machine {
    /// Where log and snapshots lie.
    pub disk: Arc<dyn Disk>,
    /// Ways to the other members.
    pub dialer: Arc<dyn Dialer>,
    /// How the others reach this one.
    pub listen: Listen,
    /// What connections are made with, if they are encrypted; another certificate authority changes it.
    pub tls: Option<Arc<LiveTls>>,
}

/// The tasks of a member. One that panics ends the member: the others cannot make up for it.
#[derive(Default)]
struct Parts {
    tasks: JoinSet<()>,
    panicked: watch::Sender<Option<&'static str>>,
}

impl Parts {
    fn spawn(&mut self, name: &'static str, part: impl Future<Output = ()> + Send + 'static) {
        let panicked = self.panicked.clone();
        self.tasks.spawn(async move {
            if AssertUnwindSafe(part).catch_unwind().await.is_err() {
                panicked.send_replace(Some(name));
            }
        });
    }
}

/// A running member.
pub struct Node {
    core: Arc<Core>,
    proposer: Arc<RaftProposer>,
    status: Arc<StatusBoard>,
    addresses: PeersKeeper,
    panicked: watch::Receiver<Option<&'static str>>,
    // Leaf lock. Taken apart by `stop`.
    running: Mutex<Option<(Listening, JoinSet<()>)>>,
}

impl Node {
    /// Starts the member on this machine; every change is told to `feed`, also those that are applied while starting.
    ///
    /// # Errors
    /// If the log or the snapshot is damaged, or the address is taken.
    pub async fn start(settings: NodeSettings, feed: Arc<ChangeFeed>) -> anyhow::Result<Self> {
        let tls = LiveTls::new(TlsSettings::new(&settings.identity)?);
        let dialer = Arc::new(TlsDialer(Arc::clone(&tls)));
        let (address, server_tls) = (settings.listen.clone(), Arc::clone(&tls));
        let listen: Listen = Box::new(move |service| {
            Box::pin(async move {
                let server = Server::start(&address, server_tls, service).await;
                let server = server.with_context(|| format!("cannot listen on {address}"))?;
                Ok(Box::new(server) as Listening)
            })
        });
        let machine = Machine {
            disk: RealDisk::shared(),
            dialer,
            listen,
            tls: Some(tls),
        };
        Self::start_on(machine, settings, feed).await
    }

    /// As [`Node::start`], on the machine that is given.
    ///
    /// # Errors
    /// As there.
    pub async fn start_on(
        machine: Machine,
        settings: NodeSettings,
        feed: Arc<ChangeFeed>,
    ) -> anyhow::Result<Self> {
        let disk = Arc::clone(&machine.disk);
        let published = Published::new(feed);
        let (dialer, tls) = (machine.dialer, machine.tls);
        let start = StartCount::open(Arc::clone(&disk), settings.starts_file.clone())?;
        let core = open_core(&settings, &start, published, machine.disk, dialer, tls).await?;
        let pledges = PledgeKeeper::new(
            Arc::clone(&core),
            Arc::clone(&disk),
            settings.pledges_file.clone(),
            start,
            &settings.peers_file,
        );
        let peers_file = settings.peers_file.clone();
        let addresses = PeersKeeper::new(Arc::clone(&core), Arc::clone(&disk), peers_file);
        core.link
            .answer_with(Arc::new(OwnRequests(Arc::downgrade(&core))));
        let handler = Arc::new(RequestHandler::new(Arc::clone(&core)));
        let server = (machine.listen)(handler).await?;
        let mut parts = Parts::default();
        let (barriers, serve_barriers) = Barriers::new(Arc::clone(&core));
        let status = StatusBoard::new(Arc::clone(&core), Arc::clone(&barriers), settings.name);
        let beat = Arc::clone(&core.beat);
        parts.spawn("beat", async move { beat.run().await });
        parts.spawn("pledges", pledges.run());
        parts.spawn("succession", succession::run(Arc::clone(&core)));
        parts.spawn("barriers", serve_barriers);
        parts.spawn("status", Arc::clone(&status).run());
        parts.spawn("leases", lease_keeper::run(Arc::clone(&core)));
        parts.spawn("log compaction", log_compaction::run(Arc::clone(&core)));
        parts.spawn("disk", disk_watch::run(Arc::clone(&core)));
        parts.spawn("level", level_keeper::run(Arc::clone(&core)));
        parts.spawn("lineages", lineage_watch::run(Arc::clone(&core)));
        parts.spawn("authority", authority_change::run(Arc::clone(&core)));
        parts.spawn("abandoned numbers", tell_of_abandoned(Arc::clone(&core)));
        let (session_of, file) = (settings.cluster, settings.session_file);
        let keeper = SessionKeeper::new(Arc::clone(&core), session_of, disk, file);
        parts.spawn("session", keeper.run());
        parts.spawn("addresses", addresses.clone().run());
        parts.spawn("first barrier", catch_up_once(Arc::clone(&barriers)));
        let proposer = RaftProposer::new(Arc::clone(&core), barriers, Arc::clone(&status));
        Ok(Self {
            core,
            proposer: Arc::new(proposer),
            status,
            addresses,
            panicked: parts.panicked.subscribe(),
            running: Mutex::new(Some((server, parts.tasks))),
        })
    }

    /// Consensus as the filesystem sees it.
    pub fn proposer(&self) -> Arc<dyn Proposer> {
        Arc::clone(&self.proposer) as Arc<dyn Proposer>
    }

    /// The parts, for the admin socket.
    pub fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// What this node knows of the cluster.
    pub fn status(&self) -> &Arc<StatusBoard> {
        &self.status
    }

    /// Whether the consensus loop answers within `timeout`.
    pub async fn is_alive(&self, timeout: Duration) -> bool {
        let asked = self.core.view.raft.with_raft_state(|_| ());
        matches!(tokio::time::timeout(timeout, asked).await, Ok(Ok(())))
    }

    /// Why this member is of no use any more: the disk failed, or an entry cannot be read.
    pub fn failure(&self) -> Option<String> {
        let stopped = self.core.view.metrics().running_state.err();
        let stopped = stopped.map(|fatal| fatal.to_string());
        stopped.or_else(|| self.core.log.failure())
    }

    /// Ends when consensus has stopped by itself, with the reason. Raft alone does not hear of a log that has failed
    /// while nobody waited for a write; such a member would refuse all entries for ever.
    pub async fn failed(&self) -> String {
        let mut panicked = self.panicked.clone();
        tokio::select! {
            reason = self.raft_failed() => reason,
            Ok(part) = panicked.wait_for(Option::is_some) => {
                format!("a part of it has panicked: {}", part.unwrap_or_default())
            }
        }
    }

    async fn raft_failed(&self) -> String {
        // The other metrics change with every tick; these end with Raft.
        let mut changes = self.core.view.raft.server_metrics();
        loop {
            if let Some(reason) = self.failure() {
                return reason;
            }
            tokio::select! {
                reason = self.core.log.failed() => return reason,
                changed = changes.changed() => if changed.is_err() {
                    return self.failure().unwrap_or_else(|| "Raft has stopped".into());
                },
            }
        }
    }

    /// Ends when this node was found not to be what the others know, with what to tell a person.
    pub async fn unfit(&self) -> String {
        self.core.unfit.declared().await
    }

    /// Stops in order: no new proposals, leadership handed over, Raft, connections, log. A disk that hangs keeps none
    /// of it from ending: whatever waits for one is waited for [`STOP_STEP_MAX`] at most.
    pub async fn stop(&self) {
        self.core.stopping.cancel();
        hand_over(&self.core.view, &self.core.link.peers).await;
        let running = self.running.lock().take();
        let Some((server, mut tasks)) = running else {
            return;
        };
        tasks.shutdown().await;
        // The next command on this machine may be one that needs them.
        let log = &self.core.log;
        in_time(
            "the addresses of the members",
            log,
            self.addresses.save_now(),
        )
        .await;
        let raft = in_time("Raft", log, self.core.view.raft.shutdown()).await;
        if let Some(Err(error)) = raft {
            tracing::warn!(%error, "Raft did not stop in order");
        }
        drop(server);
        if !log.close_within(STOP_STEP_MAX).await {
            tell_of_hanging("the writer of the log", log);
        }
    }
}

/// What `step` of a stop comes to; nothing if it does not end, which only a disk that hangs is known to keep it from.
async fn in_time<T>(step: &str, log: &AppendLog, ends: impl Future<Output = T>) -> Option<T> {
    let ended = tokio::time::timeout(STOP_STEP_MAX, ends).await.ok();
    if ended.is_none() {
        tell_of_hanging(step, log);
    }
    ended
}

fn tell_of_hanging(step: &str, log: &AppendLog) {
    let busy_for = log.stalled_for();
    tracing::error!(
        step,
        waited = ?STOP_STEP_MAX,
        ?busy_for,
        "this step of the stop does not end, and is not waited for: look at the disk of this member"
    );
}

/// Opens log and snapshot and starts Raft on them.
async fn open_core(
    settings: &NodeSettings,
    start: &StartCount,
    published: Arc<Published>,
    disk: Arc<dyn Disk>,
    dialer: Arc<dyn Dialer>,
    tls: Option<Arc<LiveTls>>,
) -> anyhow::Result<Arc<Core>> {
    let log = AppendLog::open_on(
        Arc::clone(&disk),
        &settings.log_dir,
        settings.log_segment_bytes,
    );
    let log = Arc::new(log?);
    let snapshots = SnapshotStore::open(Arc::clone(&disk), settings.snapshot_dir.clone())?;
    let machine = RaftStateMachine::open(snapshots.clone(), Arc::clone(&published))?;
    let peers = Arc::new(Peers::over(dialer));
    let quorum = Arc::new(QuorumWatch::default());
    let known = pledge_keeper::load(&*disk, &settings.pledges_file);
    let pledges = Arc::new(Pledges::new(known, start.before()));
    let network = Network::new(
        settings.id,
        Arc::clone(&peers),
        Arc::clone(&quorum),
        Arc::clone(&pledges),
    );
    let store = RaftLogStore::new(Arc::clone(&log));
    let config = raft_config(&settings.cluster)?;
    let raft = Raft::new(settings.id, config, network, store, machine)
        .await
        .context("cannot start Raft")?;
    let (dir, identity) = (settings.tls_dir.clone(), settings.identity.copy());
    let authority = Authority::open(dir, settings.id, identity, tls)?;
    let view = Arc::new(View {
        id: settings.id,
        raft,
        published,
        confirmation: Confirmation::default(),
    });
    Ok(Arc::new(Core {
        writer: Writer::new(Arc::clone(&view), Arc::clone(&log)),
        link: LeaderLink::new(Arc::clone(&view), peers, Arc::clone(&pledges)),
        view,
        log,
        snapshots,
        quorum,
        beat: Arc::default(),
        pledges,
        unfit: Unfit::default(),
        is_stalled: AtomicBool::new(false),
        leases: LeaseTable::default(),
        session: SessionCell::default(),
        numbers: RequestNumbers::new(start.this()),
        abandoned: tokio::sync::Notify::new(),
        authority,
        changing: Arc::default(),
        stopping: CancellationToken::new(),
    }))
}

/// Makes the first barrier, after which reads are known to be up to date.
async fn catch_up_once(barriers: Arc<Barriers>) {
    while barriers.wait().await.is_err() {
        tokio::time::sleep(HEARTBEAT_INTERVAL).await;
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).expect("the limits are far below u64::MAX milliseconds")
}

fn raft_config(cluster: &str) -> anyhow::Result<Arc<Config>> {
    let config = Config {
        cluster_name: cluster.to_owned(),
        heartbeat_interval: millis(HEARTBEAT_INTERVAL),
        election_timeout_min: millis(ELECTION_TIMEOUT_MIN),
        election_timeout_max: millis(ELECTION_TIMEOUT_MAX),
        // Not before a majority has agreed that this member is what it was (`pledge_keeper.rs`).
        enable_elect: false,
        enable_pre_vote: Some(true),
        // A leader sends entries before its own disk has them, so one that was killed may have lost some that others
        // keep. Leading on in the same term, it would give their log ids to other entries: it stands for election.
        enable_leader_restore: Some(false),
        // A leader that is heard but does not hear (an asymmetric partition) falls silent, so that another can follow.
        quorum_loss_probe_interval: Some(2 * millis(ELECTION_TIMEOUT_MAX)),
        broadcast_submitted_on_append: Some(true),
        install_snapshot_timeout: millis(SNAPSHOT_TIMEOUT),
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: LOG_ENTRIES_KEPT,
        purge_batch_size: 256,
        // Entries are sent as long as they are there; a snapshot only when they are not.
        replication_lag_threshold: u64::MAX,
        backoff: "50ms 100ms 200ms ...500ms".into(),
        ..Config::default()
    };
    Ok(Arc::new(config.validate()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_panics_is_named() {
        let mut parts = Parts::default();
        let mut panicked = parts.panicked.subscribe();
        parts.spawn("first", async {});
        parts.spawn("second", async { panic!("on purpose") });
        let named = panicked.wait_for(Option::is_some).await.map(|part| *part);
        assert_eq!(named.ok(), Some(Some("second")));
    }
}
