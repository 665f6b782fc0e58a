//! Single decisions of the engine: one view in, the actions out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use drivers::driver::{
    Claim, Description, Disruption, FieldError, Health, OpClass, Plan, PlanInput, Refusal,
    RetryPolicy, Step, Undo, Wish,
};
use serde_json::{Value, json};

use super::action::{Action, PLANNER_LOCK, TimerKey};
use super::core::Engine;
use super::desired::Desired;
use super::digest::canonical_digest;
use super::driver_port::DriverPort;
use super::event::{AbsenceVerdict, Event, StepEnd};
use super::id::{DeploymentId, Generation};
use super::log::{Entry, Ev, LineError, NodeLog};
use super::record::{
    Answers, Claimant, FORMAT, Intent, Observed, Outcome, Phase, PlanRecord, PlannedStep, Reason,
    Request, RequestKind, Status, WishRecord,
};
use super::view::{ClusterView, GenerationView, LockView, View, WishDocument, WishFile};

/// A driver that plans one step a node until the node's facts say `done`; `params.refuse` makes it refuse.
struct OneStep;

impl DriverPort for OneStep {
    fn describe(&self, driver: &str) -> Result<Description, FieldError> {
        if driver != "one" {
            return Err(FieldError {
                field: "driver".into(),
                reason: format!("{driver} is not a driver that this node knows"),
                hint: "write one".into(),
            });
        }
        Ok(Description {
            name: "one".into(),
            version: "1".into(),
            summary: String::new(),
            params_schema: Value::Null,
            ops: Vec::new(),
        })
    }

    fn check(&self, driver: &str, _: &Wish) -> Result<(), Vec<FieldError>> {
        self.describe(driver).map(drop).map_err(|fault| vec![fault])
    }

    fn plan(&self, _: &str, input: &PlanInput) -> Result<Plan, Refusal> {
        let drivers::driver::Desired::Running(wish) = &input.desired else {
            return Ok(Plan::default());
        };
        if let Some(reason) = wish.params.get("refuse").and_then(Value::as_str) {
            return Err(Refusal {
                field: Some("params.refuse".into()),
                node: None,
                reason: reason.into(),
                hint: "ask for less".into(),
                waits: false,
            });
        }
        let todo = wish.nodes.iter().filter(|node| {
            input.present.contains(*node) && input.observed[*node].facts["done"] != json!(true)
        });
        Ok(Plan {
            steps: todo.map(|node| step(node)).collect(),
            ..Plan::default()
        })
    }

    fn health(&self, _: &str, _: &PlanInput) -> Health {
        Health::default()
    }

    fn claims(&self, _: &str, _: &Wish, _: &str) -> Vec<Claim> {
        vec![Claim {
            kind: "port".into(),
            value: "5432".into(),
            field: "params.port".into(),
        }]
    }

    fn retry_policy(&self, _: &str, _: &str) -> RetryPolicy {
        RetryPolicy {
            attempts_max: 2,
            ..RetryPolicy::default()
        }
    }
}

fn step(node: &str) -> Step {
    Step {
        id: format!("{node}/do"),
        node: node.to_owned(),
        op: "do".into(),
        title: "do it".into(),
        reason: String::new(),
        args: Value::Null,
        needs: Vec::new(),
        lock: None,
        class: OpClass::Idempotent,
        disruption: Disruption::None,
        undo: Undo::Op,
        timeout: Duration::from_secs(1),
    }
}

fn id() -> DeploymentId {
    DeploymentId::parse("mid/a").unwrap()
}

fn cluster(present: &[&str]) -> ClusterView {
    ClusterView {
        cluster: "test".into(),
        members: ["n1", "n2"].map(str::to_owned).into(),
        presence: present.iter().map(|node| ((*node).to_owned(), 5)).collect(),
        ..ClusterView::default()
    }
}

