//! What the last close leaves over, a save among it whose caller was killed while it was committed: nobody can be told
//! of its end, so it is tried again, and named in `status.json`.

use std::sync::Arc;

use parking_lot::Mutex;

use super::commit::OnFailure;
use super::uncommitted::Source;
use crate::fs::FileSystem;
use crate::fs::errno::Failure;
use crate::fs::handles::{FileHandle, OpenInode};
use crate::fs::proposer::ProposeError;
use crate::limits::{DROPPED_SAVES_NAMED_MAX, UNSAVED_RETRY_EVERY, UNSAVED_RETRY_FOR};
use crate::state_machine::ids::LogIndex;
use crate::state_machine::outcome::Change;

/// Saves that nobody waits for any more.
#[derive(Debug, Default)]
pub struct Leftovers {
    // Leaf lock.
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    pending: Vec<String>,
    dropped: Vec<String>,
}

impl Leftovers {
    /// The paths of those that are still being tried.
    pub fn pending(&self) -> Vec<String> {
        self.table.lock().pending.clone()
    }

    /// The last ones that were given up, with the reason.
    pub fn dropped(&self) -> Vec<String> {
        self.table.lock().dropped.clone()
    }

    fn begins(&self, path: &str) {
        self.table.lock().pending.push(path.to_owned());
    }

    fn ends(&self, path: &str) {
        let mut table = self.table.lock();
        if let Some(position) = table.pending.iter().position(|other| other == path) {
            table.pending.remove(position);
        }
    }

    fn was_dropped(&self, path: &str, bytes: u64, failure: &Failure) {
        let mut table = self.table.lock();
        if table.dropped.len() == DROPPED_SAVES_NAMED_MAX {
            table.dropped.remove(0);
        }
        table
            .dropped
            .push(format!("{path}: {failure} ({bytes} bytes)"));
    }
}

impl FileSystem {
    pub(super) async fn finish_handle(self: &Arc<Self>, handle: &Arc<FileHandle>) {
        for source in [Source::Mappings, handle.source().0] {
            self.commit_leftover(&handle.inode, source).await;
        }
        // Owed when the opener did not close it by itself: a child wrote last, or the process had handed it on.
        self.give_close_notice(handle).await;
        self.end_handle_lock(handle).await;
        self.handles.close_inode(&handle.inode);
        if self.handles.opened(handle.inode.number).is_none() {
            self.known.closed(handle.inode.number);
        }
    }

    /// Commits what no close could report on. Tried again while there is no majority, unless the file changes
    /// meanwhile.
    async fn commit_leftover(self: &Arc<Self>, open: &Arc<OpenInode>, source: Source) {
        // A save whose caller was killed may be on its way still: what it leaves over is known when it has ended.
        self.sources_once_settled(open).await;
        let Some((has_bytes, bytes)) = open
            .state
            .lock()
            .pending(source)
            .map(|p| (p.dirty.has_bytes(), p.dirty.bytes()))
        else {
            return;
        };
        let closes = source != Source::Mappings;
        let first = self.commit_source(open, source, closes, OnFailure::GiveBack);
        let outcome = match first.await {
            Err(failure) if is_worth_another_try(&failure) => {
                let path = self.path_text(open.number);
                self.leftovers.begins(&path);
                let outcome = self.commit_until_answered(open, source).await;
                self.leftovers.ends(&path);
                outcome
            }
            outcome => outcome,
        };
        match outcome {
            Ok(()) if !has_bytes => {}
            // The close was seen on this node before the bytes were committed: who reads the committed view looks
            // again.
            Ok(()) => self.feed.announce(&Change::Modified {
                inode: open.number,
                closed: true,
                by_path: false,
            }),
            Err(failure) => {
                open.state.lock().forget(source);
                let path = self.path_text(open.number);
                self.leftovers.was_dropped(&path, bytes, &failure);
                tracing::error!(path, bytes, %failure, "a save that nobody waits for was dropped");
            }
        }
    }

    async fn commit_until_answered(
        self: &Arc<Self>,
        open: &Arc<OpenInode>,
        source: Source,
    ) -> Result<(), Failure> {
        let give_up = tokio::time::Instant::now() + UNSAVED_RETRY_FOR;
        let base = self.content_revision(open);
        if let Some(pending) = open.state.lock().pending(source) {
            pending.base = base;
        }
        let closes = source != Source::Mappings;
        loop {
            tokio::time::sleep(UNSAVED_RETRY_EVERY).await;
            let tried = self.commit_source(open, source, closes, OnFailure::GiveBack);
            match tried.await {
                Err(failure)
                    if is_worth_another_try(&failure) && tokio::time::Instant::now() < give_up => {}
                outcome => return outcome,
            }
        }
    }

    fn content_revision(&self, open: &OpenInode) -> Option<LogIndex> {
        let state = self.state();
        let inode = state.tree().inode(open.number);
        inode.map(|inode| inode.content_revision)
    }
}

/// Whether the same save may succeed later: not once the session that it was bound to has ended, nor if the leader has
/// refused it.
fn is_worth_another_try(failure: &Failure) -> bool {
    match failure {
        Failure::NotProposed(ProposeError::SessionExpired | ProposeError::Refused(_)) => false,
        Failure::NotProposed(_) => true,
        _ => false,
    }
}
