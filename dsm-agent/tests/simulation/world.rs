//! The scheduler: draws each move from the seed, injects faults, checks the invariants.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use drivers::driver::StepOutcome;
use dsm_agent::engine::action::{StartStep, TimerKey};
use dsm_agent::engine::event::{Event, StepEnd};
use dsm_agent::engine::id::DeploymentId;
use dsm_agent::engine::log::{Ev, NodeLog, StepState};
use dsm_agent::engine::record::{Outcome, Phase, PlanRecord, Reason, Status};
use dsm_agent::mount::paths;

use crate::machines::{self, Machine};
use crate::rng::Rng;
use crate::sim_agent::SimAgent;
use crate::sim_tree::SimStore;

const WISH: &str = "mid/thing.json";

/// How likely faults are, per mille of the moves.
#[derive(Clone, Copy)]
pub struct Faults {
    pub crash: u64,
    pub lose_lock: u64,
    pub lose_wake: u64,
    /// Moves during which faults happen.
    pub moves: u64,
}

impl Faults {
    pub fn none() -> Self {
        Self {
            crash: 0,
            lose_lock: 0,
            lose_wake: 0,
            moves: 0,
        }
    }

    pub fn crashes() -> Self {
        Self {
            crash: 12,
            lose_lock: 8,
            lose_wake: 200,
            moves: 600,
        }
    }
}

pub struct World {
    seed: u64,
    rng: Rng,
    faults: Faults,
    shared: Arc<Mutex<SimStore>>,
    machines: BTreeMap<String, Machine>,
    agents: BTreeMap<String, Option<SimAgent>>,
    last_nodes: Vec<String>,
    /// Effects so far, to see that runs differ.
    effects: u64,
}

impl World {
    pub fn new(seed: u64, nodes: &[&str], faults: Faults) -> Self {
        let mut store = SimStore::new();
        let members: Vec<_> = nodes
            .iter()
            .map(|node| serde_json::json!({ "name": node, "address": "10.0.0.1:1", "age_public": "" }))
            .collect();
        let members = serde_json::json!({ "cluster": "sim", "members": members });
        store.put(paths::MEMBERS, members.to_string().as_bytes());
        let shared = Arc::new(Mutex::new(store));
        let agents = nodes
            .iter()
            .map(|node| ((*node).to_owned(), Some(SimAgent::start(&shared, node))))
            .collect();
        Self {
            seed,
            rng: Rng::new(seed),
            faults,
            shared,
            machines: nodes
                .iter()
                .map(|node| ((*node).to_owned(), Machine::new()))
                .collect(),
            agents,
            last_nodes: Vec::new(),
            effects: 0,
        }
    }

    pub fn save(&mut self, value: &str, nodes: &[&str]) {
        self.last_nodes = nodes.iter().map(|node| (*node).to_owned()).collect();
        let wish =
            serde_json::json!({ "driver": "sim", "nodes": nodes, "params": { "value": value } });
        self.shared
            .lock()
            .unwrap()
            .put(WISH, wish.to_string().as_bytes());
        self.wake_all();
    }

    pub fn delete(&mut self) {
        self.shared.lock().unwrap().unlink(WISH);
        self.wake_all();
    }

    pub fn rename(&mut self, to: &str) {
        self.shared.lock().unwrap().move_file(WISH, to);
        self.wake_all();
    }

    fn wake_all(&mut self) {
        for agent in self.agents.values_mut().flatten() {
            agent.heartbeat();
        }
    }

    pub fn observe_all(&mut self) {
        for agent in self.agents.values_mut().flatten() {
            agent.tell(Event::ObserveAll);
        }
    }

    pub fn mutations(&self) -> u64 {
        self.shared.lock().unwrap().mutations
    }

    pub fn run_with_faults(&mut self) {
        self.run_moves(self.faults.moves);
    }

    pub fn run_moves(&mut self, moves: u64) {
        for _ in 0..moves {
            self.inject();
            self.step(true);
        }
    }

    /// Until this generation is there; none of its steps has begun then.
    pub fn run_until_planned(&mut self, number: usize) {
        while self.generations() < number {
            assert!(self.step(false), "seed {}: nothing is to do", self.seed);
        }
    }

    /// The agent of the node ends, somebody clears the machine, the agent comes back.
    pub fn clean_by_hand(&mut self, node: &str) {
        self.agents.insert(node.to_owned(), None);
        self.shared.lock().unwrap().end_session(node);
        self.machines.get_mut(node).unwrap().clear();
        self.restart(node);
    }

