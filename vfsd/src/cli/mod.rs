//! The command line: `vfsd COMMAND`.
//!
//! Exit codes: 0 done, 1 refused or failed, 2 bad usage, 3 degraded (no quorum).

mod member;
pub mod rejoin;
pub mod setup;
mod status;
mod token;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};

use crate::admin::client::{self, AdminError};
use crate::admin::protocol::AdminRequest;
use crate::config::{ADMIN_SOCKET, DATA_DIR, MOUNT_POINT, RUNTIME_DIR};
use crate::consensus::node::NodeSettings;
use crate::daemon::{self, DaemonPaths};
use crate::limits::RUNTIME_WORKERS;
use crate::telemetry;
use crate::transport::enrol::EnrolError;
use crate::transport::token::{Token, TokenError};
use rejoin::Rejoined;
use setup::NewMember;

/// The replicated filesystem of ContextOS: one tree, mounted on every node.
#[derive(Debug, Parser)]
#[command(name = "vfsd", version, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: CliCommand,
}

const EXAMPLES: &str = "Examples:
  vfsd init --node n1 --listen 10.77.0.1:7601 && systemctl start vfsd
  vfsd token create
  vfsd join --node n2 --listen 10.77.0.2:7601 --peer 10.77.0.1:7601 --token TOKEN
  vfsd member promote n2
  vfsd status";

const JOIN_EXAMPLE: &str = "Example:
  vfsd join --node n2 --listen 10.77.0.2:7601 --peer 10.77.0.1:7601 --token TOKEN";

#[derive(Debug, Subcommand)]
enum CliCommand {
    /// Makes the data directory of the first member of a new cluster.
    #[command(
        after_help = "Example:\n  vfsd init --node n1 --listen 10.77.0.1:7601 --cluster shop"
    )]
    Init(InitArgs),
    /// Makes the data directory of a node that joins a cluster as learner; then run `vfsd run`.
    #[command(after_help = JOIN_EXAMPLE)]
    Join(JoinArgs),
    /// Runs the daemon: joins consensus, mounts the tree, until SIGTERM.
    #[command(
        after_help = "Example:\n  vfsd run --data-dir /srv/vfsd --mount /mnt/vfs --runtime-dir /run/vfsd"
    )]
    Run(RunArgs),
    /// Shows the cluster as this node sees it; exit code 3 without a quorum.
    #[command(after_help = "Example:\n  vfsd status --json | jq .leader")]
    Status(OutputArgs),
    /// Digest of this node's whole state: equal on members that have applied the same.
    #[command(after_help = "Example:\n  vfsd digest --json | jq .applied")]
    Digest(OutputArgs),
    /// Join tokens.
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Members of the cluster.
    #[command(subcommand)]
    Member(member::MemberCommand),
    /// The cluster's certificate authority.
    #[command(subcommand)]
    Ca(CaCommand),
    /// Locks.
    #[command(subcommand)]
    Lock(LockCommand),
    /// Gives this node a new id as learner, after its state was lost or damaged; vfsd must not run.
    #[command(
        after_help = "Example:\n  systemctl stop vfsd && vfsd rejoin && systemctl start vfsd"
    )]
    Rejoin(RejoinArgs),
}

#[derive(Debug, Args)]
struct InitArgs {
    /// Name of this node.
    #[arg(long)]
    node: String,
    /// IP:PORT to listen on; the other members must be able to reach it.
    #[arg(long)]
    listen: String,
    /// Name of the cluster, for people.
    #[arg(long, default_value = "vfs")]
    cluster: String,
    /// Where the member's data goes.
    #[arg(long, default_value = DATA_DIR)]
    data_dir: PathBuf,
}

#[derive(Debug, Args)]
struct JoinArgs {
    /// Name of this node.
    #[arg(long)]
    node: String,
    /// IP:PORT to listen on; the other members must be able to reach it.
    #[arg(long)]
    listen: String,
    /// IP:PORT of any member.
    #[arg(long)]
    peer: String,
    /// A token of `vfsd token create`.
    #[arg(long, env = "VFSD_JOIN_TOKEN", hide_env_values = true)]
    token: String,
    /// Where the member's data goes.
    #[arg(long, default_value = DATA_DIR)]
    data_dir: PathBuf,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Where the member's data is.
    #[arg(long, default_value = DATA_DIR)]
    data_dir: PathBuf,
    /// Where the tree is mounted.
    #[arg(long, default_value = MOUNT_POINT)]
    mount: PathBuf,
    /// Where the admin socket and the session go; must be in tmpfs and survive a restart of the daemon.
    #[arg(long, default_value = RUNTIME_DIR)]
    runtime_dir: PathBuf,
}

#[derive(Debug, Args)]
struct RejoinArgs {
    /// Where the member's data is.
    #[arg(long, default_value = DATA_DIR)]
    data_dir: PathBuf,
    /// IP:PORT of a member to ask first; the known ones are asked in any case.
    #[arg(long)]
    peer: Option<String>,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// How to show what came of a command.
#[derive(Debug, Clone, Args)]
struct OutputArgs {
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
    /// Where the daemon's socket is.
    #[arg(long, default_value = RUNTIME_DIR)]
    runtime_dir: PathBuf,
}

#[derive(Debug, Subcommand)]
enum CaCommand {
    /// Changes the certificate authority without a restart: what a removed voter knows of the old one becomes useless.
    #[command(after_help = "Example:\n  vfsd member remove n3 && vfsd ca rotate")]
    Rotate(OutputArgs),
}

#[derive(Debug, Subcommand)]
enum LockCommand {
    /// Ends a lock as if its session had expired; recorded with the caller.
    #[command(after_help = "Example:\n  vfsd lock break /vfs/lk/job")]
    Break {
        /// The lock file or directory.
        path: String,
        #[command(flatten)]
        output: OutputArgs,
    },
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            report(&error);
            ExitCode::from(1)
        }
    }
}

