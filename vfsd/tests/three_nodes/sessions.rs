//! Sessions of members that are killed: what ends with them, what goes on, and what is too late.

use vfsd::consensus::wire::{Reply, Request};
use vfsd::state_machine::command::{Author, Entry, Origin};
use vfsd::state_machine::fs_error::FsError;
use vfsd::state_machine::ids::RequestNo;

use super::members::{leader_of, lock, three, wait_for, wait_until};

#[test]
fn a_lock_ends_with_the_session_of_a_node_that_died() {
    let mut members = three();
    let holder = members
        .iter()
        .position(|member| !member.is_leader())
        .unwrap();
    members[holder].make_lock("job").unwrap();
    members[holder].crash();
    let other = (holder + 1) % 3;
    assert_eq!(members[other].make_lock("job"), Err(FsError::AlreadyExists));
    wait_until(
        "the lock to be free after the session's TTL and the lock's delay",
        || members[other].make_lock("job").is_ok(),
    );
}

#[test]
fn a_restart_within_the_ttl_resumes_the_session() {
    let mut members = three();
    let restarted = members
        .iter()
        .position(|member| !member.is_leader())
        .unwrap();
    members[restarted].create("opens a session").unwrap();
    let session = members[restarted].node().proposer().session().unwrap();
    members[restarted].crash();
    members[restarted].start();
    let resumed = wait_for("a session", || {
        members[restarted].node().proposer().session()
    });
    assert_eq!(resumed, session);
}

/// Its caller was told that it failed, when the mount went away.
#[test]
fn a_lock_that_was_asked_for_before_a_kill_is_not_taken_after_the_session_is_resumed() {
    let mut members = three();
    let killed = (leader_of(&members) + 1) % 3;
    members[killed].create("opens a session").unwrap();
    let session = members[killed].node().proposer().session().unwrap();
    members[killed].crash();
    members[killed].start();
    wait_for("a session", || members[killed].node().proposer().session());
    let request = RequestNo(RequestNo::first_of(1).0 + 1_000);
    let late = Entry {
        origin: Some(Origin {
            session,
            request,
            settled_below: request,
            abandoned: Vec::new(),
        }),
        ..Entry::new(Author::default(), lock("late"))
    };
    let late = late.encode();
    let outcome = wait_for("the leader's answer", || {
        let leader = &members[leader_of(&members)];
        match members[killed].ask(leader, Request::Propose(&late)) {
            Ok(Reply::Proposed { outcome, .. }) => outcome,
            _ => None,
        }
    });
    assert_eq!(outcome, Err(FsError::OutcomeForgotten));
    members[killed].make_lock("late").unwrap();
}
