//! The crash matrix: something dies at every boundary of every step of deploying, growing and changing PostgreSQL.
//!
//! Invariants: every case starts from nothing, ends with one primary, every acknowledged row and the settings of a run
//! in which nothing died, and is one line of the report; a failed case is told and the rest goes on.

mod chained;
mod isolated;
mod operation;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use system_tests::mounted::Mounted;

use operation::Operation;

/// Something dies at every step boundary of a PostgreSQL deployment. Prints one line a case; takes half an hour.
#[derive(Debug, Parser)]
struct Arguments {
    /// Only cases whose line contains this text, for example `grow` or `power`
    #[arg(long, default_value = "")]
    only: String,
    /// A deployment from nothing for each boundary, with one death, instead of one death after the other
    #[arg(long)]
    isolated: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failed) => {
            eprintln!("error: {failed} cases failed");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<u32> {
    let mounted = Mounted::boot_with_agents(3)?;
    let run = if arguments.isolated {
        isolated::run
    } else {
        chained::run
    };
    let mut failed = 0;
    for operation in operation::operations() {
        if is_for_another(&operation, &arguments.only) {
            continue;
        }
        failed += run(&mounted, &operation, &arguments.only)?;
    }
    Ok(failed)
}

/// Whether `only` begins with the name of another operation: what cannot match is not prepared for.
fn is_for_another(operation: &Operation, only: &str) -> bool {
    let mut others = operation::operations().into_iter();
    others.any(|other| other.name != operation.name && only.starts_with(other.name))
}
