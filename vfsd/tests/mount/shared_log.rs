//! Consensus as one lock: several nodes' filesystems over one state machine, in one process. It tests what lies between
//! the kernel and the proposer port; the real log is tested by the cluster tests.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use tokio::sync::oneshot;
use vfsd::fs::FileSystem;
use vfsd::fs::feed::{AppliedEntry, ChangeFeed, Publication};
use vfsd::fs::proposer::{Committed, NodeStatus, Proposal, ProposeError, Proposer, ProposerFuture};
use vfsd::state_machine::StateMachine;
use vfsd::state_machine::command::{Author, Command, Entry, Grant, Member, Origin};
use vfsd::state_machine::ids::{FencingToken, LogIndex, NodeId, RequestNo, SessionId};
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
    /// Proposals under way that wait for the test, the oldest first; `None` while each is answered at once.
    stalled: Mutex<Option<Vec<Stalled>>>,
    /// Those that wait though later ones do not. Locked before `stalled`.
    kept: Mutex<Vec<Stalled>>,
    refused: AtomicU64,
    loses_answers: AtomicBool,
    /// Nodes that hear of nothing, with the state that they show.
    held_back: Mutex<HashMap<NodeId, Arc<StateMachine>>>,
    /// Nodes whose own deadline has passed.
    without_session: Mutex<HashSet<NodeId>>,
    quicker: Mutex<Hook>,
    slower: Mutex<Hook>,
    faults: AtomicU64,
}

/// Commits a proposal that somebody still waits for; whether anybody did.
type Stalled = Box<dyn FnOnce() -> bool + Send>;

/// What an entry has of a proposal besides its author.
type Asked = (Origin, Option<FencingToken>);

/// What happens around the next proposal of a node.
type Hook = Option<(NodeId, Box<dyn FnOnce(&SharedLog) + Send>)>;

impl SharedLog {
    pub fn new() -> Arc<Self> {
        let state = StateMachine::new();
        let log = Arc::new(Self {
            published: RwLock::new(Arc::new(state.clone())),
            log: Mutex::new(state),
            feeds: Mutex::default(),
            quorum: true.into(),
            contact: true.into(),
            stalled: Mutex::default(),
            kept: Mutex::default(),
            refused: AtomicU64::new(0),
            loses_answers: false.into(),
            held_back: Mutex::default(),
            without_session: Mutex::default(),
            quicker: Mutex::default(),
            slower: Mutex::default(),
            faults: AtomicU64::new(0),
        });
        log.change(Command::RaiseLevel(Level::KNOWN));
        log
    }

    /// Lets proposals through, or refuses them as a node without majority does.
    pub fn set_quorum(&self, quorum: bool) {
        self.quorum.store(quorum, Ordering::SeqCst);
    }

    /// How many proposals were refused because there is no majority.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::SeqCst)
    }

    /// A majority was heard of a moment ago, or not.
    pub fn set_contact(&self, contact: bool) {
        self.contact.store(contact, Ordering::SeqCst);
    }

    /// From now on proposals are not answered, as when the majority is lost while they are under way. One that its
    /// caller gives up never happens.
    pub fn stall(&self) {
        *self.stalled.lock().unwrap() = Some(Vec::new());
    }

    /// Whether a proposal has come since.
    pub fn has_stalled(&self) -> bool {
        let stalled = self.stalled.lock().unwrap();
        stalled.as_ref().is_some_and(|stalled| !stalled.is_empty())
    }

    /// Those that stall fail as when a stopping leader drops them, and later ones are answered at once.
    pub fn fail_stalled(&self) {
        *self.stalled.lock().unwrap() = None;
    }

    /// Those that stall go on to wait for [`SharedLog::resume`]; later ones are answered at once.
    pub fn answer_new_ones(&self) {
        let mut kept = self.kept.lock().unwrap();
        let stalled = self.stalled.lock().unwrap().take();
        kept.extend(stalled.into_iter().flatten());
    }

    /// Commits the newest of those that stall: nothing promises that they are in the log as they were proposed.
    pub fn commit_newest(&self) {
        let newest = || self.stalled.lock().unwrap().as_mut().and_then(Vec::pop);
        while newest().is_some_and(|commit| !commit()) {}
    }

    /// Proposals are answered again: first those that have stalled, the newest before the others.
    pub fn resume(&self) {
        let mut all: Vec<_> = self.kept.lock().unwrap().drain(..).collect();
        all.extend(self.stalled.lock().unwrap().take().into_iter().flatten());
        for commit in all.into_iter().rev() {
            commit();
        }
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

    /// The node's own deadline has passed: it trusts its session no more.
    pub fn end_session(&self, number: u64) {
        let mut without = self.without_session.lock().unwrap();
        without.insert(NodeId(number));
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

    /// Lets something happen between the next entry of node `number` and the answer to whoever proposed it.
    pub fn behind_the_next_of(&self, number: u64, slower: impl FnOnce(&Self) + Send + 'static) {
        *self.slower.lock().unwrap() = Some((NodeId(number), Box::new(slower)));
    }

    fn hook(of: &Mutex<Hook>, node: NodeId, log: &Self) {
        let hook = of.lock().unwrap().take_if(|(at, _)| *at == node);
        if let Some((_, happens)) = hook {
            happens(log);
        }
    }

    /// Applies a change that no node of this process has asked for.
    pub fn change(&self, command: Command) -> Applied {
        self.append(Author::default(), None, command)
    }

    /// Applies a change that node `number`, which leads, makes of its own accord.
    pub fn lead(&self, number: u64, command: Command) -> Applied {
        let author = Author {
            node: NodeId(number),
            ..Author::daemon()
        };
        self.append(author, None, command)
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
        self.change(Command::MemberPut(member));
        let session = SessionId(self.change(Command::SessionOpen { node }).index.0);
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

    fn append(&self, author: Author, asked: Option<Asked>, command: Command) -> Applied {
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
        let (origin, fence) = asked.unzip();
        let entry = Entry {
            stamp,
            origin,
            fence: fence.flatten(),
            ..Entry::new(author, command)
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
        let log = self.log.clone();
        SharedLog::hook(&log.quicker, self.node, &log);
        if !self.log.quorum.load(Ordering::SeqCst) {
            self.log.refused.fetch_add(1, Ordering::SeqCst);
            return Box::pin(async { Err(ProposeError::NoQuorum("the test says so".into())) });
        }
        if proposal.bound_to.is_some() && proposal.bound_to != self.session() {
            return Box::pin(async { Err(ProposeError::SessionExpired) });
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
        let commit = move || {
            let asked = (origin, proposal.fence);
            let node = author.node;
            let applied = log.append(author, Some(asked), proposal.command);
            SharedLog::hook(&log.slower, node, &log);
            if log.loses_answers.load(Ordering::SeqCst) {
                return Err(ProposeError::TimedOut(0));
            }
            Ok(Committed {
                index: applied.index,
                outcome: applied.outcome,
            })
        };
        let mut stalled = self.log.stalled.lock().unwrap();
        let Some(stalled) = stalled.as_mut() else {
            return Box::pin(async { commit() });
        };
        let (answer, answered) = oneshot::channel();
        stalled.push(Box::new(move || {
            let is_awaited = !answer.is_closed();
            is_awaited && answer.send(commit()).is_ok()
        }));
        Box::pin(async { answered.await.unwrap_or(Err(ProposeError::Stopping)) })
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
        let without = self.log.without_session.lock().unwrap();
        (!without.contains(&self.node)).then_some(self.session)
    }
}
