//! Letting nodes in: a new one by its token, one that lost its state by its old certificate.
//!
//! Invariants: an id is the index of the log entry that gave it out, so it is never used again; a token is used up in
//! the log before a certificate is signed, and only for a request that can be fulfilled; a request that is asked again
//! gets the same id. Not here: what a token is (`transport/token.rs`).

use std::sync::Arc;

use crate::clock;
use crate::consensus::cluster::authority_change;
use crate::consensus::cluster::change_steps::{
    Stop, add_learner, check_level, leave_raft, refuse, turn,
};
use crate::consensus::cluster::node_name::{check_address, check_name};
use crate::consensus::core::Core;
use crate::limits::LEARNERS_MAX;
use crate::state_machine::command::{Command, Newcomer};
use crate::state_machine::fs_error::FsError;
use crate::state_machine::ids::NodeId;
use crate::state_machine::level::Level;
use crate::state_machine::outcome::Done;
use crate::transport::enrol::{EnrolRequest, Enrolled};
use crate::transport::identity;
use crate::transport::token;

/// Lets a node in that has a token.
pub(in crate::consensus) async fn admit(
    core: &Arc<Core>,
    request: EnrolRequest,
) -> Result<Enrolled, Stop> {
    check_name(&request.name)?;
    check_address(&request.address)?;
    let newcomer = newcomer(
        request.name.clone(),
        request.address.clone(),
        request.age_public.clone(),
        &request.signing_request,
    )?;
    let _turn = turn(core).await?;
    authority_change::check_settled(core)?;
    let digest = token::digest_of(&request.secret);
    // One that was let in already is told again what it did not hear; the table compares all that it says.
    if core.view.state().enrolment_of_key(&newcomer.key).is_none() {
        check_level(core, Level::ENROLMENTS)?;
        check_token(core, &digest, &request)?;
        check_name_free(core, &request.name)?;
        check_address_free(core, &request.address, None)?;
        check_room(core, None)?;
        check_signs(core, &request.signing_request)?;
    }
    let command = Command::Admit {
        token: digest,
        newcomer,
    };
    match core.writer.write_own(command).await?.1 {
        Some(Ok(Done::Member(node))) => {
            welcome(core, node.0, &request.address, &request.signing_request).await
        }
        Some(Err(FsError::AlreadyExists)) => Err(refuse(
            format!(
                "the key of this node was used to join as another one than {}",
                request.name
            ),
            "remove the unfinished data directory there and join it again with a new token",
        )),
        // It was valid a moment ago: another node was faster.
        other => {
            tracing::warn!(?other, "a join token could not be used");
            Err(used_token())
        }
    }
}

/// Gives the member `node`, which lost its state, a new id as learner. Its certificate has proved who it is.
pub(in crate::consensus) async fn rejoin(
    core: &Arc<Core>,
    node: u64,
    address: String,
    age_public: String,
    signing_request: Vec<u8>,
) -> Result<Enrolled, Stop> {
    check_address(&address)?;
    let _turn = turn(core).await?;
    authority_change::check_settled(core)?;
    let state = core.view.state();
    let former = NodeId(node);
    let member = match state.enrolment_after(former) {
        Some(enrolment) => state.member(enrolment.node),
        None => state.member(former),
    };
    let member = member.cloned().ok_or_else(|| {
        refuse(
            format!("node {node} is not a member any more"),
            "join it anew with a token: vfsd token create, then vfsd join",
        )
    })?;
    let newcomer = newcomer(
        member.name.clone(),
        address.clone(),
        age_public,
        &signing_request,
    )?;
    if state.enrolment_after(former).is_none() {
        check_level(core, Level::ENROLMENTS)?;
        check_address_free(core, &address, Some(former))?;
        check_room(core, Some(node))?;
        check_signs(core, &signing_request)?;
        // Before it has its new id: the old one must never vote again.
        leave_raft(core, &member).await?;
    }
    let command = Command::Readmit {
        node: former,
        newcomer,
    };
    match core.writer.write_own(command).await?.1 {
        Some(Ok(Done::Member(new))) => welcome(core, new.0, &address, &signing_request).await,
        Some(Err(FsError::AlreadyExists)) => Err(refuse(
            format!(
                "node {node} has rejoined as node {} with another key",
                member.node
            ),
            format!(
                "if that was another attempt whose data is lost: vfsd member remove {}, then join it anew",
                member.name
            ),
        )),
        other => Err(refuse(
            format!("node {node} got no new id: {other:?}"),
            "try again; if it stays so, remove it and join it anew",
        )),
    }
}

