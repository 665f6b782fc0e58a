//! Raises other nodes' changes as events of this kernel.
//!
//! No notification of the FUSE protocol reaches inotify. So a thread repeats the system call of the other node on this
//! node's own mount; the adapter recognises it (`tickets.rs`) and answers from what is applied already. The kernel then
//! raises the same events as for a local call, on the same watches. Parents are reached by file handle, never by path.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};

use parking_lot::Mutex;

use super::replay_queue::{Event, ReplayQueue};
use super::tickets::{NameBefore, Ticket, Tickets};
use crate::fs::FileSystem;
use crate::limits::{REPLAY_STALE_PAUSE, REPLAY_STALE_TRIES_MAX};
use crate::state_machine::ids::InodeNo;
use crate::state_machine::inode::{Inode, Kind};
use crate::state_machine::outcome::Change;

/// A mount as the replay thread knows it. Holds no descriptor: the replay thread has a table of its own.
pub struct MountRoot {
    /// Directories that nobody may need, to the thread that tells this mount's connection.
    pub unneeded: SyncSender<InodeNo>,
}

/// Tells the kernel of directories that nobody may need, until nobody can send any more.
///
/// This thread has the connection open, so it must never wait for an answer on it: killed, the daemon would stay for
/// ever (see [`Replayer::run`]). Pruning waits for none: the kernel looks the inode up in its cache and drops its
/// unused entries; a directory has no pages here whose lock or writeback could be waited for. Dropping the pages of a
/// file by `FUSE_NOTIFY_INVAL_INODE` does wait for both, hence for this daemon: the replay thread does that by an open.
pub fn prune_unneeded(device: &File, unneeded: &Receiver<InodeNo>) {
    for directory in unneeded {
        if let Err(error) = prune(device, directory) {
            // A mount that ends, or an older kernel: the replay does more than it must, and nothing else.
            tracing::trace!(%directory, %error, "the kernel does not prune");
        }
    }
}

/// Lets the kernel drop `inode` from its cache if nobody uses or watches it (`FUSE_NOTIFY_PRUNE`, Linux 6.18). A
/// directory that is known only because its creation was replayed would have every change in it replayed too.
fn prune(mut device: &File, inode: InodeNo) -> io::Result<()> {
    const NOTIFY_PRUNE: i32 = 9;
    const MESSAGE_BYTES: u32 = 40;
    let mut message = Vec::with_capacity(MESSAGE_BYTES as usize);
    // struct fuse_out_header: length, notification, no request.
    message.extend(MESSAGE_BYTES.to_ne_bytes());
    message.extend(NOTIFY_PRUNE.to_ne_bytes());
    message.extend(0u64.to_ne_bytes());
    // struct fuse_notify_prune_out: one node, padding and spare; then the node.
    message.extend(1u32.to_ne_bytes());
    message.extend([0; 12]);
    message.extend(inode.0.to_ne_bytes());
    device.write_all(&message)
}

/// The mount's root directory, open in the replay thread's own table.
struct Place {
    directory: OwnedFd,
    root: Arc<MountRoot>,
}

impl Place {
    fn is_unneeded(&self, directory: InodeNo) {
        // A full queue or an ending mount: the notice only saves work.
        let _ = self.root.unneeded.try_send(directory);
    }
}

/// The one replay thread's tools.
pub struct Replayer {
    pub fs: Arc<FileSystem>,
    pub tickets: Arc<Tickets>,
    pub queue: Arc<ReplayQueue>,
    pub root: Arc<Mutex<Option<Arc<MountRoot>>>>,
    pub point: PathBuf,
}

/// Which events a change of content raises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Touch {
    Modify,
    ModifyAndClose,
    Close,
}

/// Which times a change of attributes sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Times {
    /// Both: the kernel raises `IN_ATTRIB` and nothing else.
    Both,
    /// The modification time alone: the kernel raises `IN_MODIFY`.
    Modification,
}