fn document(value: Value) -> WishFile {
    WishFile::Present(WishDocument {
        revision: 7,
        inode: 70,
        author: "uid 0".into(),
        desired: Desired::from_document(&value),
    })
}

fn wish(nodes: &[&str]) -> Value {
    json!({ "driver": "one", "nodes": nodes, "params": {} })
}

fn view(wish: WishFile) -> View {
    View {
        id: id(),
        round: 0,
        now: "now".into(),
        wish,
        record: None,
        generation: None,
        observed: BTreeMap::new(),
        requests: BTreeMap::new(),
        secrets: BTreeMap::new(),
        planner: LockView::Free,
        adoptable: None,
        successor: None,
        told: None,
        remembered_uid: None,
        broken: Vec::new(),
    }
}

fn record(value: &Value) -> WishRecord {
    let desired = Desired::from_document(value).unwrap();
    WishRecord {
        format: FORMAT,
        revision: 7,
        since_revision: 7,
        inode: 70,
        digest: desired.spec.digest(),
        spec: desired.spec,
        policy: desired.policy,
        uid: "test-9".into(),
        paused: false,
        adopted_from: None,
        removal: None,
    }
}

/// The engine of n1 as planner, presence of these nodes.
fn planner(present: &[&str]) -> Engine {
    let mut engine = Engine::new("n1".into(), Arc::new(OneStep));
    engine.on_event(Event::Cluster(cluster(present)));
    engine.on_event(Event::LockGranted {
        deployment: id(),
        lock: PLANNER_LOCK.into(),
        fence: 9,
    });
    engine
}

fn decide(engine: &mut Engine, view: &View) -> Vec<Action> {
    engine.on_event(Event::View(Box::new(view.clone())))
}

fn observed(node: &str, generation: u64, closed: bool, seq: u64, done: bool) -> Observed {
    let answers = Answers {
        wish_revision: 7,
        removed: false,
        generation: Generation(generation),
        closed,
        seq,
        presence: 5,
    };
    Observed::new(node, answers, json!({ "done": done }), Value::Null, None)
}

/// An accepted wish of n1 with an open generation of one step.
fn converging() -> View {
    let value = wish(&["n1"]);
    let accepted = record(&value);
    let intent = Intent {
        format: FORMAT,
        deployment: id(),
        generation: Generation(1),
        reason: Reason::Spec,
        spec: accepted.spec.clone(),
        digest: accepted.digest.clone(),
        removed: false,
        revision: 7,
        since_revision: 7,
        inode: 70,
        author: "uid 0".into(),
        supersedes: None,
        request: None,
        driver: super::record::DriverVersion {
            name: "one".into(),
            version: "1".into(),
        },
        policy: accepted.policy.clone(),
        uid: accepted.uid.clone(),
        participants: BTreeSet::from(["n1".to_owned()]),
        planner: super::record::PlannerMark {
            node: "n1".into(),
            fence: 9,
        },
        at: "now".into(),
    };
    let plan = PlanRecord {
        format: FORMAT,
        deployment: id(),
        generation: Generation(1),
        digest: "plan".into(),
        base: "base".into(),
        observed: BTreeMap::new(),
        present: BTreeSet::from(["n1".to_owned()]),
        changes: Vec::new(),
        steps: vec![PlannedStep::of(step("n1"))],
        versions: BTreeMap::new(),
    };
    let mut view = view(document(value));
    view.record = Some(accepted);
    view.planner = LockView::Held("n1".into());
    view.generation = Some(GenerationView {
        intent,
        plan,
        result: None,
        logs: BTreeMap::new(),
    });
    view.observed
        .insert("n1".into(), observed("n1", 0, true, 0, false));
    view
}

fn with_log(view: &mut View, entries: &[Entry]) {
    let mut bytes = Vec::new();
    for entry in entries {
        let log = NodeLog::parse("plan", &bytes).unwrap();
        bytes.extend(log.next_line(entry.clone(), 5, "now".into()).unwrap());
    }
    let log = NodeLog::parse("plan", &bytes).unwrap();
    view.generation
        .as_mut()
        .unwrap()
        .logs
        .insert("n1".into(), log);
}

