//! A state with large contents, for tests.

use crate::state_machine::StateMachine;
use crate::state_machine::command::*;
use crate::state_machine::ids::{InodeNo, LogIndex};
use crate::state_machine::snapshot::StateImage;

/// A state with a small file and a large one for each byte of `large`.
pub fn image(large: &[u8]) -> StateImage {
    let mut state = StateMachine::new();
    let contents = large.iter().map(|&byte| (byte, vec![byte; 100_000]));
    for (number, (name, data)) in contents.chain([(0, vec![0; 10])]).enumerate() {
        let index = LogIndex(2 * number as u64 + 1);
        let create = Command::Create(Create {
            parent: InodeNo::ROOT,
            name: vec![b'a' + name],
            kind: NodeKind::Regular,
            mode: 0o600,
            uid: 0,
            gid: 0,
            exclusive: true,
            handle: None,
        });
        state.apply(index, &entry(create)).outcome.unwrap();
        let inode = state.tree().lookup(InodeNo::ROOT, &[b'a' + name]).unwrap();
        let write = Command::Write(Write {
            inode,
            base: None,
            update: ContentUpdate::Append {
                truncate: false,
                data,
            },
            mtime: None,
            closes: true,
        });
        let index = LogIndex(index.0 + 1);
        state.apply(index, &entry(write)).outcome.unwrap();
    }
    state.image()
}

fn entry(command: Command) -> Entry {
    Entry::new(Author::default(), command)
}
