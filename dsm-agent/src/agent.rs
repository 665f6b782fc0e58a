//! The agent: composition root and loop. Wait, read, decide, act, record.
//!
//! Invariants: the only file that knows all parts; events are hints, so a lost one costs at most a sweep; nothing in
//! the loop itself touches the tree, so a hanging mount never stops the watchdog.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use drivers::host::Host;
use drivers::registry::Registry;
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{Id, JoinError, JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::engine::action::TimerKey;
use crate::engine::core::Engine;
use crate::engine::event::Event;
use crate::engine::id::DeploymentId;
use crate::engine::record::{FORMAT, NodeRecord, Status};
use crate::failpoint::Failpoint;
use crate::host::executor::{Executor, ExecutorParts};
use crate::host::facts::node_facts;
use crate::host::uid_memory::UidMemory;
use crate::limits::{
    HEARTBEAT_INTERVAL, PASSES_AT_ONCE_MAX, STATUS_DELAY, STATUS_INTERVAL, STOP_GRACE,
    SWEEP_INTERVAL, TREE_RETRY,
};
use crate::mount::mount_table;
use crate::mount::paths;
use crate::mount::performer::{Performer, json_bytes};
use crate::mount::run_store::{RunStore, error_text, text};
use crate::mount::shared_tree::SharedTree;
use crate::mount::watcher::{Hint, TreeWatcher};
use crate::reconciler::{Order, PassEnd, Reconciler, ReconcilerParts};

/// What an agent is made of.
pub struct AgentSetup {
    /// The mount point.
    pub root: PathBuf,
    /// The tree there.
    pub tree: Arc<dyn SharedTree>,
    /// This node's name, or none to take it from `/.vfs/status.json`.
    pub node: Option<String>,
    /// The drivers.
    pub registry: Arc<Registry>,
    /// The machine.
    pub host: Arc<dyn Host>,
    /// File with the node's age identity.
    pub identity: PathBuf,
    /// Directory for what this node keeps outside the tree.
    pub state_dir: PathBuf,
    /// Labels of this node.
    pub labels: BTreeMap<String, String>,
    /// Testing aid.
    pub failpoint: Arc<Failpoint>,
    /// Ends the agent.
    pub stop: CancellationToken,
}

/// Why an agent ended although nobody stopped it.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// No watches are to be had.
    #[error("inotify cannot be used; see /proc/sys/fs/inotify")]
    Watch(#[from] notify::Error),
}

/// Runs an agent until it is stopped.
///
/// # Errors
/// [`AgentError`].
pub async fn run(setup: AgentSetup) -> Result<(), AgentError> {
    notify_manager(&[
        sd_notify::NotifyState::Ready,
        sd_notify::NotifyState::Status("waiting for the tree"),
    ]);
    let Some(node) = wait_for_tree(&setup).await else {
        return Ok(());
    };
    tracing::info!(node, root = %setup.root.display(), "the tree is there");
    Loop::new(setup, node)?.run().await
}

/// Waits until the tree is mounted and a barrier says that this node's view is not from before its start.
async fn wait_for_tree(setup: &AgentSetup) -> Option<String> {
    loop {
        let (tree, wanted) = (Arc::clone(&setup.tree), setup.node.clone());
        let looking = tokio::task::spawn_blocking(move || tree_and_name(tree.as_ref(), wanted));
        let found = tokio::select! {
            found = with_watchdog(looking) => found,
            () = setup.stop.cancelled() => return None,
        };
        match found {
            Ok(Ok(node)) => return Some(node),
            Ok(Err(reason)) => tracing::info!(reason, "waiting for the tree"),
            Err(error) => tracing::warn!(%error, "looking at the tree failed"),
        }
        watchdog();
        tokio::select! {
            () = setup.stop.cancelled() => return None,
            () = sleep(HEARTBEAT_INTERVAL) => {}
        }
    }
}

fn tree_and_name(tree: &dyn SharedTree, wanted: Option<String>) -> Result<String, String> {
    let condition = tree.condition().map_err(|error| error_text(&error))?;
    if !condition.is_mounted {
        return Err("nothing is mounted yet".to_owned());
    }
    tree.barrier().map_err(|error| error_text(&error))?;
    if let Some(node) = wanted {
        return Ok(node);
    }
    let status = tree
        .read(paths::STATUS)
        .map_err(|error| error_text(&error))?;
    let status = status.and_then(|found| serde_json::from_slice::<Value>(&found.bytes).ok());
    match status.map(|status| text(&status, "node")) {
        Some(node) if !node.is_empty() => Ok(node),
        _ => Err(format!("/{} does not name this node", paths::STATUS)),
    }
}

struct Loop {
    setup: AgentSetup,
    node: String,
    reconciler: Arc<Reconciler>,
    executor: Arc<Executor>,
    hints: UnboundedReceiver<Hint>,
    hint_sender: UnboundedSender<Hint>,
    orders: UnboundedReceiver<Order>,
    events: UnboundedReceiver<Event>,
    /// Deployments to look at.
    dirty: BTreeSet<DeploymentId>,
    /// Deployments that a pass is under way for.
    busy: BTreeSet<DeploymentId>,
    passes: JoinSet<Work>,
    /// What each blocking thread works on, to know what ended when one panics.
    threads: BTreeMap<Id, Thread>,
    timers: BTreeMap<(Instant, u64), Alarm>,
    timers_set: u64,
    statuses: BTreeMap<DeploymentId, Status>,
    status_written: BTreeMap<DeploymentId, Instant>,
    is_beating: bool,
    is_on_paths: bool,
    is_scanning: bool,
    /// Wishes may have come or gone since the scan under way began.
    is_scan_due: bool,
    paths_waiting: BTreeSet<String>,
    mount: mount_table::MountIdentity,
}

enum Alarm {
    Engine(TimerKey),
    Look(DeploymentId),
    Status(DeploymentId),
}

/// What a blocking thread works on.
enum Thread {
    Pass(DeploymentId),
    Heartbeat,
    Paths,
    Scan,
    Other,
}

/// Work of a blocking thread that has ended.
enum Work {
    Pass(DeploymentId, PassEnd),
    Status(DeploymentId, PassEnd),
    Heartbeat(mount_table::MountIdentity),
    Paths,
    Scan,
    Sweep,
}

impl Loop {
    fn new(setup: AgentSetup, node: String) -> Result<Self, AgentError> {
        let (hint_sender, hints) = unbounded_channel();
        let (order_sender, orders) = unbounded_channel();
        let (event_sender, events) = unbounded_channel();
        let store = Arc::new(RunStore::new(Arc::clone(&setup.tree)));
        let executor = Arc::new(Executor::new(ExecutorParts {
            registry: Arc::clone(&setup.registry),
            host: Arc::clone(&setup.host),
            store: Arc::clone(&store),
            node: node.clone(),
            identity: setup.identity.clone(),
            failpoint: Arc::clone(&setup.failpoint),
            events: event_sender,
        }));
        let performer = Performer::new(
            Arc::clone(&store),
            node.clone(),
            Arc::clone(&setup.failpoint),
        );
        let reconciler = Arc::new(Reconciler::new(ReconcilerParts {
            node: node.clone(),
            store,
            performer,
            executor: Arc::clone(&executor),
            orders: order_sender,
            memory: UidMemory::new(&setup.state_dir),
            engine: Engine::new(node.clone(), setup.registry.clone()),
        }));
        reconciler.set_watcher(TreeWatcher::new(&setup.root, hint_sender.clone())?);
        let mount = mount_table::identity(&setup.root);
        Ok(Self {
            setup,
            node,
            reconciler,
            executor,
            hints,
            hint_sender,
            orders,
            events,
            dirty: BTreeSet::new(),
            busy: BTreeSet::new(),
            passes: JoinSet::new(),
            threads: BTreeMap::new(),
            timers: BTreeMap::new(),
            timers_set: 0,
            statuses: BTreeMap::new(),
            status_written: BTreeMap::new(),
            is_beating: false,
            is_on_paths: false,
            is_scanning: false,
            is_scan_due: false,
            paths_waiting: BTreeSet::new(),
            mount,
        })
    }

    async fn run(mut self) -> Result<(), AgentError> {
        self.announce().await;
        let mut heartbeat = interval(HEARTBEAT_INTERVAL);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sweep = interval(SWEEP_INTERVAL);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        notify_manager(&[sd_notify::NotifyState::Status("running")]);
        loop {
            self.start_passes();
            let alarm = self.timers.keys().next().map(|(at, _)| *at);
            tokio::select! {
                () = self.setup.stop.cancelled() => break,
                Some(hint) = self.hints.recv() => self.on_hint(hint),
                Some(order) = self.orders.recv() => self.on_order(order),
                Some(event) = self.events.recv() => self.reconciler.tell(event),
                Some(done) = self.passes.join_next_with_id(), if !self.passes.is_empty() => {
                    match done {
                        Ok((id, work)) => {
                            self.threads.remove(&id);
                            self.on_work(work);
                        }
                        Err(error) => self.on_crash(&error),
                    }
                }
                _ = heartbeat.tick() => self.beat(),
                _ = sweep.tick() => self.sweep(),
                () = sleep_until(alarm.unwrap_or_else(far_away)), if alarm.is_some() => self.ring(),
            }
        }
        self.stop().await;
        Ok(())
    }

    /// Writes the node's record, then takes presence: who sees the one can read the other.
    async fn announce(&self) {
        let reconciler = Arc::clone(&self.reconciler);
        let (node, labels) = (self.node.clone(), self.setup.labels.clone());
        let registry = Arc::clone(&self.setup.registry);
        let announced = tokio::task::spawn_blocking(move || {
            let members = reconciler.store().json_any(paths::MEMBERS).ok().flatten();
            let drivers = registry.descriptions().into_iter();
            let record = NodeRecord {
                format: FORMAT,
                node: node.clone(),
                agent: env!("CARGO_PKG_VERSION").to_owned(),
                drivers: drivers
                    .map(|driver| (driver.name, driver.version))
                    .collect(),
                facts: node_facts(&node, &members.unwrap_or(Value::Null), labels),
            };
            if let Err(error) =
                reconciler.write_node_file(&paths::node_record(&node), &json_bytes(&record))
            {
                tracing::warn!(
                    reason = error_text(&error),
                    "the node's record was not written"
                );
            }
            reconciler.heartbeat();
        });
        if let Err(error) = with_watchdog(announced).await {
            tracing::warn!(%error, "announcing this node failed; the heartbeat tries again");
        }
    }

    fn start_passes(&mut self) {
        let ready: Vec<_> = self.dirty.difference(&self.busy).cloned().collect();
        for id in ready {
            if self.busy.len() >= PASSES_AT_ONCE_MAX {
                return;
            }
            self.dirty.remove(&id);
            self.busy.insert(id.clone());
            let reconciler = Arc::clone(&self.reconciler);
            self.spawn(Thread::Pass(id.clone()), move || {
                let end = reconciler.pass(&id);
                Work::Pass(id, end)
            });
        }
    }

    fn on_hint(&mut self, hint: Hint) {
        let mut next = Some(hint);
        // Events come in bursts: all that are there are one reading.
        while let Some(hint) = next {
            match hint {
                Hint::Path(path) => {
                    let top = path.split('/').next().unwrap_or_default();
                    self.is_scan_due |= paths::WISH_ROOTS.contains(&top);
                    self.paths_waiting.insert(path);
                }
                Hint::Everything => self.sweep(),
            }
            next = self.hints.try_recv().ok();
        }
        self.look_at_paths();
        self.scan_if_due();
    }

    /// Lists the wishes beside the passes, which do not wait for it.
    fn scan_if_due(&mut self) {
        if self.is_scanning || !self.is_scan_due {
            return;
        }
        (self.is_scanning, self.is_scan_due) = (true, false);
        let reconciler = Arc::clone(&self.reconciler);
        self.spawn(Thread::Scan, move || {
            if let Err(error) = reconciler.scan() {
                tracing::warn!(
                    reason = error_text(&error),
                    "the wishes could not be listed"
                );
            }
            Work::Scan
        });
    }

    fn look_at_paths(&mut self) {
        if self.is_on_paths || self.paths_waiting.is_empty() {
            return;
        }
        self.is_on_paths = true;
        let paths = std::mem::take(&mut self.paths_waiting);
        let reconciler = Arc::clone(&self.reconciler);
        self.spawn(Thread::Paths, move || {
            for path in paths {
                reconciler.on_path(&path);
            }
            Work::Paths
        });
    }

    fn on_order(&mut self, order: Order) {
        match order {
            Order::Look(id) => {
                self.dirty.insert(id);
            }
            Order::Timer(key, after) => {
                // Set again, it counts from now: an older one would end the new grace too early.
                self.timers
                    .retain(|_, alarm| !matches!(alarm, Alarm::Engine(old) if *old == key));
                self.set_alarm(after, Alarm::Engine(key));
            }
            Order::Status(status) => {
                let id = status.deployment.clone();
                if self.statuses.insert(id.clone(), *status).is_none() {
                    let since = self.status_written.get(&id).map(Instant::elapsed);
                    let wait =
                        since.map_or(STATUS_DELAY, |since| STATUS_INTERVAL.saturating_sub(since));
                    self.set_alarm(wait.max(STATUS_DELAY), Alarm::Status(id));
                }
            }
        }
    }

    fn set_alarm(&mut self, after: Duration, alarm: Alarm) {
        self.timers_set += 1;
        self.timers
            .insert((Instant::now() + after, self.timers_set), alarm);
    }

    fn ring(&mut self) {
        let now = Instant::now();
        while let Some(entry) = self.timers.first_entry() {
            if entry.key().0 > now {
                return;
            }
            match entry.remove() {
                Alarm::Engine(key) => self.reconciler.tell(Event::Timer(key)),
                Alarm::Look(id) => {
                    self.dirty.insert(id);
                }
                Alarm::Status(id) => self.write_status(id),
            }
        }
    }

    fn write_status(&mut self, id: DeploymentId) {
        let Some(status) = self.statuses.remove(&id) else {
            return;
        };
        self.status_written.insert(id.clone(), Instant::now());
        let reconciler = Arc::clone(&self.reconciler);
        self.spawn(Thread::Other, move || {
            let end = reconciler.write_status(&status);
            Work::Status(id, end)
        });
    }

    fn on_work(&mut self, work: Work) {
        match work {
            Work::Pass(id, end) => {
                self.busy.remove(&id);
                self.after(id, end);
            }
            Work::Status(id, end) => self.after(id, end),
            Work::Paths => {
                self.is_on_paths = false;
                self.look_at_paths();
            }
            Work::Scan => {
                self.is_scanning = false;
                self.scan_if_due();
            }
            Work::Sweep => {}
            Work::Heartbeat(mount) => {
                self.is_beating = false;
                if mount != self.mount {
                    tracing::warn!(before = ?self.mount, now = ?mount, "the mount changed");
                    self.mount = mount;
                    self.sweep();
                }
            }
        }
    }

    fn after(&mut self, id: DeploymentId, end: PassEnd) {
        match end {
            PassEnd::Quiet => {}
            PassEnd::Again => {
                self.dirty.insert(id);
            }
            PassEnd::Refused => self.set_alarm(TREE_RETRY, Alarm::Look(id)),
        }
    }

    /// A thread panicked: a fault of the agent, which must not stop the other deployments.
    fn on_crash(&mut self, error: &JoinError) {
        tracing::error!(%error, "a thread failed; its work is done again with the next sweep");
        match self.threads.remove(&error.id()) {
            Some(Thread::Pass(id)) => {
                self.busy.remove(&id);
            }
            Some(Thread::Heartbeat) => self.is_beating = false,
            Some(Thread::Paths) => self.is_on_paths = false,
            Some(Thread::Scan) => self.is_scanning = false,
            Some(Thread::Other) | None => {}
        }
    }

    /// Runs what may block on the tree on a thread of its own.
    fn spawn(&mut self, thread: Thread, work: impl FnOnce() -> Work + Send + 'static) {
        let handle = self.passes.spawn_blocking(work);
        self.threads.insert(handle.id(), thread);
    }

    fn beat(&mut self) {
        watchdog();
        if self.is_beating {
            return;
        }
        self.is_beating = true;
        let reconciler = Arc::clone(&self.reconciler);
        let root = self.setup.root.clone();
        let (known, hints) = (self.mount.clone(), self.hint_sender.clone());
        self.spawn(Thread::Heartbeat, move || {
            let mount = mount_table::identity(&root);
            if mount != known {
                reconciler.reopen();
                match TreeWatcher::new(&root, hints) {
                    Ok(watcher) => reconciler.set_watcher(watcher),
                    Err(error) => {
                        tracing::error!(%error, "no watches: changes are seen by the sweep only");
                    }
                }
            }
            reconciler.heartbeat();
            Work::Heartbeat(mount)
        });
    }

    fn sweep(&mut self) {
        let reconciler = Arc::clone(&self.reconciler);
        self.spawn(Thread::Other, move || {
            if let Err(error) = reconciler.scan() {
                tracing::warn!(
                    reason = error_text(&error),
                    "the wishes could not be listed"
                );
            }
            reconciler.tell(Event::ObserveAll);
            reconciler.look_at_all();
            Work::Sweep
        });
    }

    /// Steps are told to stop, locks are released, services go on running.
    async fn stop(mut self) {
        notify_manager(&[sd_notify::NotifyState::Stopping]);
        self.executor.cancel_all("the agent is stopping");
        let until = Instant::now() + STOP_GRACE;
        while !self.executor.is_idle() && Instant::now() < until {
            tokio::select! {
                _ = self.events.recv() => {}
                () = sleep_until(until) => {}
            }
        }
        let reconciler = Arc::clone(&self.reconciler);
        let released = tokio::task::spawn_blocking(move || reconciler.stop());
        if tokio::time::timeout(STOP_GRACE, released).await.is_err() {
            tracing::warn!("the tree did not take the locks back in time; they end by themselves");
        }
    }
}

fn far_away() -> Instant {
    Instant::now() + SWEEP_INTERVAL
}

/// Waits for a thread that may hang in the tree, which is no reason to end the agent.
async fn with_watchdog<T>(mut thread: JoinHandle<T>) -> Result<T, JoinError> {
    loop {
        tokio::select! {
            done = &mut thread => return done,
            () = sleep(HEARTBEAT_INTERVAL) => watchdog(),
        }
    }
}

fn watchdog() {
    notify_manager(&[sd_notify::NotifyState::Watchdog]);
}

fn notify_manager(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager was not told");
    }
}