    /// What a node's log of a generation says, in order.
    pub fn evs(&self, node: &str, number: u64) -> Vec<String> {
        let agent = self.agents.values().flatten().next();
        let store = agent.expect("an agent lives").store();
        let number = dsm_agent::engine::id::Generation(number);
        let generation = store.generation(&self.id(), number).unwrap();
        let lines = generation.logs[node].lines.iter();
        lines
            .map(|line| {
                let ev = serde_json::to_value(line.entry.ev).unwrap();
                ev.as_str().unwrap().to_owned()
            })
            .collect()
    }

    /// No more faults: everything comes to rest.
    pub fn settle(&mut self) {
        self.faults = Faults {
            moves: self.faults.moves,
            ..Faults::none()
        };
        let nodes: Vec<String> = self.agents.keys().cloned().collect();
        for node in nodes {
            self.restart(&node);
        }
        let mut quiet = 0;
        for _ in 0..400 {
            let before = self.mutations();
            // Long timers only when nothing shorter moves any more.
            self.run_dry(false);
            self.run_dry(true);
            self.shared.lock().unwrap().end_delays();
            self.wake_all();
            quiet = if self.mutations() == before {
                quiet + 1
            } else {
                0
            };
            if quiet > 3 {
                return;
            }
        }
        panic!("seed {}: it does not come to rest", self.seed);
    }

    fn run_dry(&mut self, long_timers: bool) {
        for _ in 0..20_000 {
            if !self.step(long_timers) {
                return;
            }
        }
        panic!("seed {}: a loop", self.seed);
    }

    fn inject(&mut self) {
        let nodes: Vec<String> = self.agents.keys().cloned().collect();
        let node = nodes[self.rng.below(nodes.len())].clone();
        if self.rng.chance(self.faults.crash) {
            self.agents.insert(node.clone(), None);
            self.shared.lock().unwrap().end_session(&node);
        } else if self.agents[&node].is_none() && self.rng.chance(100) {
            self.restart(&node);
        }
        if self.rng.chance(self.faults.lose_lock) {
            let locks = self.shared.lock().unwrap().lock_paths();
            if !locks.is_empty() {
                let lock = &locks[self.rng.below(locks.len())];
                self.shared.lock().unwrap().void_lock(lock);
            }
        }
        if self.rng.chance(100) {
            self.shared.lock().unwrap().end_delays();
        }
    }

    fn restart(&mut self, node: &str) {
        if self.agents[node].is_none() {
            let mut agent = SimAgent::start(&self.shared, node);
            agent.heartbeat();
            self.agents.insert(node.to_owned(), Some(agent));
        }
    }

    /// One move of one agent. False if no agent had anything to do.
    fn step(&mut self, long_timers: bool) -> bool {
        let mut moves: Vec<(String, Move)> = Vec::new();
        for (node, agent) in &self.agents {
            let Some(agent) = agent else {
                continue;
            };
            moves.extend(
                enabled(agent, long_timers)
                    .into_iter()
                    .map(|step| (node.clone(), step)),
            );
        }
        if moves.is_empty() {
            return false;
        }
        let (node, chosen) = moves.swap_remove(self.rng.below(moves.len()));
        let before = self.mutations();
        if std::env::var_os("SIM_TRACE").is_some() {
            println!("{node} {chosen:?} {:?}", self.next_action(&node, &chosen));
        }
        self.make(&node, chosen);
        if self.mutations() != before {
            self.wake_others(&node);
        }
        true
    }

    /// For `SIM_TRACE`: what the move performs.
    fn next_action(&self, node: &str, chosen: &Move) -> Option<&dsm_agent::engine::action::Action> {
        match chosen {
            Move::Perform(id) => self.agents[node].as_ref()?.work.get(id)?.actions.front(),
            _ => None,
        }
    }

    fn wake_others(&mut self, by: &str) {
        let names: Vec<String> = self.agents.keys().cloned().collect();
        for name in names.iter().filter(|name| *name != by) {
            if self.rng.chance(self.faults.lose_wake) {
                continue;
            }
            if let Some(agent) = self.agents.get_mut(name).and_then(Option::as_mut) {
                agent.heartbeat();
            }
        }
    }

