//! Changes of the cluster, made by the leader: joining, promotion, removal, a node that lost its state.
//!
//! Invariants: an id is the index of the log entry that gave it out, so it is never used again; a token is used up in
//! the log before a certificate is signed; a voter has the authority's key before it has a vote.

use std::collections::BTreeSet;
use std::sync::Arc;

use openraft::ChangeMembers;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::impls::BasicNode;

use super::core::{AskError, Core, WriteError};
use super::quorum::QuorumState;
use super::types::TypeConfig;
use super::wire::{ChangeRefusal, ClusterChange, Reply, Request};
use crate::clock;
use crate::limits::{
    LEADER_RETRY_EVERY, LEARNERS_MAX, MEMBER_CHANGE_TIMEOUT, PROMOTE_BEHIND_MAX,
    QUORUM_SILENCE_MAX, REJOIN_TOKEN_SECS, VOTERS_MAX, WRITE_TIMEOUT,
};
use crate::state_machine::command::{Command, Grant, JoinToken, Member};
use crate::state_machine::ids::NodeId;
use crate::state_machine::log_time::WallTime;
use crate::state_machine::outcome::{Done, FsError};
use crate::transport::enrol::{EnrolRefusal, EnrolReply, EnrolRequest, Enrolled};
use crate::transport::identity;
use crate::transport::token::{self, Token};

/// Why a change stops half way; it can be asked for again.
enum Stop {
    NotLeader,
    Refused(ChangeRefusal),
}

impl From<WriteError> for Stop {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::NotLeader(_) => Self::NotLeader,
            WriteError::TooLong(_) => refuse(error.to_string(), "use shorter names"),
            WriteError::Stopped(reason) => refuse(reason, "restart vfsd on the leader"),
        }
    }
}

fn refuse(message: impl Into<String>, hint: impl Into<String>) -> Stop {
    Stop::Refused(ChangeRefusal {
        message: message.into(),
        hint: hint.into(),
    })
}

/// Changes the cluster as member `node` asks.
///
/// # Errors
/// Never; refusals are in the reply.
pub async fn change(core: &Arc<Core>, node: u64, change: ClusterChange) -> Result<Reply, String> {
    if core.leading_term().is_none() {
        return Ok(Reply::NotLeader(None));
    }
    tracing::info!(node, %change, "asked to change the cluster");
    let changed = match change {
        ClusterChange::TokenCreate(token) => create_token(core, token).await,
        ClusterChange::Promote { name } => promote(core, &name).await,
        ClusterChange::Remove { name } => remove(core, &name).await,
        ClusterChange::Rejoin {
            address,
            age_public,
            signing_request,
        } => {
            let rejoined = rejoin(core, node, address, age_public, signing_request).await;
            return Ok(enrol_reply(rejoined));
        }
    };
    Ok(match changed {
        Ok(done) => Reply::Changed(Ok(done)),
        Err(Stop::NotLeader) => Reply::NotLeader(None),
        Err(Stop::Refused(refusal)) => Reply::Changed(Err(refusal)),
    })
}

/// Lets a node in.
///
/// # Errors
/// Never; refusals are in the reply.
pub async fn enrol(core: &Arc<Core>, request: EnrolRequest) -> Result<Reply, String> {
    if core.leading_term().is_none() {
        return Ok(Reply::NotLeader(None));
    }
    Ok(enrol_reply(admit(core, request).await))
}

fn enrol_reply(result: Result<Enrolled, Stop>) -> Reply {
    let reply: EnrolReply = match result {
        Ok(enrolled) => Ok(enrolled),
        Err(Stop::NotLeader) => return Reply::NotLeader(None),
        Err(Stop::Refused(ChangeRefusal { message, hint })) => Err(EnrolRefusal { message, hint }),
    };
    Reply::Enrolled(reply)
}

