//! Seeds of random tests: printed, and repeated by `scripts/replay.sh`.

/// The environment variable that holds the seed to repeat.
pub const VARIABLE: &str = "CONTEXTOS_SEED";

/// The seed to use for `test`: the one to repeat, or a new one. Printed in any case.
pub fn choose(test: &str) -> u64 {
    let repeated = std::env::var(VARIABLE)
        .ok()
        .and_then(|text| text.parse().ok());
    // 48 bits are enough to differ and short enough to copy.
    let seed = repeated.unwrap_or_else(|| rand::random::<u64>() >> 16);
    println!("{test}: seed {seed} (repeat: scripts/replay.sh {seed} {test})");
    seed
}
