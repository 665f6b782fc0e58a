//! Changes of the cluster, made by the leader: tokens, joining, promotion, removal, a node that lost its state.
//!
//! Invariants: a change goes on to its end whether or not its asker waits for it; a voter has the authority's key
//! before it has a vote. Not here: how a node is let in (`enrolment.rs`).

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;

use openraft::ChangeMembers;

use crate::clock;
use crate::consensus::cluster::authority_change;
use crate::consensus::cluster::change_steps::{
    Stop, change_raft, leave_raft, not_yet, refuse, turn,
};
use crate::consensus::cluster::enrolment;
use crate::consensus::core::Core;
use crate::consensus::leader_link::AskError;
use crate::consensus::wire::{ChangeRefusal, ClusterChange, Reply, Request};
use crate::limits::{
    LEADER_RETRY_EVERY, MEMBER_CHANGE_TIMEOUT, PROMOTE_BEHIND_MAX, VOTERS_MAX, WRITE_TIMEOUT,
};
use crate::state_machine::command::{Command, Grant, JoinToken, Member};
use crate::state_machine::fs_error::FsError;
use crate::state_machine::log_time::WallTime;
use crate::transport::enrol::{EnrolRefusal, EnrolReply, EnrolRequest, Enrolled};
use crate::transport::token::Token;

/// Changes the cluster as member `node` asks.
///
/// # Errors
/// If this node is stopping; refusals are in the reply.
pub async fn change(core: &Arc<Core>, node: u64, change: ClusterChange) -> Result<Reply, String> {
    if core.view.leading_term().is_none() {
        return Ok(Reply::NotLeader(None));
    }
    tracing::info!(node, %change, "asked to change the cluster");
    let core = Arc::clone(core);
    to_its_end(async move {
        let changed = match change {
            ClusterChange::TokenCreate(token) => create_token(&core, token).await,
            ClusterChange::Promote { name } => promote(&core, &name).await,
            ClusterChange::RotateAuthority { from } => authority_change::rotate(&core, from).await,
            ClusterChange::Remove { name } => remove(&core, &name).await,
            ClusterChange::Rejoin {
                address,
                age_public,
                signing_request,
            } => {
                let asked = enrolment::rejoin(&core, node, address, age_public, signing_request);
                return enrol_reply(asked.await);
            }
        };
        match changed {
            Ok(done) => Reply::Changed(Ok(done)),
            Err(Stop::NotLeader) => Reply::NotLeader(None),
            Err(Stop::Refused(refusal) | Stop::NotYet(refusal)) => Reply::Changed(Err(refusal)),
        }
    })
    .await
}

/// Lets a node in.
///
/// # Errors
/// If this node is stopping; refusals are in the reply.
pub async fn enrol(core: &Arc<Core>, request: EnrolRequest) -> Result<Reply, String> {
    if core.view.leading_term().is_none() {
        return Ok(Reply::NotLeader(None));
    }
    let core = Arc::clone(core);
    to_its_end(async move { enrol_reply(enrolment::admit(&core, request).await) }).await
}

/// Runs `change` as a task of its own: the connection of its asker may break in the middle of it.
async fn to_its_end(change: impl Future<Output = Reply> + Send + 'static) -> Result<Reply, String> {
    let ended = tokio::spawn(change).await;
    ended.map_err(|error| format!("the change was not made: {error}"))
}

fn enrol_reply(result: Result<Enrolled, Stop>) -> Reply {
    let reply: EnrolReply = match result {
        Ok(enrolled) => Ok(enrolled),
        Err(Stop::NotLeader) => return Reply::NotLeader(None),
        // Whoever joins waits for a while by itself.
        Err(Stop::NotYet(ChangeRefusal { message, .. })) => return Reply::NotReady(message),
        Err(Stop::Refused(ChangeRefusal { message, hint })) => Err(EnrolRefusal { message, hint }),
    };
    Reply::Enrolled(reply)
}

