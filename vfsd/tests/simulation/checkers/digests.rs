//! Same log, same bytes: states at the same index have the same digest.

use std::collections::BTreeMap;

use vfsd::state_machine::StateMachine;

/// Digests by index.
#[derive(Debug, Default)]
pub struct Digests(BTreeMap<u64, (u64, String)>);

impl Digests {
    /// Compares the state of `node` with what others had at its index.
    pub fn check(&mut self, node: u64, state: &StateMachine) {
        let (index, digest) = (state.applied().0, format!("{:?}", state.digest()));
        let (first, known) = self.0.entry(index).or_insert((node, digest.clone()));
        assert_eq!(
            *known, digest,
            "n{first} and n{node} differ at entry {index}"
        );
    }
}
