//! Nothing acknowledged is lost: a line whose append returned stands in the file once, one that failed at most once.

use std::collections::BTreeSet;

/// Lines of one file to which clients append.
#[derive(Debug, Default)]
pub struct Lines {
    tried: BTreeSet<String>,
    acknowledged: BTreeSet<String>,
}

impl Lines {
    /// An append begins.
    pub fn tries(&mut self, line: &str) {
        assert!(self.tried.insert(line.to_owned()), "lines are unique");
    }

    /// It has returned without an error.
    pub fn acknowledges(&mut self, line: &str) {
        self.acknowledged.insert(line.to_owned());
    }

    /// What must be found by whoever asks for the newest state from now on.
    pub fn acknowledged(&self) -> BTreeSet<String> {
        self.acknowledged.clone()
    }

    /// Checks what a reader found who asked when `before` was acknowledged.
    pub fn check(&self, content: &[u8], before: &BTreeSet<String>) {
        let text = std::str::from_utf8(content).expect("only text was appended");
        assert!(
            text.is_empty() || text.ends_with('\n'),
            "half a line: {text:?}"
        );
        let mut found = BTreeSet::new();
        for line in text.lines() {
            assert!(self.tried.contains(line), "{line:?} was never appended");
            assert!(found.insert(line), "{line:?} stands there twice");
        }
        let is_lost = |line: &&String| !found.contains(line.as_str());
        let lost: Vec<_> = before.iter().filter(is_lost).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    }
}
