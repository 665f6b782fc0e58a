//! What is measured, in which order, and what comes out of it.
//!
//! Invariant: nothing in here knows what is measured. `vfsd/tests/bench_figures.rs` tests these files.

mod comparison;
mod json;
mod name;
mod report;
mod spread;
mod table;
mod turns;

pub use self::comparison::{Aim, Comparison};
pub use self::json::json;
pub use self::name::{Build, Name, Unit};
pub use self::report::{Block, Report, Turn};
pub use self::table::table;
pub use self::turns::{Row, Turns};
