//! What the benchmark makes of its samples: turns, ratios, aims. The files lie with the benchmark, which has no tests.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "../benches/store/figures/mod.rs"]
mod figures;

use std::cell::{Cell, RefCell};
use std::time::Duration;

use figures::{Aim, Block, Build, Comparison, Name, Report, Row, Turn, Turns, Unit, json, table};

const TURNS: Turns = Turns {
    count: 10,
    block: 20,
    warm_up: 2,
    rest: Duration::ZERO,
};

fn name(key: &str) -> Name {
    Name::new(key, &format!("a row called {key}"), Unit::Millis)
}

/// `a` by `b`.
fn ratio(aim: Aim) -> Comparison {
    Comparison {
        key: "a_by_b",
        label: "a / b",
        unit: Unit::Times,
        of: |turn: &Turn| Some(turn.get("a")? / turn.get("b")?),
        aim: Some(aim),
    }
}

/// A row that takes so many times what the disk takes now; the disk is three times as slow from its 300th call on.
fn row<'a>(key: &str, times: f64, calls: &'a Cell<usize>) -> Row<'a> {
    Row::new(name(key), move |_| {
        calls.set(calls.get() + 1);
        Ok(times * if calls.get() < 300 { 1.0 } else { 3.0 })
    })
}

#[test]
fn a_disk_that_becomes_slower_in_the_middle_does_not_move_a_ratio() {
    let (calls, mut report) = (Cell::new(0), Report::default());
    let rows = vec![row("a", 2.0, &calls), row("b", 1.0, &calls)];
    TURNS.measure(rows, &mut report).unwrap();
    let [a, b] = [0, 1].map(|at| report.rows()[at].samples.clone());
    assert!(a.contains(&2.0) && a.contains(&6.0) && b.contains(&1.0) && b.contains(&3.0));
    let by = ratio(Aim::AtMost(2.0)).spread(&report).unwrap();
    assert_eq!((by.count, by.p25, by.p50, by.p75), (10, 2.0, 2.0, 2.0));
}

#[test]
fn rows_of_different_turns_are_not_compared() {
    let mut report = Report::default();
    report.turn(vec![Block::one(name("a"), 2.0)]);
    report.turn(vec![Block::one(name("b"), 1.0)]);
    let comparison = ratio(Aim::AtMost(2.0));
    assert!(comparison.spread(&report).is_none());
    assert_eq!(comparison.is_reached(&report), None);
    let table = table(&report, &[comparison]);
    assert!(
        table.contains("a / b") && table.contains("not measured"),
        "{table}"
    );
}

#[test]
fn every_other_turn_goes_backwards_and_a_row_counts_its_calls() {
    let order = RefCell::new(Vec::new());
    let row = |key: &'static str| {
        let order = &order;
        Row::timed(name(key), move |number| {
            order.borrow_mut().push((key, number));
            Ok(())
        })
    };
    let turns = Turns {
        count: 2,
        block: 1,
        warm_up: 1,
        rest: Duration::ZERO,
    };
    let mut report = Report::default();
    turns
        .measure(vec![row("a"), row("b")], &mut report)
        .unwrap();
    let (first, second) = (
        [("a", 0), ("a", 1), ("b", 0), ("b", 1)],
        [("b", 2), ("b", 3), ("a", 2), ("a", 3)],
    );
    assert_eq!(*order.borrow(), [first, second].concat());
    let rows: Vec<&str> = report
        .rows()
        .iter()
        .map(|row| row.name.key.as_str())
        .collect();
    assert_eq!(rows, ["a", "b"], "the table has the order of the list");
}

#[test]
fn calls_of_the_warm_up_do_not_count() {
    let mut report = Report::default();
    let row = Row::new(name("a"), |number| Ok(number as f64));
    let turns = Turns {
        count: 1,
        block: 3,
        warm_up: 2,
        rest: Duration::ZERO,
    };
    turns.measure(vec![row], &mut report).unwrap();
    assert_eq!(report.rows()[0].samples, [2.0, 3.0, 4.0]);
}

