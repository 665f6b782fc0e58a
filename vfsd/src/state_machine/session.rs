//! Sessions: one per mounted node, and the answers that its retries get.
//!
//! Invariants: a number is answered once; after it was abandoned or settled it is refused; the window is bounded.
//! Not here: renewal, which lives in the leader's memory, and expiry, which the leader proposes.

use imbl::{OrdMap, OrdSet};

use super::command::Origin;
use super::fs_error::FsError;
use super::ids::{LogIndex, NodeId, RequestNo, SessionId};
use super::outcome::Outcome;
use crate::limits::OUTCOME_WINDOW_MAX;

/// A node's session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The node.
    pub node: NodeId,
    settled_below: RequestNo,
    outcomes: OrdMap<RequestNo, Answer>,
    abandoned: OrdSet<RequestNo>,
}

/// The first answer to a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The entry that it was given in.
    pub index: LogIndex,
    /// The outcome.
    pub outcome: Outcome,
}

/// What to do with a proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It is new: apply it.
    New,
    /// It was applied before: this was the answer.
    Repeated(Answer),
    /// It must not be applied.
    Refused(FsError),
}

impl Session {
    /// A session without history.
    pub fn new(node: NodeId) -> Self {
        Self {
            node,
            settled_below: RequestNo(0),
            outcomes: OrdMap::new(),
            abandoned: OrdSet::new(),
        }
    }

    /// Takes in what the proposer says of its numbers. Returns the answers that were given to numbers which it gave up:
    /// their callers were told of a failure.
    pub fn settle(&mut self, origin: &Origin) -> Vec<Answer> {
        let mut given = Vec::new();
        for number in &origin.abandoned {
            match self.outcomes.get(number) {
                Some(answer) => given.push(*answer),
                None if *number >= self.settled_below => {
                    self.abandoned.insert(*number);
                }
                None => {}
            }
        }
        if origin.settled_below > self.settled_below {
            self.settled_below = origin.settled_below;
            while let Some((number, _)) = self.outcomes.get_min().copied()
                && number < self.settled_below
            {
                self.outcomes.remove(&number);
            }
            while let Some(number) = self.abandoned.get_min().copied()
                && number < self.settled_below
            {
                self.abandoned.remove(&number);
            }
        }
        given
    }

    /// Whether proposal `number` may be applied.
    pub fn admit(&self, number: RequestNo) -> Admission {
        match self.outcomes.get(&number) {
            Some(answer) => Admission::Repeated(*answer),
            None if number < self.settled_below => Admission::Refused(FsError::OutcomeForgotten),
            None if self.abandoned.contains(&number) => Admission::Refused(FsError::Abandoned),
            None => Admission::New,
        }
    }

    /// The answer to `number`, if it was given and is kept.
    pub fn answer(&self, number: RequestNo) -> Option<Answer> {
        self.outcomes.get(&number).copied()
    }

    /// Keeps the answer to `number`; past the window the oldest is forgotten.
    pub fn answered(&mut self, number: RequestNo, answer: Answer) {
        self.outcomes.insert(number, answer);
        while self.outcomes.len() > OUTCOME_WINDOW_MAX {
            let Some((oldest, _)) = self.outcomes.get_min().copied() else {
                break;
            };
            self.outcomes.remove(&oldest);
            self.settled_below = self.settled_below.max(oldest.next());
        }
    }

    /// The parts, for the snapshot.
    pub fn parts(
        &self,
    ) -> (
        RequestNo,
        impl Iterator<Item = (&RequestNo, &Answer)>,
        impl Iterator<Item = &RequestNo>,
    ) {
        (
            self.settled_below,
            self.outcomes.iter(),
            self.abandoned.iter(),
        )
    }

    /// Rebuilds a session from its parts.
    pub fn from_parts(
        node: NodeId,
        settled_below: RequestNo,
        outcomes: impl IntoIterator<Item = (RequestNo, Answer)>,
        abandoned: impl IntoIterator<Item = RequestNo>,
    ) -> Self {
        Self {
            node,
            settled_below,
            outcomes: outcomes.into_iter().collect(),
            abandoned: abandoned.into_iter().collect(),
        }
    }
}

/// The open sessions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionTable {
    sessions: OrdMap<SessionId, Session>,
}

impl SessionTable {
    /// The session `id`, if it is open.
    pub fn of(&self, id: SessionId) -> Option<&Session> {
        self.sessions.get(&id)
    }

    /// The session `id`, to be changed.
    pub fn of_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.sessions.get_mut(&id)
    }

    /// Opens a session.
    pub fn open(&mut self, id: SessionId, session: Session) {
        self.sessions.insert(id, session);
    }

    /// Closes a session; false if it was not open.
    pub fn close(&mut self, id: SessionId) -> bool {
        self.sessions.remove(&id).is_some()
    }

    /// All open sessions in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (SessionId, &Session)> {
        self.sessions.iter().map(|(id, session)| (*id, session))
    }
}
