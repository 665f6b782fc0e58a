//! A member that a test starts, crashes and asks, and a cluster of three.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use tokio::runtime::Runtime;
use vfsd::cli::rejoin::rejoin;
use vfsd::cli::setup::{self, NewMember};
use vfsd::config::NodeConfig;
use vfsd::consensus::leader_link::AskError;
use vfsd::consensus::node::Node;
use vfsd::consensus::wire::{ClusterChange, Reply, Request};
use vfsd::daemon::node_settings;
use vfsd::fs::feed::{AppliedEntry, ChangeFeed, Publication, Subscriber};
use vfsd::fs::proposer::{Proposal, ProposeError};
use vfsd::limits::RUNTIME_WORKERS;
use vfsd::state_machine::StateMachine;
use vfsd::state_machine::command::{
    Author, Command, ContentUpdate, Create, Grant, JoinToken, Mkdir, NodeKind, Write,
};
use vfsd::state_machine::fs_error::FsError;
use vfsd::state_machine::ids::InodeNo;
use vfsd::state_machine::log_time::WallTime;
use vfsd::state_machine::namespace::LK;
use vfsd::state_machine::outcome::Change;
use vfsd::storage::data_dir::DataDir;
use vfsd::transport::token::Token;

pub const SEGMENT: u64 = 22 * 1024 * 1024;
pub const LONG: Duration = Duration::from_secs(60);

/// What a member's feed has told.
#[derive(Default)]
pub struct Told(pub Mutex<TellTale>);

#[derive(Default)]
pub struct TellTale {
    /// Names that were made, with whether somebody waited for it.
    pub made: BTreeMap<String, bool>,
    /// Names that were made for somebody who had left.
    pub given_up: BTreeSet<String>,
    /// The states before and after the last snapshot.
    pub snapshot: Option<(Arc<StateMachine>, Arc<StateMachine>)>,
}

impl Subscriber for Told {
    fn after(&self, publication: Publication<'_>, _state: &Arc<StateMachine>) {
        let mut told = self.0.lock().unwrap();
        match publication {
            Publication::Entry(entry) => {
                let made = names_made_by(entry);
                told.made.extend(made.map(|name| (name, entry.is_awaited)));
            }
            Publication::Snapshot { old, new } => told.snapshot = Some((old.clone(), new.clone())),
        }
    }

    fn given_up(&self, entry: &Arc<AppliedEntry>) {
        let mut told = self.0.lock().unwrap();
        told.given_up.extend(names_made_by(entry));
    }
}

pub fn names_made_by(entry: &AppliedEntry) -> impl Iterator<Item = String> {
    names_made(&entry.applied.changes)
}

pub fn names_made(changes: &[Change]) -> impl Iterator<Item = String> {
    changes.iter().filter_map(|change| match change {
        Change::Created { name, .. } => Some(String::from_utf8(name.clone()).unwrap()),
        _ => None,
    })
}

/// A member that can be started, crashed and started again.
pub struct Member {
    /// Its name.
    pub name: &'static str,
    /// What its feed has told.
    pub told: Arc<Told>,
    /// Where all of it lies.
    pub dir: tempfile::TempDir,
    /// Its address.
    pub listen: String,
    /// The daemon's part of it, while it runs.
    pub running: Option<(Runtime, Arc<Node>)>,
}

