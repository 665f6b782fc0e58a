//! From a command of the filesystem to its answer, exactly once.

pub mod barrier;
pub mod proposer;
pub mod request_numbers;
pub mod waiters;
