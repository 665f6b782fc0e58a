//! What a driver call can fail with, and what the agent may do about it.

/// The failure of a driver call, sorted by what the caller may do next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DriverError {
    /// It may succeed when tried again unchanged (a busy package manager, a server that is still starting).
    #[error("{message}")]
    Retryable {
        /// Stable word for machines, for example `apt-lock-held`.
        code: &'static str,
        /// What failed, with which values.
        message: String,
    },
    /// Trying again cannot help; a person or a new wish has to change something.
    #[error("{message}")]
    Permanent {
        /// Stable word for machines, for example `foreign-data-directory`.
        code: &'static str,
        /// What failed, with which values.
        message: String,
        /// What a person can do.
        hint: String,
    },
    /// The lock that allows the step is gone: nothing more was done, and nothing more may be done.
    #[error("the lock of this step was lost (fence {fence}): {reason}")]
    Fenced {
        /// The fencing token that no longer holds.
        fence: u64,
        /// How the loss was seen.
        reason: String,
    },
}
