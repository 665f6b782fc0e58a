//! The admin socket of a running daemon: one JSON object a line in each direction, for root on this machine only.

pub mod client;
mod commands;
pub mod protocol;
mod report;
pub mod server;
