//! Makes a sequence that fails as short and as plain as it can be and still fails in the same way.

use std::time::{Duration, Instant};

/// Deletes calls and simplifies their arguments for as long as `fails` holds, within `limit`.
pub fn shrink(
    calls: Vec<String>,
    limit: Duration,
    mut fails: impl FnMut(&[String]) -> bool,
) -> Vec<String> {
    let until = Instant::now() + limit;
    let mut calls = calls;
    loop {
        let before = calls.clone();
        delete(&mut calls, until, &mut fails);
        rename(&mut calls, until, &mut fails);
        simplify(&mut calls, until, &mut fails);
        if calls == before || Instant::now() > until {
            return calls;
        }
    }
}

/// Large parts first, single calls at the end; from the back, because what comes late is needed by less.
fn delete(calls: &mut Vec<String>, until: Instant, fails: &mut impl FnMut(&[String]) -> bool) {
    let mut part = (calls.len() / 2).max(1);
    loop {
        let mut end = calls.len();
        while end > 0 && Instant::now() < until {
            let begin = end.saturating_sub(part);
            let mut fewer = calls.clone();
            fewer.drain(begin..end);
            if fails(&fewer) {
                *calls = fewer;
            }
            end = begin.min(calls.len());
        }
        if part == 1 {
            return;
        }
        part /= 2;
    }
}

/// Fewer processes and files, and plain names, each changed in all calls at once.
fn rename(calls: &mut Vec<String>, until: Instant, fails: &mut impl FnMut(&[String]) -> bool) {
    for (from, to) in [("1", "0"), ("2", "0"), ("2", "1")] {
        try_everywhere(calls, until, fails, |at, word| {
            (at == 0 && word == from).then(|| to.into())
        });
    }
    for (from, to) in [
        ("d/a", "a"),
        ("b", "a"),
        ("c", "a"),
        ("c", "b"),
        ("d/a", "b"),
        ("s", "a"),
    ] {
        try_everywhere(calls, until, fails, |at, word| {
            (at > 1 && word == from).then(|| to.into())
        });
    }
    for kind in ["h", "m"] {
        let mut names: Vec<String> = Vec::new();
        for name in calls.iter().flat_map(|call| call.split(' ').skip(2)) {
            let number = name
                .strip_prefix(kind)
                .and_then(|rest| rest.parse::<u32>().ok());
            if number.is_some() && !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
        try_everywhere(calls, until, fails, |at, word| {
            let number = names
                .iter()
                .position(|name| name == word)
                .filter(|_| at > 1)?;
            Some(format!("{kind}{}", number + 1))
        });
    }
}

/// Replaces words, by their place in the call, if the calls fail with that as well.
fn try_everywhere(
    calls: &mut Vec<String>,
    until: Instant,
    fails: &mut impl FnMut(&[String]) -> bool,
    replace: impl Fn(usize, &str) -> Option<String>,
) {
    let changed: Vec<String> = calls
        .iter()
        .map(|call| {
            let words = call.split(' ').enumerate();
            let words =
                words.map(|(at, word)| replace(at, word).unwrap_or_else(|| word.to_owned()));
            words.collect::<Vec<_>>().join(" ")
        })
        .collect();
    if changed != *calls && Instant::now() < until && fails(&changed) {
        *calls = changed;
    }
}

fn simplify(calls: &mut [String], until: Instant, fails: &mut impl FnMut(&[String]) -> bool) {
    for at in 0..calls.len() {
        // Each success may allow the next; a call has few words, so this ends soon.
        while let Some(simpler) = simpler(&calls[at]).into_iter().find(|simpler| {
            let mut changed = calls.to_vec();
            changed[at].clone_from(simpler);
            Instant::now() < until && fails(&changed)
        }) {
            calls[at] = simpler;
        }
    }
}

/// The same call with one word simpler.
fn simpler(call: &str) -> Vec<String> {
    let words: Vec<&str> = call.split(' ').collect();
    let mut found = Vec::new();
    for (at, word) in words.iter().enumerate() {
        for plain in simpler_words(word, at) {
            let mut changed = words.clone();
            changed[at] = &plain;
            found.push(changed.join(" "));
        }
    }
    found
}

fn simpler_words(word: &str, at: usize) -> Vec<String> {
    // The second word is the call itself.
    if at == 1 {
        return Vec::new();
    }
    if let Some((byte, count)) = word.split_once('*') {
        return smaller(count, &[4, 100, 4096])
            .map(|count| format!("{byte}*{count}"))
            .collect();
    }
    if word.contains(',') {
        let flags: Vec<&str> = word.split(',').collect();
        return (1..flags.len())
            .map(|without| {
                let mut flags = flags.clone();
                flags.remove(without);
                flags.join(",")
            })
            .collect();
    }
    smaller(word, &[0, 1, 4, 100, 4096])
        .map(|number| number.to_string())
        .collect()
}

fn smaller(number: &str, plain: &[u64]) -> impl Iterator<Item = u64> {
    let number = number.parse::<u64>().unwrap_or(0);
    plain.iter().copied().filter(move |plain| *plain < number)
}

#[test]
fn a_failing_sequence_becomes_the_two_calls_that_matter() {
    let calls: Vec<String> = (0..50)
        .map(|number| format!("2 write h{number} A*70000"))
        .collect();
    let fails = |calls: &[String]| {
        let has = |name| calls.iter().any(|call| call.contains(name));
        has("h7 ") && has("h31 ")
    };
    let shrunk = shrink(calls, Duration::from_secs(60), fails);
    assert_eq!(shrunk, ["0 write h7 A*4", "0 write h31 A*4"]);
    let calls = ["2 open h9 d/a rw", "2 close h9"].map(str::to_owned);
    let shrunk = shrink(calls.to_vec(), Duration::from_secs(60), |calls| {
        calls.len() == 2
    });
    assert_eq!(shrunk, ["0 open h1 a rw", "0 close h1"]);
}
