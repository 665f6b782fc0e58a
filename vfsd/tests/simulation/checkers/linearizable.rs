//! Saves and reads of a file, each read behind a barrier, are those of one register: there is one order of all of them
//! that every client could have seen. Checked by stateright's tester.
//!
//! A save that failed may happen later or never. It counts only if somebody has read it, and then until the end.

use std::collections::{BTreeMap, BTreeSet};

use stateright::semantics::register::{Register, RegisterOp, RegisterRet};
use stateright::semantics::{ConsistencyTester, LinearizabilityTester};

/// Calls of one file: beyond, the tester takes too long.
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

impl History {
    fn is_linearizable(&self) -> bool {
        let read: BTreeSet<u64> = self
            .events
            .iter()
            .filter_map(|(_, event)| match event {
                Event::Read(number) => Some(*number),
                _ => None,
            })
            .collect();
        let ended = |call: u64, wanted: fn(&Event) -> bool| {
            self.events
                .iter()
                .any(|(of, event)| *of == call && wanted(event))
        };
        let mut tester = LinearizabilityTester::new(Register(0));
        // A call that has returned makes room for the next: few threads keep the search short.
        let mut threads: BTreeMap<u64, u64> = BTreeMap::new();
        let mut free = BTreeSet::new();
        let mut unknown = Vec::new();
        for &(call, event) in &self.events {
            let began = match event {
                Event::Saves(number) => {
                    let saved = ended(call, |event| *event == Event::Saved);
                    (saved || read.contains(&number)).then_some(RegisterOp::Write(number))
                }
                Event::Reads => {
                    let has_read = ended(call, |event| matches!(event, Event::Read(_)));
                    has_read.then_some(RegisterOp::Read)
                }
                _ => None,
            };
            if let Some(operation) = began {
                let thread = free
                    .pop_first()
                    .unwrap_or(threads.len() as u64 + 1_000 * call);
                threads.insert(call, thread);
                tester.on_invoke(thread, operation).unwrap();
            }
            let returned = match event {
                Event::Saved => RegisterRet::WriteOk,
                Event::Read(number) => RegisterRet::ReadOk(number),
                Event::Unknown => {
                    unknown.extend(threads.get(&call));
                    continue;
                }
                Event::Saves(_) | Event::Reads => continue,
            };
            let thread = threads[&call];
            tester.on_return(thread, returned).unwrap();
            free.insert(thread);
        }
        for thread in unknown {
            tester.on_return(thread, RegisterRet::WriteOk).unwrap();
        }
        tester.is_consistent()
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
