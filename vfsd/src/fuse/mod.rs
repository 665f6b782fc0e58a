//! The kernel adapter: decode, call `fs`, reply; and the replay of other nodes' changes as events of this kernel.
//!
//! Invariants: a thread that serves requests never waits and never touches the mount; replay and every kernel
//! notification run on threads of their own, and `apply` waits for none of them.

mod adapter;
mod convert;
mod interrupts;
mod lookups;
pub mod mount;
mod moving;
mod replay;
mod replies;
