//! What this node remembers of its deployments outside the tree: their uids.
//!
//! A uid names data directory, unit and marker on the machine. If the record below `/run` is lost, the same uid makes
//! the next planner observe what is there and go on, instead of doing all of it again beside it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::engine::digest::sha256_hex;
use crate::engine::id::DeploymentId;

/// See the head of this file.
#[derive(Debug)]
pub struct UidMemory {
    directory: PathBuf,
    known: Mutex<BTreeMap<DeploymentId, String>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    deployment: DeploymentId,
    uid: String,
}

impl UidMemory {
    /// The memory in `directory`, which is made when something is to be kept.
    pub fn new(directory: &Path) -> Self {
        Self {
            directory: directory.join("uids"),
            known: Mutex::default(),
        }
    }

    /// The uid that `deployment` had.
    pub fn recall(&self, deployment: &DeploymentId) -> Option<String> {
        let bytes = fs::read(self.path(deployment)).ok()?;
        let remembered: Remembered = serde_json::from_slice(&bytes).ok()?;
        (remembered.deployment == *deployment).then_some(remembered.uid)
    }

    /// Keeps the uid of `deployment`, durably.
    ///
    /// # Errors
    /// The operating system's error; nothing was kept then.
    pub fn keep(&self, deployment: &DeploymentId, uid: &str) -> std::io::Result<()> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.get(deployment).is_some_and(|before| before == uid) {
            return Ok(());
        }
        fs::create_dir_all(&self.directory)?;
        let path = self.path(deployment);
        let draft = path.with_extension("tmp");
        let mut file = fs::File::create(&draft)?;
        let remembered = Remembered {
            deployment: deployment.clone(),
            uid: uid.to_owned(),
        };
        file.write_all(&serde_json::to_vec(&remembered)?)?;
        file.sync_all()?;
        fs::rename(&draft, &path)?;
        fs::File::open(&self.directory)?.sync_all()?;
        known.insert(deployment.clone(), uid.to_owned());
        Ok(())
    }

    fn path(&self, deployment: &DeploymentId) -> PathBuf {
        // A digest, since a name may be longer than a file name.
        let name = sha256_hex(deployment.as_str().as_bytes());
        self.directory.join(format!("{name}.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_recalled_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let id = DeploymentId::parse("mid/a").unwrap();
        let memory = UidMemory::new(directory.path());
        assert_eq!(memory.recall(&id), None);
        memory.keep(&id, "c-1").unwrap();
        memory.keep(&id, "c-2").unwrap();
        let restarted = UidMemory::new(directory.path());
        assert_eq!(restarted.recall(&id), Some("c-2".to_owned()));
    }
}
