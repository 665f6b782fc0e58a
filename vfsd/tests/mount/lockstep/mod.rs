//! The tree and ext4 in lockstep: the same calls on both, every answer compared.
//!
//! A call is one line, `PROCESS CALL ARGUMENT...`, such as `0 open h1 a rw,creat` or `2 write h1 A*100`; what there is
//! stands in `worker.rs`. Random sequences come from a seed (`generator.rs`); what differs is shrunk (`shrink.rs`) and
//! printed in the same form, so that it can be pasted into a test of its own ([`check`]).
//!
//! What is compared: what a call returned, the errno, the bytes, size, links, type, mode, owner, extended attributes,
//! names, and whether mtime and ctime moved. Not compared: inode numbers, a directory's size, blocks, atime, and where
//! exactly holes begin.

pub mod attributes;
pub mod bytes;
pub mod generator;
pub mod scratch;
pub mod shrink;
pub mod sides;
pub mod times;
pub mod walk;
pub mod worker;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use system_tests::seed;

use crate::kernel_is_at_least;
use sides::{Difference, Sides};

/// How often a long run says how far it is.
const TOLD_EVERY: Duration = Duration::from_secs(60);
/// How long a sequence is made simpler.
const SHRINK_MAX: Duration = Duration::from_secs(60);

/// Runs a fixed sequence, one call a line; panics where the tree answers otherwise than ext4.
pub fn check(sequence: &str) {
    let calls: Vec<String> = sequence
        .lines()
        .map(|line| line.trim().to_owned())
        .filter(|line| !line.is_empty())
        .collect();
    let difference = Sides::start().run(&calls);
    let is_mapped = calls.iter().any(|call| call.contains(" mmap "));
    if is_mapped && !kernel_is_at_least(6, 6) {
        let refused = difference.expect("this kernel refuses shared mappings of the tree");
        assert_eq!(refused.tree, "ENODEV", "{}", report(&calls, &refused));
    } else if let Some(difference) = difference {
        panic!("{}", report(&calls, &difference));
    }
}

/// The calls up to the difference, and both answers.
pub fn report(calls: &[String], difference: &Difference) -> String {
    let mut text = String::new();
    for call in calls.iter().take(difference.at + 1) {
        writeln!(text, "    {call}").unwrap();
    }
    if difference.at >= calls.len() {
        writeln!(text, "    ({})", difference.call).unwrap();
    }
    write!(
        text,
        "  ext4: {}\n  tree: {}",
        difference.ext4, difference.tree
    )
    .unwrap();
    text
}

/// How a sequence is run again.
fn repetition(seed: u64, test: &str) -> String {
    // What was asked for besides decides over the calls, too.
    let mut asked: Vec<String> = std::env::vars()
        .filter(|(name, _)| {
            ["CALLS", "WORKERS", "WITHOUT"]
                .iter()
                .any(|asked| name == &variable(asked))
        })
        .map(|(name, value)| format!("{name}='{value}' "))
        .collect();
    asked.sort_unstable();
    format!(
        "seed {seed}, repeat: {}scripts/replay.sh {seed} {test}",
        asked.concat()
    )
}

fn variable(name: &str) -> String {
    format!("CONTEXTOS_LOCKSTEP_{name}")
}

/// What the environment asks for.
fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(variable(name)).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name}={value} is no number")),
    )
}

/// Random calls for a minute, or for as long as `scripts/lockstep.sh` says; each sequence has the seed after the last.
#[test]
fn random_calls_are_answered_as_on_ext4() {
    let test = "random_calls_are_answered_as_on_ext4";
    let workers = setting("WORKERS").map(|count| usize::try_from(count).unwrap());
    nothing_differs(test, Sides::start(), 60, |seed, calls| {
        generator::sequence(seed, calls, workers)
    });
}

/// Of calls that keep nothing open each node sees all that was done before on any.
#[test]
fn random_calls_of_two_nodes_are_answered_as_on_one_ext4() {
    let test = "random_calls_of_two_nodes_are_answered_as_on_one_ext4";
    nothing_differs(
        test,
        Sides::of_two_nodes(),
        15,
        generator::sequence_of_paths,
    );
}

