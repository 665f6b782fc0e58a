//! From one certificate authority to the next, without a restart: what a removed voter knows becomes useless.
//!
//! Invariants: every voter has the new key before the new authority is trusted; no certificate of it is shown before
//! all members trust it; the old one is trusted until all members have such a certificate. The state says where the
//! cluster stands, so any leader goes on from there, and a member that is away only delays it. Not here: files and
//! connections (`authority.rs`).

use std::sync::Arc;

use crate::consensus::cluster::change_steps::{Stop, check_level, not_yet, refuse, turn};
use crate::consensus::core::Core;
use crate::consensus::leader_link::AskError;
use crate::consensus::wire::{AuthorityRequest, AuthorityView, Reply, Request};
use crate::limits::{
    AUTHORITY_ASK_MAX, AUTHORITY_CHECK_BEATS, LEADER_RETRY_EVERY, MEMBER_CHANGE_TIMEOUT,
};
use crate::state_machine::command::{AuthorityStep, Command, Member, NextAuthority};
use crate::state_machine::level::Level;
use crate::state_machine::outcome::Done;
use crate::transport::identity;

/// Begins a change of the authority `from`, or goes on with the one that there is, and waits until it is done.
pub(in crate::consensus) async fn rotate(core: &Arc<Core>, from: [u8; 32]) -> Result<String, Stop> {
    const DONE: &str =
        "the cluster has a new certificate authority; the old one and its tokens are void";
    let before = {
        let _turn = turn(core).await?;
        let state = core.view.state();
        if state.authority().next.is_none() {
            if core.authority.digest() != from {
                return Ok(DONE.into());
            }
            check_level(core, Level::AUTHORITIES)?;
            begin(core).await?;
        }
        state.authority().present.clone()
    };
    let is_done = || {
        let state = core.view.state();
        let authority = state.authority();
        authority.next.is_none()
            && authority.present != before
            && core.authority.certificate().as_ref() == authority.present
    };
    let deadline = tokio::time::Instant::now() + MEMBER_CHANGE_TIMEOUT;
    while !is_done() {
        if core.view.leading_term().is_none() {
            return Err(Stop::NotLeader);
        }
        if tokio::time::Instant::now() > deadline {
            return Err(not_yet(
                format!(
                    "the authority is not changed yet: {}",
                    core.authority.waits_for()
                ),
                "start or remove that member; it goes on by itself. To wait for it: vfsd ca rotate",
            ));
        }
        tokio::time::sleep(LEADER_RETRY_EVERY).await;
    }
    Ok(DONE.into())
}

/// While an authority is on its way in, no node gets a certificate or a key of the one that goes.
pub(in crate::consensus) fn check_settled(core: &Core) -> Result<(), Stop> {
    if core.view.state().authority().next.is_none() {
        return Ok(());
    }
    Err(not_yet(
        format!(
            "the certificate authority is being changed: {}",
            core.authority.waits_for()
        ),
        "try again when it is done; to wait for it: vfsd ca rotate",
    ))
}

/// Makes a new authority, gives its key to every voter, and has it trusted.
async fn begin(core: &Arc<Core>) -> Result<(), Stop> {
    let state = core.view.state();
    let made = core.authority.prepare_next(state.cluster());
    let (certificate, key) = made.map_err(|error| {
        refuse(
            format!("the leader cannot make an authority: {error:#}"),
            "see on the leader: journalctl -u vfsd -n 20",
        )
    })?;
    for member in state
        .members()
        .filter(|member| core.view.is_voter(member.node.0))
    {
        let handed = hand_key(core, member, &certificate, &key).await;
        handed.map_err(|reason| {
            not_yet(
                format!(
                    "{} did not take the new key ({reason}): every voter needs it",
                    member.name
                ),
                "start it or remove it first; nothing was changed",
            )
        })?;
    }
    let step = AuthorityStep::Trust(certificate);
    match core.writer.write_own(Command::Authority(step)).await?.1 {
        Some(Ok(Done::Unit)) => Ok(()),
        other => Err(refuse(
            format!("the authority cannot be changed now: {other:?}"),
            "see: vfsd ca rotate",
        )),
    }
}

async fn hand_key(
    core: &Arc<Core>,
    member: &Member,
    certificate: &[u8],
    key: &str,
) -> Result<(), String> {
    let request = AuthorityRequest::TakeKey {
        certificate: certificate.to_vec(),
        key: key.to_owned(),
    };
    match ask(core, member, request).await? {
        Reply::AuthorityTaken => Ok(()),
        other => Err(format!("it gave an unexpected answer: {other:?}")),
    }
}

/// Runs until it is dropped: this node follows the state, and as leader brings the others along.
pub async fn run(core: Arc<Core>) {
    let from = core.log.committed().map_or(0, |position| position.index);
    let mut beats = core.beat.every(AUTHORITY_CHECK_BEATS);
    loop {
        let state = core.view.state();
        if state.applied().0 >= from
            && let Err(error) = core.authority.follow(state.authority())
        {
            tracing::error!("cannot change the certificate authority here: {error:#}");
        }
        if let Some(next) = &state.authority().next
            && let Some(term) = core.view.leading_term()
        {
            advance(&core, term, next).await;
        }
        beats.next().await;
    }
}

