//! Whole clusters in one thread from one seed: the product's consensus, storage and tree, on disks and a network that
//! fail, under programs that use them. The same seed gives the same world to the last message.
//!
//! Each world is a process of its own (see `chance.rs`). Repeat one with scripts/replay.sh SEED simulation.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod chance;
mod checkers;
mod clients;
mod founding;
mod member;
mod network;
mod older_copy;
mod scenarios;
mod sticky;
mod trace;
mod world;

use std::process::{Command, Output};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Names the seed of the one world of a process.
const WORLD: &str = "CONTEXTOS_SIMULATED_WORLD";
/// Names a scenario for that world.
const SCENARIO: &str = "CONTEXTOS_SIMULATED_SCENARIO";
/// Shows the trace.
const LOUD: &str = "CONTEXTOS_SIMULATED_LOUD";
/// Repeats one seed; set by scripts/replay.sh.
const REPEAT: &str = "CONTEXTOS_SEED";
/// How many worlds a run of the tests looks at: two seconds of a core each, as the tests are built. Another number
/// can be given; scripts/simulate.sh looks at thousands.
const WORLDS: u64 = 60;
const WORLDS_OF: &str = "CONTEXTOS_SIMULATED_WORLDS";
/// Each scenario is looked at with these.
const SCENARIO_SEEDS: std::ops::Range<u64> = 0..4;
/// A world that takes longer hangs.
const WORLD_MAX: Duration = Duration::from_secs(120);

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// The process of one world; does nothing when the tests run it.
#[test]
fn one_world() {
    let Some(seed) = number(WORLD) else { return };
    std::thread::spawn(|| {
        std::thread::park_timeout(WORLD_MAX);
        eprintln!("the world takes longer than {WORLD_MAX:?}");
        std::process::abort();
    });
    let is_loud = std::env::var(LOUD).is_ok();
    if is_loud {
        // VFSD_LOG=debug shows what the members say, too. Not on the thread of the world, whose chance it would use.
        drop(vfsd::telemetry::start());
    }
    // A fresh thread: what was drawn by this one before does not count.
    let world = std::thread::spawn(move || {
        chance::begin(seed);
        if is_loud {
            trace::be_loud();
        }
        let scenario = std::env::var(SCENARIO).ok();
        let ran = std::panic::catch_unwind(|| world::run(seed, scenario.as_deref()));
        let summary = trace::summary();
        if ran.is_err() {
            println!("{}", trace::tail());
        }
        println!("{summary}");
        ran.is_ok()
    });
    let held = world.join().unwrap_or(false);
    // The tasks of machines that are down need no end.
    std::process::exit(if held { 0 } else { 1 });
}

fn process_of(seed: u64, scenario: Option<&str>, loud: bool) -> Output {
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new(program);
    command
        .args(["--exact", "one_world", "--nocapture", "--test-threads=1"])
        .env(WORLD, seed.to_string())
        .env_remove(LOUD);
    if let Some(scenario) = scenario {
        command.env(SCENARIO, scenario);
    }
    if loud {
        command.env(LOUD, "1");
    }
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    String::from_utf8_lossy(out).into_owned() + &String::from_utf8_lossy(err)
}

#[test]
fn every_world_holds() {
    if let Some(seed) = number(REPEAT) {
        let output = process_of(seed, None, true);
        println!("{}", text(&output));
        assert!(output.status.success(), "world {seed} does not hold");
        return;
    }
    let worlds = number(WORLDS_OF).unwrap_or(WORLDS);
    let next = AtomicU64::new(0);
    let failed = parking_lot::Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= worlds || failed.lock().len() >= 10 {
                        return;
                    }
                    let output = process_of(seed, None, false);
                    if !output.status.success() {
                        failed.lock().push((seed, text(&output)));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    for (seed, output) in &failed {
        println!(
            "world {seed} does not hold:\n{output}\nrepeat it: scripts/replay.sh {seed} every_world\n"
        );
    }
    let seeds: Vec<_> = failed.iter().map(|(seed, _)| seed).collect();
    assert!(failed.is_empty(), "worlds that do not hold: {seeds:?}");
}

#[test]
fn every_scenario_holds() {
    for scenario in scenarios::ALL {
        for seed in SCENARIO_SEEDS {
            let seed = number(REPEAT).unwrap_or(seed);
            let output = process_of(seed, Some(scenario), number(REPEAT).is_some());
            let text = text(&output);
            assert!(output.status.success(), "{scenario}, seed {seed}:\n{text}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_world() {
    if number(REPEAT).is_some() {
        return;
    }
    for seed in [1, 2, 3] {
        let [first, second] = [0, 1].map(|_| text(&process_of(seed, None, true)));
        let differ = first
            .lines()
            .zip(second.lines())
            .find(|(one, other)| one != other);
        let is_trace = |pair: &(&str, &str)| !pair.0.contains("finished in");
        assert_eq!(differ.filter(is_trace), None, "world {seed}");
        assert!(first.contains("trace "), "{first}");
    }
}
