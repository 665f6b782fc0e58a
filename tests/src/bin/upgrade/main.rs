//! `upgrade`: three members of an earlier build become members of this one, one after the other, under load.
//!
//! Invariants: what must hold is looked at in every phase: nothing acknowledged is lost, no reader sees an older
//! document, members of both builds have equal states, the rules change only when no member of the earlier build is
//! left, and until then a member can go back. The nodes are gone in the end, whatever came of it.
//! Not here: building the earlier commit (`scripts/upgrade.sh`).

mod build;
mod load;
mod phases;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::Parser;

/// Upgrades three members of an earlier build to this one under load, and checks what must hold.
#[derive(Debug, Parser)]
struct Arguments {
    /// The program vfsd of the earlier build
    #[arg(long)]
    earlier: PathBuf,
    /// Its unit
    #[arg(long)]
    unit: PathBuf,
}

fn main() -> ExitCode {
    let start = Instant::now();
    match phases::run(&Arguments::parse()) {
        Ok(summary) => {
            println!(
                "{summary}All held, in {:.0} s.",
                start.elapsed().as_secs_f64()
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            eprintln!("What the daemons said: target/system-tests/main/");
            ExitCode::FAILURE
        }
    }
}

/// Runs `work` as one line of the report.
fn phase<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let result = work();
    let end = if result.is_ok() { "" } else { "   failed" };
    let seconds = start.elapsed().as_secs_f64();
    println!("{name:<64} {seconds:>5.1} s{end}");
    result
}