impl Replayer {
    /// Replays until the queue is stopped.
    ///
    /// The thread has a descriptor table of its own without the connection's descriptors. Otherwise a killed daemon
    /// would stay for ever: this thread would wait for the answer to its own request, nobody would be left to give
    /// it, and the connection could not end because this thread still held it open.
    pub fn run(self) {
        self.tickets.enter();
        if let Err(error) = own_descriptor_table() {
            return tracing::error!(%error, "events of other nodes are not raised: no table of its own");
        }
        let mut place: Option<Place> = None;
        while let Some(event) = self.queue.next() {
            let root = self.root.lock().clone();
            let is_same = match (&place, &root) {
                (Some(place), Some(root)) => Arc::ptr_eq(&place.root, root),
                (None, None) => true,
                _ => false,
            };
            if !is_same {
                // The old mount ends with this descriptor. Until the next mount nobody can watch.
                drop(place.take());
                place = root.and_then(|root| self.enter(root));
            }
            if let Some(place) = &place {
                self.replay(place, &event);
            }
            self.queue.done();
        }
    }

    fn enter(&self, root: Arc<MountRoot>) -> Option<Place> {
        match File::open(&self.point) {
            Ok(directory) => Some(Place {
                directory: directory.into(),
                root,
            }),
            Err(error) => {
                tracing::warn!(%error, "the mount cannot be entered yet");
                None
            }
        }
    }