#[test]
fn an_error_of_a_call_ends_the_measuring() {
    let mut report = Report::default();
    let row = Row::new(name("a"), |_| anyhow::bail!("refused"));
    assert!(TURNS.measure(vec![row], &mut report).is_err());
}

#[test]
fn an_aim_is_reached_at_its_bound_only_if_it_says_so() {
    let mut report = Report::default();
    report.turn(vec![Block::one(name("a"), 3.0), Block::one(name("b"), 2.0)]);
    let reached = |aim: Aim| ratio(aim).is_reached(&report).unwrap();
    assert!(reached(Aim::AtMost(1.5)) && !reached(Aim::AtMost(1.49)));
    assert!(reached(Aim::Below(1.51)) && !reached(Aim::Below(1.5)));
    assert!(reached(Aim::Above(1.49)) && !reached(Aim::Above(1.5)));
}

#[test]
fn two_builds_are_compared_row_by_row() {
    let mut report = Report::default();
    let other = |key| name(key).of(Build::Other);
    for turn in [1.0, 5.0] {
        report.turn(vec![
            Block::one(name("a").of(Build::This), turn),
            Block::one(other("a"), 2.0 * turn),
            Block::one(name("b"), 1.0),
        ]);
    }
    // Two that wrote nothing are equal, and nothing is no measure of something.
    report.turn(vec![
        Block::one(name("c"), 0.0),
        Block::one(other("c"), 0.0),
    ]);
    report.turn(vec![
        Block::one(name("d"), 1.0),
        Block::one(other("d"), 0.0),
    ]);
    // An event that came before the close it tells of.
    report.turn(vec![
        Block::one(name("e"), -1.0),
        Block::one(other("e"), 0.5),
    ]);
    let builds = report.builds();
    let builds: Vec<_> = builds
        .iter()
        .map(|(name, by)| (name.key.as_str(), by.p50))
        .collect();
    assert_eq!(builds, [("a", 0.5), ("c", 1.0)]);
    let json = json(&report, &[]);
    assert_eq!(json["builds"]["a"]["p50"], 0.5);
    assert_eq!(json["rows"]["other_a"]["max"], 10.0);
}

#[test]
fn a_row_that_is_absent_says_why() {
    let mut report = Report::default();
    report.absent(name("a"), "it is not installed");
    let table = table(&report, &[]);
    assert!(
        table.contains("not measured: it is not installed"),
        "{table}"
    );
    assert_eq!(
        json(&report, &[])["rows"]["a"]["absent"],
        "it is not installed"
    );
}

#[test]
fn quantiles_of_a_row_are_samples_of_it() {
    let mut report = Report::default();
    let samples = (1..=101).rev().map(f64::from).collect();
    report.turn(vec![Block::new(name("a"), samples)]);
    let row = &json(&report, &[])["rows"]["a"];
    let at = ["p25", "p50", "p75", "p99", "max"].map(|at| row[at].as_f64().unwrap());
    assert_eq!(at, [26.0, 51.0, 76.0, 100.0, 101.0]);
    assert_eq!(
        (row["count"].as_u64(), row["unit"].as_str()),
        (Some(101), Some("ms"))
    );
}

#[test]
fn a_number_has_the_digits_that_mean_something() {
    let shown = [
        (Unit::Millis, 0.456, "0.46 ms"),
        (Unit::Millis, 456.7, "457 ms"),
        (Unit::PerSecond, 4230.4, "4230 /s"),
        (Unit::Bytes, 456.7, "457 B"),
        (Unit::Mebibytes, 88.2, "88 MiB"),
        (Unit::PercentOfACore, 0.217, "0.22 %"),
        (Unit::Entries, 0.0, "0 "),
        (Unit::Times, 1.006, "1.01 x"),
    ];
    for (unit, value, text) in shown {
        assert_eq!(format!("{} {}", unit.number(value), unit.text()), text);
    }
}
