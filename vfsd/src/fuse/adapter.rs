//! The kernel's requests, one method each: copy the arguments, call `fs`, reply.
//!
//! What needs a majority runs as a task with the reply moved into it; the rest is answered on the spot from the local
//! replica. Requests of the replay thread are answered from its ticket and propose nothing.

use std::ffi::{OsStr, OsString};
use std::future::Future;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, Errno, FileHandle, Filesystem, FopenFlags, INodeNo, InitFlags, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::convert::{
    BLOCK_BYTES, caller, file_attr, file_type, node_kind, rename_mode, time_set, to_errno,
};
use super::interrupts::Interrupts;
use super::moving::Moving;
use super::replay::{REPLAY_HANDLE, Ticket, Tickets};
use super::replies::{
    GENERATION, NameReply, TTL, attributes, empty, entry, fopen_flags, xattr_bytes,
};
use crate::fs::FileSystem;
use crate::fs::attr::Attr;
use crate::fs::caller::Caller;
use crate::fs::errno::{Failure, FsResult};
use crate::fs::listing::DirectoryEntry;
use crate::fs::open_flags;
use crate::inline_task;
use crate::limits::{FUSE_WRITE_BYTES_MAX, NAME_LEN_BYTES_MAX};
use crate::state_machine::command::{SetAttr, XattrMode};
use crate::state_machine::fs_error::FsError;
use crate::state_machine::ids::{HandleId, InodeNo};
use crate::state_machine::inode::Inode;

/// Both flags of setxattr(2).
const BOTH: i32 = libc::XATTR_CREATE | libc::XATTR_REPLACE;
/// The filesystem as the kernel sees it.
pub struct Adapter {
    pub(super) fs: Arc<FileSystem>,
    pub(super) tickets: Arc<Tickets>,
    pub(super) interrupts: Arc<Interrupts>,
    pub(super) moving: Arc<Moving>,
    pub(super) runtime: tokio::runtime::Handle,
}

