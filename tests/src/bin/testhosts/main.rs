//! `testhosts`: nodes on this machine from the command line, and the demo on them.
//!
//! Not here: what a node is (the library's `cluster`), and building the product (`scripts/demo.sh`).

mod arguments;
mod demo;
mod operations;
mod phase;
mod single;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use system_tests::cluster::{launcher, registry};

use crate::arguments::{Arguments, Operation};

fn main() -> ExitCode {
    match perform(Arguments::parse().operation) {
        Ok(code) => code,
        Err(error) => {
            anstream::eprintln!("error: {error:#}");
            phase::show_log_tail();
            ExitCode::FAILURE
        }
    }
}

fn perform(operation: Operation) -> Result<ExitCode> {
    match operation {
        Operation::Demo => demo::run()?,
        Operation::Up => demo::up()?,
        Operation::Single { folder } => single::run(folder)?,
        Operation::Shell { node } => return operations::shell(&node),
        Operation::Exec { node, command } => return operations::exec(&node, &command),
        Operation::Kill { node } => operations::kill(&node)?,
        Operation::Boot { node } => operations::boot(&node)?,
        Operation::Add { node } => operations::add(&node)?,
        Operation::Cut { node } => operations::cut(&node)?,
        Operation::Heal { node } => operations::heal(&node)?,
        Operation::Freeze { node } => operations::freeze(&node)?,
        Operation::Thaw { node } => operations::thaw(&node)?,
        Operation::Down => operations::down()?,
        Operation::Gc => registry::collect_garbage()?
            .iter()
            .for_each(|name| println!("took away {name}")),
        Operation::Check => operations::check()?,
        Operation::LaunchNode => launcher::launch()?,
    }
    Ok(ExitCode::SUCCESS)
}
