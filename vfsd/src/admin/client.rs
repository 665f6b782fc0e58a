//! The asking side of the admin socket: what the command line uses.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::protocol::{AdminReply, AdminRequest};

/// Why the daemon gave no good answer.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Nothing listens.
    #[error("vfsd does not run on this node (nothing listens on {})", .0.display())]
    NotRunning(PathBuf),
    /// The socket is not for this user.
    #[error("only root may talk to vfsd ({})", .0.display())]
    NotAllowed(PathBuf),
    /// The connection broke.
    #[error("vfsd did not answer")]
    Io(#[from] io::Error),
    /// The answer makes no sense.
    #[error("vfsd gave an answer that cannot be read")]
    BadAnswer(#[from] serde_json::Error),
    /// The daemon refused.
    #[error("{message}")]
    Refused {
        /// What is wrong.
        message: String,
        /// What to do.
        hint: String,
    },
}

impl AdminError {
    /// What to do about it.
    pub fn hint(&self) -> &str {
        match self {
            Self::NotRunning(_) => {
                "start it: systemctl start vfsd; why it stopped: journalctl -u vfsd -n 20"
            }
            Self::NotAllowed(_) => "run this as root",
            Self::Io(_) => "see: systemctl status vfsd",
            Self::BadAnswer(_) => "restart vfsd, so that both are of the same version",
            Self::Refused { hint, .. } => hint,
        }
    }
}

/// Asks the daemon behind `socket`.
///
/// # Errors
/// [`AdminError`].
pub fn ask(socket: &Path, request: &AdminRequest) -> Result<serde_json::Value, AdminError> {
    let mut stream = UnixStream::connect(socket).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            AdminError::NotRunning(socket.into())
        }
        io::ErrorKind::PermissionDenied => AdminError::NotAllowed(socket.into()),
        _ => AdminError::Io(error),
    })?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    if answer.is_empty() {
        return Err(AdminError::Io(io::ErrorKind::UnexpectedEof.into()));
    }
    match serde_json::from_str(&answer)? {
        AdminReply::Ok(value) => Ok(value),
        AdminReply::Error { message, hint } => Err(AdminError::Refused { message, hint }),
    }
}
