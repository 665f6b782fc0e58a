//! Connections between nodes: mutual TLS, frames, enrolment.
//!
//! Invariants: a peer is who its certificate says, checked on both sides of every connection; every frame is bounded;
//! bad bytes close the connection with a log line. Not here: what the frames say (`consensus/wire.rs`).

pub mod client;
pub mod enrol;
pub mod frame;
pub mod identity;
pub mod server;
mod strangers;
pub mod tls;
pub mod token;
