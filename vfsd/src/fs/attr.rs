//! Attributes as `stat(2)` shows them.

use crate::state_machine::inode::{Inode, Kind};
use crate::state_machine::log_time::WallTime;

/// What kind of object it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// Regular file.
    Regular,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
}

/// Attributes of a node of the mounted tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// Node number: the inode's, or one of the virtual range.
    pub node: u64,
    /// Kind.
    pub kind: FileKind,
    /// Bytes.
    pub size: u64,
    /// Bytes that it takes.
    pub stored: u64,
    /// Permission bits.
    pub mode: u32,
    /// Names.
    pub links: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number.
    pub device: u32,
    /// Last access.
    pub atime: WallTime,
    /// Last change of the content.
    pub mtime: WallTime,
    /// Last change of anything.
    pub ctime: WallTime,
    /// Creation.
    pub born: WallTime,
}

impl Attr {
    /// Attributes of an inode as it is committed.
    pub fn of(inode: &Inode) -> Self {
        Self {
            node: inode.number.0,
            kind: kind_of(inode),
            size: inode.size(),
            stored: inode.content().map_or(0, |content| content.stored_bytes()),
            mode: inode.mode,
            links: inode.links(),
            uid: inode.uid,
            gid: inode.gid,
            device: match inode.kind {
                Kind::CharDevice(number) | Kind::BlockDevice(number) => number,
                _ => 0,
            },
            atime: inode.atime,
            mtime: inode.mtime,
            ctime: inode.ctime,
            born: inode.born,
        }
    }
}

/// The kind of an inode.
pub fn kind_of(inode: &Inode) -> FileKind {
    match inode.kind {
        Kind::Regular(_) => FileKind::Regular,
        Kind::Directory(_) => FileKind::Directory,
        Kind::Symlink(_) => FileKind::Symlink,
        Kind::Fifo => FileKind::Fifo,
        Kind::Socket => FileKind::Socket,
        Kind::CharDevice(_) => FileKind::CharDevice,
        Kind::BlockDevice(_) => FileKind::BlockDevice,
    }
}
