//! Rows that are compared are measured in turns: a block of calls of one, a block of the next, and so on, again and
//! again.
//!
//! Why: a disk may be twice as quick in one minute as in the next. What is measured one after the other then compares
//! minutes; within one turn all rows meet the same disk. Every other turn goes backwards, so that no row always comes
//! behind the same one, and each block begins at rest, so that what the one before left behind (followers' disks,
//! events on other nodes) is not counted to it.

use std::time::{Duration, Instant};

use super::name::Name;
use super::report::{Block, Report};

/// Makes the n-th call and tells its sample.
type Call<'a> = Box<dyn FnMut(usize) -> anyhow::Result<f64> + 'a>;

/// One thing that is measured.
pub struct Row<'a> {
    name: Name,
    call: Call<'a>,
    calls: usize,
}

impl<'a> Row<'a> {
    /// A row whose calls tell their sample; each is given its number.
    pub fn new(name: Name, call: impl FnMut(usize) -> anyhow::Result<f64> + 'a) -> Self {
        Self {
            name,
            call: Box::new(call),
            calls: 0,
        }
    }

    /// A row of calls that are timed, in milliseconds.
    pub fn timed(name: Name, mut call: impl FnMut(usize) -> anyhow::Result<()> + 'a) -> Self {
        Self::new(name, move |number| {
            let start = Instant::now();
            call(number)?;
            Ok(start.elapsed().as_secs_f64() * 1e3)
        })
    }

    /// Makes so many calls that count, after so many that do not.
    pub fn block(&mut self, count: usize, warm_up: usize) -> anyhow::Result<Block> {
        let mut samples = Vec::with_capacity(count);
        for number in 0..warm_up + count {
            let sample = (self.call)(self.calls)?;
            self.calls += 1;
            if number >= warm_up {
                samples.push(sample);
            }
        }
        Ok(Block::new(self.name.clone(), samples))
    }
}

/// How rows take turns.
#[derive(Debug, Clone, Copy)]
pub struct Turns {
    /// How many turns.
    pub count: usize,
    /// Samples of each row in a turn.
    pub block: usize,
    /// Calls before each block that do not count: the row's processes have slept since their last block.
    pub warm_up: usize,
    /// How long nothing is called before each block.
    pub rest: Duration,
}

impl Turns {
    /// Measures `rows`.
    pub fn measure(&self, mut rows: Vec<Row<'_>>, report: &mut Report) -> anyhow::Result<()> {
        for turn in 0..self.count {
            let block = |row: &mut Row<'_>| {
                std::thread::sleep(self.rest);
                row.block(self.block, self.warm_up)
            };
            let blocks: anyhow::Result<Vec<Block>> = if turn % 2 == 0 {
                rows.iter_mut().map(block).collect()
            } else {
                rows.iter_mut().rev().map(block).collect()
            };
            report.turn(blocks?);
        }
        Ok(())
    }
}
