//! The driver's operations and what each declares about itself.

use std::time::Duration;

use crate::driver::{Disruption, OpClass, OpDescription, RetryPolicy, Undo};

/// One operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// Installs the packages.
    Install,
    /// Makes the data directory of a new primary.
    Init,
    /// Marks an existing data directory as the deployment's.
    Adopt,
    /// Writes configuration and unit, and reloads.
    Configure,
    /// Starts the server and waits until it takes connections.
    Start,
    /// Restarts the server.
    Restart,
    /// Makes the role that standbys connect with.
    ReplicationRole,
    /// Makes and drops replication slots.
    Slots,
    /// Copies the primary's data to a standby.
    BaseBackup,
    /// Waits until a standby streams.
    AwaitStreaming,
    /// Makes a login role.
    Role,
    /// Makes a database.
    Database,
    /// Sets a standby's data aside, to copy it anew.
    Discard,
    /// Takes the deployment off the node.
    Remove,
}

/// All operations.
pub const ALL: [Op; 14] = [
    Op::Install,
    Op::Init,
    Op::Adopt,
    Op::Configure,
    Op::Start,
    Op::Restart,
    Op::ReplicationRole,
    Op::Slots,
    Op::BaseBackup,
    Op::AwaitStreaming,
    Op::Role,
    Op::Database,
    Op::Discard,
    Op::Remove,
];

impl Op {
    /// Name in plans.
    pub fn name(self) -> &'static str {
        match self {
            Self::Install => "install",
            Self::Init => "init",
            Self::Adopt => "adopt",
            Self::Configure => "configure",
            Self::Start => "start",
            Self::Restart => "restart",
            Self::ReplicationRole => "replication-role",
            Self::Slots => "slots",
            Self::BaseBackup => "base-backup",
            Self::AwaitStreaming => "await-streaming",
            Self::Role => "role",
            Self::Database => "database",
            Self::Discard => "discard",
            Self::Remove => "remove",
        }
    }

    /// The operation of this name.
    pub fn named(name: &str) -> Option<Self> {
        ALL.into_iter().find(|op| op.name() == name)
    }

    /// What a repetition may do.
    pub fn class(self) -> OpClass {
        match self {
            Self::AwaitStreaming => OpClass::Pure,
            Self::Install | Self::Configure | Self::Start => OpClass::Idempotent,
            Self::Init | Self::Remove | Self::Discard => OpClass::Irreversible,
            _ => OpClass::ProbeFirst,
        }
    }

    /// What users of the database notice.
    pub fn disruption(self) -> Disruption {
        match self {
            Self::Configure => Disruption::Reload,
            Self::Restart => Disruption::Restart,
            Self::BaseBackup | Self::Discard => Disruption::DataMove,
            Self::Remove => Disruption::Stop,
            _ => Disruption::None,
        }
    }

    /// Longest time of one attempt.
    pub fn timeout(self) -> Duration {
        Duration::from_secs(match self {
            Self::Install => 1800,
            // A copy of the whole database, and a start that replays all that was written meanwhile.
            Self::BaseBackup => 24 * 3600,
            Self::Start | Self::Restart | Self::AwaitStreaming => 600,
            _ => 300,
        })
    }

    /// Why it is not taken back.
    pub fn undo(self) -> Undo {
        Undo::Impossible(
            match self {
                Self::Install => "other software may use the packages by now",
                Self::Init | Self::BaseBackup => "data is deleted by on_delete purge only",
                Self::Adopt => "remove the deployment with on_delete retain to give the data back",
                Self::Configure => {
                    "write the former wish: the driver finds the way back from what it observes"
                }
                Self::Start | Self::Restart | Self::AwaitStreaming => {
                    "nothing is left of it that could be taken back"
                }
                Self::ReplicationRole | Self::Slots => {
                    "standbys of the deployment may depend on it"
                }
                Self::Role | Self::Database => {
                    "roles and databases may hold data of users; drop them by hand"
                }
                Self::Discard | Self::Remove => {
                    "the data lies where the record says; a new wish may adopt it"
                }
            }
            .to_owned(),
        )
    }

    /// The whole declaration.
    pub fn describe(self) -> OpDescription {
        OpDescription {
            op: self.name().to_owned(),
            summary: self.summary().to_owned(),
            class: self.class(),
            disruption: self.disruption(),
            undo: self.undo(),
            timeout: self.timeout(),
            retry: RetryPolicy::default(),
        }
    }

    fn summary(self) -> &'static str {
        match self {
            Self::Install => "installs PostgreSQL's packages, without Debian's own cluster",
            Self::Init => "makes the data directory of a new primary, with checksums",
            Self::Adopt => "marks an existing data directory as the deployment's",
            Self::Configure => "writes configuration and unit, and reloads what runs",
            Self::Start => "starts the server and waits until it takes connections",
            Self::Restart => "restarts the server and waits until it takes connections",
            Self::ReplicationRole => {
                "makes the role that standbys connect with, with a generated password"
            }
            Self::Slots => "makes and drops the slots that keep write-ahead log for standbys",
            Self::BaseBackup => "copies the primary's data to a standby",
            Self::AwaitStreaming => "waits until the standby streams from the primary",
            Self::Role => "makes a login role with a generated password",
            Self::Database => "makes a database of role owner",
            Self::Discard => "sets a standby's data aside so that it is copied anew",
            Self::Remove => {
                "stops the server and removes unit and configuration; data stays unless purged"
            }
        }
    }
}
