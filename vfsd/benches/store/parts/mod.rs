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

/// Measures everything.
pub fn measure(plan: &Plan) -> anyhow::Result<Report> {
    let mut report = Report::default();
    machine::busy(&mut report)?;
    let mut systems = Systems::start(plan)?;
    single_calls::measure(plan, &systems, &mut report)?;
    rates::measure(plan, &systems, &mut report)?;
    listing::measure(plan, &systems, &mut report)?;
    memory::of_leaders(&systems, &mut report)?;
    idle::without_agents(plan, &systems, &mut report)?;
    agents::measure(plan, &systems, &mut report)?;
    gaps::measure(plan, &mut systems, &mut report)?;
    // What is measured from here on is not compared with them.
    systems.etcd = None;
    systems.clusters.truncate(1);
    voters::measure(plan, &systems, &mut report)?;
    drop(systems);
    memory::of_an_inode(plan, &mut report)?;
    Ok(report)
}
