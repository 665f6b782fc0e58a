//! A world: members, their clients, and what goes wrong, all by one seed.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{Instant, sleep};
use vfsd::limits::RULES_KNOWN;
use vfsd::storage::disk::fake::Faults;

use super::clients::{Client, FILES, LINES, Shared, read};
use super::member::{Loss, Member};
use super::network::{Network, Weather};
use super::{founding, older_copy, scenarios, sticky, trace};

/// How long things go wrong.
const TROUBLE: Duration = Duration::from_secs(10);
/// In this time after the last trouble all members agree: elections, sessions and a snapshot fit in.
pub const CALM_MAX: Duration = Duration::from_secs(60);
/// How often states are compared: a digest reads all of one.
const LOOK_EVERY: Duration = Duration::from_millis(400);
/// Programs on each member.
const CLIENTS: usize = 2;
/// A start is tried this often while the disk itself fails.
const STARTS_MAX: usize = 20;

/// See the module.
pub struct World {
    pub(super) rng: StdRng,
    pub(super) network: Network,
    pub(super) members: Vec<Member>,
    pub(super) shared: Arc<Shared>,
    pub(super) older_copy: Option<older_copy::Plan>,
    clients: u64,
    looked: Instant,
}

/// Runs the world of `seed`, or a scenario in it; panics if something does not hold.
pub fn run(seed: u64, scenario: Option<&str>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        super::chance::start_clock();
        let mut world = World::new(seed).await;
        match scenario {
            None => {
                world.trouble().await;
                world.calm().await;
            }
            Some(name) => scenarios::run(name, &mut world).await,
        }
        let done = world.shared.done.lock().clone();
        trace::line(&format!("done: {done:?}"));
    });
    // Tasks of members that are down end with the process.
    runtime.shutdown_background();
}