/// `error: what` with its causes, then `hint: what to do`.
fn report(error: &anyhow::Error) {
    anstream::eprintln!("error: {error:#}");
    let admin = error.downcast_ref::<AdminError>().map(AdminError::hint);
    let refusal = match error.downcast_ref::<EnrolError>() {
        Some(EnrolError::Refused(refusal)) => Some(refusal.hint.as_str()),
        Some(EnrolError::OtherCluster { .. }) => Some(
            "a token from before `vfsd ca rotate` is void as well; make one there: vfsd token create",
        ),
        Some(EnrolError::Unreachable { .. }) => {
            Some("is vfsd running there, and is the port open?")
        }
        _ => None,
    };
    let token = match error.downcast_ref::<TokenError>() {
        Some(TokenError::Malformed(_)) => {
            Some("copy it whole, or make a new one on any member: vfsd token create")
        }
        Some(TokenError::Version(_)) | None => None,
    };
    if let Some(hint) = admin.or(refusal).or(token).filter(|hint| !hint.is_empty()) {
        anstream::eprintln!("hint: {hint}");
    }
}

fn run(command: CliCommand) -> anyhow::Result<ExitCode> {
    match command {
        CliCommand::Init(args) => init(&args),
        CliCommand::Join(args) => join(&args),
        CliCommand::Run(args) => run_daemon(args),
        CliCommand::Status(output) => status::show(&output),
        CliCommand::Digest(output) => digest(&output),
        CliCommand::Token(command) => token::run(command),
        CliCommand::Member(command) => member::run(command),
        CliCommand::Lock(LockCommand::Break { path, output }) => {
            say(&ask(&output, &AdminRequest::LockBreak { path })?, &output)
        }
        CliCommand::Ca(CaCommand::Rotate(output)) => {
            say(&ask(&output, &AdminRequest::RotateAuthority)?, &output)
        }
        CliCommand::Rejoin(args) => rejoin(&args),
    }
}

fn ask(output: &OutputArgs, request: &AdminRequest) -> anyhow::Result<serde_json::Value> {
    Ok(client::ask(
        &output.runtime_dir.join(ADMIN_SOCKET),
        request,
    )?)
}

/// Shows a daemon's answer that is one sentence.
fn say(value: &serde_json::Value, output: &OutputArgs) -> anyhow::Result<ExitCode> {
    if output.json {
        anstream::println!("{}", serde_json::json!({ "done": value }));
    } else {
        anstream::println!("{}", value.as_str().unwrap_or_default());
    }
    Ok(ExitCode::SUCCESS)
}

fn digest(output: &OutputArgs) -> anyhow::Result<ExitCode> {
    let answer = ask(output, &AdminRequest::Digest)?;
    if output.json {
        anstream::println!("{answer}");
    } else {
        let digest = answer["digest"].as_str().unwrap_or_default();
        anstream::println!("entry {}: {digest}", answer["applied"]);
    }
    Ok(ExitCode::SUCCESS)
}

fn init(args: &InitArgs) -> anyhow::Result<ExitCode> {
    let member = NewMember::new(&args.node, &args.listen, &args.data_dir)?;
    let cluster = setup::found_cluster(&member, &args.cluster)?;
    anstream::println!("cluster {cluster} has its first member {}", args.node);
    anstream::println!("next: {}", run_hint(&args.data_dir));
    Ok(ExitCode::SUCCESS)
}

fn run_hint(data_dir: &Path) -> String {
    if data_dir == Path::new(DATA_DIR) {
        "systemctl start vfsd".into()
    } else {
        format!("vfsd run --data-dir {}", data_dir.display())
    }
}

fn join(args: &JoinArgs) -> anyhow::Result<ExitCode> {
    let member = NewMember::new(&args.node, &args.listen, &args.data_dir)?;
    let token = Token::parse(&args.token)?;
    let enrolled = runtime()?.block_on(setup::join_cluster(&member, &args.peer, &token))?;
    anstream::println!(
        "{} is a learner of cluster {} (node {})",
        args.node,
        enrolled.cluster,
        enrolled.node
    );
    anstream::println!("next: {}", run_hint(&args.data_dir));
    Ok(ExitCode::SUCCESS)
}

fn rejoin(args: &RejoinArgs) -> anyhow::Result<ExitCode> {
    let mut waiting = |what: &str| anstream::eprintln!("waiting for {what}");
    let asked = rejoin::rejoin(
        &args.data_dir,
        args.peer.as_deref(),
        NodeSettings::SEGMENT_BYTES,
        &mut waiting,
    );
    let Rejoined { node, cluster, old } = runtime()?.block_on(asked)?;
    if args.json {
        let done = serde_json::json!({ "node": node, "cluster": cluster, "old_data": old });
        anstream::println!("{done}");
    } else {
        anstream::println!("this node is a learner with the new id {node}; its old id is removed");
        anstream::println!(
            "the old data is in {}; next: {}",
            old.display(),
            run_hint(&args.data_dir)
        );
        anstream::println!("when it has caught up: vfsd member promote NAME");
    }
    Ok(ExitCode::SUCCESS)
}

fn run_daemon(args: RunArgs) -> anyhow::Result<ExitCode> {
    telemetry::start()?;
    let paths = DaemonPaths {
        data_dir: args.data_dir,
        runtime_dir: args.runtime_dir,
        mount: args.mount,
    };
    let runtime = runtime()?;
    let ran = runtime.block_on(daemon::run(paths));
    runtime.shutdown_background();
    ran.map(|()| ExitCode::SUCCESS)
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_WORKERS)
        .enable_all()
        .build()
        .context("cannot start the runtime")
}
