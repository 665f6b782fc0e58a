//! The mount of one node: made, watched, made anew after an unmount, and taken down.
//!
//! The mount is made with `mount(2)` directly, so that nothing but [`Mount::stop`] ever unmounts it.
//!
//! Invariant: no thread that shares the daemon's descriptor table, which holds the connection, waits for an answer on
//! the mount. The kernel does not let a killed thread go whose request has been read; a killed daemon would wait for
//! itself, and the connection would not end because the waiting thread holds it open. What has to touch the mount is
//! the replay thread, which has a table of its own. So the mount is found in `/proc/self/mountinfo`, not by `stat(2)`.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::Mutex;

use super::adapter::Adapter;
use super::interrupts::Interrupts;
use super::replay::{MountRoot, ReplayQueue, Replayer, Tickets, prune_unneeded};
use crate::fs::FileSystem;
use crate::limits::{FUSE_THREADS, FUSE_WRITE_BYTES_MAX, MOUNT_CHECK_EVERY_MS, UNNEEDED_MAX};
use crate::state_machine::ids::NodeId;
use crate::trouble::Trouble;

const MOUNT_TABLE: &str = "/proc/self/mountinfo";

/// Why the tree cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The mount point cannot be used.
    #[error(
        "{point} cannot be used as mount point; make it an empty directory that nothing is mounted on"
    )]
    Point {
        /// The directory.
        point: String,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The kernel refused.
    #[error(
        "the kernel refuses to mount on {point}; is /dev/fuse there, and is this process root?"
    )]
    Refused {
        /// The directory.
        point: String,
        /// Why.
        #[source]
        cause: io::Error,
    },
}

/// A mounted tree. Dropping it leaves the mount behind; call [`Mount::stop`].
pub struct Mount {
    shared: Arc<Shared>,
    replay: Option<JoinHandle<()>>,
    watch: Option<JoinHandle<()>>,
}

struct Shared {
    point: PathBuf,
    fs: Arc<FileSystem>,
    tickets: Arc<Tickets>,
    interrupts: Arc<Interrupts>,
    queue: Arc<ReplayQueue>,
    root: Arc<Mutex<Option<Arc<MountRoot>>>>,
    runtime: tokio::runtime::Handle,
    stopping: AtomicBool,
    served: Arc<AtomicBool>,
}

/// A mount that was made: the device number, as the mount table writes it, and the thread that waits for those which
/// answer the kernel.
struct Made {
    device: String,
    answering: JoinHandle<io::Result<()>>,
}

impl Mount {
    /// Mounts `fs` on `point` and raises events of nodes other than `own` there. A proposer must be attached.
    ///
    /// # Errors
    /// [`MountError`].
    pub fn start(fs: Arc<FileSystem>, point: &Path, own: NodeId) -> Result<Self, MountError> {
        let runtime = fs.runtime().clone();
        let queue = ReplayQueue::new(own, &fs);
        fs.feed().subscribe(queue.clone());
        let shared = Arc::new(Shared {
            point: prepare(point)?,
            tickets: Arc::default(),
            interrupts: Interrupts::new(runtime.clone()),
            queue,
            root: Arc::default(),
            runtime,
            stopping: AtomicBool::new(false),
            served: Arc::new(AtomicBool::new(true)),
            fs,
        });
        let made = shared.mount_once()?;
        let replayer = Replayer {
            fs: shared.fs.clone(),
            tickets: shared.tickets.clone(),
            queue: shared.queue.clone(),
            root: shared.root.clone(),
            point: shared.point.clone(),
        };
        let refused = |cause| MountError::Refused {
            point: shared.point.display().to_string(),
            cause,
        };
        let replay = spawn("replay", move || replayer.run()).map_err(refused)?;
        let watched = shared.clone();
        let watch = spawn("mount-watch", move || watched.watch(made)).map_err(refused)?;
        Ok(Self {
            shared,
            replay: Some(replay),
            watch: Some(watch),
        })
    }

    /// Whether somebody answers the kernel on this mount, now and later.
    pub fn served(&self) -> Arc<AtomicBool> {
        self.shared.served.clone()
    }

