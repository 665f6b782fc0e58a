//! `workload`: what system tests run inside nodes: savers, readers, racers and watchers.
//!
//! Invariants: it uses the mounted tree by ordinary calls only; what it finds wrong is on standard error, and then the
//! exit status is 1. Loops end when their standard input ends, so that a test that dies leaves nothing running.

mod document;
mod events;
mod operations;
mod race;
mod saves;

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::saves::Refusal;

/// What system tests run inside nodes.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    work: Work,
}

#[derive(Debug, Subcommand)]
enum Work {
    /// Print the events of a folder, its folders and files, until `end` is made in it
    Events {
        /// The folder
        folder: PathBuf,
    },
    /// Try to make `0` to `count - 1`, exclusively, and print those that were made
    Race {
        /// The folder
        folder: PathBuf,
        /// How many names
        count: u32,
        /// Make folders instead of files
        #[arg(long)]
        mkdir: bool,
    },
    /// Save documents numbered from `first` as a shell's `>` does; print each number when it is acknowledged
    Save {
        /// The file
        file: PathBuf,
        /// The first number
        first: u64,
        /// Tell a refusal for want of a majority and go on with the next number
        #[arg(long)]
        go_on: bool,
    },
    /// Make one small file after another and print each number when it is acknowledged
    Create {
        /// The folder
        folder: PathBuf,
        /// What names begin with
        prefix: String,
        /// Tell a refusal for want of a majority and go on with the next number
        #[arg(long)]
        go_on: bool,
    },
    /// Print the names of the files of `create` that are whole; a mixed or torn one is an error
    Check {
        /// The folder
        folder: PathBuf,
    },
    /// Perform random operations on names that begin with `prefix`, and print those that were possible
    Operate {
        /// The folder
        folder: PathBuf,
        /// What names begin with
        prefix: String,
        /// The same seed gives the same operations
        seed: u64,
        /// How many
        count: u32,
    },
    /// Read documents again and again; an empty, mixed or older one is an error
    Read {
        /// The file
        file: PathBuf,
    },
}

fn main() -> ExitCode {
    match perform(Arguments::parse().work) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(work: Work) -> Result<()> {
    match work {
        Work::Events { folder } => events::print(&folder),
        Work::Race {
            folder,
            count,
            mkdir,
        } => race::run(&folder, count, mkdir),
        Work::Save { file, first, go_on } => {
            saves::save(&file, first, refusal(go_on), &until_input_ends())
        }
        Work::Create {
            folder,
            prefix,
            go_on,
        } => saves::create(&folder, &prefix, refusal(go_on), &until_input_ends()),
        Work::Check { folder } => saves::check(&folder),
        Work::Operate {
            folder,
            prefix,
            seed,
            count,
        } => operations::run(&folder, &prefix, seed, count),
        Work::Read { file } => saves::read(&file, &until_input_ends()),
    }
}

fn refusal(go_on: bool) -> Refusal {
    if go_on {
        Refusal::IsTold
    } else {
        Refusal::Ends
    }
}

/// A flag that is raised when standard input ends.
fn until_input_ends() -> Arc<AtomicBool> {
    let ended = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&ended);
    std::thread::spawn(move || {
        let mut rest = Vec::new();
        // An error is an end too.
        let _ = std::io::stdin().read_to_end(&mut rest);
        flag.store(true, Ordering::Relaxed);
    });
    ended
}