    fn make(&mut self, node: &str, chosen: Move) {
        let agent = self
            .agents
            .get_mut(node)
            .and_then(Option::as_mut)
            .expect("it was enabled");
        match chosen {
            Move::Read(id) => agent.read(&id, 0),
            Move::Perform(id) => agent.perform(&id),
            Move::Timer(place) => {
                let key = agent.timers.swap_remove(place);
                agent.tell(Event::Timer(key));
            }
            Move::Look(place) => {
                let (deployment, answers) = agent.looking.swap_remove(place);
                let result = Ok(machines::facts(&self.machines[node]));
                agent.tell(Event::Observed {
                    deployment,
                    answers,
                    result,
                });
            }
            Move::Heartbeat => agent.heartbeat(),
            Move::Effect(place) => {
                let start = agent.steps.swap_remove(place);
                self.effect(node, &start);
            }
        }
    }

    /// A step runs to its end, unless its fence is not the lock's any more.
    fn effect(&mut self, node: &str, start: &StartStep) {
        self.check_started(node, start);
        self.check_exclusive(node, start);
        let lock = match &start.lock {
            Some(lock) => paths::lock(&start.deployment, lock),
            None => paths::presence(node),
        };
        let agent = self
            .agents
            .get_mut(node)
            .and_then(Option::as_mut)
            .expect("it runs the step");
        let end = if agent.tree().fence(&lock).unwrap_or(None) == Some(start.fence) {
            let machine = self
                .machines
                .get_mut(node)
                .expect("every node has a machine");
            machines::apply(machine, &start.step);
            self.effects += 1;
            StepEnd::Succeeded(StepOutcome::default())
        } else {
            StepEnd::Fenced {
                reason: "its fence is void".to_owned(),
            }
        };
        agent.tell(Event::StepEnded {
            deployment: start.deployment.clone(),
            generation: start.generation,
            step: start.step.id.clone(),
            attempt: start.attempt,
            end,
            dur_us: 1,
        });
    }

    /// `started` of this attempt is in the log before the effect, and no outcome follows it.
    fn check_started(&self, node: &str, start: &StartStep) {
        let store = self.shared.lock().unwrap();
        let (id, number) = (&start.deployment, start.generation);
        let plan = store
            .bytes(&paths::generation_file(id, number, "plan.json"))
            .expect("there is a plan");
        let plan: PlanRecord = serde_json::from_slice(plan).unwrap();
        let log = store
            .bytes(&paths::log(id, node, number))
            .expect("there is a log");
        let log = NodeLog::parse(&plan.digest, log).unwrap();
        let started = log.lines.iter().any(|line| {
            line.entry.ev == Ev::Started
                && line.entry.step.as_ref() == Some(&start.step.id)
                && line.entry.attempt == start.attempt
        });
        assert!(
            started,
            "seed {}: {} has an effect without started",
            self.seed, start.step.id
        );
        for need in &start.step.needs {
            let owner = &plan.step(need).unwrap().node;
            let bytes = store
                .bytes(&paths::log(id, owner, number))
                .unwrap_or_default();
            let state = NodeLog::parse(&plan.digest, bytes).unwrap().state(need);
            assert_eq!(
                state,
                StepState::Done,
                "seed {}: {need} is not done",
                self.seed
            );
        }
    }

    /// No other agent runs a step of the same name or under the same lock with a valid fence.
    fn check_exclusive(&self, node: &str, start: &StartStep) {
        let store = self.agents.values().flatten();
        for agent in store {
            for other in &agent.steps {
                let same = agent.node == node && other.step.id == start.step.id;
                assert!(!same, "seed {}: {} runs twice", self.seed, start.step.id);
                if other.lock.is_some() && other.lock == start.lock {
                    assert_ne!(
                        other.fence, start.fence,
                        "seed {}: one lock, two steps",
                        self.seed
                    );
                }
            }
        }
    }

    fn id(&self) -> DeploymentId {
        DeploymentId::parse(WISH).unwrap()
    }

    fn status(&self, id: &DeploymentId) -> Status {
        let store = self.shared.lock().unwrap();
        let bytes = store
            .bytes(&paths::status_json(id))
            .expect("there is a status");
        serde_json::from_slice(bytes).unwrap()
    }

    pub fn generations(&self) -> usize {
        let agent = self
            .agents
            .values()
            .flatten()
            .next()
            .expect("an agent lives");
        agent.store().generations(&self.id()).unwrap().len()
    }

    /// Active, the machines as wished, every record sound.
    pub fn check_converged(&self, value: &str) {
        let status = self.status(&self.id());
        assert_eq!(
            status.phase,
            Phase::Active,
            "seed {}: {status:#?}",
            self.seed
        );
        self.check_machines(value);
        self.check_records(&self.id());
        assert!(self.effects > 0);
    }

