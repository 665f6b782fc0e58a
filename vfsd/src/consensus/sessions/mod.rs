//! A node's session and its deadline: held by the node, renewed and ended by the leader.

pub mod cell;
pub mod keeper;
pub mod lease_keeper;
pub mod lease_table;
pub mod stamp_clock;
