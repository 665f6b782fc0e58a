//! The composition root: the only file that builds every part of the daemon, and stops them in order.
//!
//! Order of the start: data directory, consensus, admin socket, mount, READY. Order of the stop: mount (no new calls),
//! admin socket, leadership, consensus, log. The watchdog is fed only while the consensus loop answers, and the kernel
//! is answered.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, bail};
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;

use crate::admin::server::AdminServer;
use crate::cli::setup::load_identity;
use crate::config::{ADMIN_SOCKET, NodeConfig};
use crate::consensus::node::{Node, NodeSettings};
use crate::fs::FileSystem;
use crate::fuse::mount::Mount;
use crate::limits::{
    DATA_DIR_WAIT_MAX, HEARTBEAT_INTERVAL, LEVEL_CHECK_BEATS, UNSAVED_RETRY_EVERY,
    WATCHDOG_ANSWER_MAX, WRITE_TIMEOUT,
};
use crate::state_machine::ids::NodeId;
use crate::state_machine::level::Level;
use crate::storage::StorageError;
use crate::storage::atomic_file;
use crate::storage::data_dir::{self, DataDir};
use crate::trouble::Trouble;

/// Where the daemon finds and puts things.
#[derive(Debug, Clone)]
pub struct DaemonPaths {
    /// The member's data.
    pub data_dir: PathBuf,
    /// Socket and session.
    pub runtime_dir: PathBuf,
    /// Where the tree is mounted.
    pub mount: PathBuf,
}

/// The settings of the member in `data`.
///
/// # Errors
/// If its configuration or certificates cannot be read.
pub fn node_settings(
    data: &DataDir,
    config: &NodeConfig,
    runtime_dir: &Path,
    log_segment_bytes: u64,
) -> anyhow::Result<NodeSettings> {
    Ok(NodeSettings {
        id: config.id,
        name: config.node.clone(),
        cluster: config.cluster.clone(),
        listen: config.listen.clone(),
        log_dir: data.log(),
        log_segment_bytes,
        snapshot_dir: data.snapshots(),
        tls_dir: data.tls(),
        peers_file: data.peers_file(),
        session_file: runtime_dir.join("session"),
        starts_file: data.incarnation_file(),
        pledges_file: data.pledges_file(),
        identity: load_identity(&data.tls())?,
    })
}

/// Runs the member until SIGTERM or SIGINT.
///
/// # Errors
/// If a part cannot be started.
pub async fn run(paths: DaemonPaths) -> anyhow::Result<()> {
    let data = Arc::new(once_free(|| DataDir::open(&paths.data_dir)).await?);
    let config = NodeConfig::load(&data.config_file())?;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&paths.runtime_dir)
        .with_context(|| format!("cannot create {}", paths.runtime_dir.display()))?;
    // Of another daemon it has the socket and the session, which are nobody else's to replace.
    let _runtime_dir = once_free(|| data_dir::lock(&paths.runtime_dir))
        .await
        .context("each daemon of a machine needs its own --runtime-dir")?;
    check_fit(&data)?;
    let settings = node_settings(
        &data,
        &config,
        &paths.runtime_dir,
        NodeSettings::SEGMENT_BYTES,
    )?;
    tracing::info!(
        cluster = config.cluster,
        node = config.node,
        id = config.id,
        listen = config.listen,
        "starting"
    );
    let signals = [
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    ];
    // Handle numbers differ from those of an earlier daemon, whose session this one may resume.
    let first_handle = u64::from(rand::random::<u32>()) << 32;
    let fs = FileSystem::new(first_handle, tokio::runtime::Handle::current());
    let node = Arc::new(Node::start(settings, Arc::clone(fs.feed())).await?);
    fs.attach(node.proposer());
    let socket = paths.runtime_dir.join(ADMIN_SOCKET);
    let admin = AdminServer::start(&socket, Arc::clone(&node), paths.mount.clone())?;
    let ending = pin!(wait_for_end(&node, &data, signals));
    let outcome = serve(&paths.mount, &node, &fs, &data, ending).await;
    drop(admin);
    node.stop().await;
    tracing::info!("stopped");
    match outcome? {
        End::Asked => Ok(()),
        End::Failed(reason) => bail!("{reason}"),
    }
}

/// Why the daemon ends.
enum End {
    /// Somebody wants it to.
    Asked,
    /// It cannot go on.
    Failed(String),
}

