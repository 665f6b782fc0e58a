//! The parts of the benchmark, in the order in which they run. A part adds rows to the report.

mod agents;
mod gaps;
mod idle;
mod listing;
mod memory;
mod rates;
mod single_calls;
mod voters;

use crate::figures::Report;
use crate::machine;
use crate::plan::Plan;
use crate::systems::Systems;

/// Measures everything, and says on standard error where it is.
pub fn measure(plan: &Plan) -> anyhow::Result<Report> {
    let mut report = Report::default();
    machine::busy(&mut report)?;
    now("starting what is compared");
    let mut systems = Systems::start(plan)?;
    now("single calls");
    single_calls::measure(plan, &systems, &mut report)?;
    now("parallel writers");
    rates::measure(plan, &systems, &mut report)?;
    now("listing a large folder");
    listing::measure(plan, &systems, &mut report)?;
    memory::of_leaders(&systems, &mut report)?;
    now("idle members");
    idle::without_agents(plan, &systems, &mut report)?;
    now("agents");
    agents::measure(plan, &systems, &mut report)?;
    now("killing leaders");
    gaps::measure(plan, &mut systems, &mut report)?;
    // What is measured from here on is not compared with them.
    systems.etcd = None;
    systems.clusters.truncate(1);
    now("five and seven voters");
    voters::measure(plan, &systems, &mut report)?;
    drop(systems);
    now("memory for an inode");
    memory::of_an_inode(plan, &mut report)?;
    Ok(report)
}

fn now(what: &str) {
    eprintln!("bench: {what}");
}
