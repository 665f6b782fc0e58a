//! The command line of `testhosts`, which is that of `scripts/demo.sh` too.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Nodes on this machine, each with its own network, root, disk and service manager.
#[derive(Debug, Parser)]
#[command(name = "testhosts", version, after_help = EXAMPLES)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub operation: Operation,
}

const EXAMPLES: &str = "Examples:
  testhosts demo                           three nodes and a replicated PostgreSQL
  testhosts exec n2 cat /vfs/.vfs/status.json
  testhosts kill n2; testhosts boot n2     a power cut, and back
  testhosts down                           take everything away";

/// One operation. All may be repeated.
#[derive(Debug, Subcommand)]
pub enum Operation {
    /// Start three nodes, form the cluster, deploy PostgreSQL, show that it replicates
    Demo,
    /// Start three nodes and form the cluster; deploy nothing
    Up,
    /// One node without namespaces: mount the filesystem in a folder of this machine until Ctrl-C
    Single {
        /// Where data and mount point lie
        #[arg(long, default_value = "/tmp/contextos")]
        folder: PathBuf,
    },
    /// Open a shell in a node
    Shell {
        /// The node, for example n2
        node: String,
    },
    /// Run a command in a node: its exit status and its output, nothing added
    Exec {
        /// The node, for example n2
        node: String,
        /// The command and its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// Cut a node's power: what it did not sync is lost
    Kill {
        /// The node
        node: String,
    },
    /// Start a node again
    Boot {
        /// The node
        node: String,
    },
    /// Start an empty node and let it join by a token
    Add {
        /// The new node, for example n4
        node: String,
    },
    /// Cut a node's network cable
    Cut {
        /// The node
        node: String,
    },
    /// Mend a node's network cable
    Heal {
        /// The node
        node: String,
    },
    /// Freeze all processes of a node
    Freeze {
        /// The node
        node: String,
    },
    /// Let a frozen node go on
    Thaw {
        /// The node
        node: String,
    },
    /// Take all nodes away
    Down,
    /// Take away what killed tests left
    Gc,
    /// Say whether this machine can hold nodes, and why not
    Check,
    /// Start the init of a node from a plan on standard input
    #[command(hide = true)]
    LaunchNode,
}
