//! The one thread that repeats the system calls of other nodes on this node's own mount.
//!
//! Invariants: it has a descriptor table of its own, without the connection; parents are reached by file handle, never
//! by path; an event that cannot be raised is given up. Not here: the calls themselves (`syscalls.rs`).

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::prune::MountRoot;
use super::queue::{Event, ReplayQueue};
use super::syscalls::{
    Times, Touch, c_string, check, link_at, make_at, open_by_handle, open_directory,
    own_descriptor_table, refresh, set_times, touch_content_at,
};
use super::tickets::{NameBefore, Ticket, Tickets};
use crate::fs::FileSystem;
use crate::limits::{REPLAY_STALE_PAUSE, REPLAY_STALE_TRIES_MAX};
use crate::state_machine::ids::InodeNo;
use crate::state_machine::inode::Inode;
use crate::state_machine::outcome::Change;
use crate::trouble::Trouble;

/// The mount's root directory, open in the replay thread's own table.
struct Place {
    directory: OwnedFd,
    root: Arc<MountRoot>,
}

impl Place {
    fn is_unneeded(&self, directory: InodeNo) {
        // A full queue or an ending mount: the notice only saves work.
        let _ = self.root.unneeded.try_send(directory);
    }
}

/// The one replay thread's tools.
pub struct Replayer {
    pub fs: Arc<FileSystem>,
    pub tickets: Arc<Tickets>,
    pub queue: Arc<ReplayQueue>,
    pub root: Arc<Mutex<Option<Arc<MountRoot>>>>,
    pub point: PathBuf,
}

impl Replayer {
    /// Replays until the queue is stopped.
    ///
    /// The thread has a descriptor table of its own without the connection's descriptors. Otherwise a killed daemon
    /// would stay for ever: this thread would wait for the answer to its own request, nobody would be left to give
    /// it, and the connection could not end because this thread still held it open.
    pub fn run(self) {
        self.tickets.enter();
        if let Err(error) = own_descriptor_table() {
            return tracing::error!(%error, "events of other nodes are not raised: no table of its own");
        }
        let mut place: Option<Place> = None;
        let mut trouble = Trouble::default();
        while let Some(event) = self.queue.next() {
            let root = self.root.lock().clone();
            let is_same = match (&place, &root) {
                (Some(place), Some(root)) => Arc::ptr_eq(&place.root, root),
                (None, None) => true,
                _ => false,
            };
            if !is_same {
                // The old mount ends with this descriptor. Until the next mount nobody can watch.
                drop(place.take());
                place = root.and_then(|root| self.enter(root, &mut trouble));
            }
            if let Some(place) = &place {
                self.replay(place, &event);
            }
            self.queue.done();
        }
    }

    fn enter(&self, root: Arc<MountRoot>, trouble: &mut Trouble) -> Option<Place> {
        match File::open(&self.point) {
            Ok(directory) => {
                trouble.end();
                Some(Place {
                    directory: directory.into(),
                    root,
                })
            }
            Err(error) => {
                // Every event that waits asks again.
                if trouble.is_new(&error) {
                    tracing::warn!(%error, "the mount cannot be entered yet");
                }
                None
            }
        }
    }

    fn replay(&self, root: &Place, event: &Event) {
        let directories = event.directories();
        let are_there = || {
            let state = self.fs.state();
            let mut tree = directories.iter().map(|at| state.tree().inode(*at));
            tree.all(|inode| inode.is_some())
        };
        let raised = raised_or_announced(
            || self.raise(root, event),
            are_there,
            || {
                tracing::debug!(?event, "its directory moves: it is announced as a whole");
                for &directory in &directories {
                    if let Err(error) = self.touch_directory(root, directory, Times::Both) {
                        tracing::debug!(%directory, %error, "a directory was not announced");
                    }
                }
            },
        );
        if let Err(error) = raised {
            tracing::debug!(?event, %error, "an event was not raised");
        }
    }

    fn raise(&self, root: &Place, event: &Event) -> io::Result<()> {
        let (change, inode, replaced) = match event {
            Event::Rescan(directory) => return self.touch_directory(root, *directory, Times::Both),
            Event::Difference { old, new } => {
                self.queue.look_into(old, new);
                return Ok(());
            }
            Event::MountChanged => return Ok(()),
            Event::Change {
                change,
                inode,
                replaced,
            } => (change, inode, replaced.as_ref()),
        };
        match change {
            Change::Created {
                parent, name, link, ..
            } => self.create(root, (*parent, name), inode, *link),
            Change::Removed {
                parent,
                name,
                directory,
                ..
            } => self.remove(root, (*parent, name), inode, *directory),
            Change::Renamed { .. } => self.rename(root, change, inode, replaced),
            Change::Modified { closed: true, .. } => {
                self.touch_content(root, inode, Touch::ModifyAndClose)
            }
            Change::Modified { closed: false, .. } => {
                self.touch_content(root, inode, Touch::Modify)
            }
            Change::ClosedWrite { .. } => self.touch_content(root, inode, Touch::Close),
            Change::Attributes { .. } => self.touch_times(root, inode, Times::Both),
            Change::Gone(_) => Ok(()),
        }
    }

