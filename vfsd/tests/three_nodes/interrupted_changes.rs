//! Changes of the members that something cuts short: a majority that goes, a leader that dies, a key that is not there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use openraft::ChangeMembers;
use vfsd::cli::setup;
use vfsd::consensus::wire::{ClusterChange, Request};
use vfsd::limits::MEMBER_CHANGE_TIMEOUT;

use super::members::{LONG, Member, leader_of, three, wait_for_equal_digests, wait_until};

/// The asker waits for an answer, and the next change for this one.
#[test]
fn a_change_whose_majority_goes_in_the_middle_of_it_is_answered() {
    let mut members = three();
    let mut learner = Member::new("n4");
    learner.join(&members[0], &members[0].token(3_600)).unwrap();
    learner.start();
    wait_for_equal_digests(&[&members[0], &members[1], &members[2], &learner]);
    let leader = leader_of(&members);
    let core = Arc::clone(members[leader].node().core());
    let turn = members[leader].block_on(Arc::clone(&core.changing).lock_owned());
    let asked = {
        let core = Arc::clone(&core);
        let promote = Request::Change(ClusterChange::Promote { name: "n4".into() });
        let (runtime, _) = members[leader].running.as_ref().unwrap();
        runtime.spawn(async move { core.link.ask_leader(promote, LONG).await })
    };
    for other in [(leader + 1) % 3, (leader + 2) % 3] {
        members[other].crash();
    }
    let begun = Instant::now();
    drop(turn);
    let answer = members[leader].block_on(asked).unwrap();
    assert!(begun.elapsed() < MEMBER_CHANGE_TIMEOUT, "{answer:?}");
    let said = format!("{answer:?}");
    assert!(said.contains("majority"), "{said}");
    // And it holds up no other one.
    for other in [(leader + 1) % 3, (leader + 2) % 3] {
        members[other].start();
    }
    let promote = ClusterChange::Promote { name: "n4".into() };
    let promoted = super::members::wait_for("the change to be made", || {
        members[leader].change(promote.clone()).ok()
    });
    assert!(promoted.contains("n4"), "{promoted}");
}

/// The leader died between Raft's part of it and the table's.
#[test]
fn a_removal_that_stopped_half_way_is_finished_when_it_is_asked_again() {
    let members = three();
    let leader = leader_of(&members);
    let removed = &members[(leader + 1) % 3];
    let (id, name) = (removed.node().core().view.id, removed.name.to_owned());
    let view = &members[leader].node().core().view;
    let leave = ChangeMembers::RemoveVoters(BTreeSet::from([id]));
    let left = members[leader].block_on(view.raft.change_membership(leave, false));
    left.unwrap();
    let is_member = || view.state().members().any(|member| member.node.0 == id);
    assert!(is_member(), "the table still has it");
    let remove = ClusterChange::Remove { name };
    let done = members[leader].change(remove.clone()).unwrap();
    assert!(done.contains("is removed for good"), "{done}");
    assert!(!is_member());
    let gone = members[leader].change(remove).unwrap_err();
    assert!(gone.contains("there is no member"), "{gone}");
    members[leader].create("the others go on").unwrap();
}

/// A key that was lost is no reason to waste what a person was given.
#[test]
fn a_leader_without_the_authoritys_key_lets_nobody_in_and_uses_up_no_token() {
    let mut first = Member::new("n1");
    setup::found_cluster(&first.as_new(), "test").unwrap();
    let key = first.data().join("tls/ca.key");
    let aside = first.dir.path().join("ca.key");
    std::fs::rename(&key, &aside).unwrap();
    first.start();
    wait_until("n1 to lead", || first.is_leader());
    let token = first.token(3_600);
    let mut joining = Member::new("n2");
    let refused = joining.join(&first, &token).unwrap_err().to_string();
    assert!(refused.contains("cannot sign"), "{refused}");
    let state = first.node().core().view.state();
    assert_eq!(state.members().count(), 1);
    first.stop();
    std::fs::rename(&aside, &key).unwrap();
    first.start();
    wait_until("n1 to lead again", || first.is_leader());
    joining.join(&first, &token).unwrap();
    joining.start();
    joining.create("let in").unwrap();
}

/// Until the killed leader is back there is nobody to elect: the one that is left has no majority.
#[test]
fn a_rejoin_waits_for_the_election_after_the_death_of_the_leader() {
    let mut members = three();
    wait_for_equal_digests(&[&members[0], &members[1], &members[2]]);
    let leader = leader_of(&members);
    let lost = (leader + 1) % 3;
    let old = members[lost].node().core().view.id;
    members[lost].stop();
    members[leader].crash();
    let (heard, rejoining) = members[lost].begin_rejoin();
    let waited_for = heard.recv_timeout(LONG).unwrap();
    assert!(waited_for.contains("does not lead"), "{waited_for}");
    members[leader].start();
    let rejoined = rejoining.join().unwrap().unwrap();
    assert!(rejoined > old);
    members[lost].start();
    members[lost].create("after").unwrap();
    wait_for_equal_digests(&[&members[0], &members[1], &members[2]]);
}