impl Member {
    pub fn new(name: &'static str) -> Self {
        // The port is free now and nobody else on this machine takes it within the test.
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let listen = format!("127.0.0.1:{port}");
        Self {
            name,
            told: Arc::default(),
            dir: tempfile::tempdir().unwrap(),
            listen,
            running: None,
        }
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn as_new(&self) -> NewMember {
        let member = NewMember::new(self.name, &self.listen, &self.data()).unwrap();
        NewMember {
            log_segment_bytes: SEGMENT,
            ..member
        }
    }

    pub fn start(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(RUNTIME_WORKERS)
            .enable_all()
            .build()
            .unwrap();
        let node = wait_for("the data directory of the run before is free", || {
            let data = DataDir::open(&self.data()).ok()?;
            let config = NodeConfig::load(&data.config_file()).unwrap();
            let settings = node_settings(&data, &config, self.dir.path(), SEGMENT).unwrap();
            let feed = Arc::new(ChangeFeed::default());
            feed.subscribe(self.told.clone());
            // The directory's lock is the daemon's business; the log is opened once at a time here anyway.
            runtime.block_on(Node::start(settings, feed)).ok()
        });
        self.running = Some((runtime, Arc::new(node)));
    }

    pub fn crash(&mut self) {
        let (runtime, node) = self.running.take().unwrap();
        drop(node);
        runtime.shutdown_timeout(LONG);
    }

    pub fn stop(&mut self) {
        let (runtime, node) = self.running.take().unwrap();
        runtime.block_on(node.stop());
        runtime.shutdown_timeout(LONG);
    }

    /// Waits until it was found not to be what the others know, and goes down, as its daemon does.
    pub fn ends_as_unfit(&mut self) -> String {
        let node = Arc::clone(self.node());
        let why = self.block_on(async { tokio::time::timeout(LONG, node.unfit()).await });
        drop(node);
        self.crash();
        why.unwrap()
    }

    /// Gets a new id from the others, as `vfsd rejoin` does.
    pub fn rejoin(&self) -> u64 {
        self.begin_rejoin().1.join().unwrap().unwrap()
    }

    /// The same beside the test: what it says that it waits for, and the new id in the end.
    pub fn begin_rejoin(&self) -> (Receiver<String>, JoinHandle<anyhow::Result<u64>>) {
        let data = self.data();
        let (said, heard) = std::sync::mpsc::channel();
        let rejoining = std::thread::spawn(move || {
            let helper = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let mut waiting = |what: &str| said.send(what.to_owned()).unwrap_or_default();
            let rejoined = helper.block_on(rejoin(&data, None, SEGMENT, &mut waiting));
            rejoined.map(|rejoined| rejoined.node)
        });
        (heard, rejoining)
    }

    pub fn node(&self) -> &Arc<Node> {
        &self.running.as_ref().unwrap().1
    }

    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.running.as_ref().unwrap().0.block_on(future)
    }

    /// Creates a file at the root; tries again while there is no quorum.
    pub fn create(&self, name: &str) -> Result<(), FsError> {
        self.propose(|| {
            Command::Create(Create {
                parent: InodeNo::ROOT,
                name: name.as_bytes().to_vec(),
                kind: NodeKind::Regular,
                mode: 0o644,
                uid: 0,
                gid: 0,
                exclusive: true,
                handle: None,
            })
        })
    }

    pub fn propose(&self, command: impl Fn() -> Command) -> Result<(), FsError> {
        let proposer = self.node().proposer();
        let committed = wait_for("a quorum", || {
            let proposal = Proposal {
                author: Author::default(),
                fence: None,
                command: command(),
                bound_to: None,
            };
            match self.block_on(proposer.propose(proposal)) {
                Ok(committed) => Some(committed),
                Err(ProposeError::NoQuorum(_)) => None,
                Err(error) => panic!("{}: {error}", self.name),
            }
        });
        committed.outcome.map(drop)
    }

    /// Creates a file at the root that is large enough to be kept by digest.
    pub fn create_large(&self, name: &str) {
        self.create(name).unwrap();
        let state = self.node().core().view.state();
        let inode = state.tree().lookup(InodeNo::ROOT, name.as_bytes()).unwrap();
        let content = || ContentUpdate::Append {
            truncate: false,
            data: name.repeat(200_000 / name.len()).into_bytes(),
        };
        let written = self.propose(|| {
            Command::Write(Write {
                inode,
                base: None,
                update: content(),
                mtime: None,
                closes: true,
            })
        });
        written.unwrap();
    }

    /// Takes a snapshot of everything applied here.
    pub fn take_snapshot(&self) {
        let (core, applied) = (self.node().core(), self.applied());
        self.block_on(core.view.raft.trigger().snapshot()).unwrap();
        wait_until("the snapshot", || {
            let covered = core.view.metrics().snapshot;
            covered.is_some_and(|id| id.index >= applied)
        });
    }

    /// Contents that this member keeps by digest, with the time at which each was stored.
    pub fn blobs(&self) -> BTreeMap<String, SystemTime> {
        let dir = self.data().join("snapshots/blobs");
        let files = std::fs::read_dir(dir).into_iter().flatten();
        files
            .map(|file| {
                let file = file.unwrap();
                let stored = file.metadata().unwrap().modified().unwrap();
                (file.file_name().into_string().unwrap(), stored)
            })
            .collect()
    }

