//! The disk as storage uses it: the few calls it needs, and where work that waits for them runs.
//!
//! Invariants: only what a `sync_` call reported is durable, a name only after its directory was flushed; a call may
//! block for as long as the disk likes, so no call is made on a thread that has anything else to do. The real disk is
//! `disk/real.rs`; the one of the tests, which forgets, tears, fails, fills up and hangs, is `disk/fake.rs`.

pub mod fake;
pub mod real;

use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::thread::JoinHandle;

pub use real::RealDisk;

/// Something to do that blocks on the disk.
pub type Job = Box<dyn FnOnce() + Send>;
/// A wait without a value.
pub type Pause = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A file that is open for reading and writing.
pub trait DiskFile: Debug + Send + Sync {
    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// As the disk says; a part may be written then.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Fills `bytes` from `offset`.
    ///
    /// # Errors
    /// As the disk says, or `UnexpectedEof`.
    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;

    /// Makes the content durable (`fdatasync(2)`).
    ///
    /// # Errors
    /// As the disk says: what was written since the last flush may then be lost, whatever a later flush says.
    fn sync_data(&self) -> io::Result<()>;

    /// Makes content and size durable (`fsync(2)`).
    ///
    /// # Errors
    /// As [`DiskFile::sync_data`].
    fn sync_all(&self) -> io::Result<()>;

    /// Cuts or extends with zeros.
    ///
    /// # Errors
    /// As the disk says.
    fn set_len(&self, len: u64) -> io::Result<()>;
}

/// Something that works for the disk as long as a log is open: on a thread of its own, or as a task.
pub trait Worker: Send + 'static {
    /// Works until there is nothing more to come; waits on this thread.
    fn run(self: Box<Self>);

    /// The same without a thread. `pause` is awaited before each step: it is how long the disk takes.
    fn run_as_task(self: Box<Self>, pause: Box<dyn Fn() -> Pause + Send>) -> Pause;
}

/// A filesystem of this machine.
pub trait Disk: Debug + Send + Sync + 'static {
    /// Opens an existing file.
    ///
    /// # Errors
    /// As the disk says.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Makes a new file with the permission bits `mode`.
    ///
    /// # Errors
    /// `AlreadyExists`, or as the disk says.
    fn create(&self, path: &Path, mode: u32) -> io::Result<Arc<dyn DiskFile>>;

    /// The whole content of a file.
    ///
    /// # Errors
    /// As the disk says.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// Size of a file.
    ///
    /// # Errors
    /// As the disk says.
    fn size(&self, path: &Path) -> io::Result<u64>;

    /// Names in a directory, in no order. One that is no UTF-8 is none of ours and is left out.
    ///
    /// # Errors
    /// As the disk says.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Makes a directory.
    ///
    /// # Errors
    /// `AlreadyExists`, or as the disk says.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Renames within a directory, over what has the name.
    ///
    /// # Errors
    /// As the disk says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// As the disk says.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// As the disk says.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Starts `job` beside the caller, which does not wait for it.
    ///
    /// # Errors
    /// If no thread can be had; the job is then dropped.
    fn start(&self, name: &str, job: Job) -> io::Result<()>;

    /// Starts a worker; whoever closes what it works for waits for the thread, if there is one.
    ///
    /// # Errors
    /// If no thread can be had.
    fn employ(&self, name: &str, worker: Box<dyn Worker>) -> io::Result<Option<JoinHandle<()>>>;

    /// Runs `job` where it blocks nobody.
    fn wait_for(&self, job: Job) -> Pause;
}

/// Removes a file that need not be there.
///
/// # Errors
/// As the disk says.
pub fn remove_if_there(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Runs `job`, which blocks on `disk`, where it blocks nobody else, and gives its result.
///
/// # Errors
/// If the job panicked or the runtime is stopping.
pub async fn run_blocking<T: Send + 'static>(
    disk: &dyn Disk,
    job: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    disk.wait_for(Box::new(move || {
        // The receiver is this function; it is gone only if its caller gave up.
        let _ = sender.send(job());
    }))
    .await;
    receiver
        .await
        .map_err(|_| io::Error::other("work on the disk was given up: the daemon is stopping"))
}
