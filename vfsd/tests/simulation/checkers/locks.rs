//! A lock has one holder at a time, by the clock on the wall: once somebody says to hold it under a fence, nobody says
//! so under an older one.

use std::collections::BTreeMap;

/// The newest fence under which each lock was said to be held.
#[derive(Debug, Default)]
pub struct Holders(BTreeMap<String, (u64, String)>);

impl Holders {
    /// `who` relies on `lock` now, under `fence`.
    pub fn relies(&mut self, lock: &str, fence: u64, who: &str) {
        if let Some((newest, holder)) = self.0.get(lock) {
            assert!(
                fence > *newest || (fence == *newest && holder == who),
                "{who} relies on {lock} under fence {fence} after {holder} did under {newest}"
            );
        }
        self.0.insert(lock.to_owned(), (fence, who.to_owned()));
    }
}
