//! What every change of the cluster is made of: its turn, its refusals, and Raft's part of it.
//!
//! Invariants: one change of the members at a time, so that what it looked at still holds when it is made; every wait
//! has a bound. Not here: which changes there are (`membership.rs`, `enrolment.rs`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::impls::BasicNode;
use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, timeout};

use crate::consensus::cluster::hand_over::hand_over;
use crate::consensus::cluster::quorum::QuorumState;
use crate::consensus::core::Core;
use crate::consensus::raft::types::TypeConfig;
use crate::consensus::wire::ChangeRefusal;
use crate::consensus::writer::WriteError;
use crate::limits::{
    CHANGE_TURN_MAX, LEADER_RETRY_EVERY, MEMBER_CHANGE_TIMEOUT, QUORUM_SILENCE_MAX,
};
use crate::state_machine::command::Member;
use crate::state_machine::level::Level;

/// Why a change stops half way; it can be asked for again.
pub(in crate::consensus) enum Stop {
    /// Another node has to do it.
    NotLeader,
    /// It may go in a moment.
    NotYet(ChangeRefusal),
    /// Asking again changes nothing.
    Refused(ChangeRefusal),
}

impl From<WriteError> for Stop {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::NotLeader(_) => Self::NotLeader,
            WriteError::TimedOut(_) => {
                not_yet(error.to_string(), "it may still come; see: vfsd status")
            }
            WriteError::TooLong(_) => refuse(error.to_string(), "use shorter names"),
            WriteError::Stopped(reason) => refuse(reason, "restart vfsd on the leader"),
        }
    }
}

pub(in crate::consensus) fn refuse(message: impl Into<String>, hint: impl Into<String>) -> Stop {
    Stop::Refused(ChangeRefusal {
        message: message.into(),
        hint: hint.into(),
    })
}

pub(in crate::consensus) fn not_yet(message: impl Into<String>, hint: impl Into<String>) -> Stop {
    Stop::NotYet(ChangeRefusal {
        message: message.into(),
        hint: hint.into(),
    })
}

/// What counts from the level `needed` on is written in a way that earlier builds do not read.
pub(in crate::consensus) fn check_level(core: &Core, needed: Level) -> Result<(), Stop> {
    check_reached(core.view.state().level(), needed)
}

fn check_reached(level: Level, needed: Level) -> Result<(), Stop> {
    if level >= needed {
        return Ok(());
    }
    Err(refuse(
        format!(
            "a member still runs an earlier build (the cluster follows rules of level {level})"
        ),
        "upgrade vfsd on every member first, then try again; who is away counts, too: vfsd status",
    ))
}

/// Waits until no other change of the members is under way, and a majority confirms that this node leads. The change
/// is over when what this returns is dropped.
pub(in crate::consensus) async fn turn(core: &Core) -> Result<OwnedMutexGuard<()>, Stop> {
    let waited = timeout(CHANGE_TURN_MAX, Arc::clone(&core.changing).lock_owned()).await;
    let turn = waited.map_err(|_| {
        let waited = CHANGE_TURN_MAX.as_secs();
        not_yet(
            format!("another change of the members is under way for more than {waited} s"),
            "try again in a moment; see: vfsd status",
        )
    })?;
    // A leader that was elected a moment ago is confirmed by its first heartbeats.
    let deadline = Instant::now() + QUORUM_SILENCE_MAX;
    while !core.view.is_confirmed() || !core.quorum.has() {
        if core.view.leading_term().is_none() {
            return Err(Stop::NotLeader);
        }
        if Instant::now() > deadline {
            return Err(not_yet(
                "the leader does not hear from a majority",
                "start the missing voters first; see: vfsd status",
            ));
        }
        tokio::time::sleep(LEADER_RETRY_EVERY).await;
    }
    match core.view.leading_term() {
        Some(_) => Ok(turn),
        None => Err(Stop::NotLeader),
    }
}

/// Changes Raft's members, and waits until a majority has it.
///
/// The change is made in two steps (Raft, 6: joint consensus), so it goes on by itself when it is not waited for any
/// more: it must not stay between them.
pub(in crate::consensus) async fn change_raft(
    core: &Core,
    members: ChangeMembers<u64, BasicNode>,
) -> Result<(), Stop> {
    let raft = core.view.raft.clone();
    let changing = tokio::spawn(async move { raft.change_membership(members, false).await });
    let mut quorum = core.quorum.subscribe();
    tokio::select! {
        changed = changing => match changed {
            Ok(changed) => raft_changed(changed.map(drop)),
            Err(_) => Err(Stop::NotLeader),
        },
        _ = quorum.wait_for(|quorum| !quorum.has) => Err(not_yet(
            "the majority was lost while the change was under way",
            "start the missing voters first; the change may still come, see: vfsd status",
        )),
        () = tokio::time::sleep(MEMBER_CHANGE_TIMEOUT) => Err(unconfirmed(MEMBER_CHANGE_TIMEOUT)),
    }
}

