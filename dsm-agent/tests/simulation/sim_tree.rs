//! The tree in memory: files, lock files with sessions and fences, guards (EKEYREVOKED), the lock delay.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use dsm_agent::engine::record::Intent;
use dsm_agent::engine::view::LockView;
use dsm_agent::mount::shared_tree::{
    Committed, EntryKind, LockAttempt, SharedTree, TreeCondition, TreeEntry, TreeError, TreeMark,
};

#[derive(Clone)]
enum Node {
    Directory {
        guard: Option<String>,
    },
    File {
        bytes: Vec<u8>,
        revision: u64,
        inode: u64,
    },
    Link,
}

struct Lock {
    node: String,
    session: u64,
    /// `None` during the lock delay.
    fence: Option<u64>,
}

/// What all nodes share.
#[derive(Default)]
pub struct SimStore {
    nodes: BTreeMap<String, Node>,
    locks: BTreeMap<String, Lock>,
    index: u64,
    sessions: BTreeMap<String, u64>,
    pub mutations: u64,
    /// Counts everything that moves the mark, and when it moved what lies at or beneath a path.
    moved: u64,
    revisions: BTreeMap<String, u64>,
    /// A node whose session is over by its own clock and not yet by the log: it sees no fence of its own.
    pub over_by_its_clock: Option<String>,
    /// Calls of agents.
    pub calls: u64,
    /// Kept guarded writes that were refused, to see that guards are exercised.
    pub revoked: u64,
}

/// One node's view of it, for one life of its agent.
pub struct SimTree {
    pub store: Arc<Mutex<SimStore>>,
    pub node: String,
    pub session: u64,
}

impl SimStore {
    pub fn new() -> Self {
        let mut store = Self::default();
        for path in ["mid", "ctx", "run", "lk", "lk/dsm", ".vfs"] {
            store
                .nodes
                .insert(path.to_owned(), Node::Directory { guard: None });
        }
        store
    }

    /// Something changes at `path`.
    fn touch(&mut self, path: &str) {
        self.moved += 1;
        let mut at = path;
        loop {
            self.revisions.insert(at.to_owned(), self.moved);
            match at.rsplit_once('/') {
                Some((parent, _)) => at = parent,
                None => return,
            }
        }
    }

    pub fn open_session(&mut self, node: &str) -> u64 {
        self.index += 1;
        self.moved += 1;
        self.sessions.insert(node.to_owned(), self.index);
        self.index
    }

    /// Ends the session: its locks are void and stay for the delay.
    pub fn end_session(&mut self, node: &str) {
        self.sessions.remove(node);
        // As in the filesystem, the end of a lock is no change of its file.
        self.moved += 1;
        for lock in self.locks.values_mut().filter(|lock| lock.node == node) {
            lock.fence = None;
        }
    }

    pub fn void_lock(&mut self, path: &str) {
        self.moved += 1;
        if let Some(lock) = self.locks.get_mut(path) {
            lock.fence = None;
        }
    }

    pub fn lock_paths(&self) -> Vec<String> {
        self.locks.keys().cloned().collect()
    }

    /// The lock delay is over: void locks go.
    pub fn end_delays(&mut self) -> bool {
        let over = self.locks.iter().filter(|(_, lock)| lock.fence.is_none());
        let over: Vec<String> = over.map(|(path, _)| path.clone()).collect();
        for path in &over {
            self.locks.remove(path);
            self.touch(path);
        }
        !over.is_empty()
    }

    pub fn put(&mut self, path: &str, bytes: &[u8]) {
        self.index += 1;
        self.touch(path);
        let inode = match self.nodes.get(path) {
            Some(Node::File { inode, .. }) => *inode,
            _ => self.index,
        };
        let node = Node::File {
            bytes: bytes.to_vec(),
            revision: self.index,
            inode,
        };
        self.nodes.insert(path.to_owned(), node);
    }

    pub fn unlink(&mut self, path: &str) {
        self.touch(path);
        self.nodes.remove(path);
    }

    pub fn move_file(&mut self, from: &str, to: &str) {
        let node = self.nodes.remove(from).expect("the file exists");
        self.touch(from);
        self.touch(to);
        self.nodes.insert(to.to_owned(), node);
    }

    pub fn bytes(&self, path: &str) -> Option<&[u8]> {
        match self.nodes.get(path) {
            Some(Node::File { bytes, .. }) => Some(bytes),
            _ => None,
        }
    }

    pub fn text_below(&self, prefix: &str) -> String {
        let mut text = String::new();
        for (path, node) in self
            .nodes
            .iter()
            .filter(|(path, _)| path.starts_with(prefix))
        {
            match node {
                Node::File { bytes, .. } => {
                    text.push_str(&format!("== {path}\n{}\n", String::from_utf8_lossy(bytes)));
                }
                Node::Directory { guard: Some(guard) } => {
                    text.push_str(&format!("== {path}/ guarded by {guard}\n"));
                }
                Node::Directory { guard: None } | Node::Link => {}
            }
        }
        text
    }