    fn check_machines(&self, value: &str) {
        for (node, machine) in &self.machines {
            let expected = match self.last_nodes.iter().position(|wanted| wanted == node) {
                Some(place) => machines::wanted(value, place == 0),
                None => Machine::new(),
            };
            assert_eq!(machine, &expected, "seed {}: {node}", self.seed);
        }
    }

    fn check_records(&self, id: &DeploymentId) {
        let agent = self
            .agents
            .values()
            .flatten()
            .next()
            .expect("an agent lives");
        let numbers = agent.store().generations(id).unwrap();
        for (place, number) in numbers.iter().enumerate() {
            assert_eq!(number.0, place as u64 + 1, "generations have gaps");
            let generation = agent.store().generation(id, *number).unwrap();
            for log in generation.logs.values() {
                self.check_notes(log);
            }
            let result = generation.result.expect("every generation has ended");
            let last = place + 1 == numbers.len();
            // What a lost member left undone can turn out to be done already.
            let good = matches!(result.outcome, Outcome::Done | Outcome::Superseded);
            assert!(!last || good, "seed {}: {result:?}", self.seed);
        }
    }

    /// A step is planned once and before it starts; a wait is told again only with another reason or after a start.
    fn check_notes(&self, log: &NodeLog) {
        let mut planned = BTreeSet::new();
        let mut waits: BTreeMap<&String, Option<&String>> = BTreeMap::new();
        for line in &log.lines {
            let entry = &line.entry;
            let Some(step) = &entry.step else {
                continue;
            };
            match entry.ev {
                Ev::Planned => assert!(planned.insert(step), "seed {}: {step} twice", self.seed),
                Ev::Started => {
                    assert!(planned.contains(step), "seed {}: {step} late", self.seed);
                    waits.remove(step);
                }
                Ev::LockAcquired => {
                    waits.remove(step);
                }
                Ev::Waiting => {
                    let what = entry.note.as_ref();
                    assert!(what.is_some(), "seed {}: {step} has no reason", self.seed);
                    let before = waits.insert(step, what);
                    assert_ne!(before, Some(what), "seed {}: {step} told twice", self.seed);
                }
                _ => {}
            }
        }
    }

    /// Every file of the record, as one text.
    pub fn record_text(&self) -> String {
        self.shared.lock().unwrap().text_below("run/")
    }

    pub fn check_removed(&self) {
        let status = self.status(&self.id());
        assert_eq!(
            status.phase,
            Phase::Removed,
            "seed {}: {status:#?}",
            self.seed
        );
        for (node, machine) in &self.machines {
            assert!(
                machine.is_empty(),
                "seed {}: {node} still has {machine:?}",
                self.seed
            );
        }
    }

    pub fn check_adopted(&self, name: &str, value: &str) {
        let new = DeploymentId::parse(name).unwrap();
        assert_eq!(self.status(&new).phase, Phase::Active);
        assert_eq!(self.status(&self.id()).phase, Phase::Removed);
        let agent = self
            .agents
            .values()
            .flatten()
            .next()
            .expect("an agent lives");
        let first = agent
            .store()
            .generation(&new, dsm_agent::engine::id::Generation(1))
            .unwrap();
        assert_eq!(first.intent.reason, Reason::Adopted);
        assert_eq!(first.plan.steps.len(), 0, "nothing that runs is touched");
        let old = agent.store().wish_record(&self.id()).unwrap().unwrap();
        assert_eq!(first.intent.uid, old.uid);
        self.check_machines(value);
    }
}

#[derive(Debug)]
enum Move {
    Read(DeploymentId),
    Perform(DeploymentId),
    Timer(usize),
    Look(usize),
    Effect(usize),
    Heartbeat,
}

fn enabled(agent: &SimAgent, long_timers: bool) -> Vec<Move> {
    let mut moves: Vec<Move> = Vec::new();
    moves.extend(agent.work.keys().cloned().map(Move::Perform));
    let idle = agent
        .dirty
        .iter()
        .filter(|id| !agent.work.contains_key(*id));
    moves.extend(idle.cloned().map(Move::Read));
    moves.extend((0..agent.looking.len()).map(Move::Look));
    moves.extend((0..agent.steps.len()).map(Move::Effect));
    if agent.is_refused {
        moves.push(Move::Heartbeat);
    }
    for (place, key) in agent.timers.iter().enumerate() {
        // A deadline would make a failure of what is merely slow here.
        let is_long = matches!(key, TimerKey::Removal(_) | TimerKey::MemberGrace(..));
        let never = matches!(key, TimerKey::Deadline(..));
        if !never && (long_timers || !is_long) {
            moves.push(Move::Timer(place));
        }
    }
    moves
}