/// Begins to send the log to a node that is no member of Raft's yet.
pub(in crate::consensus) async fn add_learner(
    core: &Core,
    node: u64,
    address: &str,
) -> Result<(), Stop> {
    if core.view.address_of(node).as_deref() == Some(address) {
        return Ok(());
    }
    let added = core
        .view
        .raft
        .add_learner(node, BasicNode::new(address), false);
    match timeout(MEMBER_CHANGE_TIMEOUT, added).await {
        Ok(added) => raft_changed(added.map(drop)),
        Err(_) => Err(unconfirmed(MEMBER_CHANGE_TIMEOUT)),
    }
}

fn unconfirmed(after: Duration) -> Stop {
    not_yet(
        format!(
            "no majority has confirmed the change within {} s",
            after.as_secs()
        ),
        "it may still come; see: vfsd status",
    )
}

fn raft_changed(
    changed: Result<(), RaftError<TypeConfig, ClientWriteError<TypeConfig>>>,
) -> Result<(), Stop> {
    match changed {
        Ok(()) => Ok(()),
        Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
            error @ ChangeMembershipError::InProgress(_),
        ))) => Err(not_yet(
            format!("another change of the members is under way: {error}"),
            "try again in a moment",
        )),
        Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error))) => Err(refuse(
            format!("the members cannot be changed: {error}"),
            "see: vfsd status",
        )),
        Err(RaftError::APIError(_)) => Err(Stop::NotLeader),
        Err(RaftError::Fatal(fatal)) => {
            Err(refuse(fatal.to_string(), "restart vfsd on the leader"))
        }
    }
}

/// Takes a member out of Raft, so that it neither votes nor is sent the log any more.
pub(in crate::consensus) async fn leave_raft(core: &Core, member: &Member) -> Result<(), Stop> {
    let node = member.node.0;
    let metrics = core.view.metrics();
    let voters: BTreeSet<u64> = metrics.membership_config.voter_ids().collect();
    if voters.contains(&node) {
        check_rest(core, &member.name, node, &voters).await?;
        if node == core.view.id {
            // The one that takes over will be asked again and remove this node.
            hand_over(&core.view, &core.link.peers).await;
            return Err(Stop::NotLeader);
        }
        change_raft(core, ChangeMembers::RemoveVoters(BTreeSet::from([node]))).await
    } else if metrics
        .membership_config
        .membership()
        .get_node(&node)
        .is_some()
    {
        change_raft(core, ChangeMembers::RemoveNodes(BTreeSet::from([node]))).await
    } else {
        Ok(())
    }
}

/// What is left must be able to go on without the removed voter. A leader that was elected a moment ago has not heard
/// of everyone yet, so a voter counts as away only after it was silent for as long as one that died would be.
async fn check_rest(
    core: &Core,
    name: &str,
    node: u64,
    voters: &BTreeSet<u64>,
) -> Result<(), Stop> {
    let rest = voters.len() - 1;
    if rest == 0 {
        return Err(refuse(
            format!("{name} is the only voter: without it there is no cluster"),
            "promote another member first: vfsd member promote NAME",
        ));
    }
    let answering = |quorum: &QuorumState| {
        let answers = |voter: &&u64| **voter != node && !quorum.missing.contains(voter);
        voters.iter().filter(answers).count()
    };
    let mut quorum = core.quorum.subscribe();
    let enough = quorum.wait_for(|quorum| answering(quorum) > rest / 2);
    if let Ok(Ok(_)) = tokio::time::timeout(QUORUM_SILENCE_MAX, enough).await {
        return Ok(());
    }
    let answering = answering(&core.quorum.state());
    Err(not_yet(
        format!(
            "only {answering} of the other {rest} voters answer: without {name} there would be no majority"
        ),
        "start the missing voters first; see: vfsd status",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A new authority, say: the entries of its change would stop a member that still runs an earlier build.
    #[test]
    fn what_an_earlier_build_does_not_read_is_refused_below_its_level() {
        let needed = Level::AUTHORITIES;
        let Err(Stop::Refused(refusal)) = check_reached(Level::FIRST, needed) else {
            panic!("asking again changes nothing");
        };
        assert!(refusal.message.contains("level 0"), "{}", refusal.message);
        assert!(
            refusal.hint.contains("upgrade vfsd on every member"),
            "{}",
            refusal.hint
        );
        assert!(check_reached(needed, needed).is_ok());
        assert!(check_reached(Level::KNOWN, needed).is_ok());
    }
}
