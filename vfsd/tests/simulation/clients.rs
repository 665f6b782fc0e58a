//! What programs on the members do: save, append, replace, make names, lock, read, keep files open.
//!
//! A client runs as long as its member. It tells the checkers what it begins and what it was answered.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::sleep;
use vfsd::fs::caller::Caller;
use vfsd::fs::errno::{Failure, FsResult};
use vfsd::fs::file_system::FileSystem;
use vfsd::fs::open_flags::OpenFlags;
use vfsd::fs::proposer::Proposer;
use vfsd::state_machine::command::SetAttr;
use vfsd::state_machine::fs_error::FsError;
use vfsd::state_machine::ids::{HandleId, InodeNo, SessionId};

use super::checkers::locks::Try;
use super::checkers::{Checkers, whole};
use super::trace;

/// Nobody of this machine: nothing is looked up in /proc.
pub const NOBODY: Caller = Caller {
    uid: 0,
    gid: 0,
    tid: 0,
};
/// The root directory.
pub const ROOT: u64 = InodeNo::ROOT.0;
const READ_MAX: usize = 1 << 20;
/// The file to which all append.
pub const LINES: &str = "lines";
/// Files that all save.
pub const FILES: [&str; 3] = ["f0", "f1", "f2"];

/// What all clients share.
#[derive(Default)]
pub struct Shared {
    /// The checkers.
    pub checkers: Mutex<Checkers>,
    numbers: Mutex<u64>,
    /// Calls that were answered, by kind, to see that something happens.
    pub done: Mutex<std::collections::BTreeMap<&'static str, u64>>,
}

impl Shared {
    /// A number that nobody else has.
    pub fn number(&self) -> u64 {
        let mut number = self.numbers.lock();
        *number += 1;
        *number
    }

    fn count(&self, what: &'static str) {
        *self.done.lock().entry(what).or_default() += 1;
    }
}

/// One program on a member.
pub struct Client {
    /// Its name, unique in the world.
    pub name: String,
    /// The tree that it uses.
    pub fs: Arc<FileSystem>,
    /// The consensus under it, which knows the session.
    pub proposer: Arc<dyn Proposer>,
    /// What it shares with the others.
    pub shared: Arc<Shared>,
    /// Trees of the other members, where it may remove what is open here.
    pub elsewhere: Vec<Arc<FileSystem>>,
    /// Whether it saves: if two programs of a member write a file at once, the bytes mix, as on any filesystem.
    pub saves: bool,
    pub(super) rng: StdRng,
}

/// Flags of an open.
pub fn flags(write: bool, truncate: bool, exclusive: bool) -> OpenFlags {
    OpenFlags {
        read: !write,
        write,
        truncate,
        exclusive,
        sync: false,
    }
}