/// Runs sequences for `seconds`, unless the environment says otherwise, and shrinks what differs.
fn nothing_differs(
    test: &str,
    mut sides: Sides,
    seconds: u64,
    sequence: impl Fn(u64, usize) -> Vec<String>,
) {
    let first = seed::choose(test);
    let until = Instant::now() + Duration::from_secs(setting("SECONDS").unwrap_or(seconds));
    let calls = usize::try_from(setting("CALLS").unwrap_or(60)).unwrap();
    // One difference is enough for a test; the script may collect more.
    let differences_max = setting("DIFFERENCES").unwrap_or(1) as usize;
    // While a fault is known, calls that meet it can be left out to see what lies behind it.
    let without = std::env::var(variable("WITHOUT")).unwrap_or_default();
    let without: Vec<&str> = without.split(';').filter(|text| !text.is_empty()).collect();
    let mut found = BTreeSet::new();
    let mut sequences = 0;
    let mut told = Instant::now();
    for seed in first.. {
        if Instant::now() >= until || found.len() >= differences_max {
            break;
        }
        sequences += 1;
        if told.elapsed() > TOLD_EVERY {
            told = Instant::now();
            println!(
                "{test}: {sequences} sequences, {} differences, at seed {seed}",
                found.len()
            );
        }
        let mut sequence = sequence(seed, calls);
        if !kernel_is_at_least(6, 6) {
            sequence.retain(|call| !call.contains(" mmap "));
        }
        sequence.retain(|call| !without.iter().any(|text| call.contains(text)));
        let Some(difference) = sides.run(&sequence) else {
            continue;
        };
        keep(seed, test, &sequence, &difference);
        let shrunk = shrunk(&mut sides, sequence, &difference);
        // What differs in the same calls is the same fault in most cases.
        if found.insert(verbs(&shrunk)) {
            println!("{}", repetition(seed, test));
            println!("{}", describe(&mut sides, &shrunk, &difference));
        }
    }
    println!(
        "{sequences} sequences of {calls} calls, {} differences",
        found.len()
    );
    assert!(
        found.is_empty(),
        "the tree answered otherwise than ext4: see above"
    );
}

/// The reference does not differ from itself, or no difference would mean anything.
#[test]
fn ext4_answers_as_ext4() {
    let first = seed::choose("ext4_answers_as_ext4");
    let until = Instant::now() + Duration::from_secs(setting("SECONDS").unwrap_or(10).min(600));
    let mut sides = Sides::of_ext4_alone();
    for seed in first.. {
        if Instant::now() >= until {
            break;
        }
        let sequence = generator::sequence(seed, 60, None);
        if let Some(difference) = sides.run(&sequence) {
            let shrunk = shrunk(&mut sides, sequence, &difference);
            panic!(
                "seed {seed}\n{}",
                describe(&mut sides, &shrunk, &difference)
            );
        }
    }
}

/// Writes what was found into a file of the build's folder, before anything is repeated: what differs once in thousands
/// of runs does not differ again while it is shrunk, and what a test prints is easily lost.
fn keep(seed: u64, test: &str, sequence: &[String], difference: &Difference) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("lockstep");
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join(format!("{test}-{seed}.txt"));
    let [repetition, found] = [repetition(seed, test), report(sequence, difference)];
    std::fs::write(&path, format!("{repetition}\n{found}\n")).unwrap();
    println!("{test}: seed {seed} differs, see {}", path.display());
}

fn shrunk(sides: &mut Sides, mut sequence: Vec<String>, difference: &Difference) -> Vec<String> {
    sequence.truncate(difference.at + 1);
    let kind = difference.kind();
    shrink::shrink(sequence, SHRINK_MAX, |calls| {
        sides.run(calls).is_some_and(|found| found.kind() == kind)
    })
}

/// The shrunk calls, run three times more: whether they differ each time is worth knowing.
fn describe(sides: &mut Sides, calls: &[String], first: &Difference) -> String {
    let again: Vec<_> = (0..3).filter_map(|_| sides.run(calls)).collect();
    let shown = again.first().unwrap_or(first);
    format!(
        "{}\n  differs in {} of 3 repetitions\n",
        report(calls, shown),
        again.len()
    )
}

fn verbs(calls: &[String]) -> String {
    let words = calls.iter().map(|call| {
        let mut words = call.split(' ').skip(1);
        let verb = words.next().unwrap_or_default();
        let flags = words.filter(|word| verb == "open" && word.contains(','));
        [verb]
            .into_iter()
            .chain(flags)
            .collect::<Vec<_>>()
            .join(":")
    });
    words.collect::<Vec<_>>().join(" ")
}
