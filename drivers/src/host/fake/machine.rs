//! What one fake machine consists of.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::CrashPoint;
use super::software::{FakePackage, UnitState};
use crate::host::{Attributes, User};

/// Content of a file, or what else it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A regular file.
    File(Vec<u8>),
    /// A directory; its entries are the paths right below it.
    Directory,
    /// A link.
    Symlink(PathBuf),
}

/// A file with its attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub node: Node,
    /// Owner, group, mode.
    pub attributes: Attributes,
}

/// One fake machine. The public fields are for tests to prepare and to look at.
#[derive(Debug, Clone, PartialEq)]
pub struct Machine {
    /// Everything on disk, by absolute path.
    pub entries: BTreeMap<PathBuf, Entry>,
    /// Users by name.
    pub users: BTreeMap<String, User>,
    /// Group names.
    pub groups: BTreeSet<String>,
    /// Packages by name.
    pub packages: BTreeMap<String, FakePackage>,
    /// Whether the package lists were fetched.
    pub has_package_lists: bool,
    /// Units by name.
    pub units: BTreeMap<String, UnitState>,
    /// TCP ports that something listens on.
    pub ports: BTreeSet<u16>,
    /// Free space of the one file system.
    pub disk_free_bytes: u64,
    /// Address that other machines reach it by.
    pub address: String,
    /// Fake time since start; moves by pauses only.
    pub uptime: Duration,
    pub(super) calls: u64,
    pub(super) effect_calls: Vec<u64>,
    pub(super) crash_at: Option<(u64, CrashPoint)>,
    pub(super) fail_at: Option<u64>,
    pub(super) crashed: bool,
}

/// Directories that every machine has.
const BASE_DIRS: [&str; 9] = [
    "/",
    "/data",
    "/etc",
    "/etc/systemd",
    "/etc/systemd/system",
    "/run",
    "/usr",
    "/var",
    "/var/lib",
];

impl Default for Machine {
    fn default() -> Self {
        let directory = Entry {
            node: Node::Directory,
            attributes: Attributes::root(0o755),
        };
        let root = User {
            name: "root".into(),
            group: "root".into(),
            home: "/root".into(),
            shell: "/bin/bash".into(),
        };
        Self {
            entries: BASE_DIRS
                .iter()
                .map(|path| (PathBuf::from(path), directory.clone()))
                .collect(),
            users: BTreeMap::from([("root".to_owned(), root)]),
            groups: BTreeSet::from(["root".to_owned()]),
            packages: BTreeMap::new(),
            has_package_lists: true,
            units: BTreeMap::new(),
            ports: BTreeSet::new(),
            disk_free_bytes: 50 << 30,
            address: "127.0.0.1".to_owned(),
            uptime: Duration::ZERO,
            calls: 0,
            effect_calls: Vec::new(),
            crash_at: None,
            fail_at: None,
            crashed: false,
        }
    }
}

impl Machine {
    /// Content of the regular file at `path`.
    pub fn file(&self, path: &Path) -> Option<&[u8]> {
        match self.entries.get(path).map(|entry| &entry.node) {
            Some(Node::File(content)) => Some(content),
            Some(Node::Symlink(target)) if target != path => self.file(target),
            _ => None,
        }
    }

    /// Whether there is anything at `path`.
    pub fn exists(&self, path: &Path) -> bool {
        self.entries.contains_key(path)
    }

    /// Puts an entry, as the system would: the parent must be a directory, owner and group must exist.
    ///
    /// # Errors
    /// The system's complaint.
    pub fn put(&mut self, path: &Path, entry: Entry) -> Result<(), String> {
        let parent = path.parent().ok_or("it names nothing")?;
        if !matches!(
            self.entries.get(parent),
            Some(Entry {
                node: Node::Directory,
                ..
            })
        ) {
            return Err(format!("{} is no directory", parent.display()));
        }
        let is_directory = matches!(entry.node, Node::Directory);
        let was_directory = matches!(
            self.entries.get(path),
            Some(Entry {
                node: Node::Directory,
                ..
            })
        );
        if self.entries.contains_key(path) && is_directory != was_directory {
            return Err("something of another kind is there".to_owned());
        }
        self.known(&entry.attributes)?;
        self.entries.insert(path.to_owned(), entry);
        Ok(())
    }

    /// Puts a file of root's, making the directories above it.
    pub fn put_file(&mut self, path: &Path, content: impl Into<Vec<u8>>, attributes: Attributes) {
        for parent in path.ancestors().skip(1) {
            let directory = Entry {
                node: Node::Directory,
                attributes: Attributes {
                    mode: 0o755,
                    ..attributes.clone()
                },
            };
            self.entries.entry(parent.to_owned()).or_insert(directory);
        }
        self.entries.insert(
            path.to_owned(),
            Entry {
                node: Node::File(content.into()),
                attributes,
            },
        );
    }

    /// Makes two machines comparable that differ only in how often they were looked at.
    pub fn forget_looks(&mut self) {
        self.calls = 0;
        self.effect_calls.clear();
        self.uptime = Duration::ZERO;
    }

    pub(super) fn list(&self, path: &Path) -> Option<Vec<String>> {
        matches!(self.entries.get(path)?.node, Node::Directory).then(|| {
            let below = self
                .entries
                .keys()
                .filter(|entry| entry.parent() == Some(path));
            below
                .filter_map(|entry| Some(entry.file_name()?.to_string_lossy().into_owned()))
                .collect()
        })
    }

    pub(super) fn own(&mut self, path: &Path, attributes: &Attributes) -> Result<(), String> {
        self.known(attributes)?;
        self.entries
            .get_mut(path)
            .ok_or("it does not exist")?
            .attributes = attributes.clone();
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> Result<(), String> {
        if self.entries.contains_key(to) {
            return Err(format!("{} exists", to.display()));
        }
        if !self.entries.contains_key(from) {
            return Err("it does not exist".to_owned());
        }
        let moved: Vec<PathBuf> = self
            .entries
            .keys()
            .filter(|entry| entry.starts_with(from))
            .cloned()
            .collect();
        for old in moved {
            let below = old
                .strip_prefix(from)
                .expect("filtered by this prefix")
                .to_owned();
            let new = if below.as_os_str().is_empty() {
                to.to_owned()
            } else {
                to.join(below)
            };
            if let Some(entry) = self.entries.remove(&old) {
                self.entries.insert(new, entry);
            }
        }
        Ok(())
    }

    pub(super) fn stop_all_units(&mut self) {
        self.units.values_mut().for_each(|unit| unit.active = false);
        self.ports.clear();
        self.entries
            .retain(|path, _| path == Path::new("/run") || !path.starts_with("/run"));
    }

    fn known(&self, attributes: &Attributes) -> Result<(), String> {
        if !self.users.contains_key(&attributes.owner) {
            return Err(format!("user {} does not exist", attributes.owner));
        }
        if !self.groups.contains(&attributes.group) {
            return Err(format!("group {} does not exist", attributes.group));
        }
        Ok(())
    }
}
