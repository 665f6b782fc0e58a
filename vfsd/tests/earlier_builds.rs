//! What earlier builds have written is read, to the same state, and stays as they read it until every member knows
//! more.
//!
//! `fixtures/level-0` is the log of a member that a build from before there were levels has written: an `init`, a
//! start, saves, an append, links, renames, attributes, a lock, a `kill -9`, a second start; with the digest
//! that its daemon told.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use openraft::EntryPayload;
use vfsd::consensus::raft::entry_format::raft_entry;
use vfsd::state_machine::StateMachine;
use vfsd::state_machine::command::{Author, Command, Entry};
use vfsd::state_machine::ids::LogIndex;
use vfsd::state_machine::level::Level;
use vfsd::storage::append_log::AppendLog;

const SEGMENT: u64 = 22 * 1024 * 1024;
const APPLIED: u64 = 21;
const DIGEST: &str = "14fe2666beb3a11630fd8f9b671a34b59bf69405b2280263bca42d106d286446";

/// The state that the log comes to up to `until`.
fn replayed(until: u64) -> StateMachine {
    let dir = tempfile::tempdir().unwrap();
    let name = "0000000000000001.log";
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/level-0");
    std::fs::copy(format!("{fixture}/{name}"), dir.path().join(name)).unwrap();
    let log = AppendLog::open_with(dir.path(), SEGMENT).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let read = log.entries(0..until + 1, u64::MAX);
    let mut state = StateMachine::new();
    for stored in runtime.unwrap().block_on(read).unwrap() {
        let index = LogIndex(stored.position.index);
        match raft_entry(stored).unwrap().payload {
            EntryPayload::Normal(bytes) => {
                state.apply(index, &Entry::decode(&bytes.0).unwrap());
            }
            _ if index.0 > 0 => state.pass(index),
            _ => {}
        }
    }
    state
}

#[test]
fn a_log_of_a_build_before_levels_comes_to_the_state_that_its_daemon_told() {
    let state = replayed(APPLIED);
    assert_eq!(state.applied(), LogIndex(APPLIED));
    assert_eq!(hex::encode(state.digest()), DIGEST);
    let wish = state.tree().resolve("mid/db.json").unwrap();
    let content = state.tree().inode(wish).unwrap().content().unwrap();
    assert_eq!(content.to_vec(), b"{\"driver\":\"file\"}\nmore\n");
}

/// One step back must be possible until then: the build before reads what this one writes.
#[test]
fn until_the_level_is_raised_snapshots_have_the_bytes_of_the_build_before() {
    let mut state = replayed(APPLIED);
    let image = state.image();
    assert_eq!(image.manifest[0], 2, "the version that it knows");
    assert_eq!(StateMachine::from_image(&image).unwrap(), state);
    let entry = Entry::new(Author::default(), Command::RaiseLevel(Level::KNOWN));
    state.apply(LogIndex(APPLIED + 1), &entry).outcome.unwrap();
    let image = state.image();
    assert_eq!(image.manifest[0], 3);
    assert_eq!(StateMachine::from_image(&image).unwrap(), state);
    let newer = Command::RaiseLevel(Level(Level::KNOWN.0 + 1));
    let entry = Entry {
        command: newer,
        ..entry
    };
    let applied = std::panic::catch_unwind(move || state.apply(LogIndex(APPLIED + 2), &entry));
    assert!(
        applied.is_err(),
        "rules that this build does not know stop it"
    );
}
