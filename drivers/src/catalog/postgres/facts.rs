//! What the driver knows of one node: the facts of its observations.
//!
//! Invariant: facts are stable while nothing happens. Positions in the log, sizes and times are measures.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::conf::Settings;

/// Facts of one node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Facts {
    /// The deployment's note on this node, there as long as anything of it is.
    pub note: Option<Note>,
    /// What the package manager knows.
    pub package: Package,
    /// What lies at the data directory.
    pub data: Data,
    /// Whether a base backup or an initialisation was left half done.
    pub has_partial: bool,
    /// Values of the configuration file; `None` if it is absent or not as the driver writes it.
    pub settings: Option<Settings>,
    /// Digest of `pg_hba.conf`.
    pub hba_digest: Option<String>,
    /// Digest of the unit file.
    pub unit_digest: Option<String>,
    /// Whether the replication password lies on this node.
    pub has_passfile: bool,
    /// Whether the service manager runs the server.
    pub is_running: bool,
    /// Whether the server runs with the files that lie on disk.
    pub has_loaded: bool,
    /// Whether the wish's port belongs to something else.
    pub port_is_taken: bool,
    /// What the server says; `None` while it takes no connections.
    pub server: Option<Server>,
}

/// The node-local note about a deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Note {
    /// `mid/shop-db`, for a person who finds the file.
    pub deployment: String,
    /// Major version of the server.
    pub major: u32,
    /// Where the data lies.
    pub data_directory: PathBuf,
}

/// What the package manager knows of the server's package.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Package {
    /// Debian version installed and configured.
    pub installed: Option<String>,
    /// What an installation would take.
    pub candidate: Option<String>,
    /// All versions in the lists, best first.
    pub versions: Vec<String>,
    /// Major versions that the lists hold.
    pub majors: BTreeSet<u32>,
}

/// What lies at the data directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Data {
    /// Nothing, or an empty directory.
    #[default]
    Absent,
    /// Something that is not this deployment's.
    Foreign {
        /// Why it is not.
        why: String,
        /// Its system identifier, if it is PostgreSQL's.
        system_identifier: Option<String>,
        /// Its version, if it is PostgreSQL's.
        version: Option<String>,
        /// Whether it follows a primary.
        is_standby: bool,
    },
    /// The deployment's own data.
    Ours {
        /// Its system identifier.
        system_identifier: String,
        /// Its major version.
        version: String,
        /// Whether it follows a primary (`standby.signal`).
        is_standby: bool,
    },
}

/// What a server says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Whether it replays another's log.
    pub in_recovery: bool,
    /// `15.18 (Debian 15.18-0+deb12u1)`.
    pub server_version: String,
    /// Parameters whose new values wait for a restart.
    pub pending_restart: BTreeSet<String>,
    /// Values that it runs with of the parameters of which a standby must not have less than its primary.
    pub special: BTreeMap<String, u64>,
    /// Databases besides the server's own.
    pub databases: BTreeSet<String>,
    /// Login roles besides postgres.
    pub roles: BTreeSet<String>,
    /// Members of role owner.
    pub owners: BTreeSet<String>,
    /// Our slots, and whether the log that each needs is gone.
    pub slots: BTreeMap<String, bool>,
    /// Standbys that stream from it.
    pub streaming: BTreeSet<String>,
    /// Whether it streams from its primary.
    pub receiving: bool,
}

impl Facts {
    /// Whether the data is this deployment's.
    pub fn has_own_data(&self) -> bool {
        matches!(self.data, Data::Ours { .. })
    }

    /// Whether its own data is a primary's: it would accept writes.
    pub fn is_primary(&self) -> bool {
        matches!(
            self.data,
            Data::Ours {
                is_standby: false,
                ..
            }
        )
    }

    /// Whether its own data is a standby's.
    pub fn is_standby(&self) -> bool {
        matches!(
            self.data,
            Data::Ours {
                is_standby: true,
                ..
            }
        )
    }

    /// Whether anything of the deployment is on the node, besides data that was retained.
    pub fn has_anything(&self) -> bool {
        self.note.is_some()
            || self.unit_digest.is_some()
            || self.settings.is_some()
            || self.hba_digest.is_some()
            || self.has_passfile
            || self.has_partial
            || self.is_running
    }

    /// System identifier of its own data.
    pub fn system_identifier(&self) -> Option<&str> {
        match &self.data {
            Data::Ours {
                system_identifier, ..
            } => Some(system_identifier),
            Data::Absent | Data::Foreign { .. } => None,
        }
    }

    /// Whether the running server is of another package version than the installed one.
    pub fn runs_old_binaries(&self) -> bool {
        match (&self.server, &self.package.installed) {
            (Some(server), Some(installed)) => {
                // Debian puts its package version into the server's; other builds say nothing comparable.
                server.server_version.contains("Debian")
                    && !server.server_version.contains(&format!("{installed})"))
            }
            _ => false,
        }
    }
}
