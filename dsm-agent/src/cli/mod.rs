//! The command line.
//!
//! Invariants: what changes something does it by writing files in the tree; exit codes are 0 done, 1 refused or failed,
//! 2 bad usage, 3 degraded; `--json` prints one document and nothing else.

mod audit;
mod author;
mod paper;
mod plan;
mod request;
mod run;
mod secret;
mod show;
mod validate;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};

use crate::engine::id::{DeploymentId, Generation};
use crate::engine::record::RequestKind;
use crate::mount::paths;
use crate::mount::posix_tree::PosixTree;
use crate::mount::run_store::{RunStore, error_text, text};

const EXAMPLES: &str = "Examples:
  dsm-agent status                         all deployments
  dsm-agent status mid/shop-db --watch     one, until it is done
  dsm-agent plan /tmp/shop-db.json         what would happen
  dsm-agent explain mid/shop-db            what it waits for, and what to do
  dsm-agent schema postgres                what its params may say
  dsm-agent secret show mid/shop-db owner  on a node of the deployment, as root

Exit codes: 0 done, 1 refused or failed, 2 bad usage, 3 degraded.";

/// Turns wishes in the tree into running software, and says what became of them.
#[derive(Debug, Parser)]
#[command(name = "dsm-agent", version, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Global {
    /// Mount point of the tree [default: /vfs].
    #[arg(long, global = true, env = "DSM_ROOT", value_name = "DIR")]
    root: Option<PathBuf>,
    /// Print one JSON document.
    #[arg(long, global = true)]
    json: bool,
    /// Configuration of this node.
    #[arg(
        long,
        global = true,
        default_value = "/etc/contextos/agent.toml",
        value_name = "FILE"
    )]
    config: PathBuf,
    /// vfsd's data directory, which holds this node's age identity [default: /var/lib/vfsd].
    #[arg(long, global = true, value_name = "DIR")]
    vfsd_data_dir: Option<PathBuf>,
    /// Testing aid: the root is a plain directory without vfsd, and this process is NODE.
    #[arg(long, global = true, value_name = "NODE")]
    plain_tree: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run this node's agent (what the service does).
    Run(run::RunArgs),
    /// Show all deployments, or one.
    Status {
        /// mid/NAME or ctx/NAME.
        name: Option<String>,
        /// Go on until it is done.
        #[arg(long, short)]
        watch: bool,
    },
    /// Say what a deployment waits for, and what to do.
    Explain {
        /// mid/NAME or ctx/NAME.
        name: String,
    },
    /// Show what a wish would change, and change nothing.
    Plan(plan::PlanArgs),
    /// Check a wish file, and say its faults with the field, the reason and a hint.
    Validate(validate::ValidateArgs),
    /// Show the steps of a generation as they ran, on all nodes.
    Log {
        /// mid/NAME or ctx/NAME.
        name: String,
        /// Which generation; the newest if left out.
        generation: Option<u64>,
    },
    /// Show what differs between two generations (the last two if left out).
    Diff {
        /// mid/NAME or ctx/NAME.
        name: String,
        /// The older one.
        from: Option<u64>,
        /// The newer one.
        to: Option<u64>,
    },
    /// Try a failed deployment again.
    Retry(request::RequestArgs),
    /// Start nothing new for a deployment.
    Pause(request::RequestArgs),
    /// End a pause.
    Resume(request::RequestArgs),
    /// Give up the generation that is under way.
    Abandon(request::RequestArgs),
    /// Allow a removal that was held back because many wishes vanished at once.
    Approve(request::RequestArgs),
    /// Verify the record's hash chain and print spec -> decision -> step -> host -> change.
    Audit {
        /// mid/NAME or ctx/NAME; all if left out.
        name: Option<String>,
    },
    /// Secrets of a deployment.
    #[command(subcommand)]
    Secret(secret::SecretCommand),
    /// List the drivers of this build.
    Drivers(validate::DriversArgs),
    /// Print the JSON Schema of a driver's params.
    Schema {
        /// Name of the driver.
        driver: String,
    },
    /// Not in this version.
    #[command(hide = true)]
    Export {
        /// mid/NAME or ctx/NAME.
        name: String,
    },
    /// Not in this version.
    #[command(hide = true)]
    Reproduce {
        /// The exported file.
        file: PathBuf,
    },
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Exit {
    /// Done.
    Done = 0,
    /// Refused or failed.
    Refused = 1,
    /// Bad usage.
    Usage = 2,
    /// Degraded.
    Degraded = 3,
}

/// Where a command works.
pub(crate) struct Place {
    pub root: PathBuf,
    pub json: bool,
    pub identity: PathBuf,
    pub store: Arc<RunStore>,
}