impl Adapter {
    /// Runs an operation that waits for a majority, and answers with its result.
    ///
    /// It begins on this thread and ends where the commit is applied: nothing is handed from thread to thread.
    pub(super) fn run<T: Send + 'static>(
        &self,
        request: &Request,
        steps: impl Future<Output = FsResult<T>> + Send + 'static,
        answer: impl FnOnce(FsResult<T>) + Send + 'static,
    ) {
        let (interrupts, tid) = (self.interrupts.clone(), request.pid());
        inline_task::begin(&self.runtime, async move {
            answer(interrupts.run(tid, steps).await);
        });
    }

    /// Runs an operation that changes names in `directories`, whose locks the kernel holds until the answer.
    fn run_in<T: Send + 'static>(
        &self,
        directories: Vec<u64>,
        request: &Request,
        operation: impl Future<Output = FsResult<T>> + Send + 'static,
        answer: impl FnOnce(FsResult<T>) + Send + 'static,
    ) {
        let busy = self.moving.enter(directories);
        self.run(request, operation, move |outcome| {
            answer(outcome);
            drop(busy);
        });
    }

    /// Changes one name of a directory: answered from the ticket, or run for the caller.
    fn change_name<R: NameReply, F>(
        &self,
        request: &Request,
        (parent, name): (INodeNo, &OsStr),
        reply: R,
        change: impl FnOnce(Arc<FileSystem>, Caller, OsString) -> F,
    ) where
        F: Future<Output = FsResult<R::Made>> + Send + 'static,
    {
        if let Some(ticket) = self.ticket(request) {
            return reply.replayed(|| self.made_for_replay(&ticket, parent));
        }
        let operation = change(self.fs.clone(), caller(request), name.to_owned());
        self.run_in(vec![parent.0], request, operation, reply.answer());
    }

    fn ticket(&self, request: &Request) -> Option<Arc<Ticket>> {
        self.tickets.of(request.pid())
    }

    /// Attributes of a node, for the request of a user or of the replay.
    fn attr(&self, request: &Request, node: INodeNo) -> FsResult<Attr> {
        let ticket = self.ticket(request);
        match ticket.as_ref().and_then(|ticket| ticket.inode.as_ref()) {
            Some(inode) if inode.number.0 == node.0 => Ok(self.attr_as_of_entry(inode)),
            _ => self.fs.attr(node.0),
        }
    }

    /// Attributes of an inode that a ticket names: as they are now, but for its links, which are those of the entry. A
    /// link too few would tell the kernel too early that a file is gone for good, and it would make no link to it.
    fn attr_as_of_entry(&self, inode: &Arc<Inode>) -> Attr {
        let now = self.fs.attr(inode.number.0);
        Attr {
            links: inode.links().max(1),
            ..now.unwrap_or_else(|_| Attr::of(inode))
        }
    }

    /// As [`Adapter::attr_as_of_entry`], with one more reference of the kernel.
    fn attr_for_replay(&self, inode: &Arc<Inode>) -> Attr {
        let attr = self.attr_as_of_entry(inode);
        let is_in_tree = || self.fs.state().tree().inode(inode.number).is_some();
        self.fs.known().add_or_keep(inode, is_in_tree);
        attr
    }

    fn made_for_replay(&self, ticket: &Ticket, parent: INodeNo) -> Option<Attr> {
        let inode = ticket.inode.as_ref()?;
        if inode.is_directory() {
            self.moving.place(inode.number.0, parent.0);
        }
        Some(self.attr_for_replay(inode))
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // One by one: a single unsupported bit refuses all of a call.
        for (name, flag) in [
            ("ATOMIC_O_TRUNC", InitFlags::FUSE_ATOMIC_O_TRUNC),
            ("EXPORT_SUPPORT", InitFlags::FUSE_EXPORT_SUPPORT),
            ("PARALLEL_DIROPS", InitFlags::FUSE_PARALLEL_DIROPS),
            ("ASYNC_DIO", InitFlags::FUSE_ASYNC_DIO),
        ] {
            if config.add_capabilities(flag).is_err() {
                return Err(std::io::Error::other(format!(
                    "this kernel's FUSE does not offer {name}; Linux 6.1 or newer is needed"
                )));
            }
        }
        // The one thing that Debian 12's own kernel lacks; everything but a shared mapping works without it.
        let mappings = InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP;
        if config.add_capabilities(mappings).is_err() {
            tracing::warn!(
                "this kernel refuses shared mappings of the tree's files (mmap with MAP_SHARED gives ENODEV): \
                 they need Linux 6.6 or newer"
            );
        }
        config
            .set_max_write(FUSE_WRITE_BYTES_MAX)
            .map(|_| ())
            .map_err(|most| {
                std::io::Error::other(format!(
                    "the kernel takes writes of {most} bytes at the most"
                ))
            })
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if let Some(ticket) = self.ticket(request)
            && let Some(before) = ticket.name_before(parent.0, name.as_bytes())
        {
            match &before.inode {
                Some(inode) => {
                    if inode.is_directory() {
                        self.moving.replay_finds(inode.number.0, parent.0);
                    }
                    let attr = self.attr_for_replay(inode);
                    reply.entry(&TTL, &file_attr(&attr), GENERATION);
                }
                None => reply.error(Errno::ENOENT),
            }
            return;
        }
        if name == "." || name == ".." {
            return entry(reply)(self.fs.lookup(parent.0, name));
        }
        if let Some(moved) = self.moving.unplaced_by(request.pid(), parent.0) {
            return self.lookup_once_placed(request, moved, (parent.0, name), reply);
        }
        let found = self.fs.lookup(parent.0, name);
        self.fs.note_lookup(request.pid(), parent.0, name, &found);
        self.answer_lookup(request, parent.0, found, reply);
    }

    fn forget(&self, _request: &Request, node: INodeNo, count: u64) {
        if self.fs.forget(node.0, count) {
            self.moving.forget(node.0);
        }
    }

    fn getattr(
        &self,
        request: &Request,
        node: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        attributes(reply)(self.attr(request, node));
    }

    fn setattr(
        &self,
        request: &Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        if self.ticket(request).is_some() {
            return attributes(reply)(self.attr(request, node));
        }
        let (fs, caller) = (self.fs.clone(), caller(request));
        let (atime, mtime) = (atime.map(time_set), mtime.map(time_set));
        let mut set = SetAttr {
            inode: InodeNo(node.0),
            mode,
            uid,
            gid,
            size,
            atime,
            mtime,
        };
        let operation = async move {
            if let (Some(handle), Some(size)) = (handle, set.size) {
                fs.truncate_handle(caller, HandleId(handle.0), size).await?;
                set.size = None;
                if (SetAttr {
                    inode: set.inode,
                    ..SetAttr::default()
                }) == set
                {
                    return fs.attr(node.0);
                }
            }
            fs.set_attr(caller, node.0, set).await
        };
        self.run(request, operation, attributes(reply));
    }

    fn readlink(&self, _request: &Request, node: INodeNo, reply: ReplyData) {
        match self.fs.read_link(node.0) {
            Ok(target) => reply.data(&target),
            Err(failure) => reply.error(to_errno(&failure)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        device: u32,
        reply: ReplyEntry,
    ) {
        let at = (parent, name);
        self.change_name(request, at, reply, |fs, caller, name| async move {
            let kind = node_kind(mode, device)?;
            fs.make_node(caller, parent.0, &name, kind, mode & 0o7777)
                .await
        });
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let at = (parent, name);
        let moving = self.moving.clone();
        self.change_name(request, at, reply, |fs, caller, name| async move {
            let made = fs.make_directory(caller, parent.0, &name, mode).await?;
            moving.place(made.node, parent.0);
            Ok(made)
        });
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let target = target.as_os_str().as_bytes().to_vec();
        let at = (parent, name);
        self.change_name(request, at, reply, |fs, caller, name| async move {
            fs.make_symlink(caller, parent.0, &name, &target).await
        });
    }

    fn link(
        &self,
        request: &Request,
        node: INodeNo,
        parent: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
    ) {
        let at = (parent, name);
        self.change_name(request, at, reply, |fs, caller, name| async move {
            fs.link(caller, node.0, parent.0, &name).await
        });
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let at = (parent, name);
        self.change_name(request, at, reply, |fs, caller, name| async move {
            fs.unlink(caller, parent.0, &name).await
        });
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let at = (parent, name);
        self.change_name(request, at, reply, |fs, caller, name| async move {
            fs.remove_directory(caller, parent.0, &name).await
        });
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if let Some(ticket) = self.ticket(request) {
            self.place_replayed(&ticket, flags);
            return reply.ok();
        }
        let (fs, moving, caller) = (self.fs.clone(), self.moving.clone(), caller(request));
        let (name, new_name) = (name.to_owned(), new_name.to_owned());
        let operation = async move {
            let mode = rename_mode(flags)?;
            let (from, to) = ((parent.0, &*name), (new_parent.0, &*new_name));
            fs.rename(caller, from, to, mode).await?;
            for (parent, name) in [from, to] {
                if let Some(directory) = fs.directory_named(parent, name) {
                    moving.place(directory, parent);
                }
            }
            Ok(())
        };
        self.run_in(
            vec![parent.0, new_parent.0],
            request,
            operation,
            empty(reply),
        );
    }

    fn open(&self, request: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if self.ticket(request).is_some() {
            return reply.opened(FileHandle(REPLAY_HANDLE), fopen_flags(false));
        }
        let flags = open_flags::OpenFlags::from_bits(flags.0);
        match self.fs.open(caller(request), node.0, flags) {
            Ok(handle) => reply.opened(FileHandle(handle.0), fopen_flags(flags.write)),
            Err(failure) => reply.error(to_errno(&failure)),
        }
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (fs, caller, name) = (self.fs.clone(), caller(request), name.to_owned());
        let flags = open_flags::OpenFlags::from_bits(flags);
        let operation = async move {
            fs.create(caller, parent.0, &name, mode & 0o7777, flags)
                .await
        };
        self.run_in(vec![parent.0], request, operation, move |made| match made {
            Ok((attr, handle)) => {
                let handle = FileHandle(handle.0);
                reply.created(
                    &TTL,
                    &file_attr(&attr),
                    GENERATION,
                    handle,
                    fopen_flags(flags.write),
                );
            }
            Err(failure) => reply.error(to_errno(&failure)),
        });
    }

    fn read(
        &self,
        _request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.fs.read(HandleId(handle.0), offset, size as usize) {
            Ok(bytes) => reply.data(&bytes),
            Err(failure) => reply.error(to_errno(&failure)),
        }
    }

    fn write(
        &self,
        request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let id = HandleId(handle.0);
        let mapped = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let answer = move |written: FsResult<u32>| match written {
            Ok(len) => reply.written(len),
            Err(failure) => reply.error(to_errno(&failure)),
        };
        // As they are now: fcntl(2) may have set or cleared it since the open.
        let appends = !mapped && flags.0 & libc::O_APPEND != 0;
        let is_taken_at_once = self.fs.has_room(data.len()) && (mapped || !self.fs.write_waits(id));
        if !appends && is_taken_at_once {
            return answer(self.fs.write_buffered(id, offset, data, mapped));
        }
        let (fs, caller, data) = (self.fs.clone(), caller(request), data.to_vec());
        let operation = async move {
            if appends {
                return fs.append_write(id, &data).await;
            }
            fs.write_committed(caller, id, offset, &data, mapped).await
        };
        self.run(request, operation, answer);
    }

    fn flush(
        &self,
        request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let (id, caller) = (HandleId(handle.0), caller(request));
        if handle.0 == REPLAY_HANDLE || !self.fs.is_due_at_flush(id) {
            return reply.ok();
        }
        let fs = self.fs.clone();
        self.run(
            request,
            async move { fs.flush(caller, id).await },
            empty(reply),
        );
    }

    fn release(
        &self,
        _request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        if handle.0 != REPLAY_HANDLE {
            self.fs.release(HandleId(handle.0));
        }
        reply.ok();
    }

    fn fsync(
        &self,
        request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        let (fs, caller, id) = (self.fs.clone(), caller(request), HandleId(handle.0));
        self.run(
            request,
            async move { fs.sync(caller, id).await },
            empty(reply),
        );
    }

    fn opendir(&self, _request: &Request, node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.fs.open_directory(node.0) {
            Ok(handle) => reply.opened(FileHandle(handle.0), FopenFlags::empty()),
            Err(failure) => reply.error(to_errno(&failure)),
        }
    }

    fn readdir(
        &self,
        _request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let add = |entry: &DirectoryEntry, next: u64| {
            let name = OsStr::from_bytes(&entry.name);
            reply.add(INodeNo(entry.node), next, file_type(entry.kind), name)
        };
        match self.fs.read_directory(HandleId(handle.0), offset, add) {
            Ok(()) => reply.ok(),
            Err(failure) => reply.error(to_errno(&failure)),
        }
    }

    fn releasedir(
        &self,
        _request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.fs.close_directory(HandleId(handle.0));
        reply.ok();
    }

    fn fsyncdir(
        &self,
        request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        if !self.fs.is_barrier(node.0) {
            // Names are on a majority's disks before the call that made them returns.
            return reply.ok();
        }
        let fs = self.fs.clone();
        self.run(
            request,
            async move { fs.barrier().await.map(|_| ()) },
            empty(reply),
        );
    }

    fn statfs(&self, _request: &Request, _node: INodeNo, reply: ReplyStatfs) {
        let usage = self.fs.usage();
        let blocks = |bytes: u64| bytes / u64::from(BLOCK_BYTES);
        let (free, available) = (blocks(usage.bytes_free), blocks(usage.bytes_available));
        let name_len = NAME_LEN_BYTES_MAX as u32;
        let (files, files_free) = (usage.inodes_total, usage.inodes_free);
        reply.statfs(
            blocks(usage.bytes_total),
            free,
            available,
            files,
            files_free,
            BLOCK_BYTES,
            name_len,
            BLOCK_BYTES,
        );
    }

    fn setxattr(
        &self,
        request: &Request,
        node: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (fs, caller) = (self.fs.clone(), caller(request));
        let (name, value) = (name.to_owned(), value.to_vec());
        let operation = async move {
            let mode = match flags {
                0 => XattrMode::Any,
                libc::XATTR_CREATE => XattrMode::Create,
                libc::XATTR_REPLACE => XattrMode::Replace,
                // It must be there and must not be.
                BOTH if fs.xattr(node.0, &name).is_ok() => {
                    return Err(FsError::AlreadyExists.into());
                }
                BOTH => return Err(FsError::NoAttribute.into()),
                _ => return Err(Failure::Refused(FsError::Invalid)),
            };
            fs.set_xattr(caller, node.0, &name, &value, mode).await
        };
        self.run(request, operation, empty(reply));
    }

    fn getxattr(
        &self,
        _request: &Request,
        node: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        xattr_bytes(self.fs.xattr(node.0, name), size, reply);
    }

    fn listxattr(&self, _request: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        let names = self.fs.xattr_names(node.0);
        let list = names.map(|names| {
            names
                .into_iter()
                .flat_map(|name| [name.into_bytes(), vec![0]].concat())
                .collect()
        });
        xattr_bytes(list, size, reply);
    }

    fn removexattr(&self, request: &Request, node: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, caller, name) = (self.fs.clone(), caller(request), name.to_owned());
        let operation = async move { fs.remove_xattr(caller, node.0, &name).await };
        self.run(request, operation, empty(reply));
    }

    fn ioctl(
        &self,
        _request: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _input: &[u8],
        _output_len: u32,
        reply: ReplyIoctl,
    ) {
        // What every program asks that wants to know whether it writes to a terminal.
        reply.error(Errno::ENOTTY);
    }

    fn fallocate(
        &self,
        request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let (fs, caller, id) = (self.fs.clone(), caller(request), HandleId(handle.0));
        self.run(
            request,
            async move { fs.allocate(caller, id, mode, offset, length).await },
            empty(reply),
        );
    }

    fn lseek(
        &self,
        _request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let found = match (u64::try_from(offset), whence) {
            (Ok(offset), libc::SEEK_DATA) => self.fs.seek(HandleId(handle.0), offset, true),
            (Ok(offset), libc::SEEK_HOLE) => self.fs.seek(HandleId(handle.0), offset, false),
            (Err(_), libc::SEEK_DATA | libc::SEEK_HOLE) => Err(Failure::NoSuchOffset),
            _ => Err(FsError::Invalid.into()),
        };
        match found {
            Ok(at) => reply.offset(i64::try_from(at).unwrap_or(i64::MAX)),
            Err(failure) => reply.error(to_errno(&failure)),
        }
    }
}
