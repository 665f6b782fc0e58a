//! Who is a member, and the tokens that let new ones in. Raft's own membership is openraft's.

use super::Step;
use crate::state_machine::command::{
    AuthorityStep, Enrolment, Grant, JoinToken, Member, Newcomer, NextAuthority,
};
use crate::state_machine::fs_error::FsError;
use crate::state_machine::ids::NodeId;
use crate::state_machine::level::Level;
use crate::state_machine::outcome::{Done, Outcome};

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
        self.state.enrolments.remove(&node);
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
        let grant = self.take_token(digest, name)?;
        self.member_put(&Member {
            node: NodeId(self.index.0),
            name: name.to_owned(),
            address: address.to_owned(),
            grant,
            age_public: age_public.to_owned(),
        })
    }

    pub(super) fn admit(&mut self, token: &[u8; 32], newcomer: &Newcomer) -> Outcome {
        if let Some(known) = self.state.enrolment_of_key(&newcomer.key) {
            return self.same_again(known.node, newcomer);
        }
        let grant = self.take_token(token, &newcomer.name)?;
        self.let_in(newcomer, grant, None)
    }

    pub(super) fn readmit(&mut self, node: NodeId, newcomer: &Newcomer) -> Outcome {
        if let Some(known) = self.state.enrolment_after(node) {
            let is_same = known.key == newcomer.key;
            return if is_same {
                self.same_again(known.node, newcomer)
            } else {
                Err(FsError::AlreadyExists)
            };
        }
        let member = self.state.member(node).ok_or(FsError::NotFound)?;
        if member.name != newcomer.name || self.state.enrolment_of_key(&newcomer.key).is_some() {
            return Err(FsError::Invalid);
        }
        let grant = member.grant;
        self.member_remove(node)?;
        self.let_in(newcomer, grant, Some(node))
    }

    pub(super) fn authority_step(&mut self, step: &AuthorityStep) -> Outcome {
        let authority = &mut self.state.authority;
        match (step, authority.next.take()) {
            // One that nobody has a certificate of may be replaced: its key may be lost.
            (AuthorityStep::Trust(certificate), None)
            | (
                AuthorityStep::Trust(certificate),
                Some(NextAuthority {
                    is_issuing: false, ..
                }),
            ) => {
                authority.next = Some(NextAuthority {
                    certificate: certificate.clone(),
                    is_issuing: false,
                });
            }
            (AuthorityStep::Issue, Some(next)) if !next.is_issuing => {
                authority.next = Some(NextAuthority {
                    is_issuing: true,
                    ..next
                });
            }
            (AuthorityStep::Only, Some(next)) if next.is_issuing => {
                authority.present = next.certificate;
                // They pin the authority that was.
                self.state.tokens.clear();
            }
            (AuthorityStep::Trust(_) | AuthorityStep::Issue | AuthorityStep::Only, _) => {
                return Err(FsError::Invalid);
            }
        }
        Ok(Done::Unit)
    }

    /// The grant of a token that is valid for `name`; the token is used up.
    fn take_token(&mut self, digest: &[u8; 32], name: &str) -> Result<Grant, FsError> {
        let token = self.state.tokens.get(digest).ok_or(FsError::TokenInvalid)?;
        if token.expires <= self.entry.stamp.wall
            || token.name.as_deref().is_some_and(|fixed| fixed != name)
        {
            return Err(FsError::TokenInvalid);
        }
        let grant = token.grant;
        self.state.tokens.remove(digest);
        Ok(grant)
    }

    fn let_in(&mut self, newcomer: &Newcomer, grant: Grant, replaces: Option<NodeId>) -> Outcome {
        let node = NodeId(self.index.0);
        let done = self.member_put(&Member {
            node,
            name: newcomer.name.clone(),
            address: newcomer.address.clone(),
            grant,
            age_public: newcomer.age_public.clone(),
        })?;
        let enrolment = Enrolment {
            node,
            key: newcomer.key,
            replaces,
        };
        self.state.enrolments.insert(node, enrolment);
        Ok(done)
    }

    /// The answer to a request that was fulfilled before; with the same key for anything else it is refused.
    fn same_again(&self, node: NodeId, newcomer: &Newcomer) -> Outcome {
        let is_same = self.state.member(node).is_some_and(|member| {
            member.name == newcomer.name
                && member.address == newcomer.address
                && member.age_public == newcomer.age_public
        });
        if is_same {
            Ok(Done::Member(node))
        } else {
            Err(FsError::AlreadyExists)
        }
    }
}
