//! Watches directories of the tree by inotify and says which deployments to look at.
//!
//! Invariants: events are hints and carry no data; a directory is watched before it is read; writes to derived files
//! (status, outputs) wake nobody.
//! Not here: what a directory means (`paths.rs`), when to rescan everything (`agent.rs`).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use notify::event::{EventKindMask, Flag};
use notify::{Config, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc::UnboundedSender;

use super::kept::Kept;
use super::paths;
use super::shared_tree::TreeMark;

/// What a change in the tree asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    /// Something changed at this path, relative to the root.
    Path(String),
    /// Events were lost, or the filesystem went away: look at everything.
    Everything,
}

/// See the head of this file.
pub struct TreeWatcher {
    root: PathBuf,
    watcher: RecommendedWatcher,
    watched: BTreeSet<String>,
    /// Directories that were looked for and not there.
    absent: Kept<TreeMark, BTreeSet<String>>,
}

impl TreeWatcher {
    /// Watches nothing yet; hints go to `sender`.
    ///
    /// # Errors
    /// When inotify has no instance left.
    pub fn new(root: &Path, sender: UnboundedSender<Hint>) -> Result<Self, notify::Error> {
        let mask = EventKindMask::CORE | EventKindMask::ACCESS_CLOSE;
        let config = Config::default()
            .with_event_kinds(mask)
            .with_follow_symlinks(false);
        let from = root.to_owned();
        let handler = move |event: Result<Event, notify::Error>| {
            for hint in hints(&from, event) {
                // The receiver ends with the agent; nobody misses the hint then.
                let _ = sender.send(hint);
            }
        };
        Ok(Self {
            root: root.to_owned(),
            watcher: RecommendedWatcher::new(handler, config)?,
            watched: BTreeSet::new(),
            absent: Kept::default(),
        })
    }

    /// Watches these directories and no others. Of those that are not watched yet, `tried` are looked for; what is not
    /// there under this mark of the tree is not looked for again. True if a watch was added: what was made in that
    /// directory before has to be read.
    pub fn watch(
        &mut self,
        wanted: &BTreeSet<String>,
        tried: &BTreeSet<String>,
        mark: Option<TreeMark>,
    ) -> bool {
        let surplus: Vec<_> = self.watched.difference(wanted).cloned().collect();
        for directory in surplus {
            // It may be gone together with its directory.
            let _ = self.watcher.unwatch(&self.root.join(&directory));
            self.watched.remove(&directory);
        }
        let mut absent = self
            .absent
            .under(mark.as_ref())
            .cloned()
            .unwrap_or_default();
        let mut added = false;
        for directory in tried.difference(&self.watched.clone()) {
            if absent.contains(directory) {
                continue;
            }
            let full = self.root.join(directory);
            match std::fs::metadata(&full) {
                Ok(meta) if meta.is_dir() => {}
                Ok(_) => continue,
                Err(error) => {
                    if error.kind() == std::io::ErrorKind::NotFound {
                        absent.insert(directory.clone());
                    }
                    continue;
                }
            }
            if self
                .watcher
                .watch(&full, RecursiveMode::NonRecursive)
                .is_ok()
            {
                self.watched.insert(directory.clone());
                added = true;
            }
        }
        self.absent.keep(mark, absent);
        added
    }

    /// Forgets the watch of a directory that is gone, so that it is watched again when it is made anew.
    pub fn forget_if_gone(&mut self, directory: &str) {
        if self.watched.contains(directory) && !self.root.join(directory).is_dir() {
            self.watched.remove(directory);
            // The kernel has dropped it already in most cases.
            let _ = self.watcher.unwatch(&self.root.join(directory));
        }
    }
}

fn hints(root: &Path, event: Result<Event, notify::Error>) -> Vec<Hint> {
    let Ok(event) = event else {
        return vec![Hint::Everything];
    };
    if event.need_rescan() || event.attrs.flag() == Some(Flag::Rescan) {
        return vec![Hint::Everything];
    }
    if matches!(event.kind, EventKind::Other) {
        return vec![Hint::Everything];
    }
    let paths = event
        .paths
        .iter()
        .filter_map(|path| path.strip_prefix(root).ok());
    paths
        .filter_map(|path| path.to_str())
        .filter(|path| !is_derived(path))
        .map(|path| Hint::Path(path.to_owned()))
        .collect()
}

/// Files that are written for people and read by no agent.
fn is_derived(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let in_plans = path.contains("/plans/");
    matches!(name, "status.json" | "status.txt") || (in_plans && path.contains("/plans/outputs"))
}

/// The deployment-independent directories that every agent watches.
pub fn base_directories(folders: &BTreeSet<String>) -> BTreeSet<String> {
    let mut wanted = folders.clone();
    wanted.insert(paths::AGENTS.to_owned());
    for root in paths::WISH_ROOTS {
        wanted.insert(root.to_owned());
        wanted.insert(format!("run/{root}"));
    }
    wanted.insert("run".to_owned());
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_files_wake_nobody() {
        assert!(is_derived("run/mid/a/plans/status.json"));
        assert!(is_derived("run/mid/a/plans/outputs/connect"));
        assert!(!is_derived("run/mid/a/plans/wish.json"));
        assert!(!is_derived("run/mid/a/observed/n1.json"));
    }
}
