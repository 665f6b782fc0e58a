//! Raises other nodes' changes as events of this kernel.
//!
//! No notification of the FUSE protocol reaches inotify. So a thread repeats the system call of the other node on this
//! node's own mount; the adapter recognises it (`tickets.rs`) and answers from what is applied already. The kernel then
//! raises the same events as for a local call, on the same watches. Parents are reached by file handle, never by path.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use parking_lot::Mutex;

use super::replay_queue::{Event, ReplayQueue};
use super::tickets::{NameBefore, Ticket, Tickets};
use crate::fs::FileSystem;
use crate::limits::REPLAY_STALE_TRIES_MAX;
use crate::state_machine::ids::InodeNo;
use crate::state_machine::inode::{Inode, Kind};
use crate::state_machine::name::Name;
use crate::state_machine::outcome::Change;

/// A mount's root, and the way to tell its kernel about stale pages. Replaced when the mount is.
pub struct MountRoot {
    /// The root directory of the mount.
    pub directory: OwnedFd,
    /// Notifications to the kernel.
    pub notifier: fuser::Notifier,
}

/// The one replay thread's tools.
pub struct Replayer {
    pub fs: Arc<FileSystem>,
    pub tickets: Arc<Tickets>,
    pub queue: Arc<ReplayQueue>,
    pub root: Arc<Mutex<Option<Arc<MountRoot>>>>,
}

/// Which events a change of content raises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Touch {
    Modify,
    ModifyAndClose,
    Close,
}

impl Replayer {
    /// Replays until the queue is stopped.
    pub fn run(self) {
        self.tickets.enter();
        while let Some(event) = self.queue.next() {
            let root = self.root.lock().clone();
            // Between an unmount and the next mount nobody can watch.
            if let Some(root) = root {
                self.replay(&root, &event);
            }
            self.queue.done();
        }
    }

