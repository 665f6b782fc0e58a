//! One agent's passes: read a deployment, let the engine decide, perform, again until nothing is to do.
//!
//! Invariants: a directory is watched before it is read; at most one pass a deployment at a time (`agent.rs` sees to
//! it); what the tree refuses is told to the engine and tried again later, and never stops another deployment.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use crate::clock;
use crate::engine::action::{Action, TimerKey};
use crate::engine::core::Engine;
use crate::engine::event::Event;
use crate::engine::id::{DeploymentId, FileKind, classify};
use crate::engine::record::{Phase, Status};
use crate::engine::view::{ClusterView, View, WishFile};
use crate::host::executor::Executor;
use crate::host::uid_memory::UidMemory;
use crate::limits::ROUNDS_A_PASS_MAX;
use crate::mount::kept::Kept;
use crate::mount::paths;
use crate::mount::performer::{PerformError, Performed, Performer};
use crate::mount::run_store::{RecordError, RunStore, error_text};
use crate::mount::shared_tree::{LockAttempt, Standing, TreeError, TreeMark};
use crate::mount::watcher::{TreeWatcher, base_directories};
use crate::mount::wish_index::WishIndex;

/// What a pass asks of the loop.
#[derive(Debug)]
pub enum Order {
    /// Look at this deployment now.
    Look(DeploymentId),
    /// Tell the engine when this time has passed.
    Timer(TimerKey, Duration),
    /// Write this status soon.
    Status(Box<Status>),
}

/// How a pass ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PassEnd {
    /// Nothing is to do until something happens.
    Quiet,
    /// It is to be looked at again at once.
    Again,
    /// The tree refused something: again later.
    Refused,
}

/// See the head of this file.
pub struct Reconciler {
    node: String,
    store: Arc<RunStore>,
    performer: Performer,
    executor: Arc<Executor>,
    orders: UnboundedSender<Order>,
    memory: UidMemory,
    engine: Mutex<Engine>,
    cluster: Mutex<ClusterView>,
    index: Mutex<Index>,
    /// Locks that are held, with the fence they were granted.
    locks: Mutex<BTreeMap<(DeploymentId, String), u64>>,
    /// All of these locks were seen to hold, by how things stood then.
    locks_seen: Mutex<Kept<Standing, ()>>,
    presence: Mutex<Option<u64>>,
    watcher: Mutex<Option<TreeWatcher>>,
    /// Directories watched for each deployment.
    watched: Mutex<BTreeMap<DeploymentId, BTreeSet<String>>>,
    is_stopping: std::sync::atomic::AtomicBool,
}

/// Which deployments there are, and the tree's mark of before they were listed.
#[derive(Default)]
struct Index {
    index: Arc<WishIndex>,
    listed: Kept<TreeMark, ()>,
}

/// What a reconciler is made of.
pub struct ReconcilerParts {
    /// This node.
    pub node: String,
    /// The record.
    pub store: Arc<RunStore>,
    /// Performs actions.
    pub performer: Performer,
    /// Runs drivers.
    pub executor: Arc<Executor>,
    /// Where orders go.
    pub orders: UnboundedSender<Order>,
    /// What this node keeps outside the tree.
    pub memory: UidMemory,
    /// Decides.
    pub engine: Engine,
}

impl Reconciler {
    /// Knows nothing yet.
    pub fn new(parts: ReconcilerParts) -> Self {
        Self {
            node: parts.node,
            store: parts.store,
            performer: parts.performer,
            executor: parts.executor,
            orders: parts.orders,
            memory: parts.memory,
            engine: Mutex::new(parts.engine),
            cluster: Mutex::default(),
            index: Mutex::default(),
            locks: Mutex::default(),
            locks_seen: Mutex::default(),
            presence: Mutex::default(),
            watcher: Mutex::default(),
            watched: Mutex::default(),
            is_stopping: std::sync::atomic::AtomicBool::new(false),
        }
    }

