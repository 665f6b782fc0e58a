//! Attributes and extended attributes, as a worker tells them.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::stat::{FileStat, Mode, SFlag};

use super::worker::Answer;

/// Times before this second were set by a call and are compared as they are; later ones come from the clock.
const CLOCK_FROM: i64 = 1_000_000_000;

/// Permissions in octal.
pub fn mode(text: &str) -> Mode {
    Mode::from_bits_truncate(u32::from_str_radix(text, 8).unwrap())
}

/// What two filesystems must agree on. A directory's size is each one's own affair.
pub fn describe(seen: &FileStat) -> String {
    let kind = SFlag::from_bits_truncate(seen.st_mode & SFlag::S_IFMT.bits());
    let (kind, has_size) = match kind {
        SFlag::S_IFREG => ("file", true),
        SFlag::S_IFDIR => ("directory", false),
        SFlag::S_IFLNK => ("symlink", true),
        _ => ("other", false),
    };
    let size = if has_size {
        format!(" size={}", seen.st_size)
    } else {
        String::new()
    };
    let modified = if seen.st_mtime < CLOCK_FROM {
        format!(" mtime={}.{:09}", seen.st_mtime, seen.st_mtime_nsec)
    } else {
        String::new()
    };
    let (links, permissions) = (seen.st_nlink, seen.st_mode & 0o7777);
    let (uid, gid) = (seen.st_uid, seen.st_gid);
    let nanos = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    format!(
        "ok {kind}{size} links={links} mode={permissions:o} owner={uid}:{gid}{modified}\t{} {}",
        nanos(seen.st_mtime, seen.st_mtime_nsec),
        nanos(seen.st_ctime, seen.st_ctime_nsec)
    )
}

/// What has extended attributes.
#[derive(Clone, Copy)]
pub enum Of<'a> {
    Path(&'a str),
    Handle(&'a OwnedFd),
}

fn c(text: &str) -> CString {
    CString::new(text).unwrap()
}

pub fn set(of: Of, name: &str, value: &str) -> Answer {
    let (name, len) = (c(name), value.len());
    let value = value.as_ptr().cast();
    let outcome = match of {
        // SAFETY: the strings end in a zero byte, and the value has its length.
        Of::Path(path) => unsafe { libc::setxattr(c(path).as_ptr(), name.as_ptr(), value, len, 0) },
        // SAFETY: as above.
        Of::Handle(file) => unsafe {
            libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), value, len, 0)
        },
    };
    Errno::result(outcome)?;
    Ok("ok".into())
}

pub fn get(of: Of, name: &str) -> Answer {
    let mut buffer = vec![0u8; 64 * 1024];
    let (name, len) = (c(name), buffer.len());
    let value = buffer.as_mut_ptr().cast();
    let outcome = match of {
        // SAFETY: the strings end in a zero byte, and the buffer has its length.
        Of::Path(path) => unsafe { libc::getxattr(c(path).as_ptr(), name.as_ptr(), value, len) },
        // SAFETY: as above.
        Of::Handle(file) => unsafe { libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), value, len) },
    };
    let count = usize::try_from(Errno::result(outcome)?).unwrap();
    Ok(format!("ok {}", String::from_utf8_lossy(&buffer[..count])))
}

/// The names in their order by letters: no filesystem promises another.
pub fn list(of: Of) -> Answer {
    let mut buffer = vec![0u8; 64 * 1024];
    let (names, len) = (buffer.as_mut_ptr().cast(), buffer.len());
    let outcome = match of {
        // SAFETY: the path ends in a zero byte, and the buffer has its length.
        Of::Path(path) => unsafe { libc::listxattr(c(path).as_ptr(), names, len) },
        // SAFETY: as above.
        Of::Handle(file) => unsafe { libc::flistxattr(file.as_raw_fd(), names, len) },
    };
    let count = usize::try_from(Errno::result(outcome)?).unwrap();
    let names = String::from_utf8_lossy(&buffer[..count]);
    let mut names: Vec<&str> = names.split_terminator('\0').collect();
    names.sort_unstable();
    Ok(format!("ok {}", names.join(" ")))
}

pub fn remove(of: Of, name: &str) -> Answer {
    let name = c(name);
    let outcome = match of {
        // SAFETY: the strings end in a zero byte.
        Of::Path(path) => unsafe { libc::removexattr(c(path).as_ptr(), name.as_ptr()) },
        // SAFETY: as above.
        Of::Handle(file) => unsafe { libc::fremovexattr(file.as_raw_fd(), name.as_ptr()) },
    };
    Errno::result(outcome)?;
    Ok("ok".into())
}
