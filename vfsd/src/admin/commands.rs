//! What a command asks of the running daemon, and the answer.
//!
//! Not here: the socket (`server.rs`), what a change does (`consensus/cluster/membership.rs`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::unix::UCred;

use super::protocol::AdminRequest;
use super::report;
use crate::clock;
use crate::consensus::leader_link::AskError;
use crate::consensus::node::Node;
use crate::consensus::wire::{ClusterChange, Reply, Request};
use crate::fs::proposer::Proposal;
use crate::limits::MEMBER_CHANGE_TIMEOUT;
use crate::state_machine::command::{Author, Command, Grant};
use crate::state_machine::ids::InodeNo;

/// Why a request is not fulfilled.
pub(super) struct Refusal {
    /// What is the matter.
    pub message: String,
    /// What to do.
    pub hint: String,
}

impl Refusal {
    pub(super) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: hint.into(),
        }
    }
}

impl From<AskError> for Refusal {
    fn from(error: AskError) -> Self {
        Self::new(
            format!("the cluster cannot be changed now: {error}"),
            "see: vfsd status",
        )
    }
}

/// What a request comes to.
pub(super) type Answer = Result<serde_json::Value, Refusal>;

/// What answers.
pub(super) struct Commands {
    /// The member that runs.
    pub node: Arc<Node>,
    /// Where its tree is mounted.
    pub mount: PathBuf,
}

impl Commands {
    /// Does what is asked by `peer`, who is root.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(super) async fn answer(&self, request: AdminRequest, peer: UCred) -> Answer {
        match request {
            AdminRequest::Status => json(&report::status(&self.node).await),
            AdminRequest::Members => json(&report::status(&self.node).await.members),
            AdminRequest::Digest => self.digest().await,
            AdminRequest::TokenCreate {
                role,
                expires_secs,
                name,
            } => self.create_token(role, expires_secs, name).await,
            AdminRequest::Promote { name } => self.change(ClusterChange::Promote { name }).await,
            AdminRequest::Remove { name } => self.change(ClusterChange::Remove { name }).await,
            AdminRequest::RotateAuthority => {
                let from = self.node.core().authority.digest();
                self.change(ClusterChange::RotateAuthority { from }).await
            }
            AdminRequest::LockBreak { path } => self.break_lock(&path, peer).await,
        }
    }

    async fn digest(&self) -> Answer {
        let state = self.node.core().view.state();
        let applied = state.applied().0;
        let digest = tokio::task::spawn_blocking(move || state.digest()).await;
        let digest = digest.map_err(|_| Refusal::new("the digest could not be made", ""))?;
        Ok(serde_json::json!({ "applied": applied, "digest": hex::encode(digest) }))
    }

    async fn change(&self, change: ClusterChange) -> Answer {
        let quorum = self.node.core().quorum.state();
        if !quorum.has {
            return Err(Refusal::new(
                format!(
                    "the cluster cannot be changed without a majority: {}",
                    quorum.why
                ),
                "see: vfsd status",
            ));
        }
        let asked = self
            .node
            .core()
            .link
            .ask_leader_until(MEMBER_CHANGE_TIMEOUT, || Request::Change(change.clone()))
            .await?;
        match asked {
            Reply::Changed(Ok(done)) => Ok(done.into()),
            Reply::Changed(Err(refusal)) => Err(Refusal::new(refusal.message, refusal.hint)),
            _ => Err(Refusal::new(
                "the leader gave an answer to another question",
                "upgrade the older node",
            )),
        }
    }

    async fn create_token(&self, role: Grant, expires_secs: u64, name: Option<String>) -> Answer {
        let (token, remembered) = self.node.core().new_token(role, expires_secs, name);
        let expires = clock::rfc3339(remembered.expires);
        self.change(ClusterChange::TokenCreate(remembered)).await?;
        Ok(serde_json::json!({ "token": token, "role": role, "expires": expires }))
    }

    async fn break_lock(&self, path: &str, peer: UCred) -> Answer {
        let within = Path::new(path)
            .strip_prefix(&self.mount)
            .unwrap_or(Path::new(path));
        let within = within.to_string_lossy().trim_start_matches('/').to_owned();
        let state = self.node.core().view.state();
        let inode = state.tree().resolve(&within).ok_or_else(|| {
            Refusal::new(
                format!("there is no {path} in the tree"),
                "name the lock, for example /vfs/lk/job",
            )
        })?;
        if state.locks().of(inode).is_none() {
            return Err(Refusal::new(
                format!("{path} is no lock"),
                "locks are directories, and files made with O_EXCL, under /vfs/lk",
            ));
        }
        self.propose_break(inode, peer).await?;
        Ok(format!("the lock {path} is broken; it is free after its delay").into())
    }

    async fn propose_break(&self, inode: InodeNo, peer: UCred) -> Result<(), Refusal> {
        let author = Author {
            uid: peer.uid(),
            gid: peer.gid(),
            pid: peer
                .pid()
                .and_then(|pid| u32::try_from(pid).ok())
                .unwrap_or(0),
            comm: "vfsd lock break".chars().take(15).collect(),
            ..Author::default()
        };
        let proposal = Proposal {
            author,
            fence: None,
            command: Command::LockBreak { inode },
            bound_to: None,
        };
        let committed = self.node.proposer().propose(proposal).await;
        match committed {
            Ok(committed) => committed
                .outcome
                .map(drop)
                .map_err(|error| Refusal::new(error.to_string(), "")),
            Err(error) => Err(Refusal::new(error.to_string(), "see: vfsd status")),
        }
    }
}

fn json(value: &impl serde::Serialize) -> Answer {
    serde_json::to_value(value).map_err(|error| Refusal::new(error.to_string(), ""))
}
