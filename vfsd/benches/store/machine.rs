//! Whether the machine is busy with something else.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::unistd::{SysconfVar, sysconf};

use crate::figures::Unit::PercentOfACore;
use crate::figures::{Block, Name, Report};

/// How long it is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Adds what others use of the processors before anything of ours runs.
pub fn busy(report: &mut Report) -> anyhow::Result<()> {
    let (start, before) = (Instant::now(), busy_ticks()?);
    std::thread::sleep(LOOK);
    let a_second = sysconf(SysconfVar::CLK_TCK)?.context("a clock tick of no length")?;
    let used = (busy_ticks()? - before) as f64 / a_second as f64;
    let name = Name::new(
        "busy_before",
        "used by others before it began",
        PercentOfACore,
    );
    let percent = used / start.elapsed().as_secs_f64() * 100.0;
    report.turn(vec![Block::one(name, percent)]);
    Ok(())
}

/// Clock ticks in which a processor did something, since the machine started.
fn busy_ticks() -> anyhow::Result<u64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let all = stat.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<u64> = all
        .split_whitespace()
        .skip(1)
        .map_while(|ticks| ticks.parse().ok())
        .collect();
    // The fourth and fifth are idle and waiting for a disk.
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    Ok(ticks.iter().take(8).sum::<u64>() - idle)
}