    /// Takes the mount down: at once for new calls; open files go on until the process ends.
    pub fn stop(mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        // The replay thread has the root open until it is told to stop: the last use of the mount, which may have to
        // wait for pages to be written, ends on that thread and not on this one.
        if let Err(error) = umount2(&self.shared.point, MntFlags::MNT_DETACH) {
            tracing::warn!(point = %self.shared.point.display(), %error, "the mount is gone already");
        }
        self.shared.queue.stop();
        *self.shared.root.lock() = None;
        for thread in [self.replay.take(), self.watch.take()]
            .into_iter()
            .flatten()
        {
            if thread.join().is_err() {
                tracing::error!("a thread of the mount panicked");
            }
        }
    }
}

impl Shared {
    /// Mounts and serves.
    fn mount_once(&self) -> Result<Made, MountError> {
        let refused = |cause: io::Error| MountError::Refused {
            point: self.point.display().to_string(),
            cause,
        };
        let device = File::options()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .map_err(refused)?;
        let options = format!(
            "fd={},rootmode=40755,user_id=0,group_id=0,default_permissions,allow_other,max_read={FUSE_WRITE_BYTES_MAX}",
            device.as_raw_fd()
        );
        // Access times move only when they are set: each read would be an entry otherwise, and the mount says so.
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOATIME;
        mount(
            Some("vfsd"),
            &self.point,
            Some("fuse.vfsd"),
            flags,
            Some(options.as_str()),
        )
        .map_err(|errno| refused(errno.into()))?;
        self.serve(device).map_err(|cause| {
            // The half-made mount answers nobody: it must not stay.
            let _ = umount2(&self.point, MntFlags::MNT_DETACH);
            refused(cause)
        })
    }

    fn serve(&self, device: File) -> io::Result<Made> {
        let adapter = Adapter {
            fs: self.fs.clone(),
            tickets: self.tickets.clone(),
            interrupts: self.interrupts.clone(),
            moving: Arc::default(),
            runtime: self.runtime.clone(),
        };
        let kept = device.try_clone()?;
        let mut config = fuser::Config::default();
        config.n_threads = Some(FUSE_THREADS);
        config.clone_fd = true;
        let session = fuser::Session::from_fd(
            adapter,
            OwnedFd::from(device),
            fuser::SessionACL::All,
            config,
        )?;
        let (unneeded, told) = std::sync::mpsc::sync_channel(UNNEEDED_MAX);
        // Its threads end by themselves with the last use of this mount.
        let answering = session.spawn()?.guard;
        drop(spawn("prune", move || prune_unneeded(&kept, &told))?);
        let table = std::fs::read_to_string(MOUNT_TABLE)?;
        let number = devices_at(&table, &self.point).last().ok_or_else(|| {
            io::Error::other("the new mount is gone from the mount table already")
        })?;
        *self.root.lock() = Some(Arc::new(MountRoot { unneeded }));
        Ok(Made {
            device: number.to_owned(),
            answering,
        })
    }

    /// Watches the mount table. After an unmount by somebody else our descriptors are closed, so that the old mount can
    /// end, and the tree is mounted anew. So it is when nobody answers any more: a fault in a request ends the thread
    /// that answers it, and callers would wait for ever.
    fn watch(&self, mut made: Made) {
        let Ok(table) = File::open(MOUNT_TABLE) else {
            return tracing::error!("{MOUNT_TABLE} cannot be read: an unmount will not be noticed");
        };
        let mut trouble = Trouble::default();
        while !self.stopping.load(Ordering::Acquire) {
            let mut waiting = [PollFd::new(
                table.as_fd(),
                PollFlags::POLLPRI | PollFlags::POLLERR,
            )];
            // The time limit lets a stop through; a failed poll looks again as well.
            let _ = poll(&mut waiting, PollTimeout::from(MOUNT_CHECK_EVERY_MS));
            let (is_there, is_answered) = (
                is_mounted(&self.point, &made.device),
                !made.answering.is_finished(),
            );
            if (is_there && is_answered) || self.stopping.load(Ordering::Acquire) {
                continue;
            }
            let was_served = self.served.swap(false, Ordering::AcqRel);
            if is_there {
                self.detach_unanswered();
            }
            *self.root.lock() = None;
            // It has the old root open, and on an idle node no event would come.
            self.queue.mount_changed();
            if was_served {
                tracing::warn!(point = %self.point.display(), "the tree is not mounted any more; it is mounted anew");
            }
            match self.mount_once() {
                Ok(new) => {
                    made = new;
                    self.served.store(true, Ordering::Release);
                    trouble.end();
                }
                Err(error) if trouble.is_new(&error) => {
                    tracing::error!(%error, "the tree could not be mounted anew; trying again");
                }
                Err(_) => {}
            }
        }
    }
}

