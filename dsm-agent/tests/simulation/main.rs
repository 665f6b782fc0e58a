//! Several agents in one thread, from one seed: crashes, lost locks, lost and reordered wake-ups, changing wishes.
//!
//! Goal: whatever happens, the deployment ends Active in the state that the last wish asks for, and at no time does a
//! step run twice at once, have an effect before `started`, or a generation come from anyone but the planner.
//! Method: the real engine, record and performer over an in-memory tree with locks, fences and guards; each move of the
//! scheduler is drawn from the seed. `SIM_SEED=N` repeats one run.

#![allow(clippy::unwrap_used)] // A test may panic.

mod idle;
mod machines;
mod rng;
mod sim_agent;
mod sim_tree;
mod world;

use world::{Faults, World};

fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("SIM_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
    {
        Some(seed) => vec![seed],
        None => (1..=count).collect(),
    }
}

fn run(seed: u64, faults: Faults) -> World {
    println!("seed {seed}, repeat with SIM_SEED={seed}");
    let mut world = World::new(seed, &["n1", "n2", "n3"], faults);
    world.save("one", &["n1", "n2", "n3"]);
    world.run_with_faults();
    world.settle();
    world
}

#[test]
fn without_faults_it_ends_active_in_one_generation() {
    let world = run(1, Faults::none());
    world.check_converged("one");
    assert_eq!(world.generations(), 1);
}

#[test]
fn crashes_and_lost_locks_at_any_point_end_in_the_same_state() {
    for seed in seeds(50) {
        let world = run(seed, Faults::crashes());
        world.check_converged("one");
    }
}

#[test]
fn a_new_wish_in_mid_flight_supersedes() {
    for seed in seeds(30) {
        let mut world = World::new(seed, &["n1", "n2", "n3"], Faults::crashes());
        println!("seed {seed}, repeat with SIM_SEED={seed}");
        world.save("one", &["n1", "n2"]);
        world.run_moves(40 + seed * 7 % 200);
        world.save("two", &["n1", "n2", "n3"]);
        world.run_moves(seed * 13 % 150);
        world.save("three", &["n1", "n2", "n3"]);
        world.run_with_faults();
        world.settle();
        world.check_converged("three");
    }
}

#[test]
fn a_node_that_leaves_the_wish_is_cleaned() {
    for seed in seeds(15) {
        let mut world = World::new(seed, &["n1", "n2", "n3"], Faults::crashes());
        println!("seed {seed}, repeat with SIM_SEED={seed}");
        world.save("one", &["n1", "n2", "n3"]);
        world.run_moves(60 + seed * 11 % 300);
        world.save("two", &["n1", "n2"]);
        world.run_with_faults();
        world.settle();
        world.check_converged("two");
    }
}

#[test]
fn a_pass_over_an_active_deployment_writes_nothing() {
    for seed in seeds(8) {
        let mut world = run(seed, Faults::crashes());
        world.settle();
        let before = world.mutations();
        world.observe_all();
        world.settle();
        assert_eq!(
            world.mutations(),
            before,
            "seed {seed}: an idle cluster wrote to the tree"
        );
    }
}

#[test]
fn what_somebody_did_by_hand_before_a_step_began_is_skipped() {
    for seed in seeds(8) {
        println!("seed {seed}, repeat with SIM_SEED={seed}");
        let mut world = World::new(seed, &["n1", "n2", "n3"], Faults::none());
        world.save("one", &["n1", "n2", "n3"]);
        world.settle();
        world.save("two", &["n1", "n2"]);
        world.run_until_planned(2);
        world.clean_by_hand("n3");
        world.settle();
        world.check_converged("two");
        assert_eq!(world.evs("n3", 2), ["skipped"], "seed {seed}");
    }
}

#[test]
fn a_deleted_wish_is_removed_everywhere() {
    for seed in seeds(8) {
        let mut world = run(seed, Faults::crashes());
        world.delete();
        world.run_with_faults();
        world.settle();
        world.check_removed();
    }
}

#[test]
fn a_renamed_wish_is_adopted_and_nothing_stops() {
    for seed in seeds(8) {
        let mut world = run(seed, Faults::none());
        world.rename("mid/other.json");
        world.run_with_faults();
        world.settle();
        world.check_adopted("mid/other", "one");
    }
}

#[test]
fn the_whole_record_of_a_deployment_and_a_change_is_as_it_was() {
    let mut world = run(1, Faults::none());
    world.save("two", &["n1", "n2"]);
    world.settle();
    world.check_converged("two");
    golden("deploy_and_shrink.txt", &world.record_text());
}

/// Compares with a golden file; `UPDATE_GOLDEN=1` rewrites it, and the diff is read before it is committed.
fn golden(name: &str, text: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/simulation/golden")
        .join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    for (number, (left, right)) in expected.lines().zip(text.lines()).enumerate() {
        assert_eq!(left, right, "{name}, line {}", number + 1);
    }
    assert_eq!(
        expected.lines().count(),
        text.lines().count(),
        "{name}: number of lines"
    );
}
