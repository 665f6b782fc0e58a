//! Consensus as one lock: several nodes' filesystems over one state machine, in one process. It tests what lies between
//! the kernel and the proposer port; the real log is tested by the cluster tests.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use vfsd::fs::FileSystem;
use vfsd::fs::feed::{AppliedEntry, ChangeFeed, Publication};
use vfsd::fs::proposer::{Committed, NodeStatus, Proposal, ProposeError, Proposer, ProposerFuture};
use vfsd::state_machine::StateMachine;
use vfsd::state_machine::command::{Author, Command, Entry, Grant, Member, Origin};
use vfsd::state_machine::ids::{LogIndex, NodeId, RequestNo, SessionId};
use vfsd::state_machine::level::Level;
use vfsd::state_machine::log_time::{LogTime, Stamp, WallTime};
use vfsd::state_machine::outcome::Applied;

pub struct SharedLog {
    /// Lock order: the log before the published state.
    log: Mutex<StateMachine>,
    published: RwLock<Arc<StateMachine>>,
    feeds: Mutex<Vec<(NodeId, Arc<ChangeFeed>)>>,
    quorum: AtomicBool,
    contact: AtomicBool,
    stalls: AtomicBool,
    stalled: AtomicBool,
    loses_answers: AtomicBool,
    /// Nodes that hear of nothing, with the state that they show.
    held_back: Mutex<HashMap<NodeId, Arc<StateMachine>>>,
    quicker: Mutex<Quicker>,
    faults: AtomicU64,
}

/// What happens before the next proposal of a node is taken.
type Quicker = Option<(NodeId, Box<dyn FnOnce(&SharedLog) + Send>)>;

impl SharedLog {
    pub fn new() -> Arc<Self> {
        let state = StateMachine::new();
        let log = Arc::new(Self {
            published: RwLock::new(Arc::new(state.clone())),
            log: Mutex::new(state),
            feeds: Mutex::default(),
            quorum: true.into(),
            contact: true.into(),
            stalls: false.into(),
            stalled: false.into(),
            loses_answers: false.into(),
            held_back: Mutex::default(),
            quicker: Mutex::default(),
            faults: AtomicU64::new(0),
        });
        log.append(None, Command::RaiseLevel(Level::KNOWN));
        log
    }

    /// Lets proposals through, or refuses them as a node without majority does.
    pub fn set_quorum(&self, quorum: bool) {
        self.quorum.store(quorum, Ordering::SeqCst);
    }

    /// A majority was heard of a moment ago, or not.
    pub fn set_contact(&self, contact: bool) {
        self.contact.store(contact, Ordering::SeqCst);
    }

    /// From now on proposals are never answered, as when the majority is lost while they are under way.
    pub fn stall(&self) {
        self.stalls.store(true, Ordering::SeqCst);
    }

    /// Whether a proposal has come since.
    pub fn has_stalled(&self) -> bool {
        self.stalled.load(Ordering::SeqCst)
    }

    /// Callers are told that their proposals have failed, and they are committed all the same.
    pub fn lose_answers(&self, loses: bool) {
        self.loses_answers.store(loses, Ordering::SeqCst);
    }

    /// From now on the node hears of nothing that is committed.
    pub fn hold_back(&self, number: u64) {
        let mut held = self.held_back.lock().unwrap();
        held.insert(NodeId(number), self.state());
    }

    /// A node that was held back gets all that it has missed at once.
    pub fn install_snapshot(&self, number: u64) {
        let node = NodeId(number);
        let log = self.log.lock().unwrap();
        let new = Arc::new(StateMachine::from_image(&log.image()).unwrap());
        let old = self.state_at(node);
        let feeds = self.feeds.lock().unwrap().clone();
        let (_, feed) = feeds.iter().find(|(at, _)| *at == node).unwrap();
        let publication = Publication::Snapshot {
            old: &old,
            new: &new,
        };
        feed.before(publication);
        self.held_back.lock().unwrap().remove(&node);
        feed.after(publication, &new);
    }

    /// The next `count` looks at the state by threads that answer a kernel panic.
    pub fn fail_requests(&self, count: u64) {
        self.faults.store(count, Ordering::SeqCst);
    }

    /// Whether all of these have come.
    pub fn has_failed_requests(&self) -> bool {
        self.faults.load(Ordering::SeqCst) == 0
    }

    /// Lets another be quicker than the next proposal of node `number`: its kernel has looked already.
    pub fn before_the_next_of(&self, number: u64, quicker: impl FnOnce(&Self) + Send + 'static) {
        *self.quicker.lock().unwrap() = Some((NodeId(number), Box::new(quicker)));
    }

    /// Applies a change that no node of this process has asked for.
    pub fn change(&self, command: Command) -> Applied {
        self.append(None, command)
    }

    pub fn state(&self) -> Arc<StateMachine> {
        self.published.read().unwrap().clone()
    }

    fn state_at(&self, node: NodeId) -> Arc<StateMachine> {
        let held = self.held_back.lock().unwrap().get(&node).cloned();
        held.unwrap_or_else(|| self.state())
    }

    /// Adds a node with a session and a filesystem of its own.
    pub fn add_node(
        self: &Arc<Self>,
        number: u64,
        runtime: &tokio::runtime::Handle,
    ) -> Arc<FileSystem> {
        let node = NodeId(number);
        let member = Member {
            node,
            name: format!("n{number}"),
            address: String::new(),
            grant: Grant::Writer,
            age_public: String::new(),
        };
        self.append(None, Command::MemberPut(member));
        let session = SessionId(self.append(None, Command::SessionOpen { node }).index.0);
        let fs = FileSystem::new(number << 32, runtime.clone());
        let feed = Arc::clone(fs.feed());
        self.feeds.lock().unwrap().push((node, feed));
        let next = AtomicU64::new(1);
        fs.attach(Arc::new(TestNode {
            log: self.clone(),
            node,
            session,
            next,
        }));
        fs
    }

