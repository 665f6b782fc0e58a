//! Manifests that decode and are no state: refused, with an end.

use super::*;
use crate::state_machine::command::{Author, Command, Entry, Mkdir};
use crate::state_machine::namespace::MID;
use crate::state_machine::outcome::Done;

/// A state with a directory in a directory, and their numbers.
fn nested() -> (StateMachine, [InodeNo; 2]) {
    let mut state = StateMachine::new();
    let mut parent = MID;
    let made = [1, 2].map(|index| {
        let mkdir = Command::Mkdir(Mkdir {
            parent,
            name: b"d".to_vec(),
            mode: 0o755,
            uid: 0,
            gid: 0,
        });
        let entry = Entry::new(Author::default(), mkdir);
        let Ok(Done::Inode { inode, .. }) = state.apply(LogIndex(index), &entry).outcome else {
            panic!("a directory is made");
        };
        parent = inode;
        inode
    });
    (state, made)
}

#[test]
fn directories_that_lie_in_each_other_are_refused() {
    let (state, [outer, inner]) = nested();
    let (mut parts, ..) = state.parts();
    let of_outer = parts.inodes.iter_mut().find(|inode| inode.number == outer);
    of_outer.unwrap().names = vec![(inner, b"d".to_vec())];
    let manifest = postcard::to_extend(&parts, vec![SNAPSHOT_VERSION_EARLIER]).unwrap();
    let image = StateImage {
        manifest: manifest.into(),
        blobs: Arc::default(),
    };
    let refused = StateMachine::from_image(&image).unwrap_err().to_string();
    assert!(refused.contains("cannot be reached"), "{refused}");
}