    /// Makes a lock directory below `/lk`.
    pub fn make_lock(&self, name: &str) -> Result<(), FsError> {
        self.propose(|| lock(name))
    }

    pub fn change(&self, change: ClusterChange) -> Result<String, String> {
        let core = self.node().core();
        let asked = self.block_on(
            core.link
                .ask_leader_until(LONG, || Request::Change(change.clone())),
        );
        match asked {
            Ok(Reply::Changed(changed)) => changed.map_err(|refusal| refusal.message),
            Ok(other) => panic!("{other:?}"),
            Err(AskError::Refused(reason)) => Err(reason),
            Err(error) => panic!("{error}"),
        }
    }

    pub fn rotate(&self) -> Result<String, String> {
        let from = self.node().core().authority.digest();
        self.change(ClusterChange::RotateAuthority { from })
    }

    pub fn token(&self, expires_in_secs: i64) -> Token {
        self.token_of(expires_in_secs, Grant::Writer)
    }

    pub fn token_of(&self, expires_in_secs: i64, grant: Grant) -> Token {
        let expires_secs = vfsd::clock::wall().secs + expires_in_secs;
        let ca = self.node().core().authority.digest();
        let token = Token::generate(ca, expires_secs);
        let expires = WallTime {
            secs: expires_secs,
            nanos: 0,
        };
        let remembered = JoinToken {
            digest: token.digest(),
            grant,
            expires,
            name: None,
        };
        self.change(ClusterChange::TokenCreate(remembered)).unwrap();
        token
    }

    pub fn join(&self, peer: &Self, token: &Token) -> anyhow::Result<u64> {
        let joining = self.as_new();
        let enrolled = peer.block_on(setup::join_cluster(&joining, &peer.listen, token))?;
        Ok(enrolled.node)
    }

    /// Asks another member for something, as this one.
    pub fn ask(&self, other: &Self, request: Request<'_>) -> Result<Reply, AskError> {
        let (core, node) = (self.node().core(), other.node().core().view.id);
        self.block_on(core.link.ask(node, &other.listen, request, LONG))
    }

    pub fn applied(&self) -> u64 {
        self.node().core().view.state().applied().0
    }

    pub fn is_leader(&self) -> bool {
        self.node().status().current().role == "leader"
    }
}

/// Makes a lock directory.
pub fn lock(name: &str) -> Command {
    Command::Mkdir(Mkdir {
        parent: LK,
        name: name.into(),
        mode: 0o755,
        uid: 0,
        gid: 0,
    })
}

pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LONG;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(what, || condition().then_some(()));
}

pub fn three() -> [Member; 3] {
    // Started by the first of the tests in this process; VFSD_LOG=debug shows what the nodes do.
    let _ = vfsd::telemetry::start();
    let mut members = ["n1", "n2", "n3"].map(Member::new);
    setup::found_cluster(&members[0].as_new(), "test").unwrap();
    members[0].start();
    wait_until("n1 to lead", || members[0].is_leader());
    let [first, rest @ ..] = &mut members;
    for member in rest {
        let token = first.token(3_600);
        member.join(first, &token).unwrap();
        member.start();
        first
            .change(ClusterChange::Promote {
                name: member.name.into(),
            })
            .unwrap();
    }
    members
}

/// Who leads; an election under load may be under way.
pub fn leader_of(members: &[Member]) -> usize {
    wait_for("a leader", || members.iter().position(Member::is_leader))
}

pub fn wait_for_equal_digests(members: &[&Member]) {
    wait_until("equal states", || {
        let states: Vec<_> = members
            .iter()
            .map(|member| member.node().core().view.state())
            .collect();
        let same_index = states
            .windows(2)
            .all(|pair| pair[0].applied() == pair[1].applied());
        same_index
            && states
                .windows(2)
                .all(|pair| pair[0].digest() == pair[1].digest())
            // What follows from the state and stands in no digest, too: tree revisions, sums.
            && states.windows(2).all(|pair| pair[0] == pair[1])
    });
}
