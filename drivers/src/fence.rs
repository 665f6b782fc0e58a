//! The one question that every effect asks first: does the lock under which it is done still hold?
//!
//! Not here: who answers it (`dsm-agent/src/host/step_guard.rs`), and the host that asks it (`host/fenced.rs`).

use crate::error::DriverError;

/// Says whether a fencing token still holds.
pub trait FenceGuard: Send + Sync {
    /// Cheap; called before each effect and repeatedly while a child process runs.
    ///
    /// # Errors
    /// [`DriverError::Fenced`] once the lock is lost; it never comes back for the same token.
    fn check(&self) -> Result<(), DriverError>;
}

/// The guard of work that has no fence: it always holds.
#[derive(Debug, Clone, Copy)]
pub struct Unfenced;

impl FenceGuard for Unfenced {
    fn check(&self) -> Result<(), DriverError> {
        Ok(())
    }
}