/// Lets n1 be observed, as at each start of an agent.
fn observe(engine: &mut Engine, view: &View) {
    for _ in 0..4 {
        for action in decide(engine, view) {
            if let Action::Observe { answers, .. } = action {
                let facts = json!({ "done": false });
                let result = Ok(drivers::driver::Observation {
                    facts,
                    measures: Value::Null,
                });
                engine.on_event(Event::Observed {
                    deployment: id(),
                    answers,
                    result,
                });
                return;
            }
        }
    }
    panic!("no observation");
}

fn status(actions: &[Action]) -> &Status {
    let found = actions.iter().find_map(|action| match action {
        Action::WriteStatus(status) => Some(status.as_ref()),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("no status: {actions:?}"))
}

#[test]
fn an_accepted_wish_is_recorded_before_anything_else() {
    let actions = decide(
        &mut planner(&["n1", "n2"]),
        &view(document(wish(&["n1", "n2"]))),
    );
    let [Action::WriteWish { record, .. }] = actions.as_slice() else {
        panic!("{actions:?}");
    };
    assert_eq!((record.uid.as_str(), record.since_revision), ("test-9", 7));
}

#[test]
fn an_unknown_driver_and_an_unknown_node_block_with_their_fields() {
    for (value, field) in [
        (json!({ "driver": "two", "nodes": ["n1"] }), "driver"),
        (wish(&["n1", "n9"]), "nodes[1]"),
    ] {
        let actions = decide(&mut planner(&["n1"]), &view(document(value)));
        let status = status(&actions);
        assert_eq!(status.phase, Phase::Blocked);
        assert_eq!(status.conditions[0].field.as_deref(), Some(field));
    }
}

#[test]
fn a_first_deployment_waits_for_all_its_nodes() {
    let value = wish(&["n1", "n2"]);
    let mut seen = view(document(value.clone()));
    seen.record = Some(record(&value));
    seen.observed
        .insert("n1".into(), observed("n1", 0, true, 0, false));
    let mut engine = planner(&["n1"]);
    observe(&mut engine, &seen);
    let actions = decide(&mut engine, &seen);
    let status = status(&actions);
    assert_eq!(status.phase, Phase::Waiting);
    assert_eq!(status.conditions[0].node.as_deref(), Some("n2"));
}

#[test]
fn a_plan_needs_fresh_observations_of_all_present_nodes() {
    let value = wish(&["n1", "n2"]);
    let mut seen = view(document(value.clone()));
    seen.record = Some(record(&value));
    seen.observed
        .insert("n1".into(), observed("n1", 0, true, 0, false));
    let mut old = observed("n2", 0, true, 0, false);
    old.answers.presence = 4;
    seen.observed.insert("n2".into(), old);
    let mut engine = planner(&["n1", "n2"]);
    let planned = |actions: &[Action]| {
        actions
            .iter()
            .any(|a| matches!(a, Action::WriteGeneration { .. }))
    };
    assert!(
        !planned(&decide(&mut engine, &seen)),
        "from before n2's restart"
    );
    seen.observed
        .insert("n2".into(), observed("n2", 0, true, 0, false));
    assert!(planned(&decide(&mut engine, &seen)));
}

#[test]
fn a_driver_that_refuses_blocks_with_its_reason() {
    let value = json!({ "driver": "one", "nodes": ["n1"], "params": { "refuse": "a foreign data directory" } });
    let mut seen = view(document(value.clone()));
    seen.record = Some(record(&value));
    seen.observed
        .insert("n1".into(), observed("n1", 0, true, 0, false));
    let mut engine = planner(&["n1"]);
    observe(&mut engine, &seen);
    let actions = decide(&mut engine, &seen);
    let status = status(&actions);
    assert_eq!(status.phase, Phase::Blocked);
    assert_eq!(status.conditions[0].reason, "a foreign data directory");
}

#[test]
fn a_step_starts_after_the_first_observation_and_claims_come_before_it() {
    let seen = converging();
    let mut engine = planner(&["n1"]);
    observe(&mut engine, &seen);
    decide(&mut engine, &seen);
    let actions = decide(&mut engine, &seen);
    let [Action::WriteClaims(claims)] = actions.as_slice() else {
        panic!("{actions:?}");
    };
    engine.on_event(Event::Cluster(ClusterView {
        claims: claims.clone(),
        ..cluster(&["n1"])
    }));
    let actions = decide(&mut engine, &seen);
    let Some(Action::StartStep(start)) = actions.first() else {
        panic!("{actions:?}");
    };
    let before: Vec<Ev> = start.before.iter().map(|entry| entry.ev).collect();
    assert_eq!(before, [Ev::Planned], "in the same write");
    assert_eq!(
        (start.attempt, start.fence, start.entry.ev),
        (1, 5, Ev::Started)
    );
    assert!(
        decide(&mut engine, &seen)
            .iter()
            .all(|a| !matches!(a, Action::StartStep(_)))
    );
}

#[test]
fn another_deployments_port_blocks_and_nothing_starts() {
    let seen = converging();
    let mut engine = planner(&["n1"]);
    let mut taken = cluster(&["n1"]);
    let owner = Claimant {
        deployment: DeploymentId::parse("mid/b").unwrap(),
        uid: "other".into(),
    };
    taken.claims.claims.insert("port 5432".into(), owner);
    engine.on_event(Event::Cluster(taken));
    observe(&mut engine, &seen);
    let actions = decide(&mut engine, &seen);
    let written = actions.iter().find_map(|action| match action {
        Action::WriteObserved { observed, .. } => observed.trouble.clone(),
        _ => None,
    });
    assert_eq!(written.unwrap().reason, "port 5432 on n1 belongs to mid/b");
    assert!(
        decide(&mut engine, &seen)
            .iter()
            .all(|a| !matches!(a, Action::StartStep(_)))
    );
}

/// Goes on until the only step runs.
fn run_step(engine: &mut Engine, seen: &View) {
    let mut started = false;
    for _ in 0..6 {
        for action in decide(engine, seen) {
            match action {
                Action::WriteClaims(claims) => {
                    engine.on_event(Event::Cluster(ClusterView {
                        claims,
                        ..cluster(&["n1"])
                    }));
                }
                Action::Observe { answers, .. } => {
                    let facts = json!({ "done": false });
                    let result = Ok(drivers::driver::Observation {
                        facts,
                        measures: Value::Null,
                    });
                    engine.on_event(Event::Observed {
                        deployment: id(),
                        answers,
                        result,
                    });
                }
                Action::StartStep(_) => started = true,
                _ => {}
            }
        }
    }
    assert!(started);
}

/// Runs the only step once and says how it ended.
fn end_step(engine: &mut Engine, seen: &View, end: StepEnd) -> Vec<Action> {
    run_step(engine, seen);
    engine.on_event(Event::StepEnded {
        deployment: id(),
        generation: Generation(1),
        step: "n1/do".into(),
        attempt: 1,
        end,
        dur_us: 3,
    });
    let mut running = seen.clone();
    with_log(&mut running, &[Entry::of(Ev::Started, "n1/do", 1)]);
    decide(engine, &running)
}

fn failure(retryable: bool) -> StepEnd {
    StepEnd::Failed {
        code: "x".into(),
        message: "m".into(),
        hint: "h".into(),
        retryable,
    }
}

#[test]
fn an_outcome_is_appended_until_the_log_shows_it() {
    let mut engine = planner(&["n1"]);
    let seen = converging();
    let first = end_step(&mut engine, &seen, failure(true));
    let mut running = seen;
    with_log(&mut running, &[Entry::of(Ev::Started, "n1/do", 1)]);
    let again = decide(&mut engine, &running);
    assert_eq!(first, again, "the append failed: it is asked for again");
    let [Action::Append { entry, .. }] = again.as_slice() else {
        panic!("{again:?}");
    };
    assert!(entry.err.as_ref().unwrap().retryable);
    with_log(
        &mut running,
        &[Entry::of(Ev::Started, "n1/do", 1), entry.clone()],
    );
    let after = decide(&mut engine, &running);
    let timer = after.iter().any(|action| match action {
        Action::SetTimer { key, .. } => matches!(key, TimerKey::Retry(..)),
        _ => false,
    });
    assert!(timer, "{after:?}");
    engine.on_event(Event::Timer(TimerKey::Wait(id())));
    let wait = "a pause of 250 ms before attempt 2".to_owned();
    assert_eq!(
        notes(&decide(&mut engine, &running)),
        [(Ev::Waiting, "n1/do".to_owned(), Some(wait))]
    );
}

#[test]
fn the_last_attempt_fails_for_good_and_ends_the_generation() {
    let mut engine = planner(&["n1"]);
    let seen = converging();
    let actions = end_step(&mut engine, &seen, failure(false));
    let [Action::Append { entry, .. }] = actions.as_slice() else {
        panic!("{actions:?}");
    };
    assert!(!entry.err.as_ref().unwrap().retryable);
    let mut failed = seen;
    with_log(
        &mut failed,
        &[Entry::of(Ev::Started, "n1/do", 1), entry.clone()],
    );
    let actions = decide(&mut engine, &failed);
    let [Action::WriteResult { result, .. }] = actions.as_slice() else {
        panic!("{actions:?}");
    };
    assert_eq!(
        (result.outcome, result.hint.as_str()),
        (Outcome::Failed, "h")
    );
}

/// The lines that these actions tell without moving a step.
fn notes(actions: &[Action]) -> Vec<(Ev, String, Option<String>)> {
    let told = actions.iter().filter_map(|action| match action {
        Action::Note { entries, .. } => Some(entries),
        _ => None,
    });
    let line = |entry: &Entry| {
        (
            entry.ev,
            entry.step.clone().unwrap_or_default(),
            entry.note.clone(),
        )
    };
    told.flatten().map(line).collect()
}

/// Lets n1 observe and claim, then decides until something is told or started.
fn decide_at_rest(engine: &mut Engine, seen: &View) -> Vec<Action> {
    observe(engine, seen);
    for _ in 0..4 {
        let actions = decide(engine, seen);
        if let [Action::WriteClaims(claims)] = actions.as_slice() {
            engine.on_event(Event::Cluster(ClusterView {
                claims: claims.clone(),
                ..cluster(&["n1", "n2"])
            }));
        } else if !matches!(actions.as_slice(), [Action::WriteObserved { .. }]) {
            return actions;
        }
    }
    panic!("it does not come to rest");
}

/// An open generation whose step on n1 needs two of n2.
fn waiting_for_n2() -> View {
    let mut seen = converging();
    let generation = seen.generation.as_mut().unwrap();
    generation.intent.participants.insert("n2".into());
    let of_n2 = |op: &str| Step {
        id: format!("n2/{op}"),
        title: op.into(),
        ..step("n2")
    };
    let last = Step {
        needs: vec!["n2/one".into(), "n2/two".into()],
        ..step("n1")
    };
    generation.plan.steps = [of_n2("one"), of_n2("two"), last]
        .map(PlannedStep::of)
        .into();
    seen.planner = LockView::Held("n2".into());
    seen
}

#[test]
fn a_plan_and_a_wait_are_told_once_and_again_when_the_reason_changes() {
    let mut engine = Engine::new("n1".into(), Arc::new(OneStep));
    engine.on_event(Event::Cluster(cluster(&["n1", "n2"])));
    let mut seen = waiting_for_n2();
    let wait = |what: &str| (Ev::Waiting, "n1/do".to_owned(), Some(what.to_owned()));
    let lasts = Action::SetTimer {
        key: TimerKey::Wait(id()),
        after: crate::limits::WAIT_UNTOLD_MAX,
    };
    assert_eq!(
        decide_at_rest(&mut engine, &seen),
        std::slice::from_ref(&lasts)
    );
    assert_eq!(decide(&mut engine, &seen), [], "it may end at once");
    engine.on_event(Event::Timer(TimerKey::Wait(id())));
    let told = notes(&decide(&mut engine, &seen));
    assert_eq!(
        told,
        [(Ev::Planned, "n1/do".to_owned(), None), wait("n2 one")]
    );
    let waiting = |what: &str| Entry {
        note: Some(what.to_owned()),
        ..Entry::of(Ev::Waiting, "n1/do", 0)
    };
    let planned = Entry::of(Ev::Planned, "n1/do", 0);
    with_log(&mut seen, &[planned.clone(), waiting("n2 one")]);
    assert_eq!(decide(&mut engine, &seen), [], "the log says it already");
    let mut bytes = Vec::new();
    for ev in [Ev::Started, Ev::Succeeded] {
        let log = NodeLog::parse("plan", &bytes).unwrap();
        bytes.extend(
            log.next_line(Entry::of(ev, "n2/one", 1), 5, "now".into())
                .unwrap(),
        );
    }
    let logs = &mut seen.generation.as_mut().unwrap().logs;
    logs.insert("n2".into(), NodeLog::parse("plan", &bytes).unwrap());
    assert_eq!(decide(&mut engine, &seen), [lasts]);
    engine.on_event(Event::Timer(TimerKey::Wait(id())));
    assert_eq!(notes(&decide(&mut engine, &seen)), [wait("n2 two")]);
    with_log(&mut seen, &[planned, waiting("n2 one"), waiting("n2 two")]);
    assert_eq!(decide(&mut engine, &seen), []);
}

#[test]
fn a_full_log_is_left_to_starts_and_outcomes() {
    let mut engine = Engine::new("n1".into(), Arc::new(OneStep));
    engine.on_event(Event::Cluster(cluster(&["n1", "n2"])));
    let mut seen = waiting_for_n2();
    let mut log = NodeLog::empty("plan");
    log.seq = crate::limits::LOG_NOTES_MAX;
    seen.generation
        .as_mut()
        .unwrap()
        .logs
        .insert("n1".into(), log);
    assert_eq!(decide_at_rest(&mut engine, &seen), []);
}

/// The only step of n1, done by somebody else since it was planned.
fn done_by_another() -> View {
    let mut seen = converging();
    let before = canonical_digest(&json!({ "done": false }));
    let plan = &mut seen.generation.as_mut().unwrap().plan;
    plan.observed.insert("n1".into(), before);
    let now = observed("n1", 1, false, 0, true);
    seen.observed.insert("n1".into(), now);
    seen
}

#[test]
fn a_step_that_somebody_else_did_meanwhile_is_skipped() {
    let mut engine = planner(&["n1"]);
    let actions = decide_at_rest(&mut engine, &done_by_another());
    let [Action::Append { entry, .. }] = actions.as_slice() else {
        panic!("{actions:?}");
    };
    assert_eq!((entry.ev, entry.in_digest.is_some()), (Ev::Skipped, true));
    let mut after = NodeLog::empty("plan");
    let line = after.next_line(entry.clone(), 5, "now".into()).unwrap();
    after.push(line.trim_ascii_end()).unwrap();
    assert_eq!(after.state("n1/do"), super::log::StepState::Done);
}

#[test]
fn a_step_that_has_begun_or_that_others_need_is_never_skipped() {
    let mut begun = done_by_another();
    with_log(&mut begun, &[Entry::of(Ev::Started, "n1/do", 1)]);
    let mut needed = done_by_another();
    let later = Step {
        id: "n1/later".into(),
        needs: vec!["n1/do".into()],
        ..step("n1")
    };
    let plan = &mut needed.generation.as_mut().unwrap().plan;
    plan.steps.push(PlannedStep::of(later));
    let mut unchanged = done_by_another();
    let same = observed("n1", 1, false, 0, false);
    unchanged.observed.insert("n1".into(), same);
    for seen in [begun, needed, unchanged] {
        let actions = decide_at_rest(&mut planner(&["n1"]), &seen);
        let starts = |action: &Action| matches!(action, Action::StartStep(_));
        assert!(actions.iter().any(starts), "{actions:?}");
    }
}

#[test]
fn a_newer_wish_ends_the_open_generation_before_the_next_is_planned() {
    let mut seen = converging();
    let newer = json!({ "driver": "one", "nodes": ["n1"], "params": { "x": 1 } });
    seen.wish = document(newer.clone());
    seen.record = Some(record(&newer));
    let actions = decide(&mut planner(&["n1"]), &seen);
    let [Action::WriteResult { result, .. }] = actions.as_slice() else {
        panic!("{actions:?}");
    };
    assert_eq!(result.outcome, Outcome::Superseded);
}

#[test]
fn a_void_wait_is_cancelled_once_and_a_void_change_runs_to_its_end() {
    for (class, is_cancelled) in [(OpClass::Pure, true), (OpClass::Idempotent, false)] {
        let mut engine = planner(&["n1"]);
        let mut seen = converging();
        let generation = seen.generation.as_mut().unwrap();
        generation.plan.steps[0].step.class = class;
        run_step(&mut engine, &seen);
        with_log(&mut seen, &[Entry::of(Ev::Started, "n1/do", 1)]);
        let newer = json!({ "driver": "one", "nodes": ["n1"], "params": { "x": 1 } });
        seen.wish = document(newer.clone());
        seen.record = Some(record(&newer));
        engine.on_event(Event::LockLost {
            deployment: id(),
            lock: PLANNER_LOCK.into(),
        });
        seen.planner = LockView::Held("n2".into());
        let cancel = Action::CancelStep {
            deployment: id(),
            generation: Generation(1),
            step: "n1/do".into(),
        };
        assert_eq!(decide(&mut engine, &seen).contains(&cancel), is_cancelled);
        assert!(!decide(&mut engine, &seen).contains(&cancel));
    }
}

/// Ends the only step well, with an observation that asks for it again, and gives the generation's result.
fn end_without_effect(reason: Reason, fence_of_log: u64) -> Outcome {
    let mut seen = converging();
    seen.generation.as_mut().unwrap().intent.reason = reason;
    let mut engine = planner(&["n1"]);
    run_step(&mut engine, &seen);
    let mut log = NodeLog::empty("plan");
    for ev in [Ev::Started, Ev::Succeeded] {
        let entry = Entry::of(ev, "n1/do", 1);
        let before: Vec<u8> = log.lines.iter().flat_map(line_bytes).collect();
        let next = log.next_line(entry, fence_of_log, "now".into()).unwrap();
        log = NodeLog::parse("plan", &[before, next].concat()).unwrap();
    }
    seen.generation
        .as_mut()
        .unwrap()
        .logs
        .insert("n1".into(), log);
    seen.observed
        .insert("n1".into(), observed("n1", 1, false, 2, false));
    let actions = decide(&mut engine, &seen);
    let [Action::WriteResult { result, .. }] = actions.as_slice() else {
        panic!("{actions:?}");
    };
    result.outcome
}

fn line_bytes(line: &super::log::LogLine) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(line).unwrap();
    bytes.push(b'\n');
    bytes
}

