//! An agent with nothing to do, by the real reconciler: how often it asks the tree, and that it misses nothing by that.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use drivers::driver::NodeFacts;
use drivers::host::linux::LinuxHost;
use drivers::registry::Registry;
use dsm_agent::engine::action::TimerKey;
use dsm_agent::engine::core::Engine;
use dsm_agent::engine::event::Event;
use dsm_agent::engine::id::DeploymentId;
use dsm_agent::engine::record::{FORMAT, NodeRecord};
use dsm_agent::failpoint::Failpoint;
use dsm_agent::host::executor::{Executor, ExecutorParts};
use dsm_agent::host::uid_memory::UidMemory;
use dsm_agent::mount::performer::Performer;
use dsm_agent::mount::run_store::RunStore;
use dsm_agent::mount::shared_tree::SharedTree;
use dsm_agent::reconciler::{Order, PassEnd, Reconciler, ReconcilerParts};
use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::machines::SimDriver;
use crate::sim_tree::{SimStore, SimTree};

/// The mark of the tree, and the fence of presence.
const CALLS_A_BEAT: u64 = 2;

const DEPLOYMENT: &str = "mid/db";

/// The agent of n1 on a cluster in which n2 and n3 have presence too.
struct Idle {
    shared: Arc<Mutex<SimStore>>,
    reconciler: Reconciler,
    orders: UnboundedReceiver<Order>,
    _state: tempfile::TempDir,
}

impl Idle {
    fn new() -> Self {
        let shared = Arc::new(Mutex::new(SimStore::new()));
        members(&shared, &["n1", "n2", "n3"]);
        for node in ["n1", "n2", "n3"] {
            facts(&shared, node, "debian 12");
        }
        for node in ["n2", "n3"] {
            tree(&shared, node)
                .try_lock(&format!("lk/dsm/agents/{node}"))
                .unwrap();
        }
        let state = tempfile::tempdir().unwrap();
        let store = Arc::new(RunStore::new(Arc::new(tree(&shared, "n1"))));
        let registry = Arc::new(Registry::of(vec![Box::new(SimDriver)]));
        let (order_sender, orders) = unbounded_channel();
        let (events, _) = unbounded_channel();
        let failpoint = Arc::new(Failpoint::default());
        let executor = Executor::new(ExecutorParts {
            registry: Arc::clone(&registry),
            host: Arc::new(LinuxHost),
            store: Arc::clone(&store),
            node: "n1".to_owned(),
            identity: state.path().join("identity"),
            failpoint: Arc::clone(&failpoint),
            events,
        });
        let reconciler = Reconciler::new(ReconcilerParts {
            node: "n1".to_owned(),
            performer: Performer::new(Arc::clone(&store), "n1".to_owned(), failpoint),
            store,
            executor: Arc::new(executor),
            orders: order_sender,
            memory: UidMemory::new(state.path()),
            engine: Engine::new("n1".to_owned(), registry),
        });
        let mut idle = Self {
            shared,
            reconciler,
            orders,
            _state: state,
        };
        // The engine knows of a deployment, so that what moves in the cluster asks for a look at it.
        idle.reconciler
            .tell(Event::Timer(TimerKey::Observe(deployment())));
        // The first beat takes presence, the second reads the tree with it.
        idle.beat();
        idle.beat();
        idle
    }

    /// Calls of one beat.
    fn beat(&mut self) -> u64 {
        while self.orders.try_recv().is_ok() {}
        self.calls_of(|idle| idle.reconciler.heartbeat())
    }

    fn calls_of(&self, action: impl FnOnce(&Self)) -> u64 {
        let before = self.shared.lock().unwrap().calls;
        action(self);
        self.shared.lock().unwrap().calls - before
    }

    fn is_look_wanted(&mut self) -> bool {
        matches!(self.orders.try_recv(), Ok(Order::Look(id)) if id == deployment())
    }
}

fn deployment() -> DeploymentId {
    DeploymentId::parse(DEPLOYMENT).unwrap()
}

fn tree(shared: &Arc<Mutex<SimStore>>, node: &str) -> SimTree {
    let session = shared.lock().unwrap().open_session(node);
    SimTree {
        store: Arc::clone(shared),
        node: node.to_owned(),
        session,
    }
}

fn members(shared: &Arc<Mutex<SimStore>>, names: &[&str]) {
    let rows: Vec<_> = names.iter().map(|name| json!({ "name": name })).collect();
    let text = json!({ "cluster": "sim", "members": rows }).to_string();
    shared
        .lock()
        .unwrap()
        .put(".vfs/members.json", text.as_bytes());
}

fn facts(shared: &Arc<Mutex<SimStore>>, node: &str, os: &str) {
    let record = NodeRecord {
        format: FORMAT,
        node: node.to_owned(),
        agent: "0".to_owned(),
        drivers: BTreeMap::new(),
        facts: NodeFacts {
            address: format!("{node}.test"),
            os: os.to_owned(),
            cpus: 1,
            memory_mib: 1024,
            labels: BTreeMap::new(),
        },
    };
    let path = format!("run/nodes/{node}.json");
    let bytes = serde_json::to_vec(&record).unwrap();
    shared.lock().unwrap().put(&path, &bytes);
}

