//! `dsm-agent run`: the service.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use drivers::host::linux::LinuxHost;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use super::{Complaint, Exit, Place};
use crate::agent::{self, AgentSetup};
use crate::config::Config;
use crate::failpoint::Failpoint;
use crate::reconciler::default_state_dir;

/// Options of `run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Where the agent keeps what must not lie in the tree [default: /var/lib/dsm-agent].
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Testing aid: end (or with :hold stop) the agent once at this step boundary. BOUNDARY is before-started,
    /// after-started, after-effect or after-succeeded; STEP may be *. A file crash-at in the state directory does the
    /// same without a restart.
    #[arg(long, env = "DSM_CRASH_AT", value_name = "STEP:BOUNDARY[:hold]")]
    crash_at: Option<String>,
}

/// Runs until SIGTERM or SIGINT.
pub(crate) fn run(
    place: &Place,
    config: &Config,
    plain_node: Option<String>,
    args: RunArgs,
) -> Result<Exit, Complaint> {
    start_log();
    let crash_at = args.crash_at.filter(|spec| !spec.is_empty());
    if let Some(spec) = &crash_at {
        Failpoint::check(spec)
            .map_err(|reason| Complaint::usage(reason, "see: dsm-agent run --help"))?;
    }
    let state_dir = args.state_dir.or_else(|| config.state_dir.clone());
    let state_dir = state_dir.unwrap_or_else(default_state_dir);
    std::fs::create_dir_all(&state_dir)?;
    let stop = CancellationToken::new();
    let setup = AgentSetup {
        root: place.root.clone(),
        tree: Arc::clone(place.store.tree()),
        node: plain_node,
        registry: Arc::new(drivers::registry::builtin()),
        host: Arc::new(LinuxHost),
        identity: place.identity.clone(),
        state_dir: state_dir.clone(),
        labels: config.labels.clone(),
        failpoint: Arc::new(Failpoint::new(crash_at, &state_dir)),
        stop: stop.clone(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let ended = runtime.block_on(async move {
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        tokio::spawn(async move {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            stop.cancel();
        });
        agent::run(setup).await.map_err(std::io::Error::other)
    });
    // A thread that hangs in the tree must not keep the process from ending.
    runtime.shutdown_background();
    ended?;
    Ok(Exit::Done)
}

fn start_log() {
    let filter = EnvFilter::try_from_env("DSM_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let started = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .try_init();
    if started.is_err() {
        tracing::debug!("a subscriber was there already");
    }
}
