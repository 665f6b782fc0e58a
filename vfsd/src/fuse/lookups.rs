//! Answers to lookups of directories that another node moved, and of what leads to them (`moving.rs` says why).

use std::ffi::OsStr;

use fuser::{RenameFlags, ReplyEntry, Request};

use super::adapter::Adapter;
use super::moving::Answer;
use super::replay::{NameBefore, Ticket};
use super::replies::entry;
use crate::fs::attr::{Attr, FileKind};
use crate::fs::errno::FsResult;
use crate::limits::{MOVED_TRY_PAUSE, MOVED_TRY_WITHIN, WRITE_TIMEOUT};

impl Adapter {
    /// Answers a lookup; that of a directory which another node moved may have to wait (`moving.rs`).
    pub(super) fn answer_lookup(
        &self,
        request: &Request,
        parent: u64,
        found: FsResult<Attr>,
        reply: ReplyEntry,
    ) {
        let directory = match &found {
            Ok(attr) if attr.kind == FileKind::Directory => attr.node,
            _ => return entry(reply)(found),
        };
        let thread = request.pid();
        let answer = self.moving.answer(directory, parent, thread);
        if answer == Answer::Now {
            return entry(reply)(found);
        }
        let (fs, moving) = (self.fs.clone(), self.moving.clone());
        let operation = async move {
            if answer == Answer::WhenFree {
                // A request ends within the write timeout; the bound covers one that queues behind it in the kernel.
                let free = moving.free(directory, parent, thread);
                let _ = tokio::time::timeout(WRITE_TIMEOUT, free).await;
            } else {
                tokio::time::sleep(MOVED_TRY_PAUSE).await;
            }
            found
        };
        self.run(request, operation, move |found| {
            if found.is_err() {
                // The caller was killed: the kernel does not get the reference that was counted for it.
                fs.forget(directory, 1);
            }
            entry(reply)(found);
        });
    }

    /// Answers a lookup on the way to a moved directory, which the replay places meanwhile (`moving.rs`).
    pub(super) fn lookup_once_placed(
        &self,
        request: &Request,
        (directory, place): (u64, u64),
        (parent, name): (u64, &OsStr),
        reply: ReplyEntry,
    ) {
        let (fs, moving) = (self.fs.clone(), self.moving.clone());
        let (name, thread) = (name.to_owned(), request.pid());
        let operation = async move {
            // The replay may be held up by others: the bound is only reached then.
            let _ = tokio::time::timeout(MOVED_TRY_WITHIN, moving.placed(directory, place)).await;
            let found = fs.lookup(parent, &name);
            fs.note_lookup(thread, parent, &name, &found);
            if let Ok(attr) = &found
                && attr.kind == FileKind::Directory
            {
                moving.answer(attr.node, parent, thread);
            }
            found
        };
        self.run(request, operation, entry(reply));
    }

    /// The kernel moves what the replay renames. Who looks for it in its new directory waits there until it has: the
    /// rename holds the lock.
    pub(super) fn place_replayed(&self, ticket: &Ticket, flags: RenameFlags) {
        let [old, new] = &ticket.before[..] else {
            return;
        };
        let place = |moved: &NameBefore, parent: u64| match &moved.inode {
            Some(inode) if inode.is_directory() => self.moving.place(inode.number.0, parent),
            _ => {}
        };
        place(old, new.parent.0);
        if flags.contains(RenameFlags::RENAME_EXCHANGE) {
            place(new, old.parent.0);
        }
    }
}
