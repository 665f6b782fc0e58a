//! The asking side of the admin socket: what the command line uses.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::protocol::{AdminReply, AdminRequest};
use crate::limits::ADMIN_ANSWER_MAX;

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
    /// It listens and says nothing.
    #[error("vfsd has not answered within {} s", .0.as_secs_f32())]
    TimedOut(Duration),
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
            Self::TimedOut(_) => "what was asked may still be done; see: vfsd status",
            Self::Io(_) => "see: systemctl status vfsd",
            Self::BadAnswer(_) => "restart vfsd, so that both are of the same version",
            Self::Refused { hint, .. } => hint,
        }
    }
}

/// Asks the daemon behind `socket`, for at most `ADMIN_ANSWER_MAX`.
///
/// # Errors
/// [`AdminError`].
pub fn ask(socket: &Path, request: &AdminRequest) -> Result<serde_json::Value, AdminError> {
    ask_within(ADMIN_ANSWER_MAX, socket, request)
}

fn ask_within(
    bound: Duration,
    socket: &Path,
    request: &AdminRequest,
) -> Result<serde_json::Value, AdminError> {
    let stream = UnixStream::connect(socket).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            AdminError::NotRunning(socket.into())
        }
        io::ErrorKind::PermissionDenied => AdminError::NotAllowed(socket.into()),
        _ => AdminError::Io(error),
    })?;
    stream.set_read_timeout(Some(bound))?;
    stream.set_write_timeout(Some(bound))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    let answer = exchange(stream, &line).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => AdminError::TimedOut(bound),
        _ => AdminError::Io(error),
    })?;
    if answer.is_empty() {
        return Err(AdminError::Io(io::ErrorKind::UnexpectedEof.into()));
    }
    match serde_json::from_str(&answer)? {
        AdminReply::Ok(value) => Ok(value),
        AdminReply::Error { message, hint } => Err(AdminError::Refused { message, hint }),
    }
}

fn exchange(mut stream: UnixStream, line: &[u8]) -> io::Result<String> {
    stream.write_all(line)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_says_nothing_is_not_waited_for_for_ever() {
        let temp = tempfile::tempdir().unwrap();
        let socket = temp.path().join("admin.sock");
        let _silent = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let bound = Duration::from_millis(20);
        let asked = ask_within(bound, &socket, &AdminRequest::Status);
        assert!(matches!(asked, Err(AdminError::TimedOut(_))), "{asked:?}");
    }
}
