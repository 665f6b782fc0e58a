//! The answering side of the admin socket.
//!
//! Invariants: mode 0600 and only user 0 is answered; lines and connections are bounded. Not here: what a change does
//! (`consensus/cluster/membership.rs`).

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::UCred;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::codec::{FramedRead, LinesCodec};

use super::protocol::{AdminReply, AdminRequest};
use super::report;
use crate::clock;
use crate::consensus::leader_link::AskError;
use crate::consensus::node::Node;
use crate::consensus::wire::{ClusterChange, Reply, Request};
use crate::fs::proposer::Proposal;
use crate::limits::{
    ACCEPT_RETRY_EVERY, ADMIN_CONNECTIONS_MAX, ADMIN_LINE_BYTES_MAX, MEMBER_CHANGE_TIMEOUT,
};
use crate::state_machine::command::{Author, Command, Grant};
use crate::state_machine::ids::InodeNo;

/// Listens until it is dropped.
#[derive(Debug)]
pub struct AdminServer {
    task: JoinHandle<()>,
    socket: PathBuf,
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        self.task.abort();
        // The next start replaces a left-over.
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl AdminServer {
    /// Listens on `socket` for `node`, whose tree is mounted on `mount`.
    ///
    /// # Errors
    /// If the socket cannot be made.
    pub fn start(socket: &Path, node: Arc<Node>, mount: PathBuf) -> io::Result<Self> {
        match std::fs::remove_file(socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(socket)?;
        std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
        let desk = Arc::new(Desk { node, mount });
        let task = tokio::spawn(accept(listener, desk));
        Ok(Self {
            task,
            socket: socket.into(),
        })
    }
}

async fn accept(listener: UnixListener, desk: Arc<Desk>) {
    let room = Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // It comes again at once: without a pause nothing else would run on this thread.
                tracing::warn!(%error, "cannot accept a command's connection");
                tokio::time::sleep(ACCEPT_RETRY_EVERY).await;
                continue;
            }
        };
        // Root on this machine only: the kernel says who is on the other side.
        let Some(peer) = stream.peer_cred().ok().filter(|peer| peer.uid() == 0) else {
            continue;
        };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            continue;
        };
        let desk = Arc::clone(&desk);
        connections.spawn(async move {
            if let Err(error) = serve(stream, peer, &desk).await {
                tracing::debug!(%error, "an admin connection ended");
            }
            drop(permit);
        });
    }
}

async fn serve(stream: UnixStream, peer: UCred, desk: &Desk) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = FramedRead::new(read, LinesCodec::new_with_max_length(ADMIN_LINE_BYTES_MAX));
    while let Some(line) = lines.next().await {
        let line = line.map_err(io::Error::other)?;
        let reply = match serde_json::from_str::<AdminRequest>(&line) {
            Ok(request) => desk.answer(request, peer).await,
            Err(error) => Err(Refusal::new(
                format!("the request is not understood: {error}"),
                "restart vfsd, so that it and the command are of the same version",
            )),
        };
        let reply = match reply {
            Ok(value) => AdminReply::Ok(value),
            Err(Refusal { message, hint }) => AdminReply::Error { message, hint },
        };
        let mut line = serde_json::to_vec(&reply)?;
        line.push(b'\n');
        write.write_all(&line).await?;
    }
    Ok(())
}

/// Why a request is not fulfilled.
pub(super) struct Refusal {
    message: String,
    hint: String,
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

type Answer = Result<serde_json::Value, Refusal>;

struct Desk {
    node: Arc<Node>,
    mount: PathBuf,
}

impl Desk {
    async fn answer(&self, request: AdminRequest, peer: UCred) -> Answer {
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
                format!("there is no {path}"),
                "name the lock file, for example /vfs/lk/job",
            )
        })?;
        if state.locks().of(inode).is_none() {
            return Err(Refusal::new(
                format!("{path} is no lock"),
                "locks are files made with O_EXCL under /vfs/lk",
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
