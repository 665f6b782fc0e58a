//! A case for each boundary of each step and each kind of death: from nothing, with one death.

use std::time::Instant;

use anyhow::{Result, anyhow, ensure};
use system_tests::crash::{BOUNDARIES, KINDS, Kind, Struck, arm, strike};
use system_tests::mounted::Mounted;

use super::operation::{End, Operation, Step};

/// Runs the cases of `operation` whose line contains `only`; gives how many failed.
pub fn run(mounted: &Mounted, operation: &Operation, only: &str) -> Result<u32> {
    let (steps, end) = operation.rehearse(mounted)?;
    println!("{}: {} steps", operation.name, steps.len());
    let mut failed = 0;
    for step in &steps {
        for boundary in BOUNDARIES {
            for kind in KINDS {
                let (name, id, kind_word) = (operation.name, &step.id, kind.word());
                let line = format!("{name} {id} {boundary} {kind_word}");
                if !line.contains(only) {
                    continue;
                }
                let start = Instant::now();
                match case(mounted, operation, step, boundary, kind, &end) {
                    Ok(()) => println!("{line}  ok {:.1} s", start.elapsed().as_secs_f64()),
                    Err(error) => {
                        failed += 1;
                        println!("{line}  FAILED {error:#}");
                    }
                }
            }
        }
    }
    Ok(failed)
}

fn case(
    mounted: &Mounted,
    operation: &Operation,
    step: &Step,
    boundary: &str,
    kind: Kind,
    end: &End,
) -> Result<()> {
    let run = operation.prepare(mounted)?;
    let die = || {
        let node = mounted.cluster().node(&step.node)?;
        arm(&node, &[(&step.id, boundary)])?;
        let generation = run.begin()?;
        let struck = strike(&node, kind, run.deployment(), generation)?;
        ensure!(struck == Struck::Yes, "the boundary was not reached");
        run.finish(generation, end)
    };
    die().map_err(|error| anyhow!("{error:#}\n{}", run.explain()))
}