#[test]
fn a_step_that_did_not_last_is_done_again_once_and_then_is_the_drivers_fault() {
    assert_eq!(end_without_effect(Reason::Spec, 5), Outcome::Superseded);
    assert_eq!(end_without_effect(Reason::Resume, 5), Outcome::Failed);
    // The log is from before a restart of the agent: the machine may have lost the effect.
    assert_eq!(end_without_effect(Reason::Resume, 4), Outcome::Superseded);
}

#[test]
fn a_failure_after_a_restart_asks_for_a_new_plan() {
    let entry = |ev: Ev| Entry {
        err: (ev == Ev::Failed).then(|| LineError {
            code: "x".into(),
            retryable: true,
            msg: "m".into(),
            hint: String::new(),
        }),
        ..Entry::of(ev, "n1/do", 1)
    };
    let is_superseded = |end: Ev, observed_in: u64| {
        let mut seen = converging();
        with_log(&mut seen, &[entry(Ev::Started), entry(end)]);
        let closed = observed_in == 0;
        seen.observed
            .insert("n1".into(), observed("n1", observed_in, closed, 0, false));
        let actions = decide(&mut planner(&["n1"]), &seen);
        matches!(actions.as_slice(),
            [Action::WriteResult { result, .. }] if result.outcome == Outcome::Superseded)
    };
    assert!(is_superseded(Ev::Failed, 1));
    assert!(!is_superseded(Ev::Failed, 0), "no restart");
    assert!(!is_superseded(Ev::LockLost, 1), "no failure");
}

