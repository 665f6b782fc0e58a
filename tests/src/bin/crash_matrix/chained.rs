//! One deployment after the other in which something dies at every boundary of every step, one death after the other:
//! a step that was interrupted is interrupted again at its next boundary.
//!
//! Steps that run at once on a node can die of one blow; what a pass has not reached, the next one does.

use std::time::Instant;

use anyhow::{Result, anyhow, bail, ensure};
use system_tests::cluster::Node;
use system_tests::crash::{BOUNDARIES, KINDS, Kind, arm, fired, is_held, release, take};
use system_tests::limits;
use system_tests::mounted::Mounted;
use system_tests::wait::wait_for;

use super::operation::{End, Operation, Run, Step};

/// Deployments in which every boundary must have been reached.
const PASSES_MAX: u32 = 3;

/// A boundary of a step.
type Place = (String, &'static str);

/// Runs the chains of `operation` whose line contains `only`; gives how many failed.
pub fn run(mounted: &Mounted, operation: &Operation, only: &str) -> Result<u32> {
    let (steps, end) = operation.rehearse(mounted)?;
    let mut failed = 0;
    for kind in KINDS {
        let line = format!("{} {}", operation.name, kind.word());
        if !line.contains(only) {
            continue;
        }
        let start = Instant::now();
        match chain(mounted, operation, kind, &steps, &end) {
            Ok(deaths) => println!(
                "{line}  ok: {} steps, {} boundaries, {deaths} deaths, {:.0} s",
                steps.len(),
                steps.len() * BOUNDARIES.len(),
                start.elapsed().as_secs_f64()
            ),
            Err(error) => {
                failed += 1;
                println!("{line}  FAILED {error:#}");
            }
        }
    }
    Ok(failed)
}

/// Reaches every boundary; gives how often something died.
fn chain(
    mounted: &Mounted,
    operation: &Operation,
    kind: Kind,
    steps: &[Step],
    end: &End,
) -> Result<u32> {
    let mut deaths = 0;
    let mut left: Vec<(String, Place)> = steps
        .iter()
        .flat_map(|step| {
            let places = BOUNDARIES.map(|boundary| (step.id.clone(), boundary));
            places.map(|place| (step.node.clone(), place))
        })
        .collect();
    for _ in 0..PASSES_MAX {
        deaths += pass(mounted, operation, kind, &mut left, end)?;
        if left.is_empty() {
            return Ok(deaths);
        }
    }
    bail!("after {PASSES_MAX} deployments these were not reached: {left:?}")
}

/// One run of the operation; takes from `left` where something died.
fn pass(
    mounted: &Mounted,
    operation: &Operation,
    kind: Kind,
    left: &mut Vec<(String, Place)>,
    end: &End,
) -> Result<u32> {
    let run = operation.prepare(mounted)?;
    let deaths = walk(&run, mounted.nodes(), kind, left, end);
    deaths.map_err(|error| anyhow!("{error:#}\n{}", run.explain()))
}

fn walk(
    run: &Run<'_>,
    nodes: &[Node],
    kind: Kind,
    left: &mut Vec<(String, Place)>,
    end: &End,
) -> Result<u32> {
    for node in nodes {
        let own = left.iter().filter(|(on, _)| on == node.name());
        let places: Vec<(&str, &str)> = own.map(|(_, (step, at))| (step.as_str(), *at)).collect();
        arm(node, &places)?;
    }
    let generation = run.begin()?;
    let mut deaths = 0;
    while let Some(node) = next_held(run, nodes, generation)? {
        // Read before the blow: what the restarted agent reaches at once is a death of its own.
        let places = fired(node)?;
        take(node, kind)?;
        deaths += 1;
        for (step, boundary) in places {
            left.retain(|(on, place)| on != node.name() || place.0 != step || place.1 != boundary);
        }
    }
    ensure!(deaths > 0, "nothing was reached of {left:?}");
    nodes.iter().try_for_each(release)?;
    run.finish(generation, end)?;
    Ok(deaths)
}

/// The next node whose agent is held; `None` when the deployment is done.
fn next_held<'a>(run: &Run<'_>, nodes: &'a [Node], generation: u64) -> Result<Option<&'a Node>> {
    let what = "an agent to be held, or the deployment to be done";
    wait_for(what, limits::DEPLOYMENT_MAX, || {
        for node in nodes {
            if is_held(node)? {
                return Ok(Some(Some(node)));
            }
        }
        let done = run.deployment().is_active(&nodes[0], generation)?;
        Ok(done.then_some(None))
    })
}
