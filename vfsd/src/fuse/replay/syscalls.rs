//! The system calls that a replay repeats, and the file handles that it reaches directories by.
//!
//! Invariant: each changes nothing but what the kernel shows: the adapter answers from what is applied already.
//! Not here: which call an event asks for (`replayer.rs`).

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::state_machine::ids::InodeNo;
use crate::state_machine::inode::{Inode, Kind};

/// Which events a change of content raises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Touch {
    Modify,
    ModifyAndClose,
    Close,
}

/// Which times a change of attributes sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// Both: the kernel raises `IN_ATTRIB` and nothing else.
    Both,
    /// The modification time alone: the kernel raises `IN_MODIFY`.
    Modification,
}

/// Gives the calling thread a descriptor table of its own, empty but for the standard streams.
pub fn own_descriptor_table() -> io::Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_FILES)?;
    // SAFETY: the table belongs to this thread alone from here on, and it owns no descriptor yet.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
    check(i32::try_from(closed).unwrap_or(-1))
}

pub fn touch_content_at(
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

pub fn make_at(directory: RawFd, name: &CString, kind: &Kind) -> io::Result<()> {
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
pub fn refresh(file: RawFd) -> io::Result<()> {
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

pub fn link_at(target: RawFd, directory: RawFd, name: &CString) -> io::Result<()> {
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
pub fn set_times(
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

pub fn open_directory(root: &OwnedFd, inode: InodeNo) -> io::Result<OwnedFd> {
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

pub fn open_by_handle(root: &OwnedFd, inode: InodeNo, flags: i32) -> io::Result<OwnedFd> {
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
            root.as_raw_fd(),
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

pub fn c_string(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

pub fn check(result: i32) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