    fn replay(&self, root: &Place, event: &Event) {
        let directories = event.directories();
        let are_there = || {
            let state = self.fs.state();
            let mut tree = directories.iter().map(|at| state.tree().inode(*at));
            tree.all(|inode| inode.is_some())
        };
        match tried(|| self.raise(root, event), are_there) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::ESTALE) && are_there() => {
                tracing::debug!(?event, "its directory moves: it is announced as a whole");
                for directory in directories {
                    if let Err(error) = self.touch_directory(root, directory, Times::Both) {
                        tracing::debug!(%directory, %error, "a directory was not announced");
                    }
                }
            }
            // The name went away again, or the program runs on this node: nothing to see.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ETXTBSY)) => {}
            Err(error) => tracing::debug!(?event, %error, "an event was not raised"),
        }
    }

    fn raise(&self, root: &Place, event: &Event) -> io::Result<()> {
        let (change, inode, replaced) = match event {
            Event::Rescan(directory) => return self.touch_directory(root, *directory, Times::Both),
            Event::Difference { old, new } => {
                self.queue.look_into(old, new);
                return Ok(());
            }
            Event::MountChanged => return Ok(()),
            Event::Change {
                change,
                inode,
                replaced,
            } => (change, inode, replaced.as_ref()),
        };
        match change {
            Change::Created {
                parent, name, link, ..
            } => self.create(root, (*parent, name), inode, *link),
            Change::Removed {
                parent,
                name,
                directory,
                ..
            } => self.remove(root, (*parent, name), inode, *directory),
            Change::Renamed { .. } => self.rename(root, change, inode, replaced),
            Change::Modified { closed: true, .. } => {
                self.touch_content(root, inode, Touch::ModifyAndClose)
            }
            Change::Modified { closed: false, .. } => {
                self.touch_content(root, inode, Touch::Modify)
            }
            Change::ClosedWrite { .. } => self.touch_content(root, inode, Touch::Close),
            Change::Attributes { .. } => self.touch_times(root, inode, Times::Both),
            Change::Gone(_) => Ok(()),
        }
    }

    fn create(
        &self,
        root: &Place,
        at: (InodeNo, &[u8]),
        inode: &Arc<Inode>,
        link: bool,
    ) -> io::Result<()> {
        if !self.queue.is_telling(at.0, at.1, inode.number) {
            return Ok(());
        }
        let directory = open_directory(root, at.0)?;
        let path = c_string(at.1)?;
        let ticket = Ticket {
            before: vec![name_before(at, None)],
            inode: Some(inode.clone()),
        };
        if link {
            let target = open_by_handle(root, inode.number, libc::O_PATH)?;
            return self.tickets.under(ticket, || {
                // To a file that is gone since, the kernel would make no link: it learns the links of then first.
                refresh(target.as_raw_fd())?;
                link_at(target.as_raw_fd(), directory.as_raw_fd(), &path)
            });
        }
        self.tickets.under(ticket, || {
            make_at(directory.as_raw_fd(), &path, &inode.kind)
        })?;
        if inode.is_directory() {
            root.is_unneeded(inode.number);
        }
        Ok(())
    }

    fn remove(
        &self,
        root: &Place,
        at: (InodeNo, &[u8]),
        inode: &Arc<Inode>,
        is_directory: bool,
    ) -> io::Result<()> {
        let directory = open_directory(root, at.0)?;
        let path = c_string(at.1)?;
        let flags = if is_directory { libc::AT_REMOVEDIR } else { 0 };
        let before = vec![name_before(at, Some(inode))];
        self.tickets.under(
            Ticket {
                before,
                inode: None,
            },
            || {
                // SAFETY: the path is a valid C string and the descriptor is open.
                check(unsafe { libc::unlinkat(directory.as_raw_fd(), path.as_ptr(), flags) })
            },
        )
    }

    fn rename(
        &self,
        root: &Place,
        change: &Change,
        inode: &Arc<Inode>,
        replaced: Option<&Arc<Inode>>,
    ) -> io::Result<()> {
        let Change::Renamed {
            parent,
            name,
            new_parent,
            new_name,
            exchange,
            ..
        } = change
        else {
            return Ok(());
        };
        let (from, to) = (
            open_directory(root, *parent)?,
            open_directory(root, *new_parent)?,
        );
        let (old, new) = (c_string(name)?, c_string(new_name)?);
        let before = vec![
            name_before((*parent, name), Some(inode)),
            name_before((*new_parent, new_name), replaced),
        ];
        let flags = if *exchange { libc::RENAME_EXCHANGE } else { 0 };
        self.tickets.under(
            Ticket {
                before,
                inode: None,
            },
            || {
                // The kernel may know a moved directory at its new place only: looking at the old name moves it back
                // first.
                let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
                // SAFETY: the path is a valid C string, the descriptor is open, the buffer is large enough.
                check(unsafe {
                    libc::fstatat(
                        from.as_raw_fd(),
                        old.as_ptr(),
                        stat.as_mut_ptr(),
                        libc::AT_SYMLINK_NOFOLLOW,
                    )
                })?;
                // SAFETY: as above.
                check(unsafe {
                    libc::renameat2(
                        from.as_raw_fd(),
                        old.as_ptr(),
                        to.as_raw_fd(),
                        new.as_ptr(),
                        flags,
                    )
                })
            },
        )
    }

    /// Raises content events on every name that a file had then.
    fn touch_content(&self, root: &Place, inode: &Arc<Inode>, touch: Touch) -> io::Result<()> {
        if inode.content().is_none() {
            // Nothing but its time of modification can have changed.
            return self.touch_times(root, inode, Times::Modification);
        }
        if self.fs.is_open(inode.number)
            && let Err(error) = self.drop_pages(root, inode)
        {
            // Watchers are told all the same.
            tracing::debug!(inode = %inode.number, %error, "mappings may show old bytes");
        }
        // The size changes nothing: the adapter answers with what it is by then.
        let size = self.fs.attr(inode.number.0).map_or(0, |attr| attr.size);
        let size = libc::off_t::try_from(size).unwrap_or(libc::off_t::MAX);
        self.on_each_name(root, inode, |directory, path| {
            touch_content_at(directory, path, touch, size)
        })
    }

    /// Drops this kernel's pages of a file: those of mappings may be old. Opening the file does it, as the answer to
    /// the open does not say that the cache is kept.
    fn drop_pages(&self, root: &Place, inode: &Arc<Inode>) -> io::Result<()> {
        let ticket = Ticket {
            before: Vec::new(),
            inode: Some(inode.clone()),
        };
        let flags = libc::O_RDONLY | libc::O_NONBLOCK;
        let open = || open_by_handle(root, inode.number, flags);
        self.tickets.under(ticket, open).map(drop)
    }

    fn touch_times(&self, root: &Place, inode: &Arc<Inode>, times: Times) -> io::Result<()> {
        if inode.names.is_empty() {
            return self.touch_directory(root, inode.number, times);
        }
        self.on_each_name(root, inode, |directory, path| {
            set_times(directory, path, inode, times, libc::AT_SYMLINK_NOFOLLOW)
        })
    }

    /// Raises an event on a directory, wherever it is.
    fn touch_directory(&self, root: &Place, number: InodeNo, times: Times) -> io::Result<()> {
        let Some(inode) = self.fs.state().tree().inode(number).cloned() else {
            return Ok(());
        };
        let directory = open_directory(root, number)?;
        let own = c_string(format!("/proc/thread-self/fd/{}", directory.as_raw_fd()).as_bytes())?;
        let ticket = Ticket {
            before: Vec::new(),
            inode: Some(inode.clone()),
        };
        self.tickets
            .under(ticket, || set_times(libc::AT_FDCWD, &own, &inode, times, 0))
    }

    /// Makes a call on each name that an inode had then and that watchers may still be told of.
    fn on_each_name(
        &self,
        root: &Place,
        inode: &Arc<Inode>,
        call: impl Fn(RawFd, &CString) -> io::Result<()>,
    ) -> io::Result<()> {
        for (parent, name) in &inode.names {
            let at = (*parent, name.as_bytes());
            let known = self.fs.known().is_known(*parent) || self.fs.known().is_known(inode.number);
            if !known || !self.queue.is_telling(at.0, at.1, inode.number) {
                continue;
            }
            match self.on_name(root, at, inode, &call) {
                // This name went away again; the others are still to be told.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                told => told?,
            }
        }
        Ok(())
    }

    fn on_name(
        &self,
        root: &Place,
        at: (InodeNo, &[u8]),
        inode: &Arc<Inode>,
        call: impl Fn(RawFd, &CString) -> io::Result<()>,
    ) -> io::Result<()> {
        let directory = open_directory(root, at.0)?;
        let path = c_string(at.1)?;
        let ticket = Ticket {
            before: vec![name_before(at, Some(inode))],
            inode: Some(inode.clone()),
        };
        self.tickets
            .under(ticket, || call(directory.as_raw_fd(), &path))
    }
}

