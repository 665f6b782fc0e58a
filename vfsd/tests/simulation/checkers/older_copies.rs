//! A member whose disk was put back to an older copy takes part in nothing any more; no other member is ever taken
//! for such a one.

use std::collections::BTreeSet;

/// Members that stand on an older copy, while the others have it on disk that they said more.
#[derive(Debug, Default)]
pub struct OlderCopies(BTreeSet<u64>);

impl OlderCopies {
    /// The disk of `node` was put back.
    pub fn put_back(&mut self, node: u64) {
        self.0.insert(node);
    }

    /// Whether it was.
    pub fn is_put_back(&self, node: u64) -> bool {
        self.0.contains(&node)
    }

    /// `node` votes, acknowledges and proposes.
    pub fn takes_part(&self, node: u64) {
        assert!(
            !self.0.contains(&node),
            "n{node} takes part with an older copy of its disk"
        );
    }

    /// `node` was found to be unfit.
    pub fn found(&self, node: u64, why: &str) {
        assert!(
            self.0.contains(&node),
            "nobody has touched the disk of n{node}: {why}"
        );
    }
}
