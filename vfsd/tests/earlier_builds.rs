//! What earlier builds have written is read, to the same state, and stays as they read it until every member knows
//! more.
//!
//! `fixtures/level-0` is the log of a member that a build from before there were levels has written: an `init`, a
//! start, saves, an append, links, renames, attributes, a lock, a `kill -9`, a second start; with the digest
//! that its daemon told. `fixtures/data-before-levels` is a whole data directory of such a build, with a snapshot and a
//! blob; its README says how it was made.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::EntryPayload;
use vfsd::config::NodeConfig;
use vfsd::consensus::node::Node;
use vfsd::consensus::raft::entry_format::raft_entry;
use vfsd::daemon::node_settings;
use vfsd::fs::proposer::{Proposal, ProposeError};
use vfsd::state_machine::StateMachine;
use vfsd::state_machine::command::{Author, Command, ContentUpdate, Entry, Write};
use vfsd::state_machine::ids::LogIndex;
use vfsd::state_machine::level::Level;
use vfsd::storage::append_log::AppendLog;
use vfsd::storage::data_dir::DataDir;

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

const LONG: Duration = Duration::from_secs(60);

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (path, beside) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &beside);
        } else {
            std::fs::copy(&path, &beside).unwrap();
        }
    }
}

/// Puts the member of the data directory at an address of this machine that is free.
fn move_to_free_port(config: &Path) {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("listen = \"{}\"", free.local_addr().unwrap());
    let text = std::fs::read_to_string(config).unwrap();
    let lines = text.lines().map(|line| match line {
        line if line.starts_with("listen = ") => listen.clone(),
        line => line.to_owned(),
    });
    std::fs::write(config, lines.collect::<Vec<_>>().join("\n")).unwrap();
}

async fn started(root: &Path) -> (DataDir, Node) {
    let data = DataDir::open(&root.join("data")).unwrap();
    let config = NodeConfig::load(&data.config_file()).unwrap();
    let settings = node_settings(&data, &config, root, SEGMENT).unwrap();
    let node = Node::start(settings, Arc::default()).await.unwrap();
    (data, node)
}

/// The content at `path` as the node has it.
fn content(node: &Node, path: &str) -> Option<Vec<u8>> {
    let state = node.core().view.state();
    let inode = state.tree().resolve(path)?;
    Some(state.tree().inode(inode)?.content()?.to_vec())
}

/// Looks at every beat of the node whether it is so; not for ever.
async fn wait_until(node: &Node, what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + LONG;
    let mut beats = node.core().beat.every(1);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        beats.next().await;
    }
}

/// Appends to the file at `path`, once it is there and there is a leader.
async fn append(node: &Node, path: &str, text: &str) {
    let resolved = || node.core().view.state().tree().resolve(path);
    wait_until(node, path, || resolved().is_some()).await;
    let inode = resolved().unwrap();
    let deadline = Instant::now() + LONG;
    loop {
        let update = ContentUpdate::Append {
            truncate: false,
            data: text.into(),
        };
        let write = Write {
            inode,
            base: None,
            update,
            mtime: None,
            closes: true,
        };
        let proposal = Proposal {
            author: Author::default(),
            fence: None,
            command: Command::Write(write),
            bound_to: None,
        };
        match node.proposer().propose(proposal).await {
            Ok(committed) => {
                committed.outcome.unwrap();
                return;
            }
            Err(ProposeError::NoQuorum(_)) if Instant::now() < deadline => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Snapshot and blobs, log, identity, table of members: what an upgrade finds on a node.
#[test]
fn a_data_directory_of_a_build_before_levels_starts() {
    let temp = tempfile::tempdir().unwrap();
    let fixture = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/data-before-levels"
    );
    copy(Path::new(fixture), &temp.path().join("data"));
    move_to_free_port(&temp.path().join("data/config.toml"));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let wish = b"{\"driver\":\"file\"}\nmore\n".to_vec();
        let large = vec![b'x'; 100_000];
        let (data, node) = started(temp.path()).await;
        append(&node, "run/d/small", "and now\n").await;
        let small = b"after the snapshot\nand now\n".to_vec();
        let holds = |node: &Node| {
            assert_eq!(content(node, "mid/db.json"), Some(wish.clone()));
            assert!(content(node, "run/large") == Some(large.clone()));
            assert_eq!(content(node, "run/d/small"), Some(small.clone()));
        };
        holds(&node);
        let level = || node.core().view.state().level();
        wait_until(&node, "the level to rise", || level() == Level::KNOWN).await;
        node.stop().await;
        drop((data, node));
        let (_data, node) = started(temp.path()).await;
        append(&node, "run/large", "").await;
        holds(&node);
        node.stop().await;
    });
}