    fn replay(&self, root: &MountRoot, event: &Event) {
        for _ in 0..REPLAY_STALE_TRIES_MAX {
            match self.raise(root, event) {
                Err(error) if error.raw_os_error() == Some(libc::ESTALE) => continue,
                // The name went away again, or the program runs on this node: nothing to see.
                Err(error)
                    if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ETXTBSY)) =>
                {
                    return;
                }
                Err(error) => return tracing::debug!(?event, %error, "an event was not raised"),
                Ok(()) => return,
            }
        }
        tracing::debug!(?event, "an event was not raised: its directory moves");
    }

    fn raise(&self, root: &MountRoot, event: &Event) -> io::Result<()> {
        match event {
            Event::Rescan(directory) => self.touch_attributes(root, *directory),
            Event::Change(Change::Created {
                parent,
                name,
                inode,
                link,
            }) => self.create(root, *parent, name, *inode, *link),
            Event::Change(Change::Removed {
                parent,
                name,
                inode,
                directory,
                ..
            }) => self.remove(root, *parent, name, *inode, *directory),
            Event::Change(change @ Change::Renamed { .. }) => self.rename(root, change),
            Event::Change(Change::Modified { inode, closed, .. }) => {
                let touch = if *closed {
                    Touch::ModifyAndClose
                } else {
                    Touch::Modify
                };
                self.touch_content(root, *inode, touch)
            }
            Event::Change(Change::ClosedWrite { inode }) => {
                self.touch_content(root, *inode, Touch::Close)
            }
            Event::Change(Change::Attributes { inode }) => self.touch_attributes(root, *inode),
            Event::Change(Change::Gone(_)) => Ok(()),
        }
    }

    fn create(
        &self,
        root: &MountRoot,
        parent: InodeNo,
        name: &[u8],
        inode: InodeNo,
        link: bool,
    ) -> io::Result<()> {
        let is_there = self.fs.state().tree().lookup(parent, name) == Ok(inode);
        if !is_there && !self.queue.departs_later(parent, name) {
            // A call of this node has removed it since; its own event has told that already.
            return Ok(());
        }
        let Some(node) = self.inode(inode) else {
            return Ok(());
        };
        let directory = open_directory(root, parent)?;
        let path = c_string(name)?;
        let before = vec![NameBefore {
            parent,
            name: name.to_vec(),
            inode: None,
            loses_link: false,
        }];
        let ticket = Ticket {
            before,
            inode: Some(node.clone()),
        };
        if link {
            let target = open_by_handle(root, inode, libc::O_PATH)?;
            return self.tickets.under(ticket, || {
                link_at(target.as_raw_fd(), directory.as_raw_fd(), &path)
            });
        }
        self.tickets
            .under(ticket, || make_at(directory.as_raw_fd(), &path, &node.kind))
    }

    fn remove(
        &self,
        root: &MountRoot,
        parent: InodeNo,
        name: &[u8],
        inode: InodeNo,
        is_directory: bool,
    ) -> io::Result<()> {
        let Some(node) = self.inode(inode) else {
            return Ok(());
        };
        let directory = open_directory(root, parent)?;
        let path = c_string(name)?;
        let before = vec![NameBefore {
            parent,
            name: name.to_vec(),
            inode: Some(node),
            loses_link: true,
        }];
        let flags = if is_directory { libc::AT_REMOVEDIR } else { 0 };
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

    fn rename(&self, root: &MountRoot, change: &Change) -> io::Result<()> {
        let Change::Renamed {
            parent,
            name,
            new_parent,
            new_name,
            inode,
            replaced,
            exchange,
        } = change
        else {
            return Ok(());
        };
        let Some(node) = self.inode(*inode) else {
            return Ok(());
        };
        let target = replaced.and_then(|(replaced, _)| self.inode(replaced));
        let (from, to) = (
            open_directory(root, *parent)?,
            open_directory(root, *new_parent)?,
        );
        let (old, new) = (c_string(name)?, c_string(new_name)?);
        let before = vec![
            NameBefore {
                parent: *parent,
                name: name.clone(),
                inode: Some(node),
                loses_link: false,
            },
            NameBefore {
                parent: *new_parent,
                name: new_name.clone(),
                inode: target,
                loses_link: !exchange,
            },
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

    /// Raises content events on every name of a file.
    fn touch_content(&self, root: &MountRoot, inode: InodeNo, touch: Touch) -> io::Result<()> {
        if self.fs.is_open(inode) {
            // Pages of mappings may be old now.
            root.notifier.inval_inode(fuser::INodeNo(inode.0), 0, 0)?;
        }
        let Some(node) = self.fs.state().tree().inode(inode).cloned() else {
            return Ok(());
        };
        node.names
            .iter()
            .try_for_each(|(parent, name)| self.touch_name(root, *parent, name, &node, touch))
    }

    fn touch_name(
        &self,
        root: &MountRoot,
        parent: InodeNo,
        name: &Name,
        node: &Arc<Inode>,
        touch: Touch,
    ) -> io::Result<()> {
        if !self.fs.lookups().is_known(parent) && !self.fs.lookups().is_known(node.number) {
            return Ok(());
        }
        let directory = open_directory(root, parent)?;
        let path = c_string(name.as_bytes())?;
        let ticket = Ticket {
            before: Vec::new(),
            inode: Some(node.clone()),
        };
        self.tickets.under(ticket, || {
            let access = if touch == Touch::Modify {
                libc::O_PATH
            } else {
                libc::O_WRONLY
            };
            let file = open_at(
                directory.as_raw_fd(),
                &path,
                access | libc::O_NOFOLLOW | libc::O_NONBLOCK,
            )?;
            match touch {
                Touch::Close => Ok(()),
                Touch::ModifyAndClose => {
                    let size = size_of_file(file.as_raw_fd())?;
                    // SAFETY: the descriptor is open for writing; the size is the file's own.
                    check(unsafe { libc::ftruncate(file.as_raw_fd(), size) })
                }
                Touch::Modify => {
                    let size = size_of_file(file.as_raw_fd())?;
                    let own = c_string(format!("/proc/self/fd/{}", file.as_raw_fd()).as_bytes())?;
                    // SAFETY: the path is a valid C string; it names the file that is held open.
                    check(unsafe { libc::truncate(own.as_ptr(), size) })
                }
            }
        })
    }

    fn touch_attributes(&self, root: &MountRoot, inode: InodeNo) -> io::Result<()> {
        let Some(node) = self.fs.state().tree().inode(inode).cloned() else {
            return Ok(());
        };
        let ticket = || Ticket {
            before: Vec::new(),
            inode: Some(node.clone()),
        };
        if node.is_directory() {
            let directory = open_directory(root, inode)?;
            let own = c_string(format!("/proc/self/fd/{}", directory.as_raw_fd()).as_bytes())?;
            return self
                .tickets
                .under(ticket(), || set_times(libc::AT_FDCWD, &own, &node, 0));
        }
        for (parent, name) in &node.names {
            let directory = open_directory(root, *parent)?;
            let path = c_string(name.as_bytes())?;
            self.tickets.under(ticket(), || {
                set_times(
                    directory.as_raw_fd(),
                    &path,
                    &node,
                    libc::AT_SYMLINK_NOFOLLOW,
                )
            })?;
        }
        Ok(())
    }

    /// An inode as it is, or as it was when its last name went.
    fn inode(&self, number: InodeNo) -> Option<Arc<Inode>> {
        self.fs
            .state()
            .tree()
            .inode(number)
            .cloned()
            .or_else(|| self.queue.gone(number))
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

/// Sets both times to what they are: the one call that raises `IN_ATTRIB` and nothing else.
fn set_times(directory: RawFd, path: &CString, node: &Inode, flags: i32) -> io::Result<()> {
    let time = |at: crate::state_machine::log_time::WallTime| libc::timespec {
        tv_sec: at.secs,
        tv_nsec: i64::from(at.nanos),
    };
    let times = [time(node.atime), time(node.mtime)];
    // SAFETY: the path is a valid C string and the array holds the two times that the call reads.
    check(unsafe { libc::utimensat(directory, path.as_ptr(), times.as_ptr(), flags) })
}

fn size_of_file(file: RawFd) -> io::Result<libc::off_t> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the descriptor is open and the buffer is large enough.
    check(unsafe { libc::fstat(file, stat.as_mut_ptr()) })?;
    // SAFETY: a successful fstat filled the buffer.
    Ok(unsafe { stat.assume_init() }.st_size)
}

fn open_directory(root: &MountRoot, inode: InodeNo) -> io::Result<OwnedFd> {
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

fn open_by_handle(root: &MountRoot, inode: InodeNo, flags: i32) -> io::Result<OwnedFd> {
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
