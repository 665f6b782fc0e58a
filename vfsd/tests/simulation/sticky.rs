//! What users do in a directory that all may write and where each takes away only what is his: their kernel looks at a
//! name and checks the permission, and asks for the change of names a moment later.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use tokio::time::sleep;
use vfsd::fs::caller::Caller;
use vfsd::fs::errno::{Failure, FsResult};
use vfsd::fs::feed::{Publication, Subscriber};
use vfsd::state_machine::StateMachine;
use vfsd::state_machine::command::RenameMode;
use vfsd::state_machine::fs_error::FsError;
use vfsd::state_machine::level::Level;

use super::clients::{Client, NOBODY, ROOT, Shared, flags};

/// The directory.
pub const DIRECTORY: &str = "sticky";
const STICKY: u32 = 0o1777;
const USERS: [u32; 2] = [1_001, 1_002];
const NAMES: u64 = 3;
/// Beyond all threads of the machine that runs the test: nothing is found in /proc.
const THREADS_FROM: u64 = 1 << 30;

/// A kernel's check is as old as this when the change is asked for.
const CHECK_AGE_MAX_MS: u64 = 300;

impl Client {
    /// Makes a file, takes one away, or moves one over another, as an ordinary user.
    pub async fn use_sticky_directory(&mut self) -> FsResult<()> {
        // Before that nothing is checked by what the kernel has found.
        if self.proposer.state().level() < Level::NAMES_AS_CHECKED {
            return Ok(());
        }
        let directory = self.sticky_directory().await?;
        let uid = USERS[self.rng.random_range(0..USERS.len())];
        let thread = THREADS_FROM + self.shared.number();
        let caller = Caller {
            uid,
            gid: uid,
            tid: u32::try_from(thread).unwrap(),
        };
        let [one, other] = [0; 2].map(|_| format!("t{}", self.rng.random_range(0..NAMES)));
        let (one, other) = (OsStr::new(&one), OsStr::new(&other));
        let age = Duration::from_millis(self.rng.random_range(0..CHECK_AGE_MAX_MS));
        match self.rng.random_range(0..5) {
            0..2 => {
                let flags = flags(true, false, true);
                let made = self.fs.create(caller, directory, one, 0o644, flags).await?;
                self.fs.release(made.1);
            }
            2..4 if self.may_take(caller, directory, one) => {
                sleep(age).await;
                self.fs.unlink(caller, directory, one).await?;
            }
            4 if one != other
                && self.may_take(caller, directory, one)
                && self.may_take_or_is_free(caller, directory, other) =>
            {
                sleep(age).await;
                let (from, to) = ((directory, one), (directory, other));
                let mode = RenameMode::Replace;
                self.fs.rename(caller, from, to, mode).await?;
            }
            _ => {}
        }
        Ok(())
    }

    async fn sticky_directory(&self) -> FsResult<u64> {
        let name = OsStr::new(DIRECTORY);
        match self.fs.lookup(ROOT, name) {
            Err(Failure::Refused(FsError::NotFound)) => {
                let made = self.fs.make_directory(NOBODY, ROOT, name, STICKY).await?;
                Ok(made.node)
            }
            found => Ok(found?.node),
        }
    }

    /// The kernel looks a name up, and lets its owner go on.
    fn may_take(&self, caller: Caller, directory: u64, name: &OsStr) -> bool {
        self.owner(caller, directory, name) == Ok(caller.uid)
    }

    fn may_take_or_is_free(&self, caller: Caller, directory: u64, name: &OsStr) -> bool {
        match self.owner(caller, directory, name) {
            Ok(owner) => owner == caller.uid,
            Err(failure) => failure == Failure::Refused(FsError::NotFound),
        }
    }

    fn owner(&self, caller: Caller, directory: u64, name: &OsStr) -> FsResult<u32> {
        let found = self.fs.lookup(directory, name);
        self.fs.note_lookup(caller.tid, directory, name, &found);
        let found = found?;
        self.fs.forget(found.node, 1);
        Ok(found.uid)
    }
}

/// Tells the checkers whose files go there, and by whom.
pub struct Watch(pub Arc<Shared>);

impl Subscriber for Watch {
    fn after(&self, publication: Publication<'_>, state: &Arc<StateMachine>) {
        if let Publication::Entry(entry) = publication {
            self.0.checkers.lock().sticky.applied(entry, state);
        }
    }
}
