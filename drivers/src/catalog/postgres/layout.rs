//! Where a deployment's files, unit and socket lie on a node: names only, nothing is touched.
//!
//! Invariant: every name holds the deployment's uid, so two deployments of one node never share a file.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The user that PostgreSQL runs as; Debian's package makes it.
pub const OS_USER: &str = "postgres";

/// Name of the marker file in a data directory.
pub const MARKER: &str = "contextos.json";

/// What a step has to know to find a deployment on its node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// PostgreSQL's major version.
    pub major: u32,
    /// The data directory.
    pub data_directory: PathBuf,
    /// TCP port, and suffix of the socket.
    pub port: u16,
}

/// The names of one deployment on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    uid: String,
    /// See [`Place`].
    pub place: Place,
}

/// Data directory of a deployment whose wish names none.
pub fn default_data_directory(uid: &str) -> PathBuf {
    PathBuf::from("/var/lib/contextos/postgres").join(uid)
}

/// The node-local note that says where the deployment's data lies; it is there as long as anything of it is.
pub fn note_path(uid: &str) -> PathBuf {
    PathBuf::from("/var/lib/contextos/postgres").join(format!("{uid}.json"))
}

/// Name of the deployment's unit.
pub fn unit_name(uid: &str) -> String {
    format!("contextos-postgres-{uid}.service")
}

/// Directory of the deployment's Unix socket; the service manager makes and removes it with the service.
pub fn socket_dir(uid: &str) -> PathBuf {
    PathBuf::from("/run").join(format!("contextos-postgres-{uid}"))
}

/// Whether `uid` can be part of file, unit and socket names.
pub fn is_usable_uid(uid: &str) -> bool {
    !uid.is_empty()
        && uid.len() <= UID_LEN_BYTES_MAX
        && uid
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

/// The path of a Unix socket has at most 107 bytes; the rest of ours takes 39.
pub const UID_LEN_BYTES_MAX: usize = 64;

impl Layout {
    /// The names of deployment `uid` at `place`.
    pub fn new(uid: &str, place: Place) -> Self {
        Self {
            uid: uid.to_owned(),
            place,
        }
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        &self.place.data_directory
    }

    /// Where a data directory is made before it gets its name: beside it, on the same file system.
    pub fn partial(&self) -> PathBuf {
        self.beside(".partial")
    }

    /// Where a standby's copy goes that the members went on without.
    pub fn kept(&self) -> PathBuf {
        self.beside(".kept")
    }

    fn beside(&self, ending: &str) -> PathBuf {
        let mut name = self.data().file_name().unwrap_or_default().to_os_string();
        name.push(ending);
        self.data().with_file_name(name)
    }

    /// The marker in the data directory.
    pub fn marker(&self) -> PathBuf {
        self.data().join(MARKER)
    }

    /// Directory of the configuration.
    pub fn conf_dir(&self) -> PathBuf {
        PathBuf::from("/etc/contextos/postgres").join(&self.uid)
    }

    /// Server configuration.
    pub fn conf(&self) -> PathBuf {
        self.conf_dir().join("postgresql.conf")
    }

    /// Client authentication.
    pub fn hba(&self) -> PathBuf {
        self.conf_dir().join("pg_hba.conf")
    }

    /// Password of the replication role, for this node's standby.
    pub fn passfile(&self) -> PathBuf {
        self.conf_dir().join("pgpass")
    }

    /// The files whose change asks for a reload.
    pub fn loaded_files(&self) -> Vec<PathBuf> {
        vec![self.conf(), self.hba()]
    }

    /// See [`unit_name`].
    pub fn unit(&self) -> String {
        unit_name(&self.uid)
    }

    /// See [`socket_dir`].
    pub fn socket_dir(&self) -> PathBuf {
        socket_dir(&self.uid)
    }

    /// A program of this PostgreSQL version.
    pub fn program(&self, name: &str) -> String {
        format!("/usr/lib/postgresql/{}/bin/{name}", self.place.major)
    }

    /// The deployment's stable id.
    pub fn uid(&self) -> &str {
        &self.uid
    }
}