    fn holds(&self, node: &str, session: u64, lock: &str) -> bool {
        self.locks.get(lock).is_some_and(|held| {
            held.node == node && held.session == session && held.fence.is_some()
        })
    }

    /// The nearest guarded ancestor's lock.
    fn guard_of(&self, path: &str) -> Option<&str> {
        let mut above = path;
        while let Some((parent, _)) = above.rsplit_once('/') {
            if let Some(Node::Directory { guard: Some(guard) }) = self.nodes.get(parent) {
                return Some(guard);
            }
            above = parent;
        }
        None
    }
}

impl SimTree {
    fn with<T>(
        &self,
        op: &'static str,
        path: &str,
        action: impl FnOnce(&mut SimStore) -> Result<T, TreeError>,
    ) -> Result<T, TreeError> {
        let mut store = self.store.lock().unwrap();
        if store.sessions.get(&self.node) != Some(&self.session) {
            return Err(io(op, path, std::io::ErrorKind::NotConnected));
        }
        store.calls += 1;
        action(&mut store)
    }

    /// A change below `path`, if its guard allows it.
    fn change<T>(
        &self,
        op: &'static str,
        path: &str,
        action: impl FnOnce(&mut SimStore) -> Result<T, TreeError>,
    ) -> Result<T, TreeError> {
        self.with(op, path, |store| {
            if let Some(guard) = store.guard_of(path).map(str::to_owned)
                && !store.holds(&self.node, self.session, &guard)
            {
                store.revoked += 1;
                return Err(TreeError::Revoked {
                    path: path.to_owned(),
                });
            }
            let (parent, _) = path.rsplit_once('/').unwrap_or(("", path));
            make_parents(store, parent);
            store.mutations += 1;
            store.touch(path);
            action(store)
        })
    }
}

fn make_parents(store: &mut SimStore, path: &str) {
    if path.is_empty() || store.nodes.contains_key(path) {
        return;
    }
    if let Some((parent, _)) = path.rsplit_once('/') {
        make_parents(store, parent);
    }
    store
        .nodes
        .insert(path.to_owned(), Node::Directory { guard: None });
}

fn io(op: &'static str, path: &str, kind: std::io::ErrorKind) -> TreeError {
    TreeError::Io {
        op,
        path: path.to_owned(),
        source: kind.into(),
    }
}

impl SharedTree for SimTree {
    fn read(&self, path: &str) -> Result<Option<Committed>, TreeError> {
        self.with("read", path, |store| {
            Ok(match store.nodes.get(path) {
                Some(Node::File {
                    bytes,
                    revision,
                    inode,
                }) => Some(Committed {
                    bytes: bytes.clone(),
                    revision: *revision,
                    inode: *inode,
                    uid: 0,
                }),
                _ => None,
            })
        })
    }

    fn list(&self, path: &str) -> Result<Vec<TreeEntry>, TreeError> {
        self.with("list", path, |store| {
            let prefix = format!("{path}/");
            let inside = store
                .nodes
                .range(prefix.clone()..)
                .take_while(|(name, _)| name.starts_with(&prefix));
            let mut entries: Vec<TreeEntry> = inside
                .filter(|(name, _)| !name[prefix.len()..].contains('/'))
                .map(|(name, node)| {
                    let (kind, inode) = match node {
                        Node::Directory { .. } => (EntryKind::Directory, 0),
                        Node::File { inode, .. } => (EntryKind::File, *inode),
                        Node::Link => (EntryKind::Other, 0),
                    };
                    TreeEntry {
                        name: name[prefix.len()..].to_owned(),
                        kind,
                        inode,
                    }
                })
                .collect();
            let locks = store
                .locks
                .keys()
                .filter_map(|lock| lock.strip_prefix(&prefix));
            for name in locks.filter(|name| !name.contains('/')) {
                entries.push(TreeEntry {
                    name: name.to_owned(),
                    kind: EntryKind::File,
                    inode: 0,
                });
            }
            entries.sort_by(|left, right| left.name.cmp(&right.name));
            Ok(entries)
        })
    }

    fn write(&self, path: &str, bytes: &[u8]) -> Result<(), TreeError> {
        self.change("write", path, |store| {
            store.put(path, bytes);
            Ok(())
        })
    }

    fn create(&self, path: &str, bytes: &[u8]) -> Result<bool, TreeError> {
        self.change("create", path, |store| {
            if store.nodes.contains_key(path) {
                return Ok(false);
            }
            store.put(path, bytes);
            Ok(true)
        })
    }

    fn append(&self, path: &str, bytes: &[u8]) -> Result<(), TreeError> {
        self.change("append", path, |store| {
            let mut all = store.bytes(path).unwrap_or_default().to_vec();
            all.extend_from_slice(bytes);
            store.put(path, &all);
            Ok(())
        })
    }

    fn make_dir(&self, path: &str) -> Result<bool, TreeError> {
        let exists = self.with("mkdir", path, |store| Ok(store.nodes.contains_key(path)))?;
        if exists {
            return Ok(false);
        }
        self.change("mkdir", path, |store| {
            make_parents(store, path);
            Ok(true)
        })
    }

