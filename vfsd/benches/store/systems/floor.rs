//! The smallest filesystem that can save a file: what FUSE itself costs.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyCreate, ReplyEmpty, ReplyEntry,
    ReplyWrite, ReplyXattr, Request, WriteFlags,
};

/// The mount; it ends with this value.
pub struct Floor {
    /// Mount point.
    pub mount: PathBuf,
    session: Option<BackgroundSession>,
}

impl Floor {
    /// Mounts it at `mount`.
    pub fn start(mount: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(mount)?;
        let mut config = fuser::Config::default();
        config.mount_options = vec![
            MountOption::FSName("floor".into()),
            MountOption::DefaultPermissions,
        ];
        Ok(Self {
            mount: mount.to_owned(),
            session: Some(fuser::spawn_mount(Names::default(), mount, &config)?),
        })
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            // What is unmounted already is what we want.
            let _ = session.umount_and_join();
        }
    }
}

/// Files by name; contents are dropped.
#[derive(Default)]
struct Names {
    names: Mutex<HashMap<OsString, u64>>,
}

const TTL: Duration = Duration::ZERO;
const ROOT: u64 = 1;

fn attr(number: u64) -> FileAttr {
    let directory = number == ROOT;
    FileAttr {
        ino: INodeNo(number),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: if directory {
            FileType::Directory
        } else {
            FileType::RegularFile
        },
        perm: 0o755,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for Names {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self
            .names
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .get(name)
        {
            Some(number) => reply.entry(&TTL, &attr(*number), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &attr(node.0));
    }

    fn create(
        &self,
        _: &Request,
        _: INodeNo,
        name: &OsStr,
        _: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let mut names = self
            .names
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let number = names.len() as u64 + ROOT + 1;
        names.insert(name.to_owned(), number);
        reply.created(
            &TTL,
            &attr(number),
            Generation(0),
            FileHandle(number),
            FopenFlags::FOPEN_DIRECT_IO,
        );
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENODATA);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX));
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }
}