#[test]
fn many_absent_wishes_are_held_back_until_a_person_approves() {
    let mut engine = planner(&["n1"]);
    let mut seen = converging();
    seen.wish = WishFile::Absent;
    let check = Action::CheckAbsence(id());
    assert!(decide(&mut engine, &seen).contains(&check));
    let missing: Vec<DeploymentId> = ["mid/a", "mid/b", "mid/c"]
        .map(|name| DeploymentId::parse(name).unwrap())
        .into();
    let verdict = AbsenceVerdict::Absent { missing, total: 5 };
    engine.on_event(Event::AbsenceChecked {
        deployment: id(),
        verdict: verdict.clone(),
    });
    decide(&mut engine, &seen);
    engine.on_event(Event::Timer(TimerKey::Removal(id())));
    assert!(
        decide(&mut engine, &seen).contains(&check),
        "after the grace all is checked again"
    );
    engine.on_event(Event::AbsenceChecked {
        deployment: id(),
        verdict,
    });
    decide(&mut engine, &seen);
    let actions = decide(&mut engine, &seen);
    let removed = |actions: &[Action]| {
        actions
            .iter()
            .any(|a| matches!(a, Action::WriteWish { .. }))
    };
    assert!(!removed(&actions));
    let request = Request {
        format: FORMAT,
        kind: RequestKind::Approve,
        by: "root".into(),
        at: String::new(),
    };
    seen.requests.insert("1".into(), request);
    decide(&mut engine, &seen);
    assert!(removed(&decide(&mut engine, &seen)));
}

#[test]
fn an_unsafe_tree_removes_nothing() {
    let mut engine = planner(&["n1"]);
    let mut seen = converging();
    seen.wish = WishFile::Absent;
    decide(&mut engine, &seen);
    let verdict = AbsenceVerdict::Unsafe("this node sees no majority".into());
    engine.on_event(Event::AbsenceChecked {
        deployment: id(),
        verdict,
    });
    for _ in 0..4 {
        let actions = decide(&mut engine, &seen);
        assert!(
            actions
                .iter()
                .all(|a| !matches!(a, Action::WriteWish { .. })),
            "{actions:?}"
        );
    }
}

#[test]
fn without_presence_a_node_does_nothing() {
    let mut engine = planner(&["n2"]);
    assert_eq!(decide(&mut engine, &converging()), []);
}
