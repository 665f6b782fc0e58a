//! The same term and index never name two entries, in whatever log and whether or not they were committed.

use std::collections::BTreeMap;

use vfsd::storage::append_log::AppendLog;
use vfsd::storage::record::Position;

use crate::member::digest_of;

/// Entries by their log id.
#[derive(Debug, Default)]
pub struct LogIds(BTreeMap<Position, (u64, [u8; 32])>);

impl LogIds {
    /// Compares the entries of `node` with those of all logs before.
    pub fn check(&mut self, node: u64, log: &AppendLog) {
        // A log whose machine is down cannot be read any more.
        let Ok(entries) = log.entries_now(0..u64::MAX, u64::MAX) else {
            return;
        };
        for entry in entries {
            let digest = digest_of(&entry);
            let (first, known) = self.0.entry(entry.position).or_insert((node, digest));
            let at = entry.position;
            assert_eq!(*known, digest, "n{first} and n{node} differ at {at:?}");
        }
    }
}
