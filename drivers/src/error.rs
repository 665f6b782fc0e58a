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

impl DriverError {
    /// A failure that may pass by itself.
    pub fn retryable(code: &'static str, message: impl Into<String>) -> Self {
        Self::Retryable {
            code,
            message: message.into(),
        }
    }

    /// A failure that a person has to look at, with what they can do.
    pub fn permanent(
        code: &'static str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self::Permanent {
            code,
            message: message.into(),
            hint: hint.into(),
        }
    }

    /// The stable word for machines.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Retryable { code, .. } | Self::Permanent { code, .. } => code,
            Self::Fenced { .. } => "fenced",
        }
    }
}