impl Shared {
    /// Takes a mount away that nobody answers on. Its connection ends with our last descriptor of it, and whoever waits
    /// there gets an error.
    fn detach_unanswered(&self) {
        let point = self.point.display();
        tracing::error!(%point, "the threads that answer the kernel have ended: the tree is taken down");
        if let Err(error) = umount2(&self.point, MntFlags::MNT_DETACH) {
            tracing::error!(%point, %error, "it cannot be unmounted; trying again");
        }
    }
}

/// Whether the mount with this device number is still at `point`.
fn is_mounted(point: &Path, device: &str) -> bool {
    let table = std::fs::read_to_string(MOUNT_TABLE).unwrap_or_default();
    devices_at(&table, point).any(|mounted| mounted == device)
}

/// Device numbers of our mounts at `point`, the topmost last.
fn devices_at<'a>(table: &'a str, point: &Path) -> impl Iterator<Item = &'a str> {
    table.lines().filter_map(move |line| {
        let (place, kind) = line.split_once(" - ")?;
        let mut fields = place.split(' ').skip(2);
        let (device, at) = (fields.next()?, fields.nth(1)?);
        let is_ours = kind.starts_with("fuse.vfsd ") && Path::new(&unescape(at)) == point;
        is_ours.then_some(device)
    })
}

/// mountinfo writes blanks, tabs, newlines and backslashes in octal.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

/// Makes the mount point; what a killed daemon left mounted there is detached first, and one that is served is left.
fn prepare(point: &Path) -> Result<PathBuf, MountError> {
    let unusable = |cause| MountError::Point {
        point: point.display().to_string(),
        cause,
    };
    // Before this daemon has a connection: only an earlier one could be waited for.
    let is_dead = || {
        let seen = std::fs::metadata(point);
        seen.is_err_and(|error| error.raw_os_error() == Some(libc::ENOTCONN))
    };
    while is_dead() {
        umount2(point, MntFlags::MNT_DETACH).map_err(|errno| unusable(errno.into()))?;
    }
    std::fs::create_dir_all(point).map_err(unusable)?;
    let point = std::fs::canonicalize(point).map_err(unusable)?;
    let table = std::fs::read_to_string(MOUNT_TABLE).map_err(unusable)?;
    if devices_at(&table, &point).next().is_some() {
        let other = "another vfsd serves its tree there";
        return Err(unusable(io::Error::other(other)));
    }
    Ok(point)
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.into()).spawn(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_with_blanks_are_found() {
        assert_eq!(unescape("/a\\040b\\134c"), "/a b\\c");
        assert!(!is_mounted(Path::new("/nowhere"), "0:0"));
    }

    #[test]
    fn our_topmost_mount_at_a_point_is_found_in_the_mount_table() {
        let table = "20 1 8:1 / / rw shared:1 - ext4 /dev/sda rw\n\
            30 20 0:41 / /a\\040b rw,nosuid - fuse.vfsd vfsd rw\n\
            31 30 0:42 / /a\\040b rw,nosuid shared:2 master:1 - fuse.vfsd vfsd rw\n\
            32 20 0:43 / /vfs rw - fuse.other vfsd rw\n\
            33 torn";
        let at = |point| devices_at(table, Path::new(point)).collect::<Vec<_>>();
        assert_eq!(at("/a b"), ["0:41", "0:42"]);
        assert!(at("/vfs").is_empty(), "somebody else's");
        assert!(at("/").is_empty());
    }
}