fn newcomer(
    name: String,
    address: String,
    age_public: String,
    signing_request: &[u8],
) -> Result<Newcomer, Stop> {
    let key = identity::requested_key(signing_request).map_err(|error| {
        refuse(
            format!("the signing request of {name} cannot be used: {error}"),
            "the token is not used up; join with the same version of vfsd as the cluster's",
        )
    })?;
    Ok(Newcomer {
        name,
        address,
        age_public,
        key,
    })
}

/// Whether a certificate can be made, before anything is changed for it.
fn check_signs(core: &Core, signing_request: &[u8]) -> Result<(), Stop> {
    let signed = core.authority.sign(signing_request, core.view.id);
    signed.map(drop).map_err(|error| cannot_sign(&error))
}

fn cannot_sign(error: &anyhow::Error) -> Stop {
    refuse(
        format!("the leader cannot sign the node's certificate: {error:#}"),
        "run vfsd rejoin on the leader; the token is not used up",
    )
}

fn check_name_free(core: &Core, name: &str) -> Result<(), Stop> {
    let state = core.view.state();
    let Some(taken) = state.members().find(|member| member.name == name) else {
        return Ok(());
    };
    let node = taken.node;
    Err(refuse(
        format!("there is a member {name} already (node {node})"),
        format!("take another --node, or remove the old one first: vfsd member remove {name}"),
    ))
}

/// Whether no other member than `own` is reached by the address: two that share one would be taken for each other.
fn check_address_free(core: &Core, address: &str, own: Option<NodeId>) -> Result<(), Stop> {
    let state = core.view.state();
    let mut others = state.members().filter(|member| Some(member.node) != own);
    let Some(taken) = others.find(|member| member.address == address) else {
        return Ok(());
    };
    let (name, node) = (&taken.name, taken.node);
    Err(refuse(
        format!("{address} is the address of the member {name} (node {node})"),
        format!(
            "give the address of this node as --listen, or remove {name} first if it is gone: vfsd member remove {name}"
        ),
    ))
}

/// Whether one more learner has room, when `leaving` goes.
fn check_room(core: &Core, leaving: Option<u64>) -> Result<(), Stop> {
    let metrics = core.view.metrics();
    let membership = metrics.membership_config.membership();
    let staying = membership.learner_ids().filter(|id| Some(*id) != leaving);
    check_one_more_learner(staying.count())
}

fn check_one_more_learner(learners: usize) -> Result<(), Stop> {
    if learners < LEARNERS_MAX {
        return Ok(());
    }
    Err(refuse(
        format!("the cluster has {learners} learners, the most that it serves"),
        "remove one first: vfsd member remove NAME",
    ))
}

fn used_token() -> Stop {
    refuse(
        "the join token was used already, or this cluster never made it",
        "make a new one on any member: vfsd token create",
    )
}

fn check_token(core: &Core, digest: &[u8; 32], request: &EnrolRequest) -> Result<(), Stop> {
    let state = core.view.state();
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
        .map_err(|error| cannot_sign(&error))?;
    add_learner(core, node, address).await?;
    let metrics = core.view.metrics();
    let members = metrics.membership_config.membership().nodes();
    Ok(Enrolled {
        node,
        cluster: core.view.state().cluster().to_owned(),
        certificate: certificate.to_vec(),
        ca: core.authority.certificate().to_vec(),
        members: members.map(|(id, node)| (*id, node.addr.clone())).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thirty_third_learner_is_refused_and_the_one_before_is_not() {
        assert!(check_one_more_learner(31).is_ok());
        let Err(Stop::Refused(refusal)) = check_one_more_learner(32) else {
            panic!("asking again changes nothing");
        };
        assert!(
            refusal.message.contains("32 learners"),
            "{}",
            refusal.message
        );
        assert!(refusal.hint.contains("member remove"), "{}", refusal.hint);
    }
}
