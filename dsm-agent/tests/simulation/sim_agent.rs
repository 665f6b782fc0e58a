//! One life of one agent: the real engine, record and performer; what the loop does is drawn by the world.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use drivers::registry::Registry;
use dsm_agent::engine::action::{Action, StartStep, TimerKey};
use dsm_agent::engine::core::Engine;
use dsm_agent::engine::event::Event;
use dsm_agent::engine::id::DeploymentId;
use dsm_agent::engine::record::Answers;
use dsm_agent::engine::view::ClusterView;
use dsm_agent::failpoint::Failpoint;
use dsm_agent::mount::paths;
use dsm_agent::mount::performer::{Performed, Performer};
use dsm_agent::mount::run_store::RunStore;
use dsm_agent::mount::shared_tree::{LockAttempt, SharedTree, Standing};
use dsm_agent::mount::wish_index::WishIndex;

use crate::machines::SimDriver;
use crate::sim_tree::{SimStore, SimTree};

/// An action list that is being performed, and the round that follows it.
pub struct Work {
    pub actions: VecDeque<Action>,
    pub round: u32,
}

pub struct SimAgent {
    pub node: String,
    engine: Engine,
    store: Arc<RunStore>,
    performer: Performer,
    cluster: ClusterView,
    pub dirty: BTreeSet<DeploymentId>,
    pub work: BTreeMap<DeploymentId, Work>,
    pub timers: Vec<TimerKey>,
    /// Observations that were asked for.
    pub looking: Vec<(DeploymentId, Answers)>,
    /// Steps handed to the executor.
    pub steps: Vec<StartStep>,
    locks: BTreeMap<(DeploymentId, String), u64>,
    presence: Option<u64>,
    /// The tree refused something: the heartbeat that comes within a second finds out why.
    pub is_refused: bool,
}

impl SimAgent {
    pub fn start(shared: &Arc<Mutex<SimStore>>, node: &str) -> Self {
        let session = shared.lock().unwrap().open_session(node);
        let tree: Arc<dyn SharedTree> = Arc::new(SimTree {
            store: Arc::clone(shared),
            node: node.to_owned(),
            session,
        });
        let store = Arc::new(RunStore::new(tree));
        let registry = Arc::new(Registry::of(vec![Box::new(SimDriver)]));
        Self {
            node: node.to_owned(),
            engine: Engine::new(node.to_owned(), registry),
            performer: Performer::new(
                Arc::clone(&store),
                node.to_owned(),
                Arc::new(Failpoint::default()),
            ),
            store,
            cluster: ClusterView::default(),
            dirty: BTreeSet::new(),
            work: BTreeMap::new(),
            timers: Vec::new(),
            looking: Vec::new(),
            steps: Vec::new(),
            locks: BTreeMap::new(),
            presence: None,
            is_refused: false,
        }
    }

    pub fn tree(&self) -> &dyn SharedTree {
        self.store.tree().as_ref()
    }

    pub fn store(&self) -> &RunStore {
        &self.store
    }

    pub fn tell(&mut self, event: Event) {
        for action in self.engine.on_event(event) {
            if let Action::Read(id) = action {
                self.dirty.insert(id);
            }
        }
    }

    /// What the heartbeat does: locks, presence, members.
    pub fn heartbeat(&mut self) {
        self.is_refused = false;
        let held: Vec<_> = self
            .locks
            .iter()
            .map(|(key, fence)| (key.clone(), *fence))
            .collect();
        for ((deployment, lock), fence) in held {
            let now = self
                .tree()
                .fence(&paths::lock(&deployment, &lock))
                .unwrap_or(None);
            if now != Some(fence) {
                self.locks.remove(&(deployment.clone(), lock.clone()));
                self.tell(Event::LockLost { deployment, lock });
            }
        }
        let path = paths::presence(&self.node);
        if self.presence.is_none() || self.tree().fence(&path).unwrap_or(None) != self.presence {
            self.presence = match self.tree().try_lock(&path) {
                Ok(LockAttempt::Granted(fence)) => Some(fence),
                _ => None,
            };
        }
        let mark = self.tree().mark().unwrap_or(None);
        if let Ok(cluster) = self.store.cluster(&self.node, mark) {
            self.cluster = cluster.clone();
            self.tell(Event::Cluster(cluster));
        }
        if let Ok(index) = WishIndex::scan(self.tree()) {
            self.dirty.extend(index.all());
        }
    }

