//! Saves: what was written and not committed, from the call that writes it to the entry that commits it.
//!
//! A save is pending, then in flight, then settled (`uncommitted.rs`); when it is committed is decided in `commit.rs`;
//! what the last close leaves over is `leftover.rs`'s business.

mod budget;
mod commit;
mod dirty_ranges;
mod goes_on;
mod leftover;
mod uncommitted;

pub use budget::Budget;
pub(in crate::fs) use commit::OnFailure;
pub use dirty_ranges::{DirtyRanges, Order};
pub use leftover::Leftovers;
pub use uncommitted::{Source, Uncommitted};
