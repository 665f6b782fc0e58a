//! The pure core: the tree, its locks and sessions, as a function of the log.
//!
//! Invariants: no I/O, no clock, no random number, no `HashMap`, no float; the same entries give the same bytes on
//! every replica ([`StateMachine::digest`]). A refused entry changes nothing but the outcome window. Not here: who
//! may lead, when a session has expired (the leader's `consensus/sessions/lease_keeper.rs` judges and proposes).

mod apply;
pub mod blob;
pub mod command;
pub mod content;
mod detail;
pub mod fs_error;
pub mod ids;
pub mod inode;
pub mod invariants;
pub mod level;
pub mod lineage;
pub mod lock;
pub mod log_time;
pub mod name;
pub mod namespace;
pub mod outcome;
pub mod session;
pub mod snapshot;
mod tree_revisions;
mod versioned;

use imbl::OrdMap;

pub use apply::Guard;
use command::{AuthorityState, Command, Enrolment, Entry, JoinToken, Member, Origin};
use fs_error::FsError;
use ids::{LogIndex, NodeId, SessionId};
use level::Level;
use lock::LockTable;
use log_time::LogTime;
use namespace::Namespace;
use outcome::{Applied, Change, Outcome};
use session::{Admission, Answer, Session, SessionTable};

/// The replicated state. Cloning is cheap (persistent maps): readers hold a clone, `apply` works on the original.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateMachine {
    applied: LogIndex,
    log_time: LogTime,
    cluster: String,
    level: Level,
    lineage: lineage::Lineage,
    tree: Namespace,
    locks: LockTable,
    sessions: SessionTable,
    members: OrdMap<NodeId, Member>,
    tokens: OrdMap<[u8; 32], JoinToken>,
    enrolments: OrdMap<NodeId, Enrolment>,
    authority: AuthorityState,
}

/// The node whose kernel has raised the events of this entry already: none, when no system call made it.
fn caller_of(entry: &Entry) -> NodeId {
    if entry.origin.is_none() {
        // The leader's own.
        return NodeId(0);
    }
    match entry.command {
        Command::HandleClosed { .. } | Command::SessionOpen { .. } | Command::SessionEnd { .. } => {
            NodeId(0)
        }
        Command::LockDelayEnd { .. } | Command::LockBreak { .. } => NodeId(0),
        _ => entry.author.node,
    }
}

impl Default for StateMachine {
    fn default() -> Self {
        Self::new()
    }
}

impl StateMachine {
    /// The state before the first entry: the fixed directories and nothing else.
    pub fn new() -> Self {
        Self {
            applied: LogIndex(0),
            log_time: LogTime(0),
            cluster: String::new(),
            level: Level::FIRST,
            lineage: [0; 32],
            tree: Namespace::new(),
            locks: LockTable::default(),
            sessions: SessionTable::default(),
            members: OrdMap::new(),
            tokens: OrdMap::new(),
            enrolments: OrdMap::new(),
            authority: AuthorityState::default(),
        }
    }

    /// As [`StateMachine::new`] in a cluster whose rules are of `level` from the start.
    pub fn new_at(level: Level) -> Self {
        Self {
            level,
            ..Self::new()
        }
    }

    /// Index of the last applied entry.
    pub fn applied(&self) -> LogIndex {
        self.applied
    }

    /// Log time of the last applied entry; a leader stamps its entries from here on.
    pub fn log_time(&self) -> LogTime {
        self.log_time
    }

    /// Id of the cluster; empty before its first entry.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The rules that entries are applied by.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Inodes and names.
    pub fn tree(&self) -> &Namespace {
        &self.tree
    }

    /// Locks.
    pub fn locks(&self) -> &LockTable {
        &self.locks
    }

    /// Open sessions.
    pub fn sessions(&self) -> impl Iterator<Item = (SessionId, &Session)> {
        self.sessions.iter()
    }

    /// The session `id`, if it is open.
    pub fn session(&self, id: SessionId) -> Option<&Session> {
        self.sessions.of(id)
    }

