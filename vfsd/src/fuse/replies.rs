//! How answers of `fs` become replies to the kernel.
//!
//! Invariant: every reply is sent, with an errno where there is no answer.
//! Not here: what the kernel asks (`adapter.rs`).

use std::time::Duration;

use fuser::{Errno, FopenFlags, Generation, ReplyAttr, ReplyEmpty, ReplyEntry, ReplyXattr};

use super::convert::{file_attr, to_errno};
use crate::fs::attr::Attr;
use crate::fs::errno::FsResult;

/// Nothing is cached by the kernel: another node may change it at any time.
pub const TTL: Duration = Duration::ZERO;
/// Inode numbers are never used again, so one generation is enough.
pub const GENERATION: Generation = Generation(0);

/// How a change of one name is answered.
pub trait NameReply: Send + 'static {
    /// What the change gives.
    type Made: Send + 'static;

    /// As the call of another node that is being repeated; `made` is what it made, if the ticket names it.
    fn replayed(self, made: impl FnOnce() -> Option<Attr>);

    /// As this node's own.
    fn answer(self) -> impl FnOnce(FsResult<Self::Made>) + Send + 'static;
}

impl NameReply for ReplyEntry {
    type Made = Attr;

    fn replayed(self, made: impl FnOnce() -> Option<Attr>) {
        match made() {
            Some(attr) => self.entry(&TTL, &file_attr(&attr), GENERATION),
            None => self.error(Errno::EIO),
        }
    }

    fn answer(self) -> impl FnOnce(FsResult<Attr>) + Send + 'static {
        entry(self)
    }
}

impl NameReply for ReplyEmpty {
    type Made = ();

    fn replayed(self, _made: impl FnOnce() -> Option<Attr>) {
        self.ok();
    }

    fn answer(self) -> impl FnOnce(FsResult<()>) + Send + 'static {
        empty(self)
    }
}

/// A name and what it leads to.
pub fn entry(reply: ReplyEntry) -> impl FnOnce(FsResult<Attr>) + Send {
    move |made| match made {
        Ok(attr) => reply.entry(&TTL, &file_attr(&attr), GENERATION),
        Err(failure) => reply.error(to_errno(&failure)),
    }
}

/// Attributes.
pub fn attributes(reply: ReplyAttr) -> impl FnOnce(FsResult<Attr>) + Send {
    move |seen| match seen {
        Ok(attr) => reply.attr(&TTL, &file_attr(&attr)),
        Err(failure) => reply.error(to_errno(&failure)),
    }
}

/// Nothing but that it is done.
pub fn empty(reply: ReplyEmpty) -> impl FnOnce(FsResult<()>) + Send {
    move |done| match done {
        Ok(()) => reply.ok(),
        Err(failure) => reply.error(to_errno(&failure)),
    }
}

/// Read handles need no FLUSH; both kinds bypass the page cache, which could join two versions.
pub fn fopen_flags(writes: bool) -> FopenFlags {
    if writes {
        FopenFlags::FOPEN_DIRECT_IO
    } else {
        FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH
    }
}

/// The two-step protocol of `getxattr(2)` and `listxattr(2)`: first the size, then the bytes.
pub fn xattr_bytes(bytes: FsResult<Vec<u8>>, size: u32, reply: ReplyXattr) {
    match bytes {
        Err(failure) => reply.error(to_errno(&failure)),
        Ok(bytes) if size == 0 => reply.size(u32::try_from(bytes.len()).unwrap_or(u32::MAX)),
        Ok(bytes) if bytes.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(bytes) => reply.data(&bytes),
    }
}
