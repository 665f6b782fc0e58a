//! What a call is made under where not everybody may change what he likes: a guard's fence, this node's session.
//!
//! Invariant: it is what held when the call or its handle began; `apply` compares it with what holds then. Not here:
//! what a lock or a guard allows (`state_machine/apply/rules.rs`).

use super::FileSystem;
use super::errno::FsResult;
use super::proposer::ProposeError;
use crate::state_machine::fs_error::FsError;
use crate::state_machine::ids::{FencingToken, InodeNo, SessionId};
use crate::state_machine::namespace::LK;
use crate::state_machine::{Guard, StateMachine};

/// The guard and session that a call began under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct CallGrant {
    /// Fence of the guard of the place.
    pub(super) fence: Option<FencingToken>,
    /// The session that it must run under.
    pub(super) bound_to: Option<SessionId>,
}

impl FileSystem {
    /// What a change of the entries of `directory` is made under.
    pub(super) fn grant_of_entries(&self, directory: InodeNo) -> FsResult<CallGrant> {
        let state = self.state();
        let guard = state.guard_of_entries(directory);
        self.grant(&state, guard, directory)
    }

    /// What a change of `inode` itself is made under.
    pub(super) fn grant_of_inode(&self, inode: InodeNo) -> FsResult<CallGrant> {
        let state = self.state();
        let guard = state.guard_of_inode(inode);
        self.grant(&state, guard, inode)
    }

    /// What a call at `place` begins under. Locks and guarded places are bound to the session of now.
    fn grant(
        &self,
        state: &StateMachine,
        guard: Option<Guard>,
        place: InodeNo,
    ) -> FsResult<CallGrant> {
        let session = self.proposer().session();
        match guard {
            Some(guard) => {
                let held = guard.lock.and_then(|lock| state.locks().of(lock));
                match (session, held) {
                    (Some(session), Some(lock)) if lock.is_held_by(session) => Ok(CallGrant {
                        fence: guard.fence,
                        bound_to: Some(session),
                    }),
                    _ => Err(FsError::FenceRevoked.into()),
                }
            }
            None if state.tree().is_within(place, LK) => match session {
                Some(session) => Ok(CallGrant {
                    fence: None,
                    bound_to: Some(session),
                }),
                None => Err(ProposeError::SessionExpired.into()),
            },
            None => Ok(CallGrant::default()),
        }
    }
}
