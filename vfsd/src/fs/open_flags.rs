//! What the flags of `open(2)` mean for a handle. `O_APPEND` is not among them: fcntl(2) changes it, and each write
//! tells it.

/// The part of `open(2)`'s flags that a handle keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenFlags {
    /// Reads are allowed.
    pub read: bool,
    /// Writes are allowed.
    pub write: bool,
    /// Each write is committed before it returns (`O_SYNC`, `O_DSYNC`).
    pub sync: bool,
    /// The content goes first (`O_TRUNC`).
    pub truncate: bool,
    /// The name must be new (`O_EXCL`).
    pub exclusive: bool,
}

impl OpenFlags {
    /// Reads the kernel's flags.
    pub fn from_bits(bits: i32) -> Self {
        let access = bits & libc::O_ACCMODE;
        Self {
            read: access != libc::O_WRONLY,
            write: access != libc::O_RDONLY,
            // O_SYNC contains O_DSYNC's bit.
            sync: bits & libc::O_DSYNC != 0,
            truncate: bits & libc::O_TRUNC != 0,
            exclusive: bits & libc::O_EXCL != 0,
        }
    }
}
