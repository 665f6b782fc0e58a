//! The rim towards the machine: runs drivers, seals secrets, reads the node's facts.

pub mod executor;
pub mod facts;
pub mod secrets;
pub mod step_guard;
pub mod uid_memory;