    fn append(&self, from: Option<(Author, Origin, Proposal)>, command: Command) -> Applied {
        let mut state = self.log.lock().unwrap();
        let index = LogIndex(state.applied().0 + 1);
        let since = std::time::UNIX_EPOCH.elapsed().unwrap();
        let wall = WallTime {
            secs: since.as_secs() as i64,
            nanos: since.subsec_nanos(),
        };
        let stamp = Stamp {
            log_time: LogTime(since.as_millis() as u64),
            wall,
        };
        let entry = match from {
            Some((author, origin, proposal)) => Entry {
                stamp,
                author,
                origin: Some(origin),
                fence: proposal.fence,
                command,
            },
            None => Entry {
                stamp,
                ..Entry::new(Author::default(), command)
            },
        };
        let applied = state.apply(index, &entry);
        // A look at the whole costs as much as the tree is large, so at a large one it is taken now and then.
        let every = 1 + state.tree().inode_count() / 64;
        if index.0.is_multiple_of(every) {
            vfsd::state_machine::invariants::check(&state).expect("every state is whole");
        }
        let (feeds, state) = (self.feeds.lock().unwrap().clone(), Arc::new(state.clone()));
        let loses = self.loses_answers.load(Ordering::SeqCst);
        let told = |node: NodeId| {
            Arc::new(AppliedEntry {
                applied: applied.clone(),
                author: entry.author.clone(),
                wall,
                is_awaited: applied.node == node && !loses,
            })
        };
        let held = self.held_back.lock().unwrap().clone();
        let told: Vec<_> = feeds
            .iter()
            .filter(|(node, _)| !held.contains_key(node))
            .map(|(node, feed)| (feed, told(*node)))
            .collect();
        told.iter()
            .for_each(|(feed, entry)| feed.before(Publication::Entry(entry)));
        *self.published.write().unwrap() = state.clone();
        told.iter()
            .for_each(|(feed, entry)| feed.after(Publication::Entry(entry), &state));
        applied
    }
}

struct TestNode {
    log: Arc<SharedLog>,
    node: NodeId,
    session: SessionId,
    next: AtomicU64,
}

impl Proposer for TestNode {
    fn propose(&self, proposal: Proposal) -> ProposerFuture<Result<Committed, ProposeError>> {
        if !self.log.quorum.load(Ordering::SeqCst) {
            return Box::pin(async { Err(ProposeError::NoQuorum("the test says so".into())) });
        }
        if self.log.stalls.load(Ordering::SeqCst) {
            self.log.stalled.store(true, Ordering::SeqCst);
            return Box::pin(std::future::pending());
        }
        let author = Author {
            node: self.node,
            grant: Grant::Writer,
            ..proposal.author.clone()
        };
        let origin = Origin {
            session: self.session,
            request: RequestNo(self.next.fetch_add(1, Ordering::SeqCst)),
            settled_below: RequestNo(0),
            abandoned: Vec::new(),
        };
        let log = self.log.clone();
        let quicker = {
            let mut quicker = log.quicker.lock().unwrap();
            quicker.take_if(|(node, _)| *node == self.node)
        };
        if let Some((_, change)) = quicker {
            change(&log);
        }
        Box::pin(async move {
            let command = proposal.command.clone();
            let applied = log.append(Some((author, origin, proposal)), command);
            if log.loses_answers.load(Ordering::SeqCst) {
                return Err(ProposeError::TimedOut(0));
            }
            Ok(Committed {
                index: applied.index,
                outcome: applied.outcome,
            })
        })
    }

    fn barrier(&self) -> ProposerFuture<Result<LogIndex, ProposeError>> {
        let applied = self.log.state().applied();
        Box::pin(async move { Ok(applied) })
    }

    fn state(&self) -> Arc<StateMachine> {
        let thread = std::thread::current();
        let answers_a_kernel = thread.name().is_some_and(|name| name.starts_with("fuser-"));
        let one_less = |faults: u64| faults.checked_sub(1);
        let (set, get) = (Ordering::SeqCst, Ordering::SeqCst);
        if answers_a_kernel && self.log.faults.fetch_update(set, get, one_less).is_ok() {
            panic!("a fault that the test asked for");
        }
        self.log.state_at(self.node)
    }

    fn status(&self) -> Arc<NodeStatus> {
        let quorum = self.log.quorum.load(Ordering::SeqCst);
        let node = format!("n{}", self.node);
        Arc::new(NodeStatus {
            node,
            id: self.node,
            quorum,
            ..NodeStatus::default()
        })
    }

    fn is_in_contact(&self) -> bool {
        self.log.contact.load(Ordering::SeqCst)
    }

    fn contact(&self) -> ProposerFuture<Result<(), ProposeError>> {
        let log = self.log.clone();
        Box::pin(async move {
            let silence = std::time::Instant::now();
            while !log.contact.load(Ordering::SeqCst) {
                if silence.elapsed() > vfsd::limits::CONTACT_WAIT_MAX {
                    return Err(ProposeError::NoQuorum("the test says so".into()));
                }
                tokio::task::yield_now().await;
            }
            Ok(())
        })
    }

    fn session(&self) -> Option<SessionId> {
        Some(self.session)
    }
}
