//! Goal: the graph gives each state the outcome of the truth table, whatever runs first.

use std::sync::{Arc, Mutex};

use super::*;
use crate::host::fake::FakeHost;
use crate::sls::change;

/// A state that behaves as told and notes when it ran.
struct Scripted {
    id: String,
    drifted: Mutex<bool>,
    fails: bool,
    diary: Arc<Mutex<Vec<String>>>,
}

impl State for Scripted {
    fn resource(&self) -> String {
        self.id.clone()
    }

    fn check(&self, _: &dyn Host) -> Result<Check, DriverError> {
        Ok(match *self.drifted.lock().unwrap() {
            true => Check::Drifted(vec![change(self.resource(), None, Some("x".into()))]),
            false => Check::InDesiredState,
        })
    }

    fn apply(&self, _: &dyn Host) -> Result<(), DriverError> {
        self.diary.lock().unwrap().push(self.id.clone());
        if self.fails {
            return Err(DriverError::retryable("scripted", "scripted failure"));
        }
        *self.drifted.lock().unwrap() = false;
        Ok(())
    }

    fn on_watched_change(&self, _: &dyn Host) -> Result<Vec<StateChange>, DriverError> {
        self.diary.lock().unwrap().push(format!("{} told", self.id));
        Ok(vec![change(self.resource(), None, None)])
    }
}

#[derive(Default)]
struct Bench {
    graph: Graph,
    diary: Arc<Mutex<Vec<String>>>,
}

impl Bench {
    /// `word`: `same`, `drifted` or `failing`.
    fn add(&mut self, id: &str, word: &str, requisites: Vec<Requisite>) -> &mut Self {
        let state = Scripted {
            id: id.to_owned(),
            drifted: Mutex::new(word != "same"),
            fails: word == "failing",
            diary: Arc::clone(&self.diary),
        };
        self.graph.add(id, state, requisites);
        self
    }

    fn outcome(&self, id: &str) -> Outcome {
        self.graph.run(&FakeHost::alone("n1")).unwrap().outcomes[id]
    }

    fn diary(&self) -> Vec<String> {
        self.diary.lock().unwrap().clone()
    }
}

#[test]
fn each_kind_follows_its_target() {
    use Outcome::{Blocked, Changed, NotNeeded, Unchanged};
    let rows = [
        (Kind::Require, [Unchanged, Unchanged, Blocked]),
        (Kind::Watch, [Unchanged, Changed, Blocked]),
        (Kind::OnChanges, [NotNeeded, Unchanged, Blocked]),
        (Kind::OnFail, [NotNeeded, NotNeeded, Unchanged]),
        (Kind::Prereq, [NotNeeded, Unchanged, Unchanged]),
    ];
    for (kind, row) in rows {
        for (word, expected) in ["same", "drifted", "failing"].into_iter().zip(row) {
            let mut bench = Bench::default();
            bench.add("target", word, vec![]).add(
                "state",
                "same",
                vec![Requisite::all(kind, ["target"])],
            );
            assert_eq!(
                bench.outcome("state"),
                expected,
                "{kind:?} of a {word} target"
            );
        }
    }
}

#[test]
fn a_watcher_that_was_applied_itself_is_not_told_again() {
    let mut bench = Bench::default();
    bench.add("file", "drifted", vec![]).add(
        "service",
        "drifted",
        vec![Requisite::all(Kind::Watch, ["file"])],
    );
    assert_eq!(bench.outcome("service"), Outcome::Changed);
    assert_eq!(bench.diary(), ["file", "service"]);
}

#[test]
fn a_prereq_runs_before_its_target_and_its_failure_blocks_it() {
    let mut bench = Bench::default();
    bench.add("change", "drifted", vec![]).add(
        "backup",
        "drifted",
        vec![Requisite::all(Kind::Prereq, ["change"])],
    );
    assert_eq!(bench.outcome("change"), Outcome::Changed);
    assert_eq!(bench.diary(), ["backup", "change"]);

    let mut bench = Bench::default();
    bench.add("change", "drifted", vec![]).add(
        "backup",
        "failing",
        vec![Requisite::all(Kind::Prereq, ["change"])],
    );
    assert_eq!(bench.outcome("change"), Outcome::Blocked);
    assert_eq!(bench.diary(), ["backup"]);
}

#[test]
fn any_needs_one_and_several_requisites_all_count() {
    let mut bench = Bench::default();
    bench.add("a", "failing", vec![]).add("b", "same", vec![]);
    bench.add(
        "any",
        "same",
        vec![Requisite::any(Kind::Require, ["a", "b"])],
    );
    bench.add(
        "all",
        "same",
        vec![Requisite::all(Kind::Require, ["a", "b"])],
    );
    bench.add(
        "two",
        "same",
        vec![
            Requisite::all(Kind::Require, ["b"]),
            Requisite::all(Kind::OnChanges, ["b"]),
        ],
    );
    let outcomes = bench.graph.run(&FakeHost::alone("n1")).unwrap().outcomes;
    assert_eq!(outcomes["any"], Outcome::Unchanged);
    assert_eq!(outcomes["all"], Outcome::Blocked);
    assert_eq!(outcomes["two"], Outcome::NotNeeded);
}

#[test]
fn a_failure_stops_only_what_depends_on_it() {
    let mut bench = Bench::default();
    bench.add("bad", "failing", vec![]).add(
        "after",
        "drifted",
        vec![Requisite::all(Kind::Require, ["bad"])],
    );
    bench.add("other", "drifted", vec![]);
    let report = bench.graph.run(&FakeHost::alone("n1")).unwrap();
    assert_eq!(report.outcomes["after"], Outcome::Blocked);
    assert_eq!(report.outcomes["other"], Outcome::Changed);
    assert_eq!(report.into_result().unwrap_err().code(), "scripted");
}

#[test]
fn a_bad_graph_runs_nothing() {
    let mut bench = Bench::default();
    bench.add("a", "drifted", vec![Requisite::all(Kind::Require, ["b"])]);
    let host = FakeHost::alone("n1");
    let unknown = GraphError::Unknown {
        from: "a".into(),
        to: "b".into(),
    };
    assert_eq!(bench.graph.run(&host).unwrap_err(), unknown);
    bench
        .add("b", "drifted", vec![Requisite::all(Kind::Require, ["a"])])
        .add("c", "drifted", vec![]);
    assert_eq!(
        bench.graph.run(&host).unwrap_err(),
        GraphError::Cycle(vec!["a".into(), "b".into()])
    );
    assert!(bench.diary().is_empty());
}

#[test]
fn a_dry_run_foretells_and_changes_nothing() {
    let mut bench = Bench::default();
    bench.add("a", "drifted", vec![]).add("b", "same", vec![]);
    assert_eq!(
        bench.graph.dry_run(&FakeHost::alone("n1")).unwrap().len(),
        1
    );
    assert!(bench.diary().is_empty());
}
