//! Calls of several threads at once.

use std::time::{Duration, Instant};

use anyhow::anyhow;

use crate::figures::{Name, Row};

/// What a writer does again and again.
pub type Write<'a> = Box<dyn FnMut() -> anyhow::Result<()> + Send + 'a>;

/// A row whose samples are rates: for `slice` each writer calls again and again, in a thread of its own.
pub fn rate<'a>(name: Name, slice: Duration, mut writers: Vec<Write<'a>>) -> Row<'a> {
    Row::new(name, move |_| {
        let start = Instant::now();
        let until = start + slice;
        let calls = at_once(writers.iter_mut().map(|write| {
            move || {
                let mut calls = 0;
                while Instant::now() < until {
                    write()?;
                    calls += 1;
                }
                Ok(calls)
            }
        }))?;
        let calls: u32 = calls.into_iter().sum();
        Ok(f64::from(calls) / start.elapsed().as_secs_f64())
    })
}

/// Makes `count` calls with `threads` threads; each is given its number.
pub fn times(
    count: usize,
    threads: usize,
    call: impl Fn(usize) -> anyhow::Result<()> + Sync,
) -> anyhow::Result<()> {
    let call = &call;
    let shares =
        (0..threads).map(|first| move || (first..count).step_by(threads).try_for_each(call));
    at_once(shares).map(drop)
}

/// Runs all at once and gives their values, or the first error.
fn at_once<T: Send>(
    all: impl Iterator<Item = impl FnOnce() -> anyhow::Result<T> + Send>,
) -> anyhow::Result<Vec<T>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = all.map(|one| scope.spawn(one)).collect();
        let ended = threads.into_iter().map(|thread| thread.join());
        ended
            .map(|one| one.map_err(|_| anyhow!("a writer panicked"))?)
            .collect()
    })
}