    fn link(&self, _: &str, path: &str) -> Result<(), TreeError> {
        self.change("link", path, |store| {
            store.nodes.insert(path.to_owned(), Node::Link);
            Ok(())
        })
    }

    fn rename_new(&self, from: &str, to: &str) -> Result<bool, TreeError> {
        self.change("rename", from, |store| {
            if store.nodes.contains_key(to) {
                return Ok(false);
            }
            check_planner(store, from, &self.node);
            let inside: BTreeSet<String> = store
                .nodes
                .keys()
                .filter(|path| *path == from || path.starts_with(&format!("{from}/")))
                .cloned()
                .collect();
            for path in inside {
                let node = store.nodes.remove(&path).expect("it was just listed");
                store
                    .nodes
                    .insert(format!("{to}{}", &path[from.len()..]), node);
            }
            store.touch(to);
            Ok(true)
        })
    }

    fn remove(&self, path: &str) -> Result<(), TreeError> {
        self.change("remove", path, |store| {
            let prefix = format!("{path}/");
            store
                .nodes
                .retain(|name, _| name != path && !name.starts_with(&prefix));
            Ok(())
        })
    }

    fn guard(&self, directory: &str) -> Result<Option<String>, TreeError> {
        self.with("guard", directory, |store| {
            Ok(match store.nodes.get(directory) {
                Some(Node::Directory { guard }) => guard.clone(),
                _ => None,
            })
        })
    }

    fn set_guard(&self, directory: &str, lock: &str) -> Result<(), TreeError> {
        self.change("set guard", directory, |store| {
            if !store.holds(&self.node, self.session, lock) {
                return Err(TreeError::Revoked {
                    path: directory.to_owned(),
                });
            }
            let guard = Some(lock.to_owned());
            store
                .nodes
                .insert(directory.to_owned(), Node::Directory { guard });
            Ok(())
        })
    }

    fn keep_out_of_history(&self, _: &str) -> Result<(), TreeError> {
        Ok(())
    }

    fn try_lock(&self, path: &str) -> Result<LockAttempt, TreeError> {
        self.with("lock", path, |store| {
            if let Some(lock) = store.locks.get(path)
                && (lock.fence.is_some() || lock.node != self.node)
            {
                return Ok(LockAttempt::Denied);
            }
            store.index += 1;
            store.mutations += 1;
            store.touch(path);
            let fence = store.index;
            let lock = Lock {
                node: self.node.clone(),
                session: self.session,
                fence: Some(fence),
            };
            store.locks.insert(path.to_owned(), lock);
            Ok(LockAttempt::Granted(fence))
        })
    }

    fn lock_view(&self, path: &str) -> Result<LockView, TreeError> {
        self.with("look", path, |store| {
            Ok(match store.locks.get(path) {
                None => LockView::Free,
                Some(lock) if lock.fence.is_none() => LockView::Delayed,
                Some(lock) => LockView::Held(lock.node.clone()),
            })
        })
    }

    fn fence(&self, path: &str) -> Result<Option<u64>, TreeError> {
        self.with("fence", path, |store| {
            let lock = store.locks.get(path);
            let is_own = lock.is_some_and(|lock| lock.node == self.node);
            if is_own && store.over_by_its_clock.as_ref() == Some(&self.node) {
                return Err(TreeError::Revoked {
                    path: path.to_owned(),
                });
            }
            Ok(store.locks.get(path).and_then(|lock| lock.fence))
        })
    }

    fn release(&self, path: &str) -> Result<(), TreeError> {
        self.with("release", path, |store| {
            if store.holds(&self.node, self.session, path) {
                store.locks.remove(path);
                store.mutations += 1;
                store.touch(path);
            }
            Ok(())
        })
    }

    fn forget(&self, _: &str) {}

    fn mark(&self) -> Result<Option<TreeMark>, TreeError> {
        self.with("mark", ".vfs", |store| {
            Ok(Some(TreeMark {
                opened: self.session,
                applied: store.moved,
            }))
        })
    }

    fn tree_revision(&self, directory: &str) -> Result<Option<u64>, TreeError> {
        self.with("revision", directory, |store| {
            Ok(store.revisions.get(directory).copied())
        })
    }

    fn forget_mark(&self) {}

    fn barrier(&self) -> Result<(), TreeError> {
        Ok(())
    }

    fn condition(&self) -> Result<TreeCondition, TreeError> {
        Ok(TreeCondition {
            is_mounted: true,
            has_quorum: true,
        })
    }
}

/// A generation that is put in place comes from the holder of the planner's lock, under the fence that holds now.
fn check_planner(store: &SimStore, draft: &str, node: &str) {
    let Some(bytes) = store.bytes(&format!("{draft}/intent.json")) else {
        return;
    };
    let intent: Intent = serde_json::from_slice(bytes).expect("the intent was just written");
    let lock = store
        .locks
        .get(&format!("lk/dsm/{}/planner", intent.deployment))
        .expect("it is held");
    assert_eq!(
        lock.node, node,
        "a generation from a node that does not hold the planner's lock"
    );
    assert_eq!(
        lock.fence,
        Some(intent.planner.fence),
        "a generation under an old fence"
    );
}
