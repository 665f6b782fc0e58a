//! What inotify tells of a folder and of what lies in it.
//!
//! Invariants: watches are set before `ready` is printed and none afterwards, so every watcher of the same tree sees
//! the same objects; identical neighbours are one line, as the kernel may merge them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::Result;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};

/// The events that are replicated.
const REPLICATED: AddWatchFlags = AddWatchFlags::from_bits_truncate(
    AddWatchFlags::IN_CREATE.bits()
        | AddWatchFlags::IN_DELETE.bits()
        | AddWatchFlags::IN_MOVED_FROM.bits()
        | AddWatchFlags::IN_MOVED_TO.bits()
        | AddWatchFlags::IN_MODIFY.bits()
        | AddWatchFlags::IN_CLOSE_WRITE.bits()
        | AddWatchFlags::IN_ATTRIB.bits()
        | AddWatchFlags::IN_DELETE_SELF.bits()
        | AddWatchFlags::IN_MOVE_SELF.bits(),
);

/// Prints one line an event, `WATCHED NAME KIND`, until `end` is made in `folder`. A move's two lines carry the same
/// number.
///
/// # Errors
/// If a watch cannot be set.
pub fn print(folder: &Path) -> Result<()> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
    let mut watched = BTreeMap::new();
    watch(&inotify, folder, ".", &mut watched)?;
    let mut output = std::io::stdout().lock();
    writeln!(output, "ready")?;
    output.flush()?;
    let mut cookies = Vec::new();
    let mut last = String::new();
    loop {
        for event in inotify.read_events()? {
            let name = event
                .name
                .as_deref()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default();
            let place = watched.get(&event.wd).map_or("?", |(_, name)| name);
            if place == "." && name == "end" {
                return Ok(());
            }
            let line = format!("{place} {name} {}", kind(&event, &mut cookies));
            if line != last {
                writeln!(output, "{line}")?;
                last = line;
            }
        }
        output.flush()?;
    }
}

type Watches = BTreeMap<WatchDescriptor, (WatchDescriptor, String)>;

fn watch(inotify: &Inotify, path: &Path, name: &str, watched: &mut Watches) -> Result<()> {
    let descriptor = inotify.add_watch(path, REPLICATED | AddWatchFlags::IN_DONT_FOLLOW)?;
    watched.insert(descriptor, (descriptor, name.to_owned()));
    if path.is_dir() && !path.is_symlink() {
        let mut entries = fs::read_dir(path)?.collect::<std::io::Result<Vec<_>>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = format!("{name}/{}", entry.file_name().to_string_lossy());
            watch(inotify, &entry.path(), &name, watched)?;
        }
    }
    Ok(())
}

fn kind(event: &InotifyEvent, cookies: &mut Vec<u32>) -> String {
    let names: Vec<&str> = event.mask.iter_names().map(|(name, _)| name).collect();
    let mut text = names.join("|");
    if event.cookie != 0 {
        let number = cookies
            .iter()
            .position(|cookie| *cookie == event.cookie)
            .unwrap_or_else(|| {
                cookies.push(event.cookie);
                cookies.len() - 1
            });
        text.push_str(&format!(" move {number}"));
    }
    text
}
