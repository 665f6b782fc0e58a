//! The arguments of the driver's operations, as plans carry them to steps.
//!
//! Invariant: no secret is among them; roles and keys are named.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::conf::Settings;
use super::layout::Place;

/// `install`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Install {
    /// PostgreSQL's major version.
    pub major: u32,
    /// Exact Debian version; `None` where the node's package lists were missing when the plan was made.
    pub version: Option<String>,
}

/// `init`, and `adopt` with a system identifier.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Init {
    /// Where.
    pub place: Place,
    /// System identifier of the data to adopt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_identifier: Option<String>,
}

/// `configure`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Configure {
    /// Where.
    pub place: Place,
    /// Values of `postgresql.conf`.
    pub settings: Settings,
    /// Text of `pg_hba.conf`.
    pub hba: String,
    /// Whether the node's standby logs in to a primary.
    pub is_standby: bool,
}

/// Operations that need to know the place only: `start`, `await-streaming`, `replication-role`, `discard`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct At {
    /// Where.
    pub place: Place,
}

/// `restart`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restart {
    /// Where.
    pub place: Place,
    /// Whether it is over only when the standby streams again.
    pub awaits_streaming: bool,
    /// A standby restarts only when its control file holds at most these values: the primary's lowered ones have come.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub control_at_most: BTreeMap<String, u64>,
}

/// `slots`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slots {
    /// Where.
    pub place: Place,
    /// Slots to drop, before others are made.
    pub drop: Vec<String>,
    /// Slots to make.
    pub create: Vec<String>,
}

/// `base-backup`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseBackup {
    /// Where.
    pub place: Place,
    /// Address of the primary.
    pub primary: String,
    /// The standby's slot there.
    pub slot: String,
}

/// `role`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Role {
    /// Where.
    pub place: Place,
    /// Name of the role, and key of its password.
    pub role: String,
}

/// `database`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// Where.
    pub place: Place,
    /// Name of the database.
    pub database: String,
}

/// `remove`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remove {
    /// Where.
    pub place: Place,
    /// What happens to the data.
    pub data: RemovedData,
}

/// What happens to the data of a deployment that leaves a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RemovedData {
    /// It stays where it is.
    Retain,
    /// It stays under another name: the members go on without it, so it will be of no use to them.
    SetAside,
    /// It is deleted.
    Purge,
}
