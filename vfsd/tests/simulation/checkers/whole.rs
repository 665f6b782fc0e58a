//! No reader sees half a save: each save repeats its number, and says how often.

/// The bytes of save `number` of about `len` bytes; number 0 is the empty file.
pub fn encode(number: u64, len: usize) -> Vec<u8> {
    let count = len / 16 + 1;
    format!("{number:08} {count:06}\n")
        .repeat(count)
        .into_bytes()
}

/// The save that a reader found.
pub fn decode(bytes: &[u8]) -> u64 {
    let text = std::str::from_utf8(bytes).expect("only text was saved");
    let mut lines = text.split_inclusive('\n');
    let Some(first) = lines.next() else { return 0 };
    let parse = |text: &str| text.trim().parse::<u64>().ok();
    let parts = first
        .split_once(' ')
        .map(|(number, count)| (parse(number), parse(count)));
    let Some((Some(number), Some(count))) = parts else {
        panic!("no save begins with {first:?}")
    };
    let found = 1 + lines.clone().count() as u64;
    assert!(
        found == count && lines.all(|line| line == first),
        "{found} of {count} parts of save {number}"
    );
    number
}
