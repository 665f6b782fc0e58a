//! The addresses of the members on disk, for the day on which this node has lost all else.
//!
//! Invariant: they are there from the first membership on that this node knows of, and follow each change of it. Not
//! here: who reads them (`cli/rejoin.rs`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::consensus::core::Core;
use crate::limits::PEERS_SAVE_EVERY;
use crate::storage::disk::{self, Disk};
use crate::storage::{StorageError, atomic_file};
use crate::trouble::Trouble;

/// Members by id, with their addresses.
pub type Addresses = Vec<(u64, String)>;

/// Writes the addresses.
///
/// # Errors
/// If the disk refuses.
pub fn save(disk: &dyn Disk, path: &Path, members: &Addresses) -> Result<(), StorageError> {
    let text = serde_json::to_vec(members).unwrap_or_default();
    atomic_file::write_on(disk, path, &text, 0o600)
}

/// What is known on disk; nothing if the file is not there or makes no sense.
pub fn load(disk: &dyn Disk, path: &Path) -> Addresses {
    let text = disk.read(path).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Keeps the file as the members are.
#[derive(Clone)]
pub struct PeersKeeper {
    core: Arc<Core>,
    disk: Arc<dyn Disk>,
    path: PathBuf,
    // Below it the state is one that this node had before it was started: its members may be gone since.
    from: u64,
}

impl PeersKeeper {
    /// Keeps `path`, from what is known to be committed now on.
    pub fn new(core: Arc<Core>, disk: Arc<dyn Disk>, path: PathBuf) -> Self {
        let from = core.log.committed().map_or(0, |position| position.index);
        Self {
            core,
            disk,
            path,
            from,
        }
    }

    /// Runs until it is dropped.
    pub async fn run(self) {
        let mut applied = self.core.view.published.applied.subscribe();
        let mut saved = Addresses::new();
        let mut trouble = Trouble::default();
        loop {
            applied.mark_unchanged();
            let members = self.members().unwrap_or_default();
            if members != saved {
                match self.save(members.clone()).await {
                    Ok(()) => saved.clone_from(&members),
                    Err(error) if trouble.is_new(&error) => {
                        tracing::warn!(%error, "cannot keep the addresses of the members yet");
                    }
                    Err(_) => {}
                }
            }
            // The sender lives as long as the node.
            if applied.changed().await.is_err() {
                return;
            }
            if !members.is_empty() {
                tokio::time::sleep(PEERS_SAVE_EVERY).await;
            }
        }
    }

    async fn save(&self, members: Addresses) -> std::io::Result<()> {
        let (disk, path) = (Arc::clone(&self.disk), self.path.clone());
        disk::run_blocking(&*self.disk, move || save(&*disk, &path, &members)).await??;
        Ok(())
    }

    /// Writes what is known now.
    pub async fn save_now(&self) {
        let Some(members) = self.members() else {
            return;
        };
        if let Err(error) = self.save(members).await {
            tracing::warn!(%error, "cannot keep the addresses of the members");
        }
    }

    fn members(&self) -> Option<Addresses> {
        let state = self.core.view.state();
        let members: Addresses = state
            .members()
            .map(|member| (member.node.0, member.address.clone()))
            .collect();
        (state.applied().0 >= self.from && !members.is_empty()).then_some(members)
    }
}