fn open_to_write(fs: &FileSystem, name: &str, flags: OpenFlags) -> FsResult<Option<HandleId>> {
    match fs.lookup(ROOT, OsStr::new(name)) {
        Ok(attr) => fs.open(NOBODY, attr.node, flags).map(Some),
        Err(Failure::Refused(FsError::NotFound)) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Opens as open(2) does with `O_CREAT`.
async fn create(fs: &FileSystem, name: &str, flags: OpenFlags) -> FsResult<HandleId> {
    if !flags.exclusive
        && let Some(handle) = open_to_write(fs, name, flags)?
    {
        return Ok(handle);
    }
    let made = fs
        .create(NOBODY, ROOT, OsStr::new(name), 0o644, flags)
        .await?;
    Ok(made.1)
}

/// Reads a whole file of the committed view, which every process of every member has; a file that is not there is
/// empty. (The live tree shows a member's processes what they are writing, half saves too, as any filesystem does.)
///
/// # Errors
/// As the calls.
pub fn read(fs: &Arc<FileSystem>, name: &str) -> FsResult<Vec<u8>> {
    let view = fs.lookup(ROOT, OsStr::new(".vfs"))?.node;
    let now = fs.lookup(view, OsStr::new("now"))?.node;
    let attr = match fs.lookup(now, OsStr::new(name)) {
        Ok(attr) => attr,
        Err(Failure::Refused(FsError::NotFound)) => return Ok(Vec::new()),
        Err(failure) => return Err(failure),
    };
    let handle = fs.open(NOBODY, attr.node, flags(false, false, false))?;
    let content = fs.read(handle, 0, READ_MAX);
    fs.release(handle);
    fs.forget(attr.node, 1);
    content
}

impl Client {
    /// A client that chooses by `seed`.
    pub fn new(
        name: String,
        (fs, proposer): (Arc<FileSystem>, Arc<dyn Proposer>),
        shared: Arc<Shared>,
        elsewhere: Vec<Arc<FileSystem>>,
        saves: bool,
        seed: u64,
    ) -> Self {
        let rng = StdRng::seed_from_u64(seed);
        Self {
            name,
            fs,
            proposer,
            shared,
            elsewhere,
            saves,
            rng,
        }
    }

    /// Runs until it is dropped.
    pub async fn run(mut self) {
        loop {
            let pause = self.rng.random_range(0..400);
            sleep(Duration::from_millis(pause)).await;
            let (what, result) = match self.rng.random_range(0..100) {
                0..25 if self.saves => ("save", self.save(false).await),
                25..33 if self.saves => ("replace", self.save(true).await),
                33..36 if self.saves => ("truncate", self.truncate().await),
                0..50 => ("read", self.read_file().await),
                50..64 => ("append", self.append().await),
                64..70 => ("lines", self.read_lines().await),
                70..77 => ("name", self.make_name().await),
                77..84 => ("lock", self.lock().await),
                84..95 => ("sticky", self.use_sticky_directory().await),
                _ => ("keep", self.keep_open().await),
            };
            let answer = result.as_ref().err().map(ToString::to_string);
            let name = &self.name;
            trace::line(&format!("{name} {what}: {}", answer.unwrap_or_default()));
            if result.is_ok() {
                self.shared.count(what);
            }
        }
    }

    fn any_file(&mut self) -> &'static str {
        FILES[self.rng.random_range(0..FILES.len())]
    }

    /// Writes `content` in two parts and closes.
    async fn write(&self, name: &str, content: &[u8]) -> FsResult<()> {
        let handle = create(&self.fs, name, flags(true, true, false)).await?;
        let (first, second) = content.split_at(content.len() / 2);
        let written = async {
            self.fs.write_buffered(handle, 0, first, false)?;
            sleep(Duration::from_millis(1)).await;
            self.fs
                .write_buffered(handle, first.len() as u64, second, false)?;
            self.fs.flush(NOBODY, handle).await
        };
        let written = written.await;
        self.fs.release(handle);
        written
    }

    async fn save(&mut self, by_rename: bool) -> FsResult<()> {
        let (file, number) = (self.any_file(), self.shared.number());
        let len = match self.rng.random_range(0..30) {
            0 => 80_000,
            1..8 => 20_000,
            _ => 50,
        };
        let content = whole::encode(number, len);
        let begun = self.shared.checkers.lock().saves.saves(file, number);
        let Some(call) = begun else {
            return Ok(());
        };
        let name = self.name.clone();
        trace::line(&format!("{name} saves {number} to {file}"));
        // Behind a barrier: a late replica may open a file that another one has replaced, and what is written into a
        // file without a name goes with it.
        let saved = match self.fs.barrier().await {
            Err(failure) => Err(failure),
            Ok(_) if by_rename => self.replace(file, &content).await,
            Ok(_) => self.write(file, &content).await,
        };
        let saves = &mut self.shared.checkers.lock().saves;
        match &saved {
            Ok(()) => saves.saved(call),
            Err(_) => saves.failed(call),
        }
        saved
    }

    /// Empties a file by its path, as truncate(2) does: the save with the number 0.
    async fn truncate(&mut self) -> FsResult<()> {
        let file = self.any_file();
        let Some(call) = self.shared.checkers.lock().saves.saves(file, 0) else {
            return Ok(());
        };
        let truncated = async {
            self.fs.barrier().await?;
            let attr = self.fs.lookup(ROOT, OsStr::new(file))?;
            let set = SetAttr {
                inode: InodeNo(attr.node),
                mode: None,
                uid: None,
                gid: None,
                size: Some(0),
                atime: None,
                mtime: None,
            };
            self.fs.set_attr(NOBODY, attr.node, set).await
        };
        let truncated = truncated.await;
        let saves = &mut self.shared.checkers.lock().saves;
        match &truncated {
            Ok(_) => saves.saved(call),
            // One that is not there is empty.
            Err(Failure::Refused(FsError::NotFound)) => saves.never(call),
            Err(_) => saves.failed(call),
        }
        truncated.map(drop)
    }

    async fn replace(&self, file: &str, content: &[u8]) -> FsResult<()> {
        let beside = format!("{file}.{}", self.name);
        self.write(&beside, content).await?;
        let (from, to) = (OsStr::new(&beside), OsStr::new(file));
        let mode = vfsd::state_machine::command::RenameMode::Replace;
        self.fs.rename(NOBODY, (ROOT, from), (ROOT, to), mode).await
    }

    async fn read_file(&mut self) -> FsResult<()> {
        let file = self.any_file();
        // Without a barrier a reader may be late, but it sees whole saves.
        whole::decode(&read(&self.fs, file)?);
        let Some(call) = self.shared.checkers.lock().saves.reads(file) else {
            return Ok(());
        };
        let found = match self.fs.barrier().await {
            Ok(_) => read(&self.fs, file),
            Err(failure) => Err(failure),
        };
        let saves = &mut self.shared.checkers.lock().saves;
        match found {
            Ok(content) => saves.read(call, whole::decode(&content)),
            Err(failure) => {
                saves.failed(call);
                return Err(failure);
            }
        }
        Ok(())
    }

    async fn append(&mut self) -> FsResult<()> {
        let line = format!("{} {}", self.shared.number(), self.name);
        self.shared.checkers.lock().lines.tries(&line);
        let handle = create(&self.fs, LINES, flags(true, false, false)).await?;
        let bytes = format!("{line}\n");
        let written = self.fs.append_write(handle, bytes.as_bytes()).await;
        if written.is_ok() {
            self.shared.checkers.lock().lines.acknowledges(&line);
        }
        let flushed = self.fs.flush(NOBODY, handle).await;
        self.fs.release(handle);
        written.and(flushed)
    }

    async fn read_lines(&mut self) -> FsResult<()> {
        let before = self.shared.checkers.lock().lines.acknowledged();
        self.fs.barrier().await?;
        let content = read(&self.fs, LINES)?;
        self.shared.checkers.lock().lines.check(&content, &before);
        Ok(())
    }

    async fn make_name(&mut self) -> FsResult<()> {
        let name = format!("x{}", self.rng.random_range(0..12));
        let handle = create(&self.fs, &name, flags(true, false, true)).await?;
        self.shared.checkers.lock().names.won(&name, &self.name);
        self.fs.release(handle);
        Ok(())
    }

    /// Takes a lock directory, relies on it for a while, and gives it back.
    async fn lock(&mut self) -> FsResult<()> {
        let name = format!("k{}", self.rng.random_range(0..2));
        let parent = self.fs.lookup(ROOT, OsStr::new("lk"))?.node;
        let session = self.proposer.session();
        let tried = self.shared.checkers.lock().locks.tries(&name);
        let made = self
            .fs
            .make_directory(NOBODY, parent, OsStr::new(&name), 0o755)
            .await;
        match &made {
            Ok(_) => self.shared.checkers.lock().locks.took(&tried),
            Err(Failure::Refused(FsError::AlreadyExists)) => {
                self.shared.checkers.lock().locks.met(&tried);
            }
            Err(_) => {}
        }
        let fence = self.fs.xattr(made?.node, OsStr::new("user.lk.fence"))?;
        let fence = String::from_utf8(fence).unwrap().parse().unwrap();
        self.shared.checkers.lock().locks.has_fence(&tried, fence);
        for _ in 0..self.rng.random_range(1..12) {
            if session.is_none() || self.proposer.session() != session {
                // Past its own deadline a holder does not rely on it any more.
                break;
            }
            let relier = format!("{} {fence}", self.name);
            self.shared
                .checkers
                .lock()
                .locks
                .relies(&tried, fence, &relier);
            sleep(Duration::from_millis(self.rng.random_range(50..600))).await;
        }
        self.give_back((parent, &name), &tried, (session, fence))
            .await
    }

    fn fence_of(&self, parent: u64, name: &str) -> Option<u64> {
        let node = self.fs.lookup(parent, OsStr::new(name)).ok()?.node;
        let fence = self.fs.xattr(node, OsStr::new("user.lk.fence"));
        self.fs.forget(node, 1);
        String::from_utf8(fence.ok()?).ok()?.parse().ok()
    }

    /// Gives the lock back that was taken in this session under this fence.
    async fn give_back(
        &self,
        (parent, name): (u64, &str),
        tried: &Try,
        (session, fence): (Option<SessionId>, u64),
    ) -> FsResult<()> {
        let giving = self.shared.checkers.lock().locks.gives_back(tried);
        for is_first in [true, false, false, false, false] {
            // An attempt that was not answered may have worked, and the name be another lock of this node by now.
            if !is_first && self.fence_of(parent, name) != Some(fence) {
                return Ok(());
            }
            let given = self.fs.remove_directory(NOBODY, parent, OsStr::new(name));
            match given.await {
                Err(Failure::NotProposed(_)) => sleep(Duration::from_millis(500)).await,
                Err(refused) => return Err(refused),
                Ok(()) => {
                    // In another session of this node it may have been another lock all the same.
                    if is_first && session.is_some() && session == self.proposer.session() {
                        let locks = &mut self.shared.checkers.lock().locks;
                        locks.gave_back(tried, giving);
                    }
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Keeps a file open that another member removes: it can be read until it is closed.
    async fn keep_open(&mut self) -> FsResult<()> {
        let number = self.shared.number();
        let name = format!("h{number}");
        let content = whole::encode(number, 200);
        self.write(&name, &content).await?;
        let attr = self.fs.lookup(ROOT, OsStr::new(&name))?;
        let open = flags(false, false, false);
        let handle = self.fs.open(NOBODY, attr.node, open)?;
        let other = (!self.elsewhere.is_empty()).then(|| {
            let chosen = self.rng.random_range(0..self.elsewhere.len());
            Arc::clone(&self.elsewhere[chosen])
        });
        for _ in 0..self.rng.random_range(2..30) {
            sleep(Duration::from_millis(200)).await;
            if let Some(other) = &other {
                // It fails while that one is cut off or has not seen the file.
                drop(other.unlink(NOBODY, ROOT, OsStr::new(&name)).await);
            }
            let found = self.fs.read(handle, 0, READ_MAX);
            let found = found.unwrap_or_else(|failure| {
                panic!(
                    "{} has {name} open and cannot read it: {failure}",
                    self.name
                )
            });
            assert_eq!(whole::decode(&found), number, "{name} is open");
            let known = self.fs.attr(attr.node);
            assert!(
                known.is_ok(),
                "{name} is open and has no attributes: {known:?}"
            );
        }
        self.fs.release(handle);
        Ok(())
    }
}