async fn admit(core: &Arc<Core>, request: EnrolRequest) -> Result<Enrolled, Stop> {
    check_name(&request.name)?;
    check_address(&request.address)?;
    let digest = token::digest_of(&request.secret);
    check_token(core, &digest, &request)?;
    if let Some(taken) = core
        .state()
        .members()
        .find(|member| member.name == request.name)
    {
        let (name, node) = (&taken.name, taken.node);
        return Err(refuse(
            format!("there is a member {name} already (node {node})"),
            format!("take another --node, or remove the old one first: vfsd member remove {name}"),
        ));
    }
    let learners = core
        .metrics()
        .membership_config
        .membership()
        .learner_ids()
        .count();
    if learners >= LEARNERS_MAX {
        return Err(refuse(
            format!("the cluster has {learners} learners, the most that it serves"),
            "remove one first: vfsd member remove NAME",
        ));
    }
    let command = Command::TokenUse {
        digest,
        name: request.name.clone(),
        address: request.address.clone(),
        age_public: request.age_public.clone(),
    };
    let (_, outcome) = core.write_own(command).await?;
    match outcome {
        Some(Ok(Done::Member(node))) => {
            welcome(core, node.0, &request.address, &request.signing_request).await
        }
        Some(Err(FsError::AlreadyExists)) => {
            let name = &request.name;
            Err(refuse(
                format!("a member {name} joined a moment ago"),
                "take another --node",
            ))
        }
        // It was valid a moment ago: another node was faster.
        other => {
            tracing::warn!(?other, "a join token could not be used");
            Err(used_token())
        }
    }
}

fn used_token() -> Stop {
    refuse(
        "the join token was used already, or this cluster never made it",
        "make a new one on any member: vfsd token create",
    )
}

fn check_token(core: &Core, digest: &[u8; 32], request: &EnrolRequest) -> Result<(), Stop> {
    let state = core.state();
    let known = state.token(digest);
    let now = clock::wall().secs;
    let expires = known.map_or(request.expires_secs, |token| token.expires.secs);
    if expires <= now {
        let minutes = (now - expires) / 60;
        return Err(refuse(
            format!("the join token expired {minutes} min ago"),
            "make a new one on any member: vfsd token create",
        ));
    }
    let Some(token) = known else {
        return Err(used_token());
    };
    match &token.name {
        Some(name) if *name != request.name => Err(refuse(
            format!(
                "the join token is for a node named {name}, not {}",
                request.name
            ),
            format!("join with --node {name}, or make another token"),
        )),
        _ => Ok(()),
    }
}

/// Names appear in paths, certificates and commands.
fn check_name(name: &str) -> Result<(), Stop> {
    if is_valid_name(name) {
        return Ok(());
    }
    Err(refuse(
        format!("{name:?} cannot be a node's name"),
        NAME_HINT,
    ))
}

/// What a node may be called, for people.
pub const NAME_HINT: &str =
    "use 1 to 63 letters, digits, - and _, beginning with a letter or digit";

/// Whether a node may be called `name`.
pub fn is_valid_name(name: &str) -> bool {
    let is_inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (1..=63).contains(&name.len())
        && name.chars().all(is_inner)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}

fn check_address(address: &str) -> Result<(), Stop> {
    match address.parse::<std::net::SocketAddr>() {
        Ok(parsed) if !parsed.ip().is_unspecified() && parsed.port() != 0 => Ok(()),
        _ => Err(refuse(
            format!("{address:?} is no address that the other members can reach"),
            "use --listen IP:PORT with the address of this machine",
        )),
    }
}

/// Signs the new node's certificate and begins to send it the log.
async fn welcome(
    core: &Arc<Core>,
    node: u64,
    address: &str,
    signing_request: &[u8],
) -> Result<Enrolled, Stop> {
    let certificate = core
        .authority
        .sign(signing_request, node)
        .map_err(|error| {
            refuse(
                format!("cannot sign the node's certificate: {error:#}"),
                "remove the node and join it again",
            )
        })?;
    let added = core
        .raft
        .add_learner(node, BasicNode::new(address), false)
        .await;
    raft_changed(added.map(drop))?;
    let metrics = core.metrics();
    let members = metrics.membership_config.membership().nodes();
    Ok(Enrolled {
        node,
        cluster: core.state().cluster().to_owned(),
        certificate: certificate.to_vec(),
        ca: core.authority.certificate().to_vec(),
        members: members.map(|(id, node)| (*id, node.addr.clone())).collect(),
    })
}

