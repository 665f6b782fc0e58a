//! Bytes as the lockstep writes them: runs of one byte, so that a line stays readable.
//!
//! `A*100` is a hundred times `A`; `.` stands for the zero byte of a hole.

use std::fmt::Write;

/// The bytes that `text` names.
pub fn parse(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for run in text.split(',').filter(|run| !run.is_empty()) {
        let (byte, count) = run.split_once('*').unwrap_or((run, "1"));
        let byte = match byte.as_bytes()[0] {
            b'.' => 0,
            byte => byte,
        };
        bytes.resize(bytes.len() + count.parse::<usize>().unwrap(), byte);
    }
    bytes
}

/// How `bytes` are written.
pub fn describe(bytes: &[u8]) -> String {
    let mut text = String::new();
    for run in bytes.chunk_by(|a, b| a == b) {
        if !text.is_empty() {
            text.push(',');
        }
        match run[0] {
            0 => text.push('.'),
            byte if byte.is_ascii_alphanumeric() => text.push(char::from(byte)),
            byte => write!(text, "\\x{byte:02x}").unwrap(),
        }
        if run.len() > 1 {
            write!(text, "*{}", run.len()).unwrap();
        }
    }
    text
}

#[test]
fn runs_of_bytes_are_written_and_read_alike() {
    let bytes = parse("A*3,.*4096,B");
    assert_eq!(bytes.len(), 4100);
    assert_eq!(describe(&bytes), "A*3,.*4096,B");
    assert_eq!(describe(b"\n"), "\\x0a");
    assert_eq!(parse(""), b"");
}
