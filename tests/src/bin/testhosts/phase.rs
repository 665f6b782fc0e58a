//! One line for each phase: what, then how long it took; a moving line on a terminal while it runs.
//!
//! Invariants: no colour and no movement in a pipe; the log is named only when something fails, with its last lines.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use system_tests::limits;

/// Width of a phase's name, so that times stand in one column.
const NAME_WIDTH: usize = 40;

/// How often the moving line moves.
const TICK: Duration = Duration::from_millis(100);

/// Whether this run wrote to the log.
static LOGGED: AtomicBool = AtomicBool::new(false);

/// Runs `work` as the phase `name`. `work` gives a remark for the line's end, such as `nothing to do`.
///
/// # Errors
/// Those of `work`; the line says `failed` then.
pub fn run(name: &str, work: impl FnOnce() -> Result<&'static str>) -> Result<()> {
    let start = Instant::now();
    let moving = moving_line(name);
    let result = work();
    moving.finish_and_clear();
    let time = duration(start.elapsed());
    match &result {
        Ok("") => anstream::println!("{name:<NAME_WIDTH$} {time}"),
        Ok(remark) => anstream::println!("{name:<NAME_WIDTH$} {time}   {remark}"),
        Err(_) => anstream::println!("{name:<NAME_WIDTH$} {time}   failed"),
    }
    result.map(drop)
}

fn moving_line(name: &str) -> ProgressBar {
    // Hidden by itself where standard error is no terminal.
    let line = ProgressBar::new_spinner().with_message(name.to_owned());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}  {elapsed}") {
        line.set_style(style);
    }
    line.enable_steady_tick(TICK);
    line
}

fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 60 {
        format!("{:.1} s", time.as_secs_f64())
    } else {
        format!("{} min {:02} s", seconds / 60, seconds % 60)
    }
}

/// Adds `text` to the log.
pub fn log(text: &str) {
    LOGGED.store(true, Ordering::Relaxed);
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log_path());
    // A log that cannot be written must not hide what it is about.
    let _ = file.and_then(|mut file| file.write_all(text.as_bytes()));
}

/// Says where the log is and shows its end, if this run wrote to it.
pub fn show_log_tail() {
    if !LOGGED.load(Ordering::Relaxed) {
        return;
    }
    let Ok(text) = fs::read_to_string(log_path()) else {
        return;
    };
    let lines: Vec<&str> = text.lines().collect();
    let start = lines.len().saturating_sub(limits::LOG_TAIL_LINES);
    anstream::eprintln!("log: {}", log_path().display());
    for line in &lines[start..] {
        anstream::eprintln!("  {line}");
    }
}

fn log_path() -> PathBuf {
    std::env::var_os("CONTEXTOS_DEMO_LOG").map_or_else(
        || PathBuf::from("/var/log/contextos-demo.log"),
        PathBuf::from,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_times_are_told_in_minutes() {
        assert_eq!(duration(Duration::from_millis(1940)), "1.9 s");
        assert_eq!(duration(Duration::from_secs(242)), "4 min 02 s");
    }
}
