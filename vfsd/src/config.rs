//! What a member knows of itself: `config.toml` in its data directory, written once by `vfsd init` or `vfsd join`.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::storage::atomic_file;

/// Where a member's data lies unless told otherwise.
pub const DATA_DIR: &str = "/var/lib/vfsd";
/// Where its socket and session lie unless told otherwise.
pub const RUNTIME_DIR: &str = "/run/vfsd";
/// Where the tree is mounted unless told otherwise.
pub const MOUNT_POINT: &str = "/vfs";
/// Name of the admin socket in the runtime directory.
pub const ADMIN_SOCKET: &str = "admin.sock";

/// The content of `config.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Id of the cluster.
    pub cluster: String,
    /// Name of this node.
    pub node: String,
    /// Id of this node, given out by the cluster.
    pub id: u64,
    /// `ip:port` on which it listens, and under which the others know it.
    pub listen: String,
}

impl NodeConfig {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// If it cannot be read or is not what [`NodeConfig::save`] wrote.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path)
            .map_err(|error| anyhow::anyhow!("cannot read {}: {error}", path.display()))?;
        toml::from_str(&text)
            .map_err(|error| anyhow::anyhow!("{} is not valid: {error}", path.display()))
    }

    /// Writes the file at `path`.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        let text = toml::to_string(self)?;
        atomic_file::write(path, text.as_bytes(), 0o600)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_read_as_it_was_written_and_unknown_keys_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        let config = NodeConfig {
            cluster: "5f0c-shop".into(),
            node: "n1".into(),
            id: 1,
            listen: "10.77.0.1:7601".into(),
        };
        config.save(&path).unwrap();
        assert_eq!(NodeConfig::load(&path).unwrap(), config);
        fs::write(
            &path,
            "cluster = \"a\"\nnode = \"n\"\nid = 1\nlisten = \"x\"\ncolour = 1\n",
        )
        .unwrap();
        assert!(
            NodeConfig::load(&path)
                .unwrap_err()
                .to_string()
                .contains("colour")
        );
    }
}
