//! What happened in a world, line by line: the same for the same seed.

use std::cell::RefCell;

/// Lines that a failure shows.
const TAIL: usize = 120;

thread_local! {
    static TRACE: RefCell<Trace> = RefCell::default();
}

#[derive(Default)]
struct Trace {
    digest: blake3::Hasher,
    lines: u64,
    tail: std::collections::VecDeque<String>,
    is_loud: bool,
}

/// Shows each line at once.
pub fn be_loud() {
    TRACE.with_borrow_mut(|trace| trace.is_loud = true);
}

/// Adds a line, with the time.
pub fn line(text: &str) {
    let now = vfsd::clock::boottime();
    let text = format!("{:>9.3} {text}", now.as_secs_f64() - 1_000.0);
    TRACE.with_borrow_mut(|trace| {
        trace.digest.update(text.as_bytes());
        trace.lines += 1;
        if trace.is_loud {
            println!("{text}");
        }
        if trace.tail.len() == TAIL {
            trace.tail.pop_front();
        }
        trace.tail.push_back(text);
    });
}

/// Number of lines and their digest.
pub fn summary() -> String {
    TRACE.with_borrow(|trace| {
        let digest = trace.digest.finalize().to_hex();
        format!("trace {} lines {}", trace.lines, &digest[..16])
    })
}

/// The last lines.
pub fn tail() -> String {
    TRACE.with_borrow(|trace| {
        let lines: Vec<_> = trace.tail.iter().map(String::as_str).collect();
        lines.join("\n")
    })
}
