//! Extended attributes by path and by handle. Absence is no error.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Longest value that is read: numbers, names and lock paths.
const VALUE_BYTES_MAX: usize = 4096;

/// Value of `name` on the file at `path`.
///
/// # Errors
/// The operating system's error; a missing attribute is none.
pub fn read(path: &Path, name: &str) -> std::io::Result<Option<Vec<u8>>> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let name = CString::new(name)?;
    let mut value = vec![0u8; VALUE_BYTES_MAX];
    // SAFETY: both strings are NUL-terminated, and the buffer is as long as said.
    let len = unsafe {
        libc::lgetxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    };
    finish(len, value)
}

/// Value of `name` on an open file.
///
/// # Errors
/// The operating system's error; a missing attribute is none.
pub fn read_file(file: &File, name: &str) -> std::io::Result<Option<Vec<u8>>> {
    let name = CString::new(name)?;
    let mut value = vec![0u8; VALUE_BYTES_MAX];
    // SAFETY: the name is NUL-terminated, the descriptor open, and the buffer as long as said.
    let len = unsafe {
        libc::fgetxattr(
            file.as_raw_fd(),
            name.as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    };
    finish(len, value)
}

/// A value that is a number.
pub fn number(value: Vec<u8>) -> Option<u64> {
    String::from_utf8(value).ok()?.trim().parse().ok()
}

/// Number in `name` on the file at `path`.
///
/// # Errors
/// As [`read`]; a value that is no number is none.
pub fn read_number(path: &Path, name: &str) -> std::io::Result<Option<u64>> {
    Ok(read(path, name)?.and_then(number))
}

/// Number in `name` on an open file.
///
/// # Errors
/// As [`read_file`]; a value that is no number is none.
pub fn read_file_number(file: &File, name: &str) -> std::io::Result<Option<u64>> {
    Ok(read_file(file, name)?.and_then(number))
}

fn finish(len: isize, mut value: Vec<u8>) -> std::io::Result<Option<Vec<u8>>> {
    match usize::try_from(len) {
        Ok(len) => {
            value.truncate(len);
            Ok(Some(value))
        }
        Err(_) => {
            let error = std::io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::ENODATA | libc::EOPNOTSUPP) => Ok(None),
                _ => Err(error),
            }
        }
    }
}

/// Sets `name` on the file at `path`.
///
/// # Errors
/// The operating system's error.
pub fn write(path: &Path, name: &str, value: &[u8]) -> std::io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let name = CString::new(name)?;
    // SAFETY: both strings are NUL-terminated, and the value is as long as said.
    let result = unsafe {
        libc::lsetxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}
