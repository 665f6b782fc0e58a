//! The only door to the operating system: [`Host`], its real and its fake implementation.
//!
//! Invariants: every effect goes through this trait; a call either has its whole effect or an error says otherwise.

use std::path::Path;
use std::time::Duration;

use crate::error::DriverError;

/// The machine, as drivers may use it. Calls block; cancellation is by the fence guard given to the implementation.
pub trait Host: Send + Sync {
    /// Content of a regular file; `None` if it does not exist.
    ///
    /// # Errors
    /// `Retryable` with the path and the cause otherwise.
    fn read_file(&self, path: &Path) -> Result<Option<Vec<u8>>, DriverError>;

    /// Runs a program without a shell and waits for its end, at most `command.timeout`.
    ///
    /// # Errors
    /// `Retryable` when it could not be started or ran out of time; an exit status other than 0 is no error here.
    fn run(&self, command: &Command) -> Result<Output, DriverError>;
}

/// A program to run. Arguments are passed as they are; no shell sees them.
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
