//! The software that this build has operational knowledge of: one folder a driver.

pub mod file;
pub mod postgres;