fn raft_changed(
    changed: Result<(), RaftError<TypeConfig, ClientWriteError<TypeConfig>>>,
) -> Result<(), Stop> {
    match changed {
        Ok(()) => Ok(()),
        Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
            error @ ChangeMembershipError::InProgress(_),
        ))) => Err(refuse(
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
        let ca = identity::digest(self.authority.certificate());
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
    match core.write_own(Command::TokenCreate(token)).await?.1 {
        Some(Ok(_)) => Ok("the token was made".into()),
        other => Err(refuse(
            format!("the token was not made: {other:?}"),
            "try again",
        )),
    }
}

fn member_named(core: &Core, name: &str) -> Result<Member, Stop> {
    let state = core.state();
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
    let member = member_named(core, name)?;
    let node = member.node.0;
    let voters: BTreeSet<u64> = core.metrics().membership_config.voter_ids().collect();
    if voters.contains(&node) {
        return Ok(format!("{name} is a voter already"));
    }
    check_may_vote(&member)?;
    if voters.len() >= VOTERS_MAX {
        return Err(refuse(
            format!(
                "the cluster has {VOTERS_MAX} voters, the most that it serves: each one makes every write slower"
            ),
            "remove one first: vfsd member remove NAME",
        ));
    }
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

/// Gives the authority's key to a node that becomes a voter. The node takes it from voters only, and may have to learn
/// first that this one is.
async fn hand_key(core: &Arc<Core>, member: &Member, key: &str) -> Result<(), Stop> {
    let name = &member.name;
    let deadline = tokio::time::Instant::now() + WRITE_TIMEOUT;
    loop {
        let request = Request::TakeAuthority(key.to_owned());
        let asked = core.ask(member.node.0, &member.address, request, WRITE_TIMEOUT);
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
        let metrics = core.metrics();
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
                return Err(refuse(
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

async fn change_raft(core: &Core, members: ChangeMembers<u64, BasicNode>) -> Result<(), Stop> {
    let changed = core.raft.change_membership(members, false);
    match tokio::time::timeout(MEMBER_CHANGE_TIMEOUT, changed).await {
        Ok(changed) => raft_changed(changed.map(drop)),
        Err(_) => Err(refuse(
            format!(
                "the change was not confirmed within {} s",
                MEMBER_CHANGE_TIMEOUT.as_secs()
            ),
            "it may still come; see: vfsd status",
        )),
    }
}

async fn remove(core: &Arc<Core>, name: &str) -> Result<String, Stop> {
    let member = member_named(core, name)?;
    let node = member.node.0;
    let metrics = core.metrics();
    let voters: BTreeSet<u64> = metrics.membership_config.voter_ids().collect();
    if voters.contains(&node) {
        check_rest(core, name, node, &voters).await?;
        if node == core.id {
            // The one that takes over will be asked again and remove this node.
            core.hand_over().await;
            return Err(Stop::NotLeader);
        }
        change_raft(core, ChangeMembers::RemoveVoters(BTreeSet::from([node]))).await?;
    } else if metrics
        .membership_config
        .membership()
        .get_node(&node)
        .is_some()
    {
        change_raft(core, ChangeMembers::RemoveNodes(BTreeSet::from([node]))).await?;
    }
    match core
        .write_own(Command::MemberRemove { node: member.node })
        .await?
        .1
    {
        Some(Ok(_) | Err(FsError::NotFound)) => {
            Ok(format!("{name} (node {node}) is removed for good"))
        }
        other => Err(refuse(
            format!("{name} was not removed: {other:?}"),
            "try again",
        )),
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
    Err(refuse(
        format!(
            "only {answering} of the other {rest} voters answer: without {name} there would be no majority"
        ),
        "start the missing voters first; see: vfsd status",
    ))
}

/// Gives the member `node`, which lost its state, a new id as learner. Its certificate has proved who it is.
async fn rejoin(
    core: &Arc<Core>,
    node: u64,
    address: String,
    age_public: String,
    signing_request: Vec<u8>,
) -> Result<Enrolled, Stop> {
    let state = core.state();
    let member = state.member(NodeId(node)).cloned().ok_or_else(|| {
        refuse(
            format!("node {node} is not a member any more"),
            "join it anew with a token: vfsd token create, then vfsd join",
        )
    })?;
    check_address(&address)?;
    remove(core, &member.name).await?;
    // A token of the leader's own, so that the id comes from a log index as for every other node.
    let secret: [u8; 16] = rand::random();
    let expires_secs = clock::wall().secs + REJOIN_TOKEN_SECS;
    let expires = WallTime {
        secs: expires_secs,
        nanos: 0,
    };
    let token = JoinToken {
        digest: token::digest_of(&secret),
        grant: member.grant,
        expires,
        name: Some(member.name.clone()),
    };
    create_token(core, token).await?;
    let request = EnrolRequest {
        secret,
        expires_secs,
        name: member.name,
        address,
        age_public,
        signing_request,
    };
    admit(core, request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_hurt_in_a_path_are_refused() {
        assert!(["n1", "db-3", "A_b"].into_iter().all(is_valid_name));
        assert!(
            ["", "-x", "a/b", "..", "ä", "a b", &"x".repeat(64)]
                .into_iter()
                .all(|name| !is_valid_name(name))
        );
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
