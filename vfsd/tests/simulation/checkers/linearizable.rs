//! Saves and reads of a file, each read behind a barrier, are those of one register: there is one order of all of them
//! that every client could have seen. The search is that of Wing and Gong (1993), which remembers where it has been
//! (Lowe 2017).
//!
//! A save that failed may happen later or never. It counts only if somebody has read it, and then until the end.

use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Calls of one file: as many as a set of them has bits.
pub const CALLS_MAX: usize = 60;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Saves(u64),
    Reads,
    Saved,
    Read(u64),
    Unknown,
}

#[derive(Debug, Default)]
struct History {
    events: Vec<(u64, Event)>,
    calls: u64,
}

/// Histories by file.
#[derive(Debug, Default)]
pub struct Histories(BTreeMap<String, History>);

/// A call that has begun.
#[derive(Debug)]
pub struct Call {
    file: String,
    call: u64,
}

impl Histories {
    fn begin(&mut self, file: &str, event: Event) -> Option<Call> {
        let history = self.0.entry(file.to_owned()).or_default();
        if history.calls as usize >= CALLS_MAX {
            return None;
        }
        history.calls += 1;
        history.events.push((history.calls, event));
        let (file, call) = (file.to_owned(), history.calls);
        Some(Call { file, call })
    }

    fn end(&mut self, call: Call, event: Event) {
        let history = self.0.get_mut(&call.file).expect("it has begun");
        history.events.push((call.call, event));
    }

    /// A save begins; `None` when the history is full, and the save must not be made.
    pub fn saves(&mut self, file: &str, number: u64) -> Option<Call> {
        self.begin(file, Event::Saves(number))
    }

    /// A read begins; `None` when the history is full.
    pub fn reads(&mut self, file: &str) -> Option<Call> {
        self.begin(file, Event::Reads)
    }

    /// The save has returned without an error.
    pub fn saved(&mut self, call: Call) {
        self.end(call, Event::Saved);
    }

    /// The read has found a save.
    pub fn read(&mut self, call: Call, number: u64) {
        self.end(call, Event::Read(number));
    }

    /// It was refused: it has not happened.
    pub fn never(&mut self, call: Call) {
        let history = self.0.get_mut(&call.file).expect("it has begun");
        history.events.retain(|(other, _)| *other != call.call);
    }

    /// Nobody knows what became of it.
    pub fn failed(&mut self, call: Call) {
        self.end(call, Event::Unknown);
    }

    /// Checks all of them.
    pub fn check(&self) {
        for (file, history) in &self.0 {
            assert!(history.is_linearizable(), "{file}: {:?}", history.events);
        }
    }
}

/// A call as the search sees it.
struct Step {
    began: usize,
    ended: usize,
    writes: Option<u64>,
    finds: Option<u64>,
}

impl History {
    /// The calls that count, with when they began and ended.
    fn steps(&self) -> Vec<Step> {
        let mut ends = BTreeMap::new();
        let mut read = BTreeSet::new();
        for (at, (call, event)) in self.events.iter().enumerate() {
            match event {
                Event::Saved => drop(ends.insert(*call, (at, None))),
                Event::Read(number) => {
                    read.insert(*number);
                    ends.insert(*call, (at, Some(*number)));
                }
                Event::Saves(_) | Event::Reads | Event::Unknown => {}
            }
        }
        let step = |(began, (call, event)): (usize, &(u64, Event))| {
            let end = ends.get(call);
            let (ended, finds) = *end.unwrap_or(&(usize::MAX, None));
            let (writes, counts) = match event {
                Event::Saves(number) => (Some(*number), end.is_some() || read.contains(number)),
                Event::Reads => (None, end.is_some()),
                _ => return None,
            };
            counts.then_some(Step {
                began,
                ended,
                writes,
                finds,
            })
        };
        self.events.iter().enumerate().filter_map(step).collect()
    }

    fn is_linearizable(&self) -> bool {
        let steps = self.steps();
        let all = steps
            .iter()
            .enumerate()
            .fold(0_u64, |all, (at, _)| all | (1 << at));
        let mut seen = HashSet::new();
        // What was done so far, as a set, and what the file holds then.
        let mut open = vec![(0_u64, 0_u64)];
        while let Some((done, holds)) = open.pop() {
            if done == all {
                return true;
            }
            if !seen.insert((done, holds)) {
                continue;
            }
            let left = || {
                steps
                    .iter()
                    .enumerate()
                    .filter(|(at, _)| done & (1 << at) == 0)
            };
            // None can be next that began after another one, still to be done, had ended.
            let first_end = left().map(|(_, step)| step.ended).min().unwrap_or(0);
            for (at, step) in left().filter(|(_, step)| step.began < first_end) {
                if step.finds.is_none_or(|found| found == holds) {
                    open.push((done | (1 << at), step.writes.unwrap_or(holds)));
                }
            }
        }
        false
    }
}

#[test]
fn an_older_save_that_is_read_after_a_newer_one_is_found() {
    let mut histories = Histories::default();
    for number in [1, 2] {
        let call = histories.saves("f", number).unwrap();
        histories.saved(call);
    }
    let call = histories.reads("f").unwrap();
    histories.read(call, 1);
    assert!(!histories.0["f"].is_linearizable());
}

#[test]
fn a_save_that_failed_may_come_later_or_never() {
    let mut histories = Histories::default();
    let call = histories.saves("f", 1).unwrap();
    histories.failed(call);
    for number in [0, 0, 1, 1] {
        let call = histories.reads("f").unwrap();
        histories.read(call, number);
    }
    assert!(histories.0["f"].is_linearizable());
    let call = histories.reads("f").unwrap();
    histories.read(call, 0);
    assert!(
        !histories.0["f"].is_linearizable(),
        "it does not go away again"
    );
}