impl World {
    async fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let size = if rng.random_bool(0.2) { 5 } else { 3 };
        let network = Network::new(rng.random());
        if rng.random_bool(0.2) {
            // It is upgraded when all is calm again.
            network.set_rules(rng.random_range(1..=size), rng.random_range(0..RULES_KNOWN));
        }
        let mut members = Vec::new();
        for id in 1..=size {
            members.push(Member::new(id, rng.random(), founding::entries(size)).await);
        }
        let mut world = Self {
            rng,
            network,
            members,
            shared: Arc::default(),
            older_copy: None,
            clients: 0,
            looked: Instant::now(),
        };
        for index in 0..world.members.len() {
            world.start(index).await;
        }
        for index in 0..world.members.len() {
            world.start_clients(index);
        }
        world
    }

    /// A node always starts again: only its disk may keep it from that.
    pub(super) async fn start(&mut self, index: usize) {
        if self.members[index].is_out || self.members[index].is_full() {
            return;
        }
        for _ in 0..STARTS_MAX {
            let network = self.network.clone();
            let member = &mut self.members[index];
            member.disk.set_hanging(false);
            let started = member.start(&network).await;
            match started {
                Ok(()) => return,
                Err(error) if member.disk.is_up() && !member.has_faults => {
                    panic!("n{} does not start: {error:#}", member.id)
                }
                Err(_) => {
                    let loss = self.any_loss();
                    self.members[index].crash(&network, loss);
                }
            }
        }
        panic!("the disk failed at every start");
    }

    pub(super) fn start_clients(&mut self, index: usize) {
        let trees: Vec<_> = self
            .members
            .iter()
            .map(|member| {
                member
                    .running
                    .as_ref()
                    .map(|running| Arc::clone(&running.fs))
            })
            .collect();
        if let Some(fs) = &trees[index] {
            let watch = sticky::Watch(Arc::clone(&self.shared));
            fs.feed().subscribe(Arc::new(watch));
        }
        for client in 0..CLIENTS {
            self.clients += 1;
            let elsewhere = trees
                .iter()
                .enumerate()
                .filter(|(other, _)| *other != index);
            let elsewhere = elsewhere.filter_map(|(_, fs)| fs.clone()).collect();
            let member = &mut self.members[index];
            let Some(running) = &mut member.running else {
                return;
            };
            let client = Client::new(
                format!("c{}@n{}", self.clients, member.id),
                (Arc::clone(&running.fs), running.node.proposer()),
                Arc::clone(&self.shared),
                elsewhere,
                client == 0,
                self.rng.random(),
            );
            running.tasks.spawn(client.run());
        }
    }

    fn any(&mut self) -> usize {
        self.rng.random_range(0..self.members.len())
    }

    fn any_loss(&mut self) -> Loss {
        if self.rng.random_bool(0.6) {
            Loss::Power
        } else {
            Loss::Process
        }
    }

    async fn trouble(&mut self) {
        let end = Instant::now() + TROUBLE;
        self.plan_older_copy();
        while Instant::now() < end {
            let pause = Duration::from_millis(self.rng.random_range(50..1_200));
            self.wait(pause).await;
            self.follow_plan().await;
            match self.rng.random_range(0..100) {
                0..14 => self.crash_one().await,
                14..20 => self.crash_all().await,
                20..38 => self.crash_at_a_call(),
                38..50 => self.cut(),
                50..62 => self.network.heal(),
                62..70 => self.change_weather(),
                70..76 => self.fail_a_flush(),
                76..82 => self.hang_a_disk(),
                82..88 => self.snapshot().await,
                88..92 => self.fill_disks(),
                _ => self.starve().await,
            }
        }
    }

    /// Lets time pass; machines that go down meanwhile come up again.
    pub(super) async fn wait(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            sleep(Duration::from_millis(20).min(end - Instant::now())).await;
            if self.looked.elapsed() > LOOK_EVERY {
                self.look();
            }
            self.retire_unfit();
            for index in 0..self.members.len() {
                self.members[index].is_full();
                if !self.is_well(index) {
                    self.crash(index).await;
                    if self.rng.random_bool(0.3) {
                        self.start(index).await;
                        self.start_clients(index);
                    }
                } else if self.members[index].running.is_none() && self.rng.random_bool(0.03) {
                    self.start(index).await;
                    self.start_clients(index);
                }
            }
        }
    }

    /// Whether it is down on purpose, or runs with a living consensus.
    fn is_well(&mut self, index: usize) -> bool {
        let member = &mut self.members[index];
        let Some(running) = &mut member.running else {
            return true;
        };
        // A panic of a client is a finding: it is shown where it happened.
        while let Some(ended) = running.tasks.try_join_next() {
            if let Err(error) = ended
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
        member.disk.is_up() && running.node.failure().is_none()
    }

    /// Looks at every state that can be seen now.
    pub(super) fn look(&mut self) {
        self.looked = Instant::now();
        let mut checkers = self.shared.checkers.lock();
        checkers.levels.known_by_all(self.network.rules_of_all());
        for member in &self.members {
            if let Some(running) = &member.running {
                checkers
                    .digests
                    .check(member.id, &running.node.core().view.state());
                let level = running.node.core().view.state().level();
                checkers.levels.check(member.id, level);
                if running.node.core().pledges.takes_part() {
                    checkers.older_copies.takes_part(member.id);
                }
            }
        }
    }

    pub(super) async fn crash(&mut self, index: usize) {
        let loss = self.any_loss();
        let member = &mut self.members[index];
        if let Some(running) = &mut member.running {
            let log = &running.node.core().log;
            self.shared.checkers.lock().log_ids.check(member.id, log);
            running.tasks.abort_all();
        }
        member.crash(&self.network, loss);
    }

    async fn crash_one(&mut self) {
        let index = self.any();
        if self.members[index].running.is_some() {
            self.crash(index).await;
        }
    }

    async fn crash_all(&mut self) {
        for index in 0..self.members.len() {
            if self.members[index].running.is_some() {
                self.crash(index).await;
            }
        }
        let pause = Duration::from_millis(self.rng.random_range(0..500));
        sleep(pause).await;
        for index in 0..self.members.len() {
            self.start(index).await;
            self.start_clients(index);
        }
    }

    fn crash_at_a_call(&mut self) {
        let index = self.any();
        let down_at_call = Some(self.rng.random_range(1..60));
        self.members[index].set_faults(Faults {
            down_at_call,
            ..Faults::default()
        });
    }

    fn fail_a_flush(&mut self) {
        let index = self.any();
        let sync_fails_at = Some(self.rng.random_range(1..20));
        self.members[index].set_faults(Faults {
            sync_fails_at,
            ..Faults::default()
        });
    }

    /// One disk has no room for a while, that of the leader among them, or all.
    fn fill_disks(&mut self) {
        let time = Duration::from_millis(self.rng.random_range(200..4_000));
        let until = Instant::now() + time;
        let chosen = match self.rng.random_range(0..4) {
            0 => 0..self.members.len(),
            _ => {
                let any = self.any();
                any..any + 1
            }
        };
        for index in chosen {
            self.members[index].fill_disk(until);
        }
    }

    /// A disk that hangs until something else happens to it.
    fn hang_a_disk(&mut self) {
        let index = self.any();
        let hangs = self.rng.random_bool(0.5);
        trace::line(&format!("the disk of n{} hangs: {hangs}", index + 1));
        self.members[index].disk.set_hanging(hangs);
    }

    fn cut(&mut self) {
        let (one, other) = (self.any() as u64 + 1, self.any() as u64 + 1);
        trace::line(&format!("nothing gets from n{one} to n{other}"));
        self.network.cut(one, other);
        if self.rng.random_bool(0.5) {
            self.network.cut(other, one);
        }
    }

    fn change_weather(&mut self) {
        let weather = Weather {
            loss: [0.0, 0.01, 0.1][self.rng.random_range(0..3)],
            breaks: [0.0, 0.01, 0.05][self.rng.random_range(0..3)],
            delay: Duration::from_millis([2, 5, 30][self.rng.random_range(0..3)]),
            delay_max: Duration::from_millis([5, 200, 1_000][self.rng.random_range(0..3)]),
        };
        trace::line(&format!("{weather:?}"));
        self.network.set_weather(weather);
    }

    /// Takes a snapshot on one member and drops the log behind it.
    async fn snapshot(&mut self) {
        let index = self.any();
        self.snapshot_on(index).await;
    }

    pub(super) async fn snapshot_on(&mut self, index: usize) {
        let Some(running) = &self.members[index].running else {
            return;
        };
        let core = Arc::clone(running.node.core());
        trace::line(&format!("n{} takes a snapshot", index + 1));
        if core.view.raft.trigger().snapshot().await.is_err() {
            return;
        }
        self.wait(Duration::from_millis(200)).await;
        if let Some(covered) = core.view.metrics().snapshot {
            // Fails only when it has stopped.
            drop(core.view.raft.trigger().purge_log(covered.index).await);
        }
    }

    pub(super) fn cut_off(&mut self, index: usize) {
        for other in 0..self.members.len() {
            let (one, other) = (index as u64 + 1, other as u64 + 1);
            self.network.cut(one, other);
            self.network.cut(other, one);
        }
    }

    /// Cuts a member off for a while; perhaps the others have only a snapshot for it then, and perhaps it goes down
    /// while it catches up.
    async fn starve(&mut self) {
        let starved = self.any();
        self.cut_off(starved);
        trace::line(&format!("n{} is starved", starved + 1));
        let time = Duration::from_millis(self.rng.random_range(500..2_500));
        self.wait(time).await;
        if self.rng.random_bool(0.5) {
            for index in (0..self.members.len()).filter(|index| *index != starved) {
                self.snapshot_on(index).await;
            }
        }
        self.network.heal();
        if self.rng.random_bool(0.5) {
            let down_at_call = Some(self.rng.random_range(1..30));
            self.members[starved].set_faults(Faults {
                down_at_call,
                ..Faults::default()
            });
        }
    }

    /// Everything is mended: then all members agree, and what was acknowledged is there.
    pub(super) async fn calm(&mut self) {
        trace::line("calm");
        let begun = Instant::now();
        self.network.heal();
        self.network.set_weather(Weather::FAIR);
        for member in &self.members {
            self.network.set_rules(member.id, RULES_KNOWN);
        }
        let deadline = Instant::now() + CALM_MAX;
        for index in 0..self.members.len() {
            self.members[index].full_until = None;
            self.members[index].set_faults(Faults::default());
            self.members[index].disk.set_hanging(false);
            if !self.is_well(index) {
                self.crash(index).await;
            }
            if self.members[index].running.is_none() {
                self.start(index).await;
            }
        }
        self.wait_for_older_copies().await;
        let before = self.shared.checkers.lock().lines.acknowledged();
        for index in 0..self.members.len() {
            while !self.members[index].is_out {
                if !self.is_well(index) {
                    // A flush that failed a moment ago.
                    self.crash(index).await;
                    self.start(index).await;
                }
                let running = self.members[index].running.as_ref().unwrap();
                if running.fs.barrier().await.is_ok() {
                    break;
                }
                assert!(
                    Instant::now() < deadline,
                    "n{} is not up to date",
                    index + 1
                );
                sleep(Duration::from_millis(100)).await;
            }
        }
        self.check_the_end(&before).await;
        let took = u64::try_from(begun.elapsed().as_millis()).unwrap();
        self.shared.done.lock().insert("calm, in ms", took);
    }

    async fn check_the_end(&mut self, before: &std::collections::BTreeSet<String>) {
        self.look();
        let deadline = Instant::now() + CALM_MAX;
        for member in &mut self.members {
            if let Some(running) = &mut member.running {
                running.tasks.shutdown().await;
            }
        }
        loop {
            self.look();
            self.retire_unfit();
            for index in 0..self.members.len() {
                if !self.is_well(index) {
                    // An error of a moment ago comes out with the next write.
                    self.crash(index).await;
                    self.start(index).await;
                }
            }
            let running = self
                .members
                .iter()
                .filter_map(|member| member.running.as_ref());
            let applied = running.map(|running| running.node.core().view.state().applied());
            let applied: Vec<_> = applied.collect();
            if applied.windows(2).all(|pair| pair[0] == pair[1]) {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "the members do not agree: {applied:?}"
            );
            sleep(Duration::from_millis(50)).await;
        }
        let mut checkers = self.shared.checkers.lock();
        for member in &self.members {
            let Some(running) = &member.running else {
                continue;
            };
            let log = &running.node.core().log;
            checkers.log_ids.check(member.id, log);
            let fs = &running.fs;
            checkers.lines.check(&read(fs, LINES).unwrap(), before);
            for file in FILES {
                super::checkers::whole::decode(&read(fs, file).unwrap());
            }
            for name in checkers.names.names() {
                let found = fs.lookup(1, std::ffi::OsStr::new(name));
                assert!(found.is_ok(), "{name} was made and is not there");
            }
        }
        checkers.saves.check();
        checkers.locks.check();
        checkers.sticky.check();
    }
}