    /// Uses these watches from now on; all directories are watched anew.
    pub fn set_watcher(&self, watcher: TreeWatcher) {
        lock(&self.watched).clear();
        *lock(&self.watcher) = Some(watcher);
    }

    /// Passes an event to the engine and its wishes for reading on.
    pub fn tell(&self, event: Event) {
        let actions = lock(&self.engine).on_event(event);
        for action in actions {
            if let Action::Read(id) = action {
                self.order(Order::Look(id));
            }
        }
    }

    fn order(&self, order: Order) {
        // The receiver ends with the agent.
        let _ = self.orders.send(order);
    }

    /// One pass. Blocks as long as the tree does.
    pub fn pass(&self, id: &DeploymentId) -> PassEnd {
        if self.is_stopping.load(std::sync::atomic::Ordering::Acquire) {
            return PassEnd::Quiet;
        }
        let mut has_scanned = false;
        let mut round = 0;
        for _ in 0..ROUNDS_A_PASS_MAX {
            let index = self.index();
            let standing = self.standing();
            let mut view = match self.store.view(id, round, clock::now(), &index, standing) {
                Ok(view) => view,
                Err(error) => return self.refused(id, Vec::new(), &error),
            };
            if self.watch(&view, standing.map(|standing| standing.mark)) {
                continue;
            }
            // Whether a wish is new or came from another name shows only in an index that is newer than the wish.
            if !has_scanned && needs_index(&view) {
                has_scanned = true;
                match self.scan() {
                    Ok(()) => continue,
                    Err(error) => return self.refused(id, Vec::new(), &error),
                }
            }
            self.remember(&mut view);
            let actions = lock(&self.engine).on_event(Event::View(Box::new(view)));
            if actions.is_empty() {
                return PassEnd::Quiet;
            }
            round += 1;
            if let Err((error, rest)) = self.perform_all(actions) {
                return self.refused(id, rest, error.as_ref());
            }
        }
        PassEnd::Again
    }

    /// Keeps the uid of a deployment of this node, or recalls it when the record is lost.
    fn remember(&self, view: &mut View) {
        let Some(record) = &view.record else {
            view.remembered_uid = self.memory.recall(&view.id);
            return;
        };
        if record.spec.nodes.contains(&self.node)
            && let Err(error) = self.memory.keep(&view.id, &record.uid)
        {
            tracing::warn!(%error, deployment = %view.id, "the uid was not kept on this node");
        }
    }