/// Makes a call, and again after a pause while it fails because a directory moves, as long as the directories are
/// there.
fn tried(mut call: impl FnMut() -> io::Result<()>, are_there: impl Fn() -> bool) -> io::Result<()> {
    let mut result = call();
    for _ in 1..REPLAY_STALE_TRIES_MAX {
        let is_stale = |error: &io::Error| error.raw_os_error() == Some(libc::ESTALE);
        if !result.as_ref().is_err_and(is_stale) || !are_there() {
            break;
        }
        std::thread::sleep(REPLAY_STALE_PAUSE);
        result = call();
    }
    result
}

/// Gives the calling thread a descriptor table of its own, empty but for the standard streams.
fn own_descriptor_table() -> io::Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_FILES)?;
    // SAFETY: the table belongs to this thread alone from here on, and it owns no descriptor yet.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
    check(i32::try_from(closed).unwrap_or(-1))
}

fn name_before((parent, name): (InodeNo, &[u8]), inode: Option<&Arc<Inode>>) -> NameBefore {
    NameBefore {
        parent,
        name: name.to_vec(),
        inode: inode.cloned(),
    }
}

fn touch_content_at(
    directory: RawFd,
    path: &CString,
    touch: Touch,
    size: libc::off_t,
) -> io::Result<()> {
    let access = if touch == Touch::Modify {
        libc::O_PATH
    } else {
        libc::O_WRONLY
    };
    let file = open_at(
        directory,
        path,
        access | libc::O_NOFOLLOW | libc::O_NONBLOCK,
    )?;
    match touch {
        Touch::Close => Ok(()),
        Touch::ModifyAndClose => {
            // SAFETY: the descriptor is open for writing; the size is the file's own.
            check(unsafe { libc::ftruncate(file.as_raw_fd(), size) })
        }
        Touch::Modify => {
            let own = c_string(format!("/proc/thread-self/fd/{}", file.as_raw_fd()).as_bytes())?;
            // SAFETY: the path is a valid C string; it names the file that is held open.
            check(unsafe { libc::truncate(own.as_ptr(), size) })
        }
    }
}

fn make_at(directory: RawFd, name: &CString, kind: &Kind) -> io::Result<()> {
    let mode = match kind {
        Kind::Regular(_) => libc::S_IFREG,
        Kind::Fifo => libc::S_IFIFO,
        Kind::Socket => libc::S_IFSOCK,
        Kind::CharDevice(_) => libc::S_IFCHR,
        Kind::BlockDevice(_) => libc::S_IFBLK,
        Kind::Directory(_) => {
            // SAFETY: the path is a valid C string and the descriptor is open.
            return check(unsafe { libc::mkdirat(directory, name.as_ptr(), 0o700) });
        }
        Kind::Symlink(target) => {
            let target = c_string(target)?;
            // SAFETY: as above.
            return check(unsafe { libc::symlinkat(target.as_ptr(), directory, name.as_ptr()) });
        }
    };
    let device = match kind {
        Kind::CharDevice(number) | Kind::BlockDevice(number) => libc::dev_t::from(*number),
        _ => 0,
    };
    // SAFETY: the path is a valid C string and the descriptor is open.
    check(unsafe { libc::mknodat(directory, name.as_ptr(), mode | 0o600, device) })
}

