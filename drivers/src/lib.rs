//! Software drivers and the state library (SLS) below them.
//!
//! A driver holds the operational knowledge of one piece of software. The agent calls it through [`driver::Driver`]; a
//! driver reaches the machine through [`host::Host`] only and keeps nothing between calls.
//!
//! Arrows: `catalog -> sls -> host (trait) <- host/linux, host/fake`. Nothing in here knows the tree, the record or the
//! agent.

pub mod catalog;
pub mod conformance;
pub mod driver;
pub mod error;
pub mod fence;
pub mod host;
pub mod limits;
pub mod nearest;
pub mod params;
pub mod registry;
pub mod sls;
