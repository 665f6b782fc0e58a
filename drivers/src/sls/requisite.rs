//! requisite