    /// Members in the order of their ids.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// The member `node`.
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.members.get(&node)
    }

    /// The join token with this digest, while it can still be used.
    pub fn token(&self, digest: &[u8; 32]) -> Option<&JoinToken> {
        self.tokens.get(digest)
    }

    /// How the member that was let in with the key of digest `key` came in.
    pub fn enrolment_of_key(&self, key: &[u8; 32]) -> Option<&Enrolment> {
        self.enrolments
            .values()
            .find(|enrolment| enrolment.key == *key)
    }

    /// How the member `node` came in, if it came in with a key that the cluster remembers.
    pub fn enrolment(&self, node: NodeId) -> Option<&Enrolment> {
        self.enrolments.get(&node)
    }

    /// How the member came in that was `node` before it lost its state.
    pub fn enrolment_after(&self, node: NodeId) -> Option<&Enrolment> {
        self.enrolments
            .values()
            .find(|enrolment| enrolment.replaces == Some(node))
    }

    /// The certificate authority and the one that follows it.
    pub fn authority(&self) -> &AuthorityState {
        &self.authority
    }

    /// What the leader has to propose at `now`: the ends of lock delays that are over.
    pub fn due(&self, now: LogTime) -> Vec<Command> {
        self.locks
            .over_at(now)
            .map(|(inode, fence)| Command::LockDelayEnd { inode, fence })
            .collect()
    }

    /// Applies the entry at `index`.
    ///
    /// # Panics
    /// If `index` is not above the last applied one: entries are applied once, in order.
    pub fn apply(&mut self, index: LogIndex, entry: &Entry) -> Applied {
        self.advance(index);
        self.log_time = self.log_time.max(entry.stamp.log_time);
        let mut changes = Vec::new();
        let mut uncalled = 0;
        let outcome = match &entry.origin {
            None => self.apply_or_restore(index, entry, &mut changes),
            Some(origin) => {
                let admission = self.admit(index, entry, origin, &mut changes);
                uncalled = changes.len();
                self.apply_once(index, entry, (origin, admission), &mut changes)
            }
        };
        self.chain(entry, &outcome, &changes);
        Applied {
            index,
            node: caller_of(entry),
            outcome,
            changes,
            uncalled,
        }
    }

    /// Passes an index that carries no entry of ours (a blank or membership entry of Raft).
    ///
    /// # Panics
    /// As [`StateMachine::apply`].
    pub fn pass(&mut self, index: LogIndex) {
        self.advance(index);
        self.chain_pass(index);
    }

    fn advance(&mut self, index: LogIndex) {
        assert!(
            index > self.applied,
            "entry {index} comes after {}",
            self.applied
        );
        self.applied = index;
    }

    /// Whether a proposal may be applied; what it says of given up ones is taken in first.
    fn admit(
        &mut self,
        index: LogIndex,
        entry: &Entry,
        origin: &Origin,
        changes: &mut Vec<Change>,
    ) -> Admission {
        let Some(session) = self
            .sessions
            .of_mut(origin.session)
            .filter(|session| session.node == entry.author.node)
        else {
            return Admission::Refused(FsError::SessionExpired);
        };
        let given_up: Vec<LogIndex> = session
            .settle(origin)
            .iter()
            .map(|answer| answer.index)
            .collect();
        let admission = session.admit(origin.request);
        changes.extend(apply::release_grants(self, index, entry, &given_up));
        admission
    }

    /// Gives a repeated proposal its first answer, and a new one exactly one effect.
    fn apply_once(
        &mut self,
        index: LogIndex,
        entry: &Entry,
        (origin, admission): (&Origin, Admission),
        changes: &mut Vec<Change>,
    ) -> Outcome {
        match admission {
            Admission::Repeated(answer) => return answer.outcome,
            Admission::Refused(error) => return Err(error),
            Admission::New => {}
        }
        let outcome = self.apply_or_restore(index, entry, changes);
        if let Some(session) = self.sessions.of_mut(origin.session) {
            session.answered(origin.request, Answer { index, outcome });
        }
        outcome
    }

    fn apply_or_restore(
        &mut self,
        index: LogIndex,
        entry: &Entry,
        changes: &mut Vec<Change>,
    ) -> Outcome {
        let before = self.clone();
        let (outcome, made) = apply::run(self, index, entry);
        match outcome {
            Ok(_) => changes.extend(made),
            Err(_) => *self = before,
        }
        outcome
    }

    fn tree_mut(&mut self) -> &mut Namespace {
        &mut self.tree
    }

    fn locks_mut(&mut self) -> &mut LockTable {
        &mut self.locks
    }

    fn sessions_mut(&mut self) -> &mut SessionTable {
        &mut self.sessions
    }
}