/// Makes the kernel ask for the attributes of what is open.
fn refresh(file: RawFd) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_FORCE_SYNC;
    let mut seen = std::mem::MaybeUninit::<libc::statx>::uninit();
    // SAFETY: the path is a valid C string, the descriptor is open, the buffer is large enough.
    check(unsafe {
        libc::statx(
            file,
            c"".as_ptr(),
            flags,
            libc::STATX_NLINK,
            seen.as_mut_ptr(),
        )
    })
}

fn link_at(target: RawFd, directory: RawFd, name: &CString) -> io::Result<()> {
    // SAFETY: the paths are valid C strings and both descriptors are open.
    check(unsafe {
        libc::linkat(
            target,
            c"".as_ptr(),
            directory,
            name.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    })
}

/// Sets times to what they are.
fn set_times(
    directory: RawFd,
    path: &CString,
    node: &Inode,
    times: Times,
    flags: i32,
) -> io::Result<()> {
    let time = |at: crate::state_machine::log_time::WallTime| libc::timespec {
        tv_sec: at.secs,
        tv_nsec: i64::from(at.nanos),
    };
    let mut access = time(node.atime);
    if times == Times::Modification {
        access.tv_nsec = libc::UTIME_OMIT;
    }
    let times = [access, time(node.mtime)];
    // SAFETY: the path is a valid C string and the array holds the two times that the call reads.
    check(unsafe { libc::utimensat(directory, path.as_ptr(), times.as_ptr(), flags) })
}

fn open_directory(root: &Place, inode: InodeNo) -> io::Result<OwnedFd> {
    open_by_handle(root, inode, libc::O_PATH | libc::O_DIRECTORY)
}

/// A file handle as the FUSE module of the kernel makes it: `FILEID_INO64_GEN`, node id in two halves, generation.
#[repr(C)]
struct FuseFileHandle {
    handle_bytes: u32,
    handle_type: i32,
    node_id_high: u32,
    node_id_low: u32,
    generation: u32,
}

fn open_by_handle(root: &Place, inode: InodeNo, flags: i32) -> io::Result<OwnedFd> {
    const FILEID_INO64_GEN: i32 = 0x81;
    let mut handle = FuseFileHandle {
        handle_bytes: 12,
        handle_type: FILEID_INO64_GEN,
        node_id_high: (inode.0 >> 32) as u32,
        node_id_low: inode.0 as u32,
        generation: 0,
    };
    // SAFETY: the struct has the layout of `struct file_handle` with 12 bytes of handle behind it.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            root.directory.as_raw_fd(),
            &raw mut handle,
            flags | libc::O_CLOEXEC,
        )
    };
    owned(i32::try_from(fd).unwrap_or(-1))
}

fn open_at(directory: RawFd, name: &CString, flags: i32) -> io::Result<OwnedFd> {
    // SAFETY: the path is a valid C string and the descriptor is open.
    owned(unsafe { libc::openat(directory, name.as_ptr(), flags | libc::O_CLOEXEC) })
}

fn owned(fd: RawFd) -> io::Result<OwnedFd> {
    check(fd.min(0))?;
    // SAFETY: the call that made this descriptor succeeded, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn c_string(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// How often a call was made that fails `fails` times, and how it ended.
    fn tries(fails: usize, errno: i32, is_there: bool) -> (usize, Option<i32>) {
        let made = Cell::new(0);
        let call = || {
            made.set(made.get() + 1);
            match made.get() > fails {
                true => Ok(()),
                false => Err(io::Error::from_raw_os_error(errno)),
            }
        };
        let result = tried(call, || is_there);
        (
            made.get(),
            result.err().and_then(|error| error.raw_os_error()),
        )
    }

    #[test]
    fn an_event_whose_directory_moves_is_tried_again_and_no_other() {
        assert_eq!(tries(2, libc::ESTALE, true), (3, None));
        let bound = REPLAY_STALE_TRIES_MAX;
        assert_eq!(tries(99, libc::ESTALE, true), (bound, Some(libc::ESTALE)));
        assert_eq!(tries(99, libc::ESTALE, false), (1, Some(libc::ESTALE)));
        assert_eq!(tries(99, libc::ENOENT, true), (1, Some(libc::ENOENT)));
    }
}
