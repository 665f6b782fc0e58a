//! When a watch on a folder sees saves.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::Context;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::plan::WAIT_MAX;

/// An event: the name in the folder, and when it came.
type Seen = (OsString, Instant);

/// A thread that waits for IN_CLOSE_WRITE in a folder; it ends with this value.
///
/// It has to be a thread: an event may come before the close that raised it has returned.
pub struct Watch {
    seen: Receiver<Seen>,
    /// The end of a pipe: the thread ends when it is closed.
    end: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.end = None;
        // A thread that panicked has ended too; whoever waited for its events has heard of it.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Watch {
    /// Watches `folder`.
    pub fn on(folder: &Path) -> anyhow::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        inotify.add_watch(folder, AddWatchFlags::IN_CLOSE_WRITE)?;
        let (ended, end) = nix::unistd::pipe()?;
        let (sender, seen) = channel();
        let thread = std::thread::spawn(move || watch(&inotify, &ended, &sender));
        Ok(Self {
            seen,
            end: Some(end),
            thread: Some(thread),
        })
    }

    /// When the next event for `name` came. What came for other names before is dropped.
    pub fn next(&self, name: &OsStr) -> anyhow::Result<Instant> {
        loop {
            let seen = self.seen.recv_timeout(WAIT_MAX);
            let shown = name.display();
            let (of, when) =
                seen.with_context(|| format!("no event for {shown} came within {WAIT_MAX:?}"))?;
            if of == name {
                return Ok(when);
            }
        }
    }
}

fn watch(inotify: &Inotify, ended: &OwnedFd, seen: &Sender<Seen>) {
    loop {
        let mut ready =
            [inotify.as_fd(), ended.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        let polled = poll(&mut ready, PollTimeout::NONE);
        let now = Instant::now();
        if polled.is_err() || ready[1].any() != Some(false) {
            return;
        }
        // A reader that is gone or an error ends the thread: whoever waits for an event then hears of it.
        let Ok(events) = inotify.read_events() else {
            return;
        };
        let mut events = events.into_iter().filter_map(|event| event.name);
        if events.any(|name| seen.send((name, now)).is_err()) {
            return;
        }
    }
}
