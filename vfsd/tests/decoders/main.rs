//! Each decoder on bytes that nobody wrote: arbitrary ones, and those of the corpus with changes. Goal: a value or an
//! error, never a panic, and memory in proportion to the bytes. Longer runs: `cargo fuzz` under `tests/fuzz`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod memory;
mod samples;
mod targets;

use std::path::PathBuf;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use targets::{TARGETS, Target};

/// Inputs of each decoder.
const INPUTS: u64 = 4_000;
/// What a decoder may use beside a multiple of its input: tables and buffers of fixed size.
const MEMORY_BASE: usize = 4 << 20;
/// That multiple: a byte of input may stand for a small structure.
const MEMORY_FACTOR: usize = 256;

fn corpus(name: &str) -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.join("../tests/fuzz/corpus").join(name)
}

/// The committed bytes for a decoder. `UPDATE_GOLDEN=1` writes them anew.
fn seeds_of(name: &str) -> Vec<Vec<u8>> {
    if std::env::var("UPDATE_GOLDEN").is_ok() {
        std::fs::create_dir_all(corpus(name)).unwrap();
        for (number, bytes) in samples::of(name).iter().enumerate() {
            std::fs::write(corpus(name).join(format!("{number}")), bytes).unwrap();
        }
    }
    let mut paths: Vec<_> = std::fs::read_dir(corpus(name))
        .unwrap_or_else(|error| panic!("no corpus for {name}: {error}; set UPDATE_GOLDEN=1"))
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect()
}

/// Changes some bytes, cuts some off, puts some in.
fn mutate(rng: &mut StdRng, bytes: &mut Vec<u8>) {
    for _ in 0..rng.random_range(1..6) {
        let at = rng.random_range(0..=bytes.len());
        match rng.random_range(0..5) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, rng.random()),
            2 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            // The largest varints are lengths that nothing can have.
            3 => drop(bytes.splice(at..at, [0xff, 0xff, 0xff, 0xff, 0x0f])),
            _ if at < bytes.len() => bytes[at] = rng.random(),
            _ => {}
        }
    }
}

fn input(rng: &mut StdRng, seeds: &[Vec<u8>]) -> Vec<u8> {
    if rng.random_bool(0.2) {
        return (0..rng.random_range(0..300))
            .map(|_| rng.random())
            .collect();
    }
    let mut bytes = seeds[rng.random_range(0..seeds.len())].clone();
    mutate(rng, &mut bytes);
    bytes
}

fn check(&(name, decode): &Target) {
    let seeds = seeds_of(name);
    let mut rng = StdRng::seed_from_u64(7);
    let mutated = (0..INPUTS).map(|_| input(&mut rng, &seeds));
    for bytes in seeds.clone().into_iter().chain(mutated) {
        let decoded = std::panic::catch_unwind(|| memory::peak_of(|| decode(&bytes)));
        let Ok(peak) = decoded else {
            panic!("{name} panicked at {}", hex::encode(&bytes))
        };
        let most = MEMORY_BASE + MEMORY_FACTOR * bytes.len();
        assert!(
            peak <= most,
            "{name} took {peak} bytes for {}",
            hex::encode(&bytes)
        );
    }
}

#[test]
fn every_decoder_answers_any_bytes_with_a_value_or_an_error() {
    TARGETS.iter().for_each(check);
}

#[test]
fn every_decoder_has_a_fuzz_target() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz");
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).unwrap();
    for (name, _) in TARGETS {
        let path = root.join(format!("fuzz_targets/{name}.rs"));
        let source = std::fs::read_to_string(&path).unwrap();
        assert!(source.contains(&format!("targets::{name}(")), "{path:?}");
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
    }
}
