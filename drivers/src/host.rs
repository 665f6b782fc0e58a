//! The only door to the operating system: [`Host`], its real and its fake implementation.
//!
//! Invariants: every effect goes through this trait; a call either has its whole effect or an error says otherwise.
//! Reading calls change nothing. A [`Command`] says of itself whether it only reads, so that observation and dry runs
//! can be held to it ([`read_only::ReadOnlyHost`]).

pub mod fake;
pub mod fenced;
pub mod linux;
mod pass_through;
pub mod read_only;

use std::fmt;
use std::path::Path;
use std::time::Duration;

use crate::error::DriverError;
use crate::fence::{FenceGuard, Unfenced};

/// The machine, as drivers may use it. Calls block; cancellation is by the fence guard given to the implementation.
///
/// Every call fails with `Retryable`, naming the path or program and the cause, when the system refuses it; further
/// errors stand at the call.
pub trait Host: Send + Sync {
    /// Content of a regular file; `None` if it does not exist.
    ///
    /// # Errors
    /// `Retryable`; `Permanent` above [`crate::limits::FILE_BYTES_MAX`].
    fn read_file(&self, path: &Path) -> Result<Option<Vec<u8>>, DriverError>;

    /// What is at `path`, links not followed; `None` if nothing.
    ///
    /// # Errors
    /// `Retryable`.
    fn metadata(&self, path: &Path) -> Result<Option<Metadata>, DriverError>;

    /// Names in a directory, sorted; `None` if there is no directory.
    ///
    /// # Errors
    /// `Retryable`.
    fn list_dir(&self, path: &Path) -> Result<Option<Vec<String>>, DriverError>;

    /// The user called `name`, if it exists.
    ///
    /// # Errors
    /// `Retryable`.
    fn user(&self, name: &str) -> Result<Option<User>, DriverError>;

    /// Whether a group called `name` exists.
    ///
    /// # Errors
    /// `Retryable`.
    fn group_exists(&self, name: &str) -> Result<bool, DriverError>;

    /// Whether nothing listens on TCP `port` of any IPv4 address.
    ///
    /// # Errors
    /// `Retryable`.
    fn port_is_free(&self, port: u16) -> Result<bool, DriverError>;

    /// Bytes that an unprivileged user may still write to the file system that holds `path` or its nearest existing
    /// parent.
    ///
    /// # Errors
    /// `Retryable`.
    fn disk_free_bytes(&self, path: &Path) -> Result<u64, DriverError>;

    /// Puts `content` at `path`: temporary file, owner and mode, fsync, rename, fsync of the directory. A reader sees
    /// the old content or the new one.
    ///
    /// # Errors
    /// `Retryable`; `Permanent` when owner or group do not exist.
    fn write_file(
        &self,
        path: &Path,
        content: &[u8],
        attributes: &Attributes,
    ) -> Result<(), DriverError>;

    /// Makes the directory `path` (its parent exists), or gives an existing one these attributes.
    ///
    /// # Errors
    /// As [`Host::write_file`].
    fn make_dir(&self, path: &Path, attributes: &Attributes) -> Result<(), DriverError>;

    /// Gives an existing file or directory these attributes.
    ///
    /// # Errors
    /// As [`Host::write_file`].
    fn set_attributes(&self, path: &Path, attributes: &Attributes) -> Result<(), DriverError>;

    /// Removes a file or link; nothing happens if there is none.
    ///
    /// # Errors
    /// `Retryable`.
    fn remove_file(&self, path: &Path) -> Result<(), DriverError>;

    /// Removes a directory and all in it; nothing happens if there is none. Not atomic: a crash leaves a part.
    ///
    /// # Errors
    /// `Retryable`.
    fn remove_tree(&self, path: &Path) -> Result<(), DriverError>;

    /// Renames `from` to `to`, which must not exist, and makes the names durable. What lies in a directory is not
    /// synced.
    ///
    /// # Errors
    /// `Retryable`.
    fn rename(&self, from: &Path, to: &Path) -> Result<(), DriverError>;

    /// Makes `path` a symbolic link to `target`, replacing a link or file that is there.
    ///
    /// # Errors
    /// `Retryable`.
    fn symlink(&self, target: &Path, path: &Path) -> Result<(), DriverError>;

    /// Runs a program without a shell and waits for its end, at most `command.timeout`. `guard` is asked while it runs;
    /// on time-out or a lost fence the program and its children are killed before the call returns.
    ///
    /// # Errors
    /// `Retryable` when it could not be started or ran out of time; `Fenced`; an exit status other than 0 is no error
    /// here.
    fn run_guarded(&self, command: &Command, guard: &dyn FenceGuard)
    -> Result<Output, DriverError>;

