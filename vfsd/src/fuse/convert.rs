//! Between the kernel's types (fuser) and ours.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileType, INodeNo, RenameFlags, Request, TimeOrNow};

use crate::fs::attr::{Attr, FileKind};
use crate::fs::caller::Caller;
use crate::fs::errno::{Failure, errno};
use crate::state_machine::command::{NodeKind, RenameMode, TimeSet};
use crate::state_machine::fs_error::FsError;
use crate::state_machine::log_time::WallTime;

/// Block size that `stat(2)` recommends.
pub const BLOCK_BYTES: u32 = 4096;

pub fn caller(request: &Request) -> Caller {
    Caller {
        uid: request.uid(),
        gid: request.gid(),
        tid: request.pid(),
    }
}

pub fn to_errno(failure: &Failure) -> Errno {
    Errno::from_i32(errno(failure))
}

pub fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.node),
        size: attr.size,
        blocks: attr.stored.div_ceil(512),
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: system_time(attr.born),
        kind: file_type(attr.kind),
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.links,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.device,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

pub fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::Regular => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

/// The kind that `mknod(2)` asks for.
pub fn node_kind(mode: u32, device: u32) -> Result<NodeKind, Failure> {
    match mode & libc::S_IFMT {
        libc::S_IFREG => Ok(NodeKind::Regular),
        libc::S_IFIFO => Ok(NodeKind::Fifo),
        libc::S_IFSOCK => Ok(NodeKind::Socket),
        libc::S_IFCHR => Ok(NodeKind::CharDevice(device)),
        libc::S_IFBLK => Ok(NodeKind::BlockDevice(device)),
        _ => Err(FsError::Invalid.into()),
    }
}

pub fn rename_mode(flags: RenameFlags) -> Result<RenameMode, Failure> {
    if flags.is_empty() {
        Ok(RenameMode::Replace)
    } else if flags == RenameFlags::RENAME_NOREPLACE {
        Ok(RenameMode::NoReplace)
    } else if flags == RenameFlags::RENAME_EXCHANGE {
        Ok(RenameMode::Exchange)
    } else {
        Err(FsError::Invalid.into())
    }
}

pub fn time_set(time: TimeOrNow) -> TimeSet {
    match time {
        TimeOrNow::Now => TimeSet::Now,
        TimeOrNow::SpecificTime(at) => TimeSet::At(wall_time(at)),
    }
}

fn wall_time(at: SystemTime) -> WallTime {
    match at.duration_since(UNIX_EPOCH) {
        Ok(since) => WallTime {
            secs: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            nanos: since.subsec_nanos(),
        },
        Err(before) => {
            // fuser takes the nanoseconds off where they count up from the second before: what it hands on is
            // mirrored, and this mirrors it back.
            let before = before.duration();
            let secs = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
            WallTime {
                secs: -secs,
                nanos: before.subsec_nanos(),
            }
        }
    }
}

fn system_time(time: WallTime) -> SystemTime {
    match u64::try_from(time.secs) {
        Ok(secs) => UNIX_EPOCH + Duration::new(secs, time.nanos),
        Err(_) => {
            UNIX_EPOCH - Duration::from_secs(time.secs.unsigned_abs())
                + Duration::from_nanos(time.nanos.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_on_both_sides_of_1970_survive_the_way_in_and_out() {
        for (secs, nanos) in [
            (0, 0),
            (1, 5),
            (-1, 0),
            (-2, 999_999_999),
            (1_790_000_000, 123_456_789),
        ] {
            let time = WallTime { secs, nanos };
            // As fuser reads what the kernel sends.
            let sent = match u64::try_from(secs) {
                Ok(secs) => UNIX_EPOCH + Duration::new(secs, nanos),
                Err(_) => UNIX_EPOCH - Duration::new(secs.unsigned_abs(), nanos),
            };
            assert_eq!(wall_time(sent), time);
            let told = system_time(time);
            let since = match told.duration_since(UNIX_EPOCH) {
                Ok(since) => i128::try_from(since.as_nanos()).unwrap(),
                Err(before) => -i128::try_from(before.duration().as_nanos()).unwrap(),
            };
            assert_eq!(since, i128::from(secs) * 1_000_000_000 + i128::from(nanos));
        }
    }

    #[test]
    fn a_whiteout_rename_is_refused() {
        assert!(rename_mode(RenameFlags::RENAME_WHITEOUT).is_err());
        assert_eq!(
            rename_mode(RenameFlags::RENAME_EXCHANGE),
            Ok(RenameMode::Exchange)
        );
    }
}