    fn refused(
        &self,
        id: &DeploymentId,
        actions: Vec<Action>,
        error: &(dyn std::error::Error + 'static),
    ) -> PassEnd {
        let reason = error_text(error);
        tracing::warn!(deployment = %id, %reason, "the tree refused; it is tried again");
        self.tell(Event::NotPerformed {
            deployment: id.clone(),
            actions,
            reason,
        });
        // A refusal is the first sign of a lost lock.
        self.check_locks();
        PassEnd::Refused
    }

    fn perform_all(&self, actions: Vec<Action>) -> Result<(), (Box<PerformError>, Vec<Action>)> {
        let mut rest: std::collections::VecDeque<Action> = actions.into();
        while let Some(action) = rest.front().cloned() {
            let cluster = lock(&self.cluster).clone();
            tracing::debug!(?action, "perform");
            match self.performer.perform(action, &cluster, &clock::now()) {
                Ok(performed) => self.take(performed),
                Err(error) => return Err((Box::new(error), rest.into())),
            }
            if let Some(Action::ReleaseLock {
                deployment,
                lock: name,
            }) = rest.pop_front()
            {
                lock(&self.locks).remove(&(deployment, name));
            }
        }
        Ok(())
    }

    fn take(&self, performed: Performed) {
        match performed {
            Performed::Done => {}
            Performed::Event(event) => {
                match event.as_ref() {
                    Event::LockGranted {
                        deployment,
                        lock: name,
                        fence,
                    } => {
                        lock(&self.locks).insert((deployment.clone(), name.clone()), *fence);
                    }
                    Event::Cluster(cluster) => *lock(&self.cluster) = cluster.clone(),
                    _ => {}
                }
                // The pass that is under way reads again; others hear of it.
                self.tell(*event);
            }
            Performed::Handed(action) => self.hand_on(*action),
        }
    }

    fn hand_on(&self, action: Action) {
        match action {
            Action::Read(id) => self.order(Order::Look(id)),
            Action::SetTimer { key, after } => self.order(Order::Timer(key, after)),
            Action::WriteStatus(status) => self.order(Order::Status(status)),
            Action::Observe {
                driver,
                scope,
                answers,
            } => {
                self.executor.observe(driver, *scope, answers);
            }
            Action::StartStep(start) => self.executor.start(*start),
            Action::CancelStep {
                deployment,
                generation,
                step,
            } => {
                self.executor.cancel(&deployment, generation, &step);
            }
            _ => {}
        }
    }

    /// Writes a status; the engine hands it out again if the tree refuses.
    pub fn write_status(&self, status: &Status) -> PassEnd {
        match self.performer.write_status(status, &clock::now()) {
            // Own writes of the status wake nobody; the planner of what is gone waits for this one.
            Ok(()) if status.phase == Phase::Removed => PassEnd::Again,
            Ok(()) => PassEnd::Quiet,
            Err(error) => {
                let actions = vec![Action::WriteStatus(Box::new(status.clone()))];
                self.refused(&status.deployment, actions, &error)
            }
        }
    }

    /// Reads which deployments there are and asks for a look at those that came, went or moved.
    ///
    /// # Errors
    /// [`TreeError`]: the index stays as it was.
    pub fn scan(&self) -> Result<(), TreeError> {
        let mark = self.mark();
        let is_known = lock(&self.index).listed.under(mark.as_ref()).is_some();
        if !is_known {
            self.list_wishes(mark)?;
        }
        let base = base_directories(&self.index().folders);
        if self.rewatch(&base, &base, mark) {
            // Something may have been made in a new directory before it was watched.
            lock(&self.index).listed.forget();
            return self.scan();
        }
        Ok(())
    }

    fn list_wishes(&self, mark: Option<TreeMark>) -> Result<(), TreeError> {
        let fresh = WishIndex::scan(self.store.tree().as_ref())?;
        if fresh.is_cut {
            tracing::error!(
                "there are more wishes than this agent looks after; the rest is left alone"
            );
        }
        let (before, now) = {
            let mut known = lock(&self.index);
            let before = Arc::clone(&known.index);
            if *before != fresh {
                known.index = Arc::new(fresh);
            }
            known.listed.keep(mark, ());
            (before, Arc::clone(&known.index))
        };
        let all = now.all();
        self.store.keep_only(&all);
        for id in all.union(&before.all()) {
            let moved = now.wishes.get(id) != before.wishes.get(id)
                || now.records.contains(id) != before.records.contains(id);
            if moved {
                self.order(Order::Look(id.clone()));
            }
        }
        Ok(())
    }

    fn index(&self) -> Arc<WishIndex> {
        Arc::clone(&lock(&self.index).index)
    }

    /// Asks for a look at every deployment.
    pub fn look_at_all(&self) {
        for id in self.index().all() {
            self.order(Order::Look(id));
        }
    }

    /// Watches what the view's deployment consists of; true if a watch is new, so that it has to be read again.
    fn watch(&self, view: &View, mark: Option<TreeMark>) -> bool {
        let id = &view.id;
        let record = paths::record(id);
        let mut wanted: BTreeSet<String> = ["plans", "observed", "requests", "log"]
            .iter()
            .map(|name| format!("{record}/{name}"))
            .collect();
        // The folders above tell when the record comes into being.
        let mut above = record.as_str();
        while let Some((parent, _)) = above.rsplit_once('/') {
            wanted.insert(above.to_owned());
            above = parent;
        }
        wanted.insert(paths::lock_dir(id));
        let mut nodes: BTreeSet<&String> = view.observed.keys().collect();
        if let Some(generation) = &view.generation {
            nodes.extend(&generation.intent.participants);
            nodes.extend(generation.logs.keys());
        }
        wanted.extend(nodes.into_iter().map(|node| paths::log_dir(id, node)));
        lock(&self.watched).insert(id.clone(), wanted.clone());
        let base = base_directories(&self.index().folders);
        wanted.extend(base.iter().cloned());
        self.rewatch(&base, &wanted, mark)
    }

    /// Looks for those of the directories `tried` that are not watched yet. Others' are tried when they are looked at:
    /// what comes into being tells of itself, for the directory above it is watched.
    fn rewatch(
        &self,
        base: &BTreeSet<String>,
        tried: &BTreeSet<String>,
        mark: Option<TreeMark>,
    ) -> bool {
        let mut wanted = base.clone();
        for directories in lock(&self.watched).values() {
            wanted.extend(directories.iter().cloned());
        }
        lock(&self.watcher)
            .as_mut()
            .is_some_and(|watcher| watcher.watch(&wanted, tried, mark))
    }

    /// Acts on a change at `path`; whether wishes may have come or gone is for [`Reconciler::scan`] to find.
    pub fn on_path(&self, path: &str) {
        if let Some(watcher) = lock(&self.watcher).as_mut() {
            watcher.forget_if_gone(path);
        }
        let top = path.split('/').next().unwrap_or_default();
        if paths::WISH_ROOTS.contains(&top) {
            if let FileKind::Wish(id, _) | FileKind::Refused(id, _) = classify(path) {
                self.order(Order::Look(id));
            }
        } else if path.starts_with(paths::AGENTS) {
            self.refresh_cluster(self.mark());
        } else {
            self.look_at_path(path);
        }
    }

    /// The deployments whose record or locks lie at, above or below `path`.
    fn look_at_path(&self, path: &str) {
        let rest = path
            .strip_prefix("run/")
            .or_else(|| path.strip_prefix("lk/dsm/"));
        let Some(rest) = rest else {
            return;
        };
        let covers = |outer: &str, inner: &str| {
            inner
                .strip_prefix(outer)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        for id in self.index().all() {
            if covers(id.as_str(), rest) || covers(rest, id.as_str()) {
                self.order(Order::Look(id));
            }
        }
    }

    /// Reads members, presence and facts, unless nothing has moved since they were read.
    fn refresh_cluster(&self, mark: Option<TreeMark>) {
        match self.store.cluster(&self.node, mark) {
            Ok(cluster) => {
                *lock(&self.cluster) = cluster.clone();
                self.tell(Event::Cluster(cluster));
            }
            Err(error) => {
                tracing::warn!(reason = error_text(&error), "the members could not be read");
            }
        }
    }

    /// The tree's mark. A tree that does not answer tells none: then everything is read, and says what is wrong.
    fn mark(&self) -> Option<TreeMark> {
        self.store.tree().mark().unwrap_or(None)
    }

    /// How things stand, if the tree tells it and presence holds.
    fn standing(&self) -> Option<Standing> {
        let mark = self.mark()?;
        let presence = (*lock(&self.presence))?;
        let tree = self.store.tree();
        let fence = tree.fence(&paths::presence(&self.node)).unwrap_or(None);
        (fence == Some(presence)).then_some(Standing { mark, presence })
    }

    /// Looks at fences, locks, presence and members. Blocks as long as the tree does.
    ///
    /// Two numbers tell whether there is anything to look at. While the tree's mark stands still, nothing that the
    /// members share has changed; and while the fence of presence can be read, this node's session is the one under
    /// which all its locks were granted, which ends by time alone.
    pub fn heartbeat(&self) {
        self.executor.look_at_fences();
        let mark = self.mark();
        let presence = self.look_at_presence();
        let held = presence.as_ref().copied().unwrap_or(None);
        let standing = mark
            .zip(held)
            .map(|(mark, presence)| Standing { mark, presence });
        if lock(&self.locks_seen).under(standing.as_ref()).is_none() {
            self.check_locks();
            lock(&self.locks_seen).keep(standing, ());
        }
        if let Err(error) = presence.and_then(|held| self.ensure_presence(held)) {
            tracing::warn!(
                reason = error_text(&error),
                "no presence: this node takes no part"
            );
        }
        self.refresh_cluster(mark);
    }

    fn check_locks(&self) {
        let held: Vec<_> = lock(&self.locks)
            .iter()
            .map(|(key, fence)| (key.clone(), *fence))
            .collect();
        for ((deployment, name), fence) in held {
            let path = paths::lock(&deployment, &name);
            if !matches!(self.store.tree().fence(&path), Ok(Some(now)) if now == fence) {
                self.lose(deployment, name);
            }
        }
    }

    fn lose(&self, deployment: DeploymentId, name: String) {
        tracing::warn!(%deployment, lock = name, "a lock was lost");
        self.store.tree().forget(&paths::lock(&deployment, &name));
        lock(&self.locks).remove(&(deployment.clone(), name.clone()));
        self.tell(Event::LockLost {
            deployment,
            lock: name,
        });
    }

    /// The fence of presence, if it is held and holds still.
    fn look_at_presence(&self) -> Result<Option<u64>, TreeError> {
        let path = paths::presence(&self.node);
        let tree = self.store.tree();
        let mut presence = lock(&self.presence);
        let Some(fence) = *presence else {
            return Ok(None);
        };
        if tree.fence(&path)? != Some(fence) {
            tree.forget(&path);
            *presence = None;
        }
        Ok(*presence)
    }

    /// Takes the presence lock unless it is `held`.
    fn ensure_presence(&self, held: Option<u64>) -> Result<(), TreeError> {
        if held.is_some() || self.is_stopping.load(std::sync::atomic::Ordering::Acquire) {
            return Ok(());
        }
        let attempt = self.store.tree().try_lock(&paths::presence(&self.node))?;
        if let LockAttempt::Granted(fence) = attempt {
            tracing::info!(fence, "presence taken");
            *lock(&self.presence) = Some(fence);
        }
        Ok(())
    }

    /// After a new mount: nothing that was held or watched is any more.
    pub fn reopen(&self) {
        self.store.forget();
        lock(&self.locks_seen).forget();
        lock(&self.index).listed.forget();
        let held: Vec<_> = lock(&self.locks).keys().cloned().collect();
        for (deployment, name) in held {
            self.lose(deployment, name);
        }
        self.store.tree().forget(&paths::presence(&self.node));
        *lock(&self.presence) = None;
    }

    /// Lets all locks go, presence last.
    pub fn stop(&self) {
        self.is_stopping
            .store(true, std::sync::atomic::Ordering::Release);
        let held: Vec<_> = lock(&self.locks).keys().cloned().collect();
        for (deployment, name) in held {
            self.release(&paths::lock(&deployment, &name));
        }
        self.release(&paths::presence(&self.node));
    }

    fn release(&self, path: &str) {
        if let Err(error) = self.store.tree().release(path) {
            tracing::warn!(
                reason = error_text(&error),
                "a lock was not released; it ends by itself"
            );
        }
    }

    /// The record.
    pub fn store(&self) -> &Arc<RunStore> {
        &self.store
    }

    /// Writes a file of this node's own if its content differs.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn write_node_file(&self, path: &str, bytes: &[u8]) -> Result<(), RecordError> {
        let tree = self.store.tree();
        if tree.read(path)?.is_some_and(|now| now.bytes == bytes) {
            return Ok(());
        }
        Ok(tree.write(path, bytes)?)
    }
}

fn needs_index(view: &View) -> bool {
    match view.wish {
        WishFile::Present(_) => view.record.is_none(),
        WishFile::Absent => view
            .record
            .as_ref()
            .is_some_and(|record| record.removal.is_none()),
        WishFile::Emptied | WishFile::Refused(_) => false,
    }
}

/// No method leaves what a mutex protects half changed, so a panic elsewhere does not poison it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where the agent keeps what must not lie in the tree.
pub fn default_state_dir() -> PathBuf {
    PathBuf::from("/var/lib/dsm-agent")
}
