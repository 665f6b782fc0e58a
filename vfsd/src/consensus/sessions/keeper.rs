//! Opens this node's session, renews it, and opens a new one when it has ended.
//!
//! Invariants: the session of an earlier run is resumed if it still lives and was this node's (its id lies in tmpfs, so
//! a rebooted machine opens a new one); what an earlier run had under way and is not applied by then never is. Not
//! here: judging expiry (`lease_keeper.rs`); ending the locks of handles that an earlier run had open (`fs/`, which
//! knows its handles).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::consensus::core::Core;
use crate::consensus::leader_link::AskError;
use crate::consensus::wire::{Renewal, Reply, Request};
use crate::limits::{SESSION_RENEW_EVERY, SESSION_RETRY_EVERY, WRITE_TIMEOUT};
use crate::state_machine::command::{Author, Command, Entry};
use crate::state_machine::fs_error::FsError;
use crate::state_machine::ids::{NodeId, SessionId};
use crate::state_machine::outcome::{Done, Outcome};
use crate::storage::atomic_file;
use crate::storage::disk::Disk;
use crate::trouble::Trouble;

/// See the module.
pub struct SessionKeeper {
    core: Arc<Core>,
    cluster: String,
    disk: Arc<dyn Disk>,
    file: PathBuf,
}

/// Content of the session file.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SavedSession {
    cluster: String,
    node: u64,
    session: u64,
}

impl SessionKeeper {
    /// Keeps the session of `core`'s node; its id is kept in `file` on `disk`.
    pub fn new(core: Arc<Core>, cluster: String, disk: Arc<dyn Disk>, file: PathBuf) -> Self {
        Self {
            core,
            cluster,
            disk,
            file,
        }
    }

    /// Runs until it is dropped.
    pub async fn run(self) {
        let mut resumable = self.saved();
        loop {
            let session = match resumable.take() {
                Some(saved) if self.resume(saved).await => saved,
                _ => self.open().await,
            };
            self.save(session);
            self.keep(session).await;
            tracing::warn!(%session, "the session has ended; opening a new one");
            self.core.numbers.forget_abandoned();
        }
    }

    fn saved(&self) -> Option<SessionId> {
        let text = self.disk.read(&self.file).ok()?;
        let saved: SavedSession = serde_json::from_slice(&text).ok()?;
        let is_ours = saved.cluster == self.cluster && saved.node == self.core.view.id;
        is_ours.then_some(SessionId(saved.session))
    }

    fn save(&self, session: SessionId) {
        let saved = SavedSession {
            cluster: self.cluster.clone(),
            node: self.core.view.id,
            session: session.0,
        };
        let text = serde_json::to_vec(&saved).unwrap_or_default();
        // Without the file the next run opens a new session: safe, only less convenient.
        if let Err(error) = atomic_file::write_on(&*self.disk, &self.file, &text, 0o600) {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "cannot keep the session's id"
            );
        }
    }

    /// Whether the session of the earlier run still lives, and is this one's now.
    async fn resume(&self, session: SessionId) -> bool {
        if !self.settle_earlier_runs(session).await {
            return false;
        }
        let renewed = loop {
            match self.renew(session).await {
                Ok(renewed) => break renewed,
                Err(_) => tokio::time::sleep(SESSION_RETRY_EVERY).await,
            }
        };
        let Some(sent_at) = renewed else { return false };
        self.core.session.renewed(session, sent_at);
        tracing::info!(%session, "resumed the session of the run before");
        true
    }

    /// Nothing that an earlier run had under way has an effect from here on: its callers were told that it failed when
    /// their mount went away. Gives whether the session has lived so long.
    async fn settle_earlier_runs(&self, session: SessionId) -> bool {
        // Numbers of this run are above all of earlier ones, and so is what it says is settled.
        let origin = self.core.numbers.begin(session);
        let notice = Entry {
            origin: Some(origin.clone()),
            ..entry(Command::Nothing)
        };
        let (outcome, _) = self.write(&notice).await;
        self.core.numbers.settle(&origin);
        outcome != Err(FsError::SessionExpired)
    }

    /// Opens a session, however long it takes.
    async fn open(&self) -> SessionId {
        let node = NodeId(self.core.view.id);
        let opening = entry(Command::SessionOpen { node });
        let mut trouble = Trouble::default();
        loop {
            let (outcome, sent_at) = self.write(&opening).await;
            if let Ok(Done::Session(session)) = outcome {
                self.core.session.renewed(session, sent_at);
                tracing::info!(%session, "opened a session");
                return session;
            }
            if trouble.is_new(format!("{outcome:?}")) {
                tracing::warn!(?outcome, "cannot open a session");
            }
            tokio::time::sleep(SESSION_RETRY_EVERY).await;
        }
    }

    /// Writes an entry of this node on its own behalf, and waits until it is applied here: the own state must know it
    /// before anybody relies on it. Gives the answer, and when what was answered was sent, on `CLOCK_BOOTTIME`.
    async fn write(&self, entry: &Entry) -> (Outcome, Duration) {
        let bytes = entry.encode();
        let mut trouble = Trouble::default();
        loop {
            let sent_at = clock::boottime();
            let asked = Request::Propose(&bytes);
            match self.core.link.ask_leader(asked, WRITE_TIMEOUT).await {
                Ok(Reply::Proposed {
                    index,
                    outcome: Some(outcome),
                }) => {
                    self.core.view.wait_applied(index).await;
                    return (outcome, sent_at);
                }
                Ok(other) if trouble.is_new(format!("{other:?}")) => {
                    tracing::warn!(?other, "the session cannot be opened or resumed");
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "there is no session yet"),
            }
            tokio::time::sleep(SESSION_RETRY_EVERY).await;
        }
    }

    /// Renews until the session has ended.
    async fn keep(&self, session: SessionId) {
        let mut pause = SESSION_RENEW_EVERY;
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.core.session.wait_ended() => return,
            }
            pause = match self.renew(session).await {
                Ok(Some(sent_at)) => {
                    self.core.session.renewed(session, sent_at);
                    SESSION_RENEW_EVERY
                }
                Ok(None) => return self.core.session.ended(session),
                Err(error) => {
                    tracing::debug!(%error, "cannot renew the session");
                    SESSION_RETRY_EVERY
                }
            };
        }
    }

    /// Asks for the session to live on. Gives when that was asked, on `CLOCK_BOOTTIME`, if it does.
    async fn renew(&self, session: SessionId) -> Result<Option<Duration>, AskError> {
        let sent_at: Duration = clock::boottime();
        let asked = self
            .core
            .link
            .ask_leader(Request::Renew(session), SESSION_RENEW_EVERY)
            .await?;
        match asked {
            Reply::Renewed(Renewal::Lives { missing }) => {
                self.core.quorum.missing_reported(missing);
                Ok(Some(sent_at))
            }
            Reply::Renewed(Renewal::Gone) => Ok(None),
            _ => Err(AskError::NotReady("the leader gave another answer".into())),
        }
    }
}

fn entry(command: Command) -> Entry {
    Entry::new(Author::daemon(), command)
}