#[test]
fn a_beat_in_which_nothing_moved_asks_for_two_numbers() {
    let mut idle = Idle::new();
    for _ in 0..5 {
        assert_eq!(idle.beat(), CALLS_A_BEAT);
    }
}

#[test]
fn the_beat_after_a_change_sees_it_whatever_the_change_is() {
    type Change = fn(&Arc<Mutex<SimStore>>);
    let changes: [(&str, Change); 5] = [
        ("a presence that ended and has its file still", |shared| {
            shared.lock().unwrap().void_lock("lk/dsm/agents/n2");
        }),
        ("a node's session that is over", |shared| {
            shared.lock().unwrap().end_session("n3");
        }),
        ("a new member", |shared| {
            members(shared, &["n1", "n2", "n3", "n4"]);
        }),
        ("a node's facts", |shared| {
            let facts =
                json!({"format": 1, "node": "n2", "agent": "0", "drivers": {}, "facts": {}});
            let text = facts.to_string();
            let mut shared = shared.lock().unwrap();
            shared.put("run/nodes/n2.json", text.as_bytes());
        }),
        ("what this node has claimed", |shared| {
            let claims =
                json!({"format": 1, "claims": {"port 1": {"deployment": DEPLOYMENT, "uid": "u"}}});
            let text = claims.to_string();
            let mut shared = shared.lock().unwrap();
            shared.put("run/nodes/n1.claims.json", text.as_bytes());
        }),
    ];
    for (what, change) in changes {
        let mut idle = Idle::new();
        idle.beat();
        assert!(!idle.is_look_wanted(), "before {what} nothing moved");
        change(&idle.shared);
        let calls = idle.beat();
        assert!(calls > CALLS_A_BEAT, "{what} moves the mark");
        assert!(idle.is_look_wanted(), "{what} was missed");
    }
}

#[test]
fn a_change_elsewhere_costs_no_reading_of_node_records() {
    let mut idle = Idle::new();
    let all = idle.calls_of(|idle| {
        idle.reconciler.store().forget();
        idle.reconciler.heartbeat();
    });
    idle.shared.lock().unwrap().put("mid/other.txt", b"x");
    let some = idle.beat();
    assert!(
        CALLS_A_BEAT < some && some + 4 <= all,
        "{some} calls, of {all} for everything"
    );
    assert_eq!(idle.beat(), CALLS_A_BEAT);
}

#[test]
fn a_second_look_at_a_deployment_that_nobody_touched_reads_nothing() {
    let idle = Idle::new();
    let save = |text: &str| {
        let mut shared = idle.shared.lock().unwrap();
        shared.put("mid/db.json", text.as_bytes());
    };
    let look = |idle: &Idle| {
        let end = idle.reconciler.pass(&deployment());
        assert_eq!(end, PassEnd::Quiet);
    };
    save("{\"driver\":\"none\",\"nodes\":[\"n1\"]}");
    // What the first look changes itself, the second has to read.
    look(&idle);
    look(&idle);
    let again = idle.calls_of(look);
    // How things stand is asked in two rounds: a wish without a record is looked for among all.
    assert!(again <= 2 * CALLS_A_BEAT + 1, "{again} calls");
    let scan = idle.calls_of(|idle| idle.reconciler.scan().unwrap());
    assert_eq!(scan, 1, "the mark alone");
    save("{}");
    let anew = idle.calls_of(look);
    assert!(anew > again, "{anew} calls: the wish was not read anew");
}

const PLANNER: &str = "lk/dsm/mid/db/planner";

/// A wish that cannot be read has a planner too, which tells so: an idle agent that holds a lock.
fn idle_planner() -> Idle {
    let mut idle = Idle::new();
    idle.shared.lock().unwrap().put("mid/db.json", b"{}");
    // It lets those before it try first, and then a round of consensus each.
    for _ in 0..10 {
        idle.reconciler.pass(&deployment());
        while let Ok(order) = idle.orders.try_recv() {
            if let Order::Timer(key, _) = order {
                idle.reconciler.tell(Event::Timer(key));
            }
        }
    }
    let locks = idle.shared.lock().unwrap().lock_paths();
    assert!(locks.iter().any(|path| path == PLANNER), "{locks:?}");
    idle.beat();
    idle
}

#[test]
fn a_lock_that_ends_is_noticed_within_a_beat() {
    let mut idle = idle_planner();
    let calls = idle.beat();
    assert_eq!(calls, CALLS_A_BEAT, "held locks are not asked one by one");
    assert!(!idle.is_look_wanted());
    idle.shared.lock().unwrap().void_lock(PLANNER);
    idle.beat();
    assert!(idle.is_look_wanted(), "its end was not noticed");
}

#[test]
fn locks_that_end_by_time_alone_are_noticed_within_a_beat() {
    let mut idle = idle_planner();
    idle.beat();
    idle.shared.lock().unwrap().over_by_its_clock = Some("n1".to_owned());
    idle.beat();
    assert!(idle.is_look_wanted(), "its end was not noticed");
}
