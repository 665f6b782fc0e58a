//! See vfsd/tests/decoders/targets.rs.
#![no_main]

#[allow(dead_code, reason = "each target is a program of its own")]
#[path = "../../../vfsd/tests/decoders/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::enrolment(bytes));
