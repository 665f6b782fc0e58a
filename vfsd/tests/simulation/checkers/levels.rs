//! A cluster goes to newer rules only when every member knows them.

use vfsd::state_machine::level::Level;

/// The newest rules that all members have known at once so far.
#[derive(Debug, Default)]
pub struct Levels(u32);

impl Levels {
    /// All members know these rules now, whether or not they run.
    pub fn known_by_all(&mut self, rules: u32) {
        self.0 = self.0.max(rules);
    }

    /// The state of `node` follows the rules of `level`.
    pub fn check(&self, node: u64, level: Level) {
        assert!(
            level <= Level(self.0),
            "n{node} follows the rules of level {level}, and some member knows {} only",
            self.0
        );
    }
}