    /// Waits until the clock has moved on by `pause`, for polling what gives no event. The fake host does not wait.
    fn pause(&self, pause: Duration);

    /// [`Host::run_guarded`] without a fence: for observation, which has none.
    ///
    /// # Errors
    /// As [`Host::run_guarded`].
    fn run(&self, command: &Command) -> Result<Output, DriverError> {
        self.run_guarded(command, &Unfenced)
    }

    /// [`Host::run`], where an exit status other than 0 is an error with the program's own last words.
    ///
    /// # Errors
    /// As [`Host::run`], and `Retryable` with code `command-failed`.
    fn run_ok(&self, command: &Command) -> Result<Output, DriverError> {
        let output = self.run(command)?;
        if output.status == 0 {
            return Ok(output);
        }
        Err(DriverError::retryable(
            "command-failed",
            format!(
                "{} ended with status {}: {}",
                command.program(),
                output.status,
                output.last_words()
            ),
        ))
    }
}

/// What kind of thing a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device, socket or pipe.
    Other,
}

/// What [`Host::metadata`] tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// Kind of the entry itself.
    pub kind: FileKind,
    /// Owner and permission bits.
    pub attributes: Attributes,
    /// Bytes of a regular file.
    pub size_bytes: u64,
}

/// Owner, group and permission bits of a file or directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes {
    /// User name, or the number as text where it has no name.
    pub owner: String,
    /// Group name, or the number as text.
    pub group: String,
    /// The lower 12 bits.
    pub mode: u32,
}

impl Attributes {
    /// Owned by root.
    pub fn root(mode: u32) -> Self {
        Self::of("root", mode)
    }

    /// Owned by `user` and the group of the same name.
    pub fn of(user: &str, mode: u32) -> Self {
        Self {
            owner: user.to_owned(),
            group: user.to_owned(),
            mode,
        }
    }
}

/// As changes name them: `root:root 0644`.
impl fmt::Display for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owner, group, mode } = self;
        write!(f, "{owner}:{group} {mode:04o}")
    }
}

/// A user of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: String,
    /// Name of the primary group, or its number as text.
    pub group: String,
    /// Home directory.
    pub home: String,
    /// Login shell.
    pub shell: String,
}

/// A program to run. Arguments are passed as they are; no shell sees them. No secret is ever among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Extra environment.
    pub env: Vec<(String, String)>,
    /// Standard input.
    pub stdin: Option<Vec<u8>>,
    /// User to run as, else root.
    pub user: Option<String>,
    /// Longest time.
    pub timeout: Duration,
    /// Whether the program only reads.
    pub reads_only: bool,
}

impl Command {
    /// A program that only reads, within `timeout`.
    pub fn probe<'a>(timeout: Duration, argv: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            reads_only: true,
            ..Self::effect(timeout, argv)
        }
    }

    /// A program that may change something, within `timeout`.
    pub fn effect<'a>(timeout: Duration, argv: impl IntoIterator<Item = &'a str>) -> Self {
        let argv = argv.into_iter().map(str::to_owned).collect();
        Self {
            argv,
            env: vec![],
            stdin: None,
            user: None,
            timeout,
            reads_only: false,
        }
    }

    /// The same, run as `user`.
    pub fn as_user(mut self, user: &str) -> Self {
        self.user = Some(user.to_owned());
        self
    }

    /// The same, with this standard input.
    pub fn with_stdin(mut self, stdin: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(stdin.into());
        self
    }

    /// The same, with one more environment variable.
    pub fn with_env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Name of the program, for messages.
    pub fn program(&self) -> &str {
        self.argv.first().map_or("(no program)", String::as_str)
    }
}

/// What a program left behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// Exit status; 128 + n when a signal n ended it.
    pub status: i32,
    /// Standard output, bounded.
    pub stdout: Vec<u8>,
    /// Standard error, bounded.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Standard output as text, without the white space around it.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }

    /// The last lines of standard error (or of standard output, if that is empty), in one line, for a message.
    pub fn last_words(&self) -> String {
        let source = if self.stderr.is_empty() {
            &self.stdout
        } else {
            &self.stderr
        };
        let text = String::from_utf8_lossy(source);
        let lines: Vec<&str> = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect();
        let from = lines.len().saturating_sub(LAST_WORDS_LINES);
        lines[from..].join("; ")
    }
}

/// Lines of a program's complaint that a message repeats.
const LAST_WORDS_LINES: usize = 4;
