//! The lineages at the last entries that were applied here, for whoever compares them.
//!
//! Not here: what a lineage is (`state_machine/lineage.rs`), the comparison (`cluster/lineage_watch.rs`).

use std::collections::VecDeque;

use parking_lot::Mutex;

use crate::limits::LINEAGES_KEPT;
use crate::state_machine::lineage::Lineage;

/// See the module.
#[derive(Default)]
pub struct Lineages {
    // Leaf lock.
    last: Mutex<VecDeque<(u64, Lineage)>>,
}

impl Lineages {
    /// Entry `index` was applied.
    pub fn note(&self, index: u64, lineage: Lineage) {
        let mut last = self.last.lock();
        if last.len() == LINEAGES_KEPT {
            last.pop_front();
        }
        last.push_back((index, lineage));
    }

    /// The lineage at `index`, if it is one of the last.
    pub fn at(&self, index: u64) -> Option<Lineage> {
        let last = self.last.lock();
        let position = last.binary_search_by_key(&index, |&(at, _)| at).ok()?;
        Some(last[position].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_lineages_are_kept() {
        let lineages = Lineages::default();
        for index in 0..=LINEAGES_KEPT as u64 {
            lineages.note(index, [index as u8; 32]);
        }
        assert_eq!(lineages.at(0), None);
        assert_eq!(lineages.at(1), Some([1; 32]));
    }
}