/// Mounts the tree and has it served until the `ending`, which is heard at any moment on the way there.
async fn serve(
    point: &Path,
    node: &Arc<Node>,
    fs: &Arc<FileSystem>,
    data: &Arc<DataDir>,
    mut ending: Pin<&mut impl Future<Output = anyhow::Result<End>>>,
) -> anyhow::Result<End> {
    let served = Arc::new(OnceLock::new());
    // Cancelled with this set, whatever comes.
    let mut tasks = JoinSet::new();
    tasks.spawn(feed_watchdog(Arc::clone(node), Arc::clone(&served)));
    tokio::select! {
        end = &mut ending => return end,
        () = catch_up(fs) => {}
    }
    let mount = mount(fs, point, node.core().view.id).await?;
    // Only the first call counts, and this is the one.
    let _ = served.set(mount.served());
    let end = tokio::select! {
        end = &mut ending => Some(end),
        () = wait_for_session(node) => None,
    };
    let end = match end {
        Some(end) => end,
        None => {
            tasks.spawn(end_locks_of_lost_handles(Arc::clone(fs)));
            tasks.spawn(mark_level(Arc::clone(data), Arc::clone(node)));
            notify(&[NotifyState::Ready]);
            tracing::info!(mount = %point.display(), "ready");
            ending.await
        }
    };
    tracing::info!("stopping");
    notify(&[NotifyState::Stopping]);
    tokio::task::spawn_blocking(move || mount.stop()).await?;
    tasks.shutdown().await;
    end
}

/// Waits for a signal, and for what this member cannot go on with.
async fn wait_for_end(
    node: &Node,
    data: &DataDir,
    [mut terminate, mut interrupt]: [Signal; 2],
) -> anyhow::Result<End> {
    Ok(tokio::select! {
        _ = terminate.recv() => End::Asked,
        _ = interrupt.recv() => End::Asked,
        reason = node.failed() => End::Failed(format!("consensus has stopped: {reason}")),
        reason = node.unfit() => {
            // It must not come back by itself: what it would serve, or vote for, is not what the others know.
            let written = atomic_file::write(&data.differs_file(), reason.as_bytes(), 0o600);
            written.with_context(|| reason.clone())?;
            End::Failed(reason)
        }
    })
}

/// A member that was found unfit does not start again, whatever its service manager does.
fn check_fit(data: &DataDir) -> anyhow::Result<()> {
    let path = data.differs_file();
    match std::fs::read_to_string(&path) {
        Ok(why) => bail!("{}", why.trim_end()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => {
            Err(error).with_context(|| format!("cannot read why not to start: {}", path.display()))
        }
    }
}

/// Opens the data directory; a daemon that was just killed may need a moment until the kernel has taken it apart.
async fn once_free<T>(take: impl Fn() -> Result<T, StorageError>) -> Result<T, StorageError> {
    let deadline = tokio::time::Instant::now() + DATA_DIR_WAIT_MAX;
    loop {
        match take() {
            Err(StorageError::InUse(_)) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(HEARTBEAT_INTERVAL).await;
            }
            taken => return taken,
        }
    }
}

/// Waits until this node has caught up with the cluster, but not for ever: then `status.json` says that reads may be
/// old.
async fn catch_up(fs: &FileSystem) {
    let caught_up = tokio::time::timeout(WRITE_TIMEOUT, async {
        // Until the first leader is heard, every barrier fails at once.
        while fs.barrier().await.is_err() {
            tokio::time::sleep(HEARTBEAT_INTERVAL).await;
        }
    });
    if caught_up.await.is_err() {
        tracing::warn!("reads may be older than the cluster");
    }
}

async fn mount(fs: &Arc<FileSystem>, point: &Path, own: u64) -> anyhow::Result<Mount> {
    let (fs, point) = (fs.clone(), point.to_owned());
    // Mounting waits for the kernel, whose first questions this runtime answers.
    Ok(tokio::task::spawn_blocking(move || Mount::start(fs, &point, NodeId(own))).await??)
}

/// Whoever starts after this daemon may take locks at once. Without a majority there is no session to wait for.
async fn wait_for_session(node: &Node) {
    let session = node.core().session.wait();
    if tokio::time::timeout(WRITE_TIMEOUT, session).await.is_err() {
        tracing::warn!("this node has no session yet: locks are refused until a majority answers");
    }
}

/// Locks that lived as long as a handle of an earlier daemon end, once this one has a session.
async fn end_locks_of_lost_handles(fs: Arc<FileSystem>) {
    let mut trouble = Trouble::default();
    while let Err(failure) = fs.end_locks_of_lost_handles().await {
        if trouble.is_new(&failure) {
            tracing::warn!(%failure, "locks of an earlier daemon's handles could not be ended yet");
        }
        tokio::time::sleep(UNSAVED_RETRY_EVERY).await;
    }
}

/// Marks the data directory with the level by which its entries are applied. A build that does not know it would find
/// that out at the first such entry; so it is told before it has begun.
async fn mark_level(data: Arc<DataDir>, node: Arc<Node>) {
    let mut beats = node.core().beat.every(LEVEL_CHECK_BEATS);
    let mut marked = Level::FIRST;
    let mut trouble = Trouble::default();
    loop {
        beats.next().await;
        let level = node.core().view.state().level();
        if level == marked {
            continue;
        }
        let data = Arc::clone(&data);
        match tokio::task::spawn_blocking(move || data.raise_level(level.0)).await {
            Ok(Ok(())) => marked = level,
            Ok(Err(error)) if trouble.is_new(&error) => {
                tracing::warn!(%error, %level, "the data directory could not be marked yet");
            }
            Ok(Err(_)) => {}
            Err(error) => tracing::error!(%error, "marking the data directory has failed"),
        }
    }
}

