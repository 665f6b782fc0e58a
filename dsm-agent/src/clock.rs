//! Wall time in words, for records and people. Nothing is decided by it.

use jiff::Timestamp;

/// Now, RFC 3339 in UTC with milliseconds.
pub fn now() -> String {
    format!("{:.3}", Timestamp::now())
}

/// How long ago `at` was, short: `3 s ago`, `5 min ago`; empty if it is no time.
pub fn ago(at: &str) -> String {
    match elapsed_ms(at) {
        Some(ms) => format!("{} ago", words(ms)),
        None => String::new(),
    }
}

/// Milliseconds between two times, if both are times.
pub fn between_ms(from: &str, to: &str) -> Option<u64> {
    let (from, to): (Timestamp, Timestamp) = (from.parse().ok()?, to.parse().ok()?);
    u64::try_from(to.as_millisecond() - from.as_millisecond()).ok()
}

fn elapsed_ms(at: &str) -> Option<u64> {
    between_ms(at, &now())
}

/// A span of time for people: `230 ms`, `3.4 s`, `12 s`, `5 min`, `3 h`, `2 d`.
pub fn words(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..10_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        10_000..120_000 => format!("{} s", ms / 1_000),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        7_200_000..172_800_000 => format!("{} h", ms / 3_600_000),
        _ => format!("{} d", ms / 86_400_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_short() {
        assert_eq!(words(230), "230 ms");
        assert_eq!(words(3_450), "3.4 s");
        assert_eq!(words(12_000), "12 s");
        assert_eq!(words(300_000), "5 min");
    }

    #[test]
    fn times_are_read_back() {
        assert_eq!(
            between_ms("2026-11-24T10:00:00.000Z", "2026-11-24T10:00:01.500Z"),
            Some(1_500)
        );
        assert!(between_ms(&now(), &now()).is_some());
        assert_eq!(ago("yesterday"), "");
    }
}
