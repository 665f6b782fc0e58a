//! Who is a member, and the tokens that let new ones in. Raft's own membership is openraft's.

use super::Step;
use crate::state_machine::command::{JoinToken, Member};
use crate::state_machine::ids::NodeId;
use crate::state_machine::level::Level;
use crate::state_machine::outcome::{Done, FsError, Outcome};

impl Step<'_> {
    pub(super) fn cluster_init(&mut self, cluster: &str, first: &Member) -> Outcome {
        if !self.state.cluster.is_empty() {
            return Err(FsError::AlreadyExists);
        }
        self.state.cluster = cluster.to_owned();
        self.member_put(first)
    }

    /// # Panics
    /// If this build does not know the rules: a replica that went on by others would come to another state.
    pub(super) fn raise_level(&mut self, level: Level) -> Outcome {
        assert!(
            level <= Level::KNOWN,
            "entry {}: the cluster's rules are of level {level}, this build knows {}; upgrade this node",
            self.index,
            Level::KNOWN
        );
        self.state.level = self.state.level.max(level);
        Ok(Done::Unit)
    }

    pub(super) fn member_put(&mut self, member: &Member) -> Outcome {
        let taken = self
            .state
            .members
            .values()
            .any(|other| other.name == member.name && other.node != member.node);
        if taken {
            return Err(FsError::AlreadyExists);
        }
        self.state.members.insert(member.node, member.clone());
        Ok(Done::Member(member.node))
    }

    pub(super) fn member_remove(&mut self, node: NodeId) -> Outcome {
        self.state.members.remove(&node).ok_or(FsError::NotFound)?;
        let sessions: Vec<_> = self
            .state
            .sessions()
            .filter(|(_, session)| session.node == node)
            .map(|(id, _)| id)
            .collect();
        for session in sessions {
            self.session_end(session)?;
        }
        Ok(Done::Unit)
    }

    pub(super) fn token_create(&mut self, token: &JoinToken) -> Outcome {
        if self.state.tokens.contains_key(&token.digest) {
            return Err(FsError::AlreadyExists);
        }
        // Tokens that ran out go whenever a new one comes: the table stays as small as their use.
        let now = self.entry.stamp.wall;
        let tokens = &self.state.tokens;
        let kept = tokens.iter().filter(|(_, other)| other.expires > now);
        self.state.tokens = kept
            .map(|(digest, other)| (*digest, other.clone()))
            .collect();
        self.state.tokens.insert(token.digest, token.clone());
        Ok(Done::Unit)
    }

    pub(super) fn token_use(
        &mut self,
        digest: &[u8; 32],
        name: &str,
        address: &str,
        age_public: &str,
    ) -> Outcome {
        let token = self.state.tokens.get(digest).ok_or(FsError::TokenInvalid)?;
        if token.expires <= self.entry.stamp.wall
            || token.name.as_deref().is_some_and(|fixed| fixed != name)
        {
            return Err(FsError::TokenInvalid);
        }
        let member = Member {
            node: NodeId(self.index.0),
            name: name.to_owned(),
            address: address.to_owned(),
            grant: token.grant,
            age_public: age_public.to_owned(),
        };
        self.state.tokens.remove(digest);
        self.member_put(&member)
    }
}
