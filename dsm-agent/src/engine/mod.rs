//! The pure engine: events in, actions out.
//!
//! Invariants: no clock, file, thread, random number or `HashMap`; the same events give the same actions on any node. A
//! wake-up carries no data: every decision rests on a view that was read after it.
//! Not here: how views are read and actions performed (`mount/`, `host/`).
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod acceptance;
pub mod action;
pub mod core;
#[cfg(test)]
mod decisions_test;
pub mod desired;
pub mod digest;
pub mod document;
pub mod driver_port;
pub mod event;
mod execution;
mod generation;
pub mod id;
pub mod log;
mod machine;
mod membership;
mod participant;
mod pass;
pub mod plan_rules;
pub mod plan_text;
mod planner;
pub mod record;
mod removal;
mod resumption;
mod status;
pub mod view;