    fn create(
        &self,
        root: &Place,
        at: (InodeNo, &[u8]),
        inode: &Arc<Inode>,
        link: bool,
    ) -> io::Result<()> {
        if !self.queue.is_telling(at.0, at.1, inode.number) {
            return Ok(());
        }
        let directory = open_directory(&root.directory, at.0)?;
        let path = c_string(at.1)?;
        let ticket = Ticket {
            before: vec![name_before(at, None)],
            inode: Some(inode.clone()),
        };
        if link {
            let target = open_by_handle(&root.directory, inode.number, libc::O_PATH)?;
            return self.tickets.under(ticket, || {
                // To a file that is gone since, the kernel would make no link: it learns the links of then first.
                refresh(target.as_raw_fd())?;
                link_at(target.as_raw_fd(), directory.as_raw_fd(), &path)
            });
        }
        self.tickets.under(ticket, || {
            make_at(directory.as_raw_fd(), &path, &inode.kind)
        })?;
        if inode.is_directory() {
            root.is_unneeded(inode.number);
        }
        Ok(())
    }

    fn remove(
        &self,
        root: &Place,
        at: (InodeNo, &[u8]),
        inode: &Arc<Inode>,
        is_directory: bool,
    ) -> io::Result<()> {
        let directory = open_directory(&root.directory, at.0)?;
        let path = c_string(at.1)?;
        let flags = if is_directory { libc::AT_REMOVEDIR } else { 0 };
        let before = vec![name_before(at, Some(inode))];
        self.tickets.under(
            Ticket {
                before,
                inode: None,
            },
            || {
                // SAFETY: the path is a valid C string and the descriptor is open.
                check(unsafe { libc::unlinkat(directory.as_raw_fd(), path.as_ptr(), flags) })
            },
        )
    }

    fn rename(
        &self,
        root: &Place,
        change: &Change,
        inode: &Arc<Inode>,
        replaced: Option<&Arc<Inode>>,
    ) -> io::Result<()> {
        let Change::Renamed {
            parent,
            name,
            new_parent,
            new_name,
            exchange,
            ..
        } = change
        else {
            return Ok(());
        };
        let (from, to) = (
            open_directory(&root.directory, *parent)?,
            open_directory(&root.directory, *new_parent)?,
        );
        let (old, new) = (c_string(name)?, c_string(new_name)?);
        let before = vec![
            name_before((*parent, name), Some(inode)),
            name_before((*new_parent, new_name), replaced),
        ];
        let flags = if *exchange { libc::RENAME_EXCHANGE } else { 0 };
        self.tickets.under(
            Ticket {
                before,
                inode: None,
            },
            || {
                // The kernel may know a moved directory at its new place only: looking at the old name moves it back
                // first.
                let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
                // SAFETY: the path is a valid C string, the descriptor is open, the buffer is large enough.
                check(unsafe {
                    libc::fstatat(
                        from.as_raw_fd(),
                        old.as_ptr(),
                        stat.as_mut_ptr(),
                        libc::AT_SYMLINK_NOFOLLOW,
                    )
                })?;
                // SAFETY: as above.
                check(unsafe {
                    libc::renameat2(
                        from.as_raw_fd(),
                        old.as_ptr(),
                        to.as_raw_fd(),
                        new.as_ptr(),
                        flags,
                    )
                })
            },
        )
    }

    /// Raises content events on every name that a file had then.
    fn touch_content(&self, root: &Place, inode: &Arc<Inode>, touch: Touch) -> io::Result<()> {
        if inode.content().is_none() {
            // Nothing but its time of modification can have changed.
            return self.touch_times(root, inode, Times::Modification);
        }
        if self.fs.is_open(inode.number)
            && let Err(error) = self.drop_pages(root, inode)
        {
            // Watchers are told all the same.
            tracing::debug!(inode = %inode.number, %error, "mappings may show old bytes");
        }
        // The size changes nothing: the adapter answers with what it is by then.
        let size = self.fs.attr(inode.number.0).map_or(0, |attr| attr.size);
        let size = libc::off_t::try_from(size).unwrap_or(libc::off_t::MAX);
        self.on_each_name(root, inode, |directory, path| {
            touch_content_at(directory, path, touch, size)
        })
    }

    /// Drops this kernel's pages of a file: those of mappings may be old. Opening the file does it, as the answer to
    /// the open does not say that the cache is kept.
    fn drop_pages(&self, root: &Place, inode: &Arc<Inode>) -> io::Result<()> {
        let ticket = Ticket {
            before: Vec::new(),
            inode: Some(inode.clone()),
        };
        let flags = libc::O_RDONLY | libc::O_NONBLOCK;
        let open = || open_by_handle(&root.directory, inode.number, flags);
        self.tickets.under(ticket, open).map(drop)
    }

    fn touch_times(&self, root: &Place, inode: &Arc<Inode>, times: Times) -> io::Result<()> {
        if inode.names.is_empty() {
            return self.touch_directory(root, inode.number, times);
        }
        self.on_each_name(root, inode, |directory, path| {
            set_times(directory, path, inode, times, libc::AT_SYMLINK_NOFOLLOW)
        })
    }