impl Place {
    /// Name of this node, empty while the tree does not tell it.
    pub(crate) fn node(&self) -> Result<String, Complaint> {
        let status = self.store.json_any(paths::STATUS)?.unwrap_or_default();
        Ok(text(&status, "node"))
    }
}

/// An error for people, with what to do.
#[derive(Debug)]
pub(crate) struct Complaint {
    pub text: String,
    pub hint: String,
    pub exit: Exit,
}

impl Complaint {
    pub(crate) fn new(text: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            hint: hint.into(),
            exit: Exit::Refused,
        }
    }

    pub(crate) fn usage(text: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            exit: Exit::Usage,
            ..Self::new(text, hint)
        }
    }
}

impl<E: std::error::Error + 'static> From<E> for Complaint {
    fn from(error: E) -> Self {
        Self::new(error_text(&error), "")
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to stdout and are no failure.
            let code = if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Done
            };
            let _ = error.print();
            return ExitCode::from(code as u8);
        }
    };
    let json = cli.global.json;
    match dispatch(cli) {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(complaint) => {
            complain(&complaint, json);
            ExitCode::from(complaint.exit as u8)
        }
    }
}

fn complain(complaint: &Complaint, json: bool) {
    if json {
        let document = serde_json::json!({ "error": complaint.text, "hint": complaint.hint });
        anstream::println!("{document}");
        return;
    }
    anstream::eprintln!("error: {}", complaint.text);
    if !complaint.hint.is_empty() {
        anstream::eprintln!("hint: {}", complaint.hint);
    }
}

fn dispatch(cli: Cli) -> Result<Exit, Complaint> {
    let config = crate::config::Config::read(&cli.global.config)?;
    let root = cli.global.root.or_else(|| config.root.clone());
    let root = root.unwrap_or_else(|| PathBuf::from("/vfs"));
    let data = cli
        .global
        .vfsd_data_dir
        .or_else(|| config.vfsd_data_dir.clone());
    let tree: Arc<PosixTree> = Arc::new(match &cli.global.plain_tree {
        Some(node) => PosixTree::plain(&root, node),
        None => PosixTree::mounted(&root),
    });
    let place = Place {
        root,
        json: cli.global.json,
        identity: data
            .unwrap_or_else(|| PathBuf::from("/var/lib/vfsd"))
            .join("identity.age"),
        store: Arc::new(RunStore::new(tree)),
    };
    match cli.command {
        Command::Run(args) => run::run(&place, &config, cli.global.plain_tree, args),
        Command::Status {
            name: None,
            watch: false,
        } => show::all(&place),
        Command::Status {
            name: None,
            watch: true,
        } => Err(Complaint::usage(
            "--watch needs a deployment",
            "dsm-agent status mid/NAME --watch",
        )),
        Command::Status {
            name: Some(name),
            watch,
        } => show::one(&place, &deployment(&name)?, watch),
        Command::Explain { name } => show::explain(&place, &deployment(&name)?),
        Command::Plan(args) => plan::plan(&place, &args),
        Command::Validate(args) => validate::validate(&place, &args),
        Command::Log { name, generation } => {
            paper::log(&place, &deployment(&name)?, generation.map(Generation))
        }
        Command::Diff { name, from, to } => paper::diff(
            &place,
            &deployment(&name)?,
            from.map(Generation),
            to.map(Generation),
        ),
        Command::Retry(args) => request::request(&place, RequestKind::Retry, &args),
        Command::Pause(args) => request::request(&place, RequestKind::Pause, &args),
        Command::Resume(args) => request::request(&place, RequestKind::Resume, &args),
        Command::Abandon(args) => request::request(&place, RequestKind::Abandon, &args),
        Command::Approve(args) => request::request(&place, RequestKind::Approve, &args),
        Command::Audit { name } => match name {
            Some(name) => audit::audit(&place, &[deployment(&name)?]),
            None => audit::audit(&place, &show::recorded(&place)?),
        },
        Command::Secret(command) => secret::secret(&place, &command),
        Command::Drivers(args) => validate::drivers(&place, &args),
        Command::Schema { driver } => validate::schema(&driver),
        Command::Export { .. } => Err(not_in_this_version("export")),
        Command::Reproduce { .. } => Err(not_in_this_version("reproduce")),
    }
}

pub(crate) fn not_in_this_version(what: &str) -> Complaint {
    Complaint::new(format!("{what} is not in this version"), "")
}

fn deployment(name: &str) -> Result<DeploymentId, Complaint> {
    DeploymentId::parse(name).map_err(|reason| Complaint::usage(reason, "see: dsm-agent status"))
}

/// Prints a document for machines.
pub(crate) fn print_json<T: serde::Serialize>(value: &T) -> Result<(), Complaint> {
    let text = serde_json::to_string_pretty(value)?;
    anstream::println!("{text}");
    Ok(())
}