    fn standing(&self) -> Option<Standing> {
        let mark = self.tree().mark().unwrap_or(None)?;
        let presence = self.presence?;
        let fence = self.tree().fence(&paths::presence(&self.node));
        (fence.unwrap_or(None) == Some(presence)).then_some(Standing { mark, presence })
    }

    /// Reads a deployment and asks the engine; its answer is performed later, action by action.
    pub fn read(&mut self, id: &DeploymentId, round: u32) {
        self.dirty.remove(id);
        let Ok(index) = WishIndex::scan(self.tree()) else {
            return;
        };
        let standing = self.standing();
        let now = "now".to_owned();
        let Ok(view) = self.store.view(id, round, now, &Arc::new(index), standing) else {
            return;
        };
        assert_eq!(view.broken, [], "{}: the record is broken", self.node);
        let actions = self.engine.on_event(Event::View(Box::new(view)));
        if !actions.is_empty() {
            self.work.insert(
                id.clone(),
                Work {
                    actions: actions.into(),
                    round: round + 1,
                },
            );
        }
    }

    /// Performs the next action of a deployment; reads again after the last.
    pub fn perform(&mut self, id: &DeploymentId) {
        let Some(work) = self.work.get_mut(id) else {
            return;
        };
        let Some(action) = work.actions.front().cloned() else {
            let round = work.round;
            self.work.remove(id);
            if round < 40 {
                self.read(id, round);
            } else {
                self.dirty.insert(id.clone());
            }
            return;
        };
        match self.performer.perform(action, &self.cluster, "now") {
            Ok(performed) => {
                if let Some(work) = self.work.get_mut(id)
                    && let Some(Action::ReleaseLock { deployment, lock }) = work.actions.pop_front()
                {
                    self.locks.remove(&(deployment, lock));
                }
                self.take(performed);
            }
            Err(error) => {
                self.is_refused = true;
                let rest = self
                    .work
                    .remove(id)
                    .map(|work| work.actions.into())
                    .unwrap_or_default();
                let reason = error.to_string();
                self.tell(Event::NotPerformed {
                    deployment: id.clone(),
                    actions: rest,
                    reason,
                });
                self.dirty.insert(id.clone());
            }
        }
    }

    fn take(&mut self, performed: Performed) {
        match performed {
            Performed::Done => {}
            Performed::Event(event) => {
                match event.as_ref() {
                    Event::LockGranted {
                        deployment,
                        lock,
                        fence,
                    } => {
                        self.locks
                            .insert((deployment.clone(), lock.clone()), *fence);
                    }
                    Event::Cluster(cluster) => self.cluster = cluster.clone(),
                    _ => {}
                }
                self.tell(*event);
            }
            Performed::Handed(action) => match *action {
                Action::Read(id) => {
                    self.dirty.insert(id);
                }
                Action::SetTimer { key, .. } => {
                    self.timers.retain(|old| *old != key);
                    self.timers.push(key);
                }
                Action::Observe { scope, answers, .. } => {
                    let id = DeploymentId::parse(&scope.deployment).unwrap();
                    self.looking.push((id, answers));
                }
                Action::StartStep(start) => self.steps.push(*start),
                Action::WriteStatus(status) => {
                    let id = status.deployment.clone();
                    if let Err(error) = self.performer.write_status(&status, "now") {
                        self.is_refused = true;
                        let actions = vec![Action::WriteStatus(status)];
                        let reason = error.to_string();
                        self.tell(Event::NotPerformed {
                            deployment: id.clone(),
                            actions,
                            reason,
                        });
                        self.dirty.insert(id);
                    }
                }
                _ => {}
            },
        }
    }
}