impl Core {
    /// A new join token as text, and what the cluster has to remember of it before it can be used.
    pub fn new_token(
        &self,
        grant: Grant,
        valid_secs: u64,
        name: Option<String>,
    ) -> (String, JoinToken) {
        let valid_secs = i64::try_from(valid_secs).unwrap_or(i64::MAX);
        let secs = clock::wall().secs.saturating_add(valid_secs);
        let ca = self.authority.digest();
        let token = Token::generate(ca, secs);
        let remembered = JoinToken {
            digest: token.digest(),
            grant,
            expires: WallTime { secs, nanos: 0 },
            name,
        };
        (token.to_text(), remembered)
    }
}

async fn create_token(core: &Core, token: JoinToken) -> Result<String, Stop> {
    match core.writer.write_own(Command::TokenCreate(token)).await?.1 {
        // Its digest is that of a random secret: it was made when this was asked before.
        Some(Ok(_) | Err(FsError::AlreadyExists)) => Ok("the token was made".into()),
        other => Err(refuse(
            format!("the token was not made: {other:?}"),
            "try again",
        )),
    }
}

fn member_named(core: &Core, name: &str) -> Result<Member, Stop> {
    let state = core.view.state();
    let found = state.members().find(|member| member.name == name);
    found.cloned().ok_or_else(|| {
        let names: Vec<_> = state.members().map(|member| member.name.clone()).collect();
        refuse(
            format!("there is no member {name}"),
            format!("the members are: {}", names.join(", ")),
        )
    })
}

async fn promote(core: &Arc<Core>, name: &str) -> Result<String, Stop> {
    let _turn = turn(core).await?;
    let member = member_named(core, name)?;
    let node = member.node.0;
    let voters: BTreeSet<u64> = core.view.metrics().membership_config.voter_ids().collect();
    if voters.contains(&node) {
        return Ok(format!("{name} is a voter already"));
    }
    check_may_vote(&member)?;
    authority_change::check_settled(core)?;
    check_one_more_voter(voters.len())?;
    let key = core.authority.key_pem().ok_or_else(|| {
        refuse(
            "the leader has no key of the authority",
            "run vfsd rejoin on the leader",
        )
    })?;
    hand_key(core, &member, &key).await?;
    wait_caught_up(core, name, node).await?;
    change_raft(core, ChangeMembers::AddVoterIds(BTreeSet::from([node]))).await?;
    let voters = voters.len() + 1;
    Ok(format!(
        "{name} is a voter now; {voters} voters, {}",
        tolerance(voters)
    ))
}

fn check_one_more_voter(voters: usize) -> Result<(), Stop> {
    if voters < VOTERS_MAX {
        return Ok(());
    }
    Err(refuse(
        format!(
            "the cluster has {voters} voters, the most that it serves: each one makes every write slower"
        ),
        "remove one first: vfsd member remove NAME",
    ))
}

/// Gives the authority's key to a node that becomes a voter. The node takes it from voters only, and may have to learn
/// first that this one is.
async fn hand_key(core: &Arc<Core>, member: &Member, key: &str) -> Result<(), Stop> {
    let name = &member.name;
    let deadline = tokio::time::Instant::now() + WRITE_TIMEOUT;
    loop {
        let request = Request::TakeAuthority(key.to_owned());
        let asked = core
            .link
            .ask(member.node.0, &member.address, request, WRITE_TIMEOUT);
        match asked.await {
            Ok(Reply::AuthorityTaken) => return Ok(()),
            Err(AskError::Refused(_)) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(LEADER_RETRY_EVERY).await;
            }
            Err(AskError::Refused(reason)) => {
                return Err(refuse(
                    format!("{name} does not take the authority's key: {reason}"),
                    format!("see on {name}: journalctl -u vfsd -n 20"),
                ));
            }
            Ok(_) | Err(AskError::NoLeader | AskError::NotReady(_)) => {
                return Err(refuse(
                    format!("{name} gave an unexpected answer"),
                    "upgrade the older node",
                ));
            }
            Err(AskError::Call(reason)) => {
                return Err(refuse(
                    format!(
                        "{name} does not answer ({reason}); a voter that is away would only weaken the cluster"
                    ),
                    format!("start vfsd on {name} first"),
                ));
            }
        }
    }
}