fn notify(state: &[NotifyState<'_>]) {
    // Without a service manager there is nobody to tell.
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "cannot notify the service manager");
    }
}

/// Tells the service manager that the daemon lives, as often as it asks for, while the consensus loop answers and
/// somebody answers the kernel, once there is a mount.
async fn feed_watchdog(node: Arc<Node>, served: Arc<OnceLock<Arc<AtomicBool>>>) {
    let Some(period) = sd_notify::watchdog_enabled() else {
        return;
    };
    loop {
        match serves(&node, &served, WATCHDOG_ANSWER_MAX.min(period / 4)).await {
            Ok(()) => notify(&[NotifyState::Watchdog]),
            Err(why) => tracing::error!("the watchdog is not fed: {why}"),
        }
        tokio::time::sleep(period / 4).await;
    }
}

/// Whether the daemon does what it is there for; the error says what it does not.
async fn serves(
    node: &Node,
    served: &OnceLock<Arc<AtomicBool>>,
    within: Duration,
) -> Result<(), &'static str> {
    if !node.is_alive(within).await {
        return Err("the consensus loop does not answer");
    }
    let is_served = served
        .get()
        .is_none_or(|served| served.load(Ordering::Acquire));
    match is_served {
        true => Ok(()),
        false => Err("nobody answers the kernel on the mount"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::lone_member_test::{found, start};

    const LONG: Duration = Duration::from_secs(60);

    fn signals() -> [Signal; 2] {
        [SignalKind::user_defined1(), SignalKind::user_defined2()].map(|kind| signal(kind).unwrap())
    }

    /// What the daemon of the member that was founded in `root` says when it is started. Nothing can be mounted below
    /// a file: one that goes on fails by that.
    async fn refusal_in(root: &Path) -> String {
        let paths = DaemonPaths {
            data_dir: root.join("data"),
            runtime_dir: root.join("run"),
            mount: root.join("data/config.toml/mount"),
        };
        let ran = tokio::time::timeout(LONG, run(paths)).await;
        format!("{:#}", ran.expect("it goes on").unwrap_err())
    }

    /// It would take the other's socket, and the session that the other's locks hang on.
    #[tokio::test(start_paused = true)]
    async fn a_runtime_directory_of_another_daemon_is_refused_by_name() {
        let temp = tempfile::tempdir().unwrap();
        found(temp.path());
        let runtime = temp.path().join("run");
        std::fs::create_dir(&runtime).unwrap();
        let _other = data_dir::lock(&runtime).unwrap();
        let refusal = refusal_in(temp.path()).await;
        assert!(refusal.contains("needs its own --runtime-dir"), "{refusal}");
        assert!(refusal.contains(runtime.to_str().unwrap()), "{refusal}");
    }

    #[tokio::test]
    async fn a_member_that_was_found_unfit_does_not_start_again() {
        let temp = tempfile::tempdir().unwrap();
        let why = "this node has other states than the others; run: vfsd rejoin";
        let data = found(temp.path());
        let node = start(temp.path(), &data).await;
        node.core().unfit.declare(why.into());
        let ended = wait_for_end(&node, &data, signals());
        let ended = tokio::time::timeout(LONG, ended).await.unwrap().unwrap();
        assert!(matches!(ended, End::Failed(reason) if reason == why));
        node.stop().await;
        drop(data);
        assert_eq!(refusal_in(temp.path()).await, why);
    }

    /// A daemon that is there and serves nobody is one that the service manager must end.
    #[tokio::test]
    async fn the_watchdog_is_fed_only_while_consensus_and_the_mount_answer() {
        let temp = tempfile::tempdir().unwrap();
        let node = start(temp.path(), &found(temp.path())).await;
        let served = OnceLock::new();
        assert_eq!(
            serves(&node, &served, LONG).await,
            Ok(()),
            "not mounted yet"
        );
        let answers = Arc::new(AtomicBool::new(true));
        served.set(Arc::clone(&answers)).unwrap();
        assert_eq!(serves(&node, &served, LONG).await, Ok(()));
        answers.store(false, Ordering::Release);
        let why = serves(&node, &served, LONG).await.unwrap_err();
        assert!(why.contains("the kernel"), "{why}");
        answers.store(true, Ordering::Release);
        node.stop().await;
        let why = serves(&node, &served, LONG).await.unwrap_err();
        assert!(why.contains("consensus"), "{why}");
    }

    /// Whatever hides the reason, there is one.
    #[tokio::test]
    async fn a_member_whose_reason_not_to_start_cannot_be_read_does_not_start() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(found(temp.path()).differs_file()).unwrap();
        let refused = refusal_in(temp.path()).await;
        assert!(
            refused.contains("cannot read why not to start"),
            "{refused}"
        );
    }
}