/// Brings every member as far as the present step asks, and takes the next one when all are there.
async fn advance(core: &Arc<Core>, term: u64, next: &NextAuthority) {
    if !next.is_issuing && core.authority.next_key_pem(&next.certificate).is_none() {
        // Nobody has a certificate of it yet, and its key may be lost: another one takes its place.
        if let Ok(_turn) = turn(core).await
            && let Err(Stop::NotYet(refusal) | Stop::Refused(refusal)) = begin(core).await
        {
            core.authority.note_waits_for(refusal.message);
        }
        return;
    }
    let mut lacking = Vec::new();
    for member in core.view.state().members() {
        if let Err(reason) = bring(core, member, next).await {
            lacking.push(format!("{}: {reason}", member.name));
        }
    }
    core.authority.note_waits_for(lacking.join("; "));
    if !lacking.is_empty() {
        return;
    }
    let step = if next.is_issuing {
        AuthorityStep::Only
    } else {
        AuthorityStep::Issue
    };
    tracing::info!(
        ?step,
        "all members are ready for the next certificate authority"
    );
    if let Err(error) = core
        .writer
        .write_own_in_term(term, Command::Authority(step))
        .await
    {
        core.authority.note_waits_for(error.to_string());
    }
}

/// Whether `member` has done what the step asks; does what the leader can do for it.
async fn bring(core: &Arc<Core>, member: &Member, next: &NextAuthority) -> Result<(), String> {
    let digest = identity::digest(&next.certificate.as_slice().into());
    let view = match ask(core, member, AuthorityRequest::View).await? {
        Reply::AuthorityView(view) => view,
        other => return Err(format!("it gave an unexpected answer: {other:?}")),
    };
    if view.trusts != Some(digest) {
        return Err("it does not trust the new one yet".into());
    }
    let key = core.authority.next_key_pem(&next.certificate);
    let key = key.ok_or("the leader has no key of the new one")?;
    if core.view.is_voter(member.node.0) && view.holds != Some(digest) {
        hand_key(core, member, &next.certificate, &key).await?;
    }
    if !next.is_issuing || view.is_certified {
        return Ok(());
    }
    certify(core, member, &view).await
}

/// Gives `member` a certificate of the next authority, for the key that it was let in with.
async fn certify(core: &Arc<Core>, member: &Member, view: &AuthorityView) -> Result<(), String> {
    let key = identity::requested_key(&view.request).map_err(|error| error.to_string())?;
    let state = core.view.state();
    // A former voter could speak for others as long as the old authority is trusted.
    if state
        .enrolment(member.node)
        .is_some_and(|enrolment| enrolment.key != key)
    {
        return Err("it asks with another key than the one that it joined with".into());
    }
    let certificate = core.authority.sign_next(&view.request, member.node.0);
    let certificate = certificate.map_err(|error| format!("{error:#}"))?;
    let request = AuthorityRequest::TakeCertificate(certificate.to_vec());
    match ask(core, member, request).await? {
        Reply::AuthorityTaken => Ok(()),
        other => Err(format!("it gave an unexpected answer: {other:?}")),
    }
}

/// Asks a member at the address that the cluster knows; it may be this node.
async fn ask(
    core: &Arc<Core>,
    member: &Member,
    request: AuthorityRequest,
) -> Result<Reply, String> {
    if member.node.0 == core.view.id {
        return answer(core, request);
    }
    let request = Request::Authority(request);
    let asked = core
        .link
        .ask(member.node.0, &member.address, request, AUTHORITY_ASK_MAX);
    asked.await.map_err(|error| match error {
        AskError::Call(reason) => format!("it does not answer: {reason}"),
        other => other.to_string(),
    })
}

/// Answers the leader.
///
/// # Errors
/// Why it is refused.
pub(in crate::consensus) fn answer(
    core: &Core,
    request: AuthorityRequest,
) -> Result<Reply, String> {
    let authority = &core.authority;
    let done = match request {
        AuthorityRequest::View => authority.view().map(Reply::AuthorityView),
        AuthorityRequest::TakeKey { certificate, key } => {
            let key = zeroize::Zeroizing::new(key);
            let state = core.view.state();
            let next = state.authority().next.as_ref();
            if next.is_some_and(|next| next.is_issuing && next.certificate != certificate) {
                return Err("another authority is on its way in".into());
            }
            let taken = authority.take_next(&certificate, &key);
            taken.map(|()| Reply::AuthorityTaken)
        }
        AuthorityRequest::TakeCertificate(certificate) => {
            let taken = authority.take_certificate(certificate);
            taken.map(|()| Reply::AuthorityTaken)
        }
    };
    done.map_err(|error| format!("{error:#}"))
}
