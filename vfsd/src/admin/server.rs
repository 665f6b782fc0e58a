//! The answering side of the admin socket.
//!
//! Invariants: mode 0600 and only user 0 is answered; lines and connections are bounded. Not here: what is
//! answered (`commands.rs`).

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

use super::commands::{Commands, Refusal};
use super::protocol::{AdminReply, AdminRequest};
use crate::consensus::node::Node;
use crate::limits::{ACCEPT_RETRY_EVERY, ADMIN_CONNECTIONS_MAX, ADMIN_LINE_BYTES_MAX};

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
        let commands = Arc::new(Commands { node, mount });
        let task = tokio::spawn(accept(listener, commands));
        Ok(Self {
            task,
            socket: socket.into(),
        })
    }
}

async fn accept(listener: UnixListener, commands: Arc<Commands>) {
    let room = Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let (stream, _) = next(|| listener.accept()).await;
        // Root on this machine only: the kernel says who is on the other side.
        let Some(peer) = stream.peer_cred().ok().filter(|peer| peer.uid() == 0) else {
            continue;
        };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            continue;
        };
        let commands = Arc::clone(&commands);
        connections.spawn(async move {
            if let Err(error) = serve(stream, peer, &commands).await {
                tracing::debug!(%error, "an admin connection ended");
            }
            drop(permit);
        });
    }
}

/// The next connection, whatever `accept` fails with before: descriptors may be short for a while.
async fn next<C, Accepted: Future<Output = io::Result<C>>>(accept: impl Fn() -> Accepted) -> C {
    loop {
        match accept().await {
            Ok(connection) => return connection,
            Err(error) => {
                // It comes again at once: without a pause nothing else would run on this thread.
                tracing::warn!(%error, "cannot accept a command's connection");
                tokio::time::sleep(ACCEPT_RETRY_EVERY).await;
            }
        }
    }
}

async fn serve(stream: UnixStream, peer: UCred, commands: &Commands) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = FramedRead::new(read, LinesCodec::new_with_max_length(ADMIN_LINE_BYTES_MAX));
    while let Some(line) = lines.next().await {
        let line = line.map_err(io::Error::other)?;
        let reply = match serde_json::from_str::<AdminRequest>(&line) {
            Ok(request) => commands.answer(request, peer).await,
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::Instant;

    use super::*;

    /// While descriptors are short, each try fails at once.
    #[tokio::test(start_paused = true)]
    async fn a_connection_that_cannot_be_accepted_neither_ends_nor_spins_the_listener() {
        let tries = Cell::new(0);
        let accept = || {
            tries.set(tries.get() + 1);
            let accepted = match tries.get() {
                1..=10 => Err(io::Error::from_raw_os_error(libc::EMFILE)),
                _ => Ok("a command"),
            };
            std::future::ready(accepted)
        };
        let begun = Instant::now();
        assert_eq!(next(accept).await, "a command");
        assert_eq!(tries.get(), 11);
        assert_eq!(begun.elapsed(), 10 * ACCEPT_RETRY_EVERY);
    }
}