    /// Raises an event on a directory, wherever it is.
    fn touch_directory(&self, root: &Place, number: InodeNo, times: Times) -> io::Result<()> {
        let Some(inode) = self.fs.state().tree().inode(number).cloned() else {
            return Ok(());
        };
        let directory = open_directory(&root.directory, number)?;
        let own = c_string(format!("/proc/thread-self/fd/{}", directory.as_raw_fd()).as_bytes())?;
        let ticket = Ticket {
            before: Vec::new(),
            inode: Some(inode.clone()),
        };
        self.tickets
            .under(ticket, || set_times(libc::AT_FDCWD, &own, &inode, times, 0))
    }

    /// Makes a call on each name that an inode had then and that watchers may still be told of.
    fn on_each_name(
        &self,
        root: &Place,
        inode: &Arc<Inode>,
        call: impl Fn(RawFd, &CString) -> io::Result<()>,
    ) -> io::Result<()> {
        for (parent, name) in &inode.names {
            let at = (*parent, name.as_bytes());
            let known = self.fs.known().is_known(*parent) || self.fs.known().is_known(inode.number);
            if !known || !self.queue.is_telling(at.0, at.1, inode.number) {
                continue;
            }
            match self.on_name(root, at, inode, &call) {
                // This name went away again; the others are still to be told.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                told => told?,
            }
        }
        Ok(())
    }

    fn on_name(
        &self,
        root: &Place,
        at: (InodeNo, &[u8]),
        inode: &Arc<Inode>,
        call: impl Fn(RawFd, &CString) -> io::Result<()>,
    ) -> io::Result<()> {
        let directory = open_directory(&root.directory, at.0)?;
        let path = c_string(at.1)?;
        let ticket = Ticket {
            before: vec![name_before(at, Some(inode))],
            inode: Some(inode.clone()),
        };
        self.tickets
            .under(ticket, || call(directory.as_raw_fd(), &path))
    }
}

/// Raises an event, or has its directories announced as a whole when they move each time it is tried. What is not there
/// any more needs neither.
fn raised_or_announced(
    raise: impl FnMut() -> io::Result<()>,
    are_there: impl Fn() -> bool,
    announce: impl FnOnce(),
) -> io::Result<()> {
    match tried(raise, &are_there) {
        Err(error) if error.raw_os_error() == Some(libc::ESTALE) && are_there() => announce(),
        // The name went away again, or the program runs on this node: nothing to see.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ETXTBSY)) => {}
        told => return told,
    }
    Ok(())
}

/// Makes a call, and again after a pause while it fails because a directory moves, as long as the directories are
/// there.
fn tried(mut call: impl FnMut() -> io::Result<()>, are_there: impl Fn() -> bool) -> io::Result<()> {
    let mut result = call();
    for _ in 1..REPLAY_STALE_TRIES_MAX {
        let is_stale = |error: &io::Error| error.raw_os_error() == Some(libc::ESTALE);
        if !result.as_ref().is_err_and(is_stale) || !are_there() {
            break;
        }
        std::thread::sleep(REPLAY_STALE_PAUSE);
        result = call();
    }
    result
}

fn name_before((parent, name): (InodeNo, &[u8]), inode: Option<&Arc<Inode>>) -> NameBefore {
    NameBefore {
        parent,
        name: name.to_vec(),
        inode: inode.cloned(),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// How often a call was made that fails `fails` times, and how it ended.
    fn tries(fails: usize, errno: i32, is_there: bool) -> (usize, Option<i32>) {
        let made = Cell::new(0);
        let call = || {
            made.set(made.get() + 1);
            match made.get() > fails {
                true => Ok(()),
                false => Err(io::Error::from_raw_os_error(errno)),
            }
        };
        let result = tried(call, || is_there);
        (
            made.get(),
            result.err().and_then(|error| error.raw_os_error()),
        )
    }

    #[test]
    fn an_event_whose_directory_moves_is_tried_again_and_no_other() {
        assert_eq!(tries(2, libc::ESTALE, true), (3, None));
        let bound = REPLAY_STALE_TRIES_MAX;
        assert_eq!(tries(99, libc::ESTALE, true), (bound, Some(libc::ESTALE)));
        assert_eq!(tries(99, libc::ESTALE, false), (1, Some(libc::ESTALE)));
        assert_eq!(tries(99, libc::ENOENT, true), (1, Some(libc::ENOENT)));
    }

    #[test]
    fn a_directory_that_moves_at_every_try_is_announced_as_a_whole() {
        let told = |errno, is_there| {
            let announced = Cell::new(false);
            let raise = || Err(io::Error::from_raw_os_error(errno));
            let told = raised_or_announced(raise, || is_there, || announced.set(true));
            (announced.get(), told.is_ok())
        };
        assert_eq!(told(libc::ESTALE, true), (true, true));
        assert_eq!(told(libc::ESTALE, false), (false, false), "it is gone");
        assert_eq!(told(libc::ENOENT, true), (false, true));
        assert_eq!(told(libc::EIO, true), (false, false));
    }
}