/// A voter gets the authority's key, with which it can make itself anything; it also writes what others propose.
fn check_may_vote(member: &Member) -> Result<(), Stop> {
    let Member { name, grant, .. } = member;
    let grant = match grant {
        Grant::Writer => return Ok(()),
        Grant::Agent => "agent",
        Grant::Reader => "reader",
    };
    Err(refuse(
        format!(
            "{name} has the grant {grant}: as a voter it would hold the authority's key and could do anything"
        ),
        format!("remove it and join it anew with --role writer: vfsd member add {name}"),
    ))
}

/// Waits until the learner has almost all of the log: a voter that lacks much of it would hold up every write.
async fn wait_caught_up(core: &Core, name: &str, node: u64) -> Result<(), Stop> {
    let behind = || {
        let metrics = core.view.metrics();
        let matched = metrics.replication.as_ref()?.get(&node).copied().flatten();
        let last = metrics.last_log_index.unwrap_or(0);
        Some(last.saturating_sub(matched.map_or(0, |id| id.index)))
    };
    let deadline = tokio::time::Instant::now() + MEMBER_CHANGE_TIMEOUT / 2;
    loop {
        match behind() {
            None => return Err(Stop::NotLeader),
            Some(behind) if behind <= PROMOTE_BEHIND_MAX => return Ok(()),
            Some(behind) if tokio::time::Instant::now() > deadline => {
                return Err(not_yet(
                    format!(
                        "{name} still lacks {behind} entries; as a voter it would hold up every write"
                    ),
                    "promote it when it has caught up; see: vfsd status",
                ));
            }
            Some(_) => tokio::time::sleep(LEADER_RETRY_EVERY).await,
        }
    }
}

/// How many voters may fail, for people.
pub fn tolerance(voters: usize) -> String {
    match voters.saturating_sub(1) / 2 {
        0 => "no fault tolerance".into(),
        1 => "tolerates 1 failure".into(),
        failures => format!("tolerates {failures} failures"),
    }
}

async fn remove(core: &Arc<Core>, name: &str) -> Result<String, Stop> {
    let _turn = turn(core).await?;
    let member = member_named(core, name)?;
    let node = member.node;
    let has_voted = core.view.is_voter(node.0);
    leave_raft(core, &member).await?;
    match core
        .writer
        .write_own(Command::MemberRemove { node })
        .await?
        .1
    {
        Some(Ok(_) | Err(FsError::NotFound)) => {
            let done = format!("{name} (node {node}) is removed for good");
            Ok(if has_voted {
                format!(
                    "{done}; as a voter it had the authority's key: vfsd ca rotate makes that useless"
                )
            } else {
                done
            })
        }
        other => Err(refuse(
            format!("{name} was not removed: {other:?}"),
            "try again",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_eighth_voter_is_refused_and_the_seventh_is_not() {
        assert!(check_one_more_voter(6).is_ok());
        let Err(Stop::Refused(refusal)) = check_one_more_voter(7) else {
            panic!("asking again changes nothing");
        };
        assert!(refusal.message.contains("7 voters"), "{}", refusal.message);
        assert!(refusal.hint.contains("member remove"), "{}", refusal.hint);
    }

    #[test]
    fn the_tolerance_is_that_of_a_majority() {
        let said: Vec<_> = [1, 2, 3, 5].into_iter().map(tolerance).collect();
        assert_eq!(
            said,
            [
                "no fault tolerance",
                "no fault tolerance",
                "tolerates 1 failure",
                "tolerates 2 failures"
            ]
        );
    }
}
