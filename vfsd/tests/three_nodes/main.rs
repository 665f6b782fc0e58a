//! Three members in one process, over real TLS on 127.0.0.1, with real logs in temporary directories. A crash is the
//! end of a member's runtime: all of its tasks stop where they are.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod interrupted_changes;
mod members;
mod older_copies;
mod sessions;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;
use rustls_pki_types::CertificateDer;
use vfsd::cli::setup;
use vfsd::consensus::cluster::peers::{Peers, Purpose};
use vfsd::consensus::cluster::peers_file;
use vfsd::consensus::leader_link::AskError;
use vfsd::consensus::wire::{Append, Ballot, ClusterChange, Reply, Request};
use vfsd::fs::difference::{self, Difference};
use vfsd::fs::proposer::{Proposal, ProposeError};
use vfsd::state_machine::command::{Author, Command, Create, Grant, JoinToken, NodeKind};
use vfsd::state_machine::fs_error::FsError;
use vfsd::state_machine::ids::{InodeNo, NodeId};
use vfsd::state_machine::log_time::WallTime;
use vfsd::storage::append_log::AppendLog;
use vfsd::storage::disk::RealDisk;
use vfsd::storage::record::{StoredEntry, Vote};
use vfsd::transport::client::CallError;
use vfsd::transport::enrol::{self, EnrolError, EnrolRequest, Enrolled};
use vfsd::transport::identity;
use vfsd::transport::tls::{LiveTls, TlsSettings};
use vfsd::transport::token::Token;

use members::{
    LONG, Member, SEGMENT, leader_of, names_made, three, wait_for, wait_for_equal_digests,
    wait_until,
};

#[test]
fn every_node_proposes_and_a_crashed_one_catches_up() {
    let mut members = three();
    for (member, name) in members.iter().zip(["a", "b", "c"]) {
        member.create(name).unwrap();
        assert_eq!(member.create(name), Err(FsError::AlreadyExists));
    }
    let leader = leader_of(&members);
    members[leader].crash();
    let (next, last) = ((leader + 1) % 3, (leader + 2) % 3);
    members[next].create("while one is away").unwrap();
    members[last].create("and another").unwrap();
    members[leader].start();
    members[leader].create("back again").unwrap();
    wait_for_equal_digests(&[&members[0], &members[1], &members[2]]);
}

/// Raft's timers are off here, so only what follows the end of the connection can bring another leader.
#[test]
fn a_leader_whose_daemon_is_gone_is_followed_without_a_timeout() {
    let mut members = three();
    let leader = leader_of(&members);
    let others = [(leader + 1) % 3, (leader + 2) % 3];
    for other in others {
        members[other]
            .node()
            .core()
            .view
            .raft
            .runtime_config()
            .elect(false);
    }
    members[leader].create("before").unwrap();
    members[leader].crash();
    wait_until("another leader", || {
        others.iter().any(|&other| members[other].is_leader())
    });
    members[others[0]].create("after").unwrap();
}

#[test]
fn nothing_acknowledged_is_lost_when_all_crash_at_once() {
    let mut members = three();
    for number in 0..30 {
        members[number % 3]
            .create(&format!("file {number}"))
            .unwrap();
    }
    members.iter_mut().for_each(Member::crash);
    members.iter_mut().for_each(Member::start);
    for number in 0..30 {
        assert_eq!(
            members[number % 3].create(&format!("file {number}")),
            Err(FsError::AlreadyExists)
        );
    }
    wait_for_equal_digests(&[&members[0], &members[1], &members[2]]);
}

/// A leader sends an entry before its own disk has it: a majority without it may commit the entry. Killed then, it has
/// lost what the others have. If it went on to lead in the same term, it would give the same log ids to other entries,
/// and no replica could tell (Raft, 5.3: the log matching property rests on one entry per term and index).
#[test]
fn a_leader_that_lost_its_own_tail_does_not_give_its_log_ids_again() {
    let mut members = three();
    let leader = leader_of(&members);
    members[leader].create("before").unwrap();
    wait_for_equal_digests(&[&members[0], &members[1], &members[2]]);
    let segments = |member: &Member| {
        let files = std::fs::read_dir(member.data().join("log")).unwrap();
        let files = files.map(|file| file.unwrap().path());
        let logs = files.filter(|path| path.extension().is_some_and(|suffix| suffix == "log"));
        logs.map(|path| (path.clone(), std::fs::read(path).unwrap()))
            .collect::<Vec<_>>()
    };
    let flushed = segments(&members[leader]);
    for number in 0..5 {
        members[leader].create(&format!("lost {number}")).unwrap();
    }
    wait_for_equal_digests(&[&members[0], &members[1], &members[2]]);
    members.iter_mut().for_each(Member::crash);
    // What the leader's disk would hold if none of its flushes after "before" had come, nor had been told of.
    for (path, bytes) in flushed {
        std::fs::write(path, bytes).unwrap();
    }
    for member in &members {
        drop(std::fs::remove_file(member.data().join("pledges.json")));
    }
    members[leader].start();
    let next = (leader + 1) % 3;
    members[next].start();
    members[leader].create("after").unwrap();
    members[(leader + 2) % 3].start();
    for number in 0..5 {
        assert_eq!(
            members[next].create(&format!("lost {number}")),
            Err(FsError::AlreadyExists)
        );
    }
    wait_for_equal_digests(&[&members[0], &members[1], &members[2]]);
}

/// Puts another entry under the same log id into the log of a member that is down, as a faulty build or disk would.
fn write_history_anew(member: &Member) {
    let log = AppendLog::open_with(&member.data().join("log"), SEGMENT).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let read = log.entries(0..u64::MAX, u64::MAX);
    let entries = runtime.unwrap().block_on(read).unwrap();
    let is_target = |entry: &StoredEntry| {
        let text = b"told alike";
        entry.payload.windows(text.len()).any(|part| part == text)
    };
    let from = entries.iter().position(is_target).unwrap();
    log.truncate_after(Some(entries[from].position.index - 1));
    let changed = entries[from..].iter().map(|entry| {
        let mut payload = entry.payload.to_vec();
        if let Some(at) = payload.windows(10).position(|part| part == b"told alike") {
            payload[at..at + 10].copy_from_slice(b"otherwise!");
        }
        StoredEntry {
            payload: payload.into(),
            ..entry.clone()
        }
    });
    log.append(changed, Box::new(|_| {}));
    log.close();
}

#[test]
fn a_member_whose_state_differs_from_the_majority_stops_and_says_what_to_do() {
    let mut members = three();
    members[0].create("told alike").unwrap();
    wait_for_equal_digests(&[&members[0], &members[1], &members[2]]);
    let leader = leader_of(&members);
    let liar = (leader + 1) % 3;
    members[liar].crash();
    write_history_anew(&members[liar]);
    members[liar].start();
    assert!(members[liar].ends_as_unfit().contains("vfsd rejoin"));
    members[leader].create("the others go on").unwrap();
}

#[test]
fn where_no_state_has_a_majority_nobody_writes() {
    let mut members = three();
    members[0].create("told alike").unwrap();
    wait_for_equal_digests(&[&members[0], &members[1], &members[2]]);
    let leader = leader_of(&members);
    let (liar, away) = ((leader + 1) % 3, (leader + 2) % 3);
    members[away].crash();
    members[liar].crash();
    write_history_anew(&members[liar]);
    members[liar].start();
    for member in [leader, liar] {
        wait_until("both to turn read-only", || {
            let status = members[member].node().status().current();
            !status.quorum && status.why.contains("differ")
        });
    }
    // The third decides, and the one that differs from it and the leader is out.
    members[away].start();
    // One that led and went on would go on telling the others that nobody may write.
    assert!(members[liar].ends_as_unfit().contains("vfsd rejoin"));
    members[leader].create("and the rest goes on").unwrap();
}

/// A node that has just passed a barrier may write: what its calls are allowed by is not a beat old.
#[test]
fn the_status_tells_of_the_quorum_as_it_is_now() {
    let members = three();
    let node = members[0].node();
    let quorum = &node.core().quorum;
    // A beat in between tells that there is one.
    let shown = (0..100).find_map(|_| {
        quorum.publish(false, Vec::new(), "the test says so".into());
        let shown = node.status().current();
        (!quorum.has()).then_some(shown)
    });
    let shown = shown.unwrap();
    assert!(
        !shown.quorum && shown.why == "the test says so",
        "{shown:?}"
    );
}

#[test]
fn without_a_majority_proposals_fail_and_say_why() {
    let mut members = three();
    members[0].create("before").unwrap();
    members[1].crash();
    members[2].crash();
    let status = wait_for("n1 to notice", || {
        let status = members[0].node().status().current();
        (!status.quorum).then_some(status)
    });
    wait_until("n1 to name both", || {
        let status = members[0].node().status().current();
        status.missing == ["n2", "n3"] && status.why.contains("do not answer")
    });
    assert!(!status.why.is_empty());
    let proposal = Proposal {
        author: Author::default(),
        fence: None,
        command: Command::Nothing,
        bound_to: None,
    };
    let refused = members[0].block_on(members[0].node().proposer().propose(proposal));
    assert!(
        matches!(refused, Err(ProposeError::NoQuorum(_))),
        "{refused:?}"
    );
    members[1].start();
    members[0].create("after").unwrap();
}

#[test]
fn a_node_that_was_away_for_long_gets_a_snapshot() {
    let mut members = three();
    let away = members
        .iter()
        .position(|member| !member.is_leader())
        .unwrap();
    let leader = leader_of(&members);
    members[leader].create_large("before");
    wait_for_equal_digests(&[&members[away], &members[leader]]);
    members[away].take_snapshot();
    let before = members[away].blobs();
    assert_eq!(before.len(), 1);
    members[away].crash();
    members[leader].create_large("meanwhile");
    for number in 0..20 {
        members[leader].create(&format!("file {number}")).unwrap();
    }
    let core = members[leader].node().core();
    let applied = members[leader].applied();
    members[leader].take_snapshot();
    members[leader]
        .block_on(core.view.raft.trigger().purge_log(applied))
        .unwrap();
    wait_until("the purge", || {
        core.view
            .metrics()
            .purged
            .is_some_and(|id| id.index >= applied)
    });
    members[away].start();
    wait_for_equal_digests(&[&members[0], &members[1], &members[2]]);
    let told = members[away].told.0.lock().unwrap().snapshot.take();
    let (old, new) = told.expect("whoever follows the changes is told of both states");
    let known = BTreeSet::from([InodeNo::ROOT]);
    let Difference::Changes(changes) = difference::between(&old, &new, &known, usize::MAX) else {
        panic!("there is no bound")
    };
    let brought: BTreeSet<String> = names_made(&changes).collect();
    let files = (0..20).map(|number| format!("file {number}"));
    let expected: BTreeSet<String> = files.chain(["meanwhile".into()]).collect();
    assert_eq!(brought, expected);
    members[away].create("after the snapshot").unwrap();
    let after = members[away].blobs();
    assert_eq!(after.len(), 2);
    for (digest, stored) in before {
        assert_eq!(
            after[&digest], stored,
            "what it had is neither sent nor written again"
        );
    }
    // What a snapshot holds by digest is read back at the next start.
    members[away].crash();
    members[away].start();
    wait_for_equal_digests(&[&members[0], &members[1], &members[2]]);
}

/// A caller that is killed leaves its proposal at any moment. What is committed then has been announced by no call: the
/// node is told so once, when it applies it or when the answer is left.
#[test]
fn a_change_whose_caller_has_left_is_told_as_nobodys_on_its_own_node() {
    let members = three();
    let leader = &members[leader_of(&members)];
    let proposer = leader.node().proposer();
    let mut left = Vec::new();
    for number in 0..60 {
        let name = format!("f{number}");
        let create = Create {
            parent: InodeNo::ROOT,
            name: name.clone().into_bytes(),
            kind: NodeKind::Regular,
            mode: 0o644,
            uid: 0,
            gid: 0,
            exclusive: true,
            handle: None,
        };
        let proposal = Proposal {
            author: Author::default(),
            fence: None,
            command: Command::Create(create),
            bound_to: None,
        };
        let patience = Duration::from_micros(100 * number);
        let answered = leader.block_on(async {
            let answer = proposer.propose(proposal);
            tokio::time::timeout(patience, answer).await
        });
        left.extend(answered.is_err().then_some(name));
    }
    leader.create("after them all").unwrap();
    let is_made = |name: &String| {
        let state = leader.node().core().view.state();
        state.tree().lookup(InodeNo::ROOT, name.as_bytes()).is_ok()
    };
    let made: Vec<String> = left.into_iter().filter(is_made).collect();
    assert!(!made.is_empty(), "none was committed after its caller left");
    for name in &made {
        wait_until("it to be told", || {
            let told = leader.told.0.lock().unwrap();
            told.made[name] == told.given_up.contains(name)
        });
    }
    let told = leader.told.0.lock().unwrap();
    assert!(told.made["after them all"] && !told.given_up.contains("after them all"));
    assert!(told.given_up.iter().all(|name| made.contains(name)));
}

#[test]
fn a_stopping_leader_hands_over_and_a_barrier_sees_what_was_committed_elsewhere() {
    let mut members = three();
    let leader = leader_of(&members);
    members[leader].create("seen by all").unwrap();
    let follower = &members[(leader + 1) % 3];
    let index = follower
        .block_on(follower.node().proposer().barrier())
        .unwrap();
    let state = follower.node().core().view.state();
    assert!(state.applied() >= index);
    assert!(state.tree().lookup(InodeNo::ROOT, b"seen by all").is_ok());
    members[leader].stop();
    wait_until("another leader", || {
        (1..3).any(|step| members[(leader + step) % 3].is_leader())
    });
}

#[test]
fn tokens_that_are_used_expired_or_foreign_are_refused_with_a_reason() {
    let mut first = Member::new("n1");
    setup::found_cluster(&first.as_new(), "test").unwrap();
    first.start();
    let mut other = Member::new("x1");
    setup::found_cluster(&other.as_new(), "other").unwrap();
    other.start();
    let joining = Member::new("n2");
    let used = first.token(3_600);
    let expired = first.token(-720);
    let foreign = other.token(3_600);
    let refusal = |token: &Token| joining.join(&first, token).unwrap_err().to_string();
    assert_eq!(refusal(&expired), "the join token expired 12 min ago");
    let of_another = refusal(&foreign);
    let digests = [&foreign, &used].map(|token| HEXLOWER.encode(&token.ca_digest[..8]));
    assert!(
        of_another.starts_with("the join token is for another cluster than the one at ")
            && digests.iter().all(|digest| of_another.contains(digest)),
        "{of_another}"
    );
    joining.join(&first, &used).unwrap();
    let third = Member::new("n3");
    let again = third.join(&first, &used).unwrap_err().to_string();
    assert!(
        again.starts_with("the join token was used already"),
        "{again}"
    );
}

#[test]
fn a_node_that_lost_its_log_rejoins_with_a_new_id() {
    let mut members = three();
    let lost = members
        .iter()
        .position(|member| !member.is_leader())
        .unwrap();
    let old_id = members[lost].node().core().view.id;
    members[lost].create("before the loss").unwrap();
    members[lost].stop();
    let log = members[lost].data().join("log");
    std::fs::remove_dir_all(&log).unwrap();
    std::fs::create_dir(&log).unwrap();
    assert!(members[lost].rejoin() > old_id);
    let beside = std::fs::read_dir(members[lost].dir.path()).unwrap();
    let names = beside.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(
        names
            .into_iter()
            .any(|name| name.starts_with("data.damaged-"))
    );
    members[lost].start();
    members[lost].create("after the loss").unwrap();
    let name = members[lost].name;
    members[(lost + 1) % 3]
        .change(ClusterChange::Promote { name: name.into() })
        .unwrap();
    wait_for_equal_digests(&[&members[0], &members[1], &members[2]]);
}

#[test]
fn a_removed_leader_is_refused_and_its_id_is_not_used_again() {
    let members = three();
    let leader = leader_of(&members);
    let removed = members[leader].node().core().view.id;
    let name = members[leader].name;
    let other = &members[(leader + 1) % 3];
    other
        .change(ClusterChange::Remove { name: name.into() })
        .unwrap();
    other.create("without it").unwrap();
    let proposal = Proposal {
        author: Author::default(),
        fence: None,
        command: Command::Nothing,
        bound_to: None,
    };
    wait_until("the removed node to be refused", || {
        let core = members[leader].node().core();
        let proposed =
            members[leader].block_on(members[leader].node().proposer().propose(proposal.clone()));
        proposed.is_err() && !core.quorum.has()
    });
    let token = other.token(3_600);
    let again = Member::new(name);
    assert!(again.join(other, &token).unwrap() > removed);
}

/// What a node called `name` asks that joins with `token`, and the key that it asks for.
fn enrol_request(token: &Token, member: &Member) -> EnrolRequest {
    EnrolRequest {
        secret: token.secret,
        expires_secs: token.expires_secs,
        name: member.name.into(),
        address: member.listen.clone(),
        age_public: format!("age1{}", member.name),
        signing_request: identity::KeyRequest::generate().unwrap().request,
    }
}

fn enrol(peer: &Member, token: &Token, request: &EnrolRequest) -> Result<Enrolled, EnrolError> {
    peer.block_on(enrol::enrol(&peer.listen, token.ca_digest, request))
}

/// Only whether the answer comes is unknown to a node that joins: it asks again, perhaps another member.
#[test]
fn a_join_that_is_asked_again_is_the_same_join() {
    let members = three();
    let (joining, other) = (Member::new("n4"), Member::new("n5"));
    let token = members[0].token(3_600);
    let request = enrol_request(&token, &joining);
    let first = enrol(&members[1], &token, &request).unwrap();
    let again = enrol(&members[2], &token, &request).unwrap();
    assert_eq!(again.node, first.node);
    let certificate = CertificateDer::from(again.certificate);
    assert_eq!(identity::node_of(&certificate).unwrap(), first.node);
    let foreign = enrol(&members[2], &token, &enrol_request(&token, &other)).unwrap_err();
    assert!(
        foreign
            .to_string()
            .starts_with("the join token was used already"),
        "{foreign}"
    );
}

#[test]
fn a_join_that_cannot_be_fulfilled_uses_up_no_token() {
    let members = three();
    let joining = Member::new("n4");
    let token = members[0].token(3_600);
    let broken = EnrolRequest {
        signing_request: b"nonsense".to_vec(),
        ..enrol_request(&token, &joining)
    };
    let refused = enrol(&members[1], &token, &broken).unwrap_err().to_string();
    assert!(refused.contains("signing request"), "{refused}");
    let state = members[0].node().core().view.state();
    assert!(state.members().all(|member| member.name != "n4"));
    joining.join(&members[1], &token).unwrap();
}

/// Two members that share an address would be taken for each other.
#[test]
fn nobody_joins_with_the_address_of_another_member() {
    let members = three();
    let joining = Member::new("n4");
    let token = members[0].token(3_600);
    let taken = &members[1].listen;
    let copied = EnrolRequest {
        address: taken.clone(),
        ..enrol_request(&token, &joining)
    };
    let refused = enrol(&members[2], &token, &copied).unwrap_err().to_string();
    let expected = format!("{taken} is the address of the member n2 (node ");
    assert!(refused.starts_with(&expected), "{refused}");
    joining.join(&members[2], &token).unwrap();
}

/// Each looks at how many voters there are before it makes one more.
#[test]
fn two_promotions_at_once_are_made_one_after_the_other() {
    let mut first = Member::new("n1");
    setup::found_cluster(&first.as_new(), "test").unwrap();
    first.start();
    wait_until("n1 to lead", || first.is_leader());
    let mut learners = ["n2", "n3"].map(Member::new);
    for learner in &mut learners {
        learner.join(&first, &first.token(3_600)).unwrap();
        learner.start();
    }
    let core = first.node().core();
    let promote = |name: &str| {
        let change = ClusterChange::Promote { name: name.into() };
        core.link
            .ask_leader_until(LONG, move || Request::Change(change.clone()))
    };
    let (two, three) = first.block_on(async { tokio::join!(promote("n2"), promote("n3")) });
    for promoted in [two, three] {
        assert!(
            matches!(promoted, Ok(Reply::Changed(Ok(_)))),
            "{promoted:?}"
        );
    }
    assert_eq!(core.view.metrics().membership_config.voter_ids().count(), 3);
}

/// The node asks by its old certificate until it has an answer; the first one may have been lost.
#[test]
fn a_rejoin_that_is_asked_again_gives_the_same_new_id() {
    let mut members = three();
    let lost = members
        .iter()
        .position(|member| !member.is_leader())
        .unwrap();
    let old = members[lost].node().core().view.id;
    members[lost].stop();
    let change = ClusterChange::Rejoin {
        address: members[lost].listen.clone(),
        age_public: "age1new".into(),
        signing_request: identity::KeyRequest::generate().unwrap().request,
    };
    let identity = setup::load_identity(&members[lost].data().join("tls")).unwrap();
    let tls = LiveTls::new(TlsSettings::new(&identity).unwrap());
    let ask = |member: &Member, change: &ClusterChange| {
        // A connection of its own for each request: none of them sees the end of another.
        let peers = Peers::new(Arc::clone(&tls));
        let node = member.node().core().view.id;
        let channel = peers.channel(node, &member.listen, Purpose::Control);
        let request = Request::Change(change.clone()).encode();
        let answer = member.block_on(channel.call(request, LONG));
        Reply::decode(&answer.unwrap()).unwrap()
    };
    let asked = |change: &ClusterChange| {
        wait_for("the leader to answer", || {
            let running = members.iter().filter(|member| member.running.is_some());
            running
                .map(|member| ask(member, change))
                .find_map(|reply| match reply {
                    Reply::Enrolled(reply) => Some(reply),
                    _ => None,
                })
        })
    };
    let first = asked(&change).unwrap();
    let again = asked(&change).unwrap();
    assert!(first.node > old && again.node == first.node);
    // The old certificate is good for nothing else.
    let other = ClusterChange::Rejoin {
        address: members[lost].listen.clone(),
        age_public: "age1new".into(),
        signing_request: identity::KeyRequest::generate().unwrap().request,
    };
    assert!(asked(&other).unwrap_err().message.contains("another key"));
}

/// A node may have to rejoin a moment after it became a member, or after another one did.
#[test]
fn the_members_addresses_are_on_disk_from_the_first_membership_on() {
    let mut first = Member::new("n1");
    setup::found_cluster(&first.as_new(), "test").unwrap();
    first.start();
    wait_until("n1 to lead", || first.is_leader());
    let mut second = Member::new("n2");
    second.join(&first, &first.token(3_600)).unwrap();
    second.start();
    let known = |member: &Member| -> BTreeSet<String> {
        let members = peers_file::load(&RealDisk, &member.data().join("peers.json"));
        members.into_iter().map(|(_, address)| address).collect()
    };
    let both: BTreeSet<String> = [first.listen.clone(), second.listen.clone()].into();
    wait_until("n2 to know both", || known(&second) == both);
    let state = first.node().core().view.state();
    assert_eq!(state.members().count(), 2);
    first.stop();
    assert_eq!(known(&first), both);
}

/// A leader that has just lost a follower still leads, and can change nothing; the follower is started again.
#[test]
fn a_rejoin_waits_for_a_majority_and_says_so() {
    let mut members = three();
    let leader = leader_of(&members);
    let (lost, killed) = ((leader + 1) % 3, (leader + 2) % 3);
    wait_for_equal_digests(&[&members[0], &members[1], &members[2]]);
    members[lost].stop();
    members[killed].crash();
    let (heard, rejoining) = members[lost].begin_rejoin();
    let waited_for = heard.recv_timeout(LONG).unwrap();
    assert!(waited_for.contains("leads, but"), "{waited_for}");
    members[killed].start();
    rejoining.join().unwrap().unwrap();
    members[lost].start();
    members[lost].create("after").unwrap();
}

/// A connection breaks when its node is killed, or after a second of silence. What was begun goes on.
#[test]
fn a_change_goes_on_when_nobody_waits_for_it_any_more() {
    let mut members = three();
    let mut learner = Member::new("n4");
    learner.join(&members[0], &members[0].token(3_600)).unwrap();
    learner.start();
    let leader = leader_of(&members);
    let asking = (leader + 1) % 3;
    let (node, address) = (
        members[leader].node().core().view.id,
        members[leader].listen.clone(),
    );
    // Another change is under way, so this one waits for its turn.
    let changing = Arc::clone(&members[leader].node().core().changing);
    let turn = members[leader].block_on(changing.lock());
    let begun = members[asking].block_on(async {
        let promote = ClusterChange::Promote { name: "n4".into() };
        let core = members[asking].node().core();
        let asked = core
            .link
            .ask(node, &address, Request::Change(promote), LONG);
        tokio::time::timeout(Duration::from_millis(500), asked).await
    });
    assert!(begun.is_err(), "{begun:?}");
    members[asking].crash();
    drop(turn);
    wait_until("n4 to be a voter", || {
        let core = members[leader].node().core();
        core.view.is_voter(learner.node().core().view.id)
    });
}

/// A client that shows a certificate for `node`, signed by whoever has the key of `ca`.
fn forged(ca: &identity::ClusterCa, node: u64, server: &CertificateDer<'static>) -> Arc<LiveTls> {
    let key = identity::KeyRequest::generate().unwrap();
    let certificate = ca.sign(&key.request, node).unwrap();
    let own = ca.certificate().clone();
    let identity = identity::NodeIdentity {
        also_trusted: Some(server.clone()),
        ..identity::NodeIdentity::from_parts(certificate, &key.key_pem, own).unwrap()
    };
    LiveTls::new(TlsSettings::new(&identity).unwrap())
}

/// A voter that was removed keeps a copy of the authority's key and signs itself whatever it likes.
#[test]
fn after_a_change_of_the_authority_the_old_key_opens_nothing() {
    let mut members = three();
    let mut learner = Member::new("n4");
    learner.join(&members[0], &members[0].token(3_600)).unwrap();
    learner.start();
    let authority = |member: &Member| {
        let authority = &member.node().core().authority;
        (authority.certificate(), authority.key_pem())
    };
    let (old, key) = authority(&members[0]);
    let copied = identity::ClusterCa::from_parts(old.clone(), &key.unwrap()).unwrap();
    let (node, address) = (members[0].node().core().view.id, members[0].listen.clone());
    let impostor = |server: &CertificateDer<'static>| {
        let other = members[1].node().core().view.id;
        let peers = Peers::new(forged(&copied, other, server));
        let channel = peers.channel(node, &address, Purpose::Control);
        members[0].block_on(channel.call(Request::Overview.encode(), LONG))
    };
    impostor(&old).unwrap();
    let unused = members[0].token(3_600);
    members[1].rotate().unwrap();

    wait_until("everybody to have dropped the old one", || {
        let all = members.iter().chain([&learner]);
        all.map(authority)
            .all(|(certificate, _)| certificate != old)
    });
    let (new, _) = authority(&members[0]);
    let refused = impostor(&new);
    assert!(
        matches!(refused, Err(CallError::Unreachable(_))),
        "{refused:?}"
    );
    let mut joining = Member::new("n5");
    assert!(
        joining.join(&members[0], &unused).is_err(),
        "it pins the old authority"
    );
    for (member, name) in members.iter().chain([&learner]).zip(["a", "b", "c", "d"]) {
        member.create(name).unwrap();
    }
    // What is on disk is enough for a start, and for letting others in.
    members
        .iter_mut()
        .chain([&mut learner])
        .for_each(Member::crash);
    members
        .iter_mut()
        .chain([&mut learner])
        .for_each(Member::start);
    learner.create("after the start").unwrap();
    let leader = leader_of(&members);
    let token = members[leader].token(3_600);
    joining.join(&members[leader], &token).unwrap();
    members[leader]
        .change(ClusterChange::Promote { name: "n4".into() })
        .unwrap();
    joining.start();
    members[leader].rotate().unwrap();
}

/// Whoever was away would have neither the trust nor the certificate; the change waits, and any leader goes on with it.
#[test]
fn a_change_of_the_authority_waits_for_a_member_and_outlives_its_leader() {
    let mut members = three();
    let mut learner = Member::new("n4");
    learner.join(&members[0], &members[0].token(3_600)).unwrap();
    let before = members[0].node().core().authority.certificate();
    let leader = leader_of(&members);
    let core = Arc::clone(members[leader].node().core());
    members[leader].block_on(async {
        let from = core.authority.digest();
        let rotate = Request::Change(ClusterChange::RotateAuthority { from });
        // Nobody waits for it to the end.
        let asked = core
            .link
            .ask_leader(rotate, Duration::from_millis(500))
            .await;
        assert!(asked.is_err(), "{asked:?}");
    });
    wait_until("the leader to name who is away", || {
        core.authority.waits_for().contains("n4")
    });
    drop(core);
    let token = members[leader].token(3_600);
    let refused = Member::new("n5")
        .join(&members[leader], &token)
        .unwrap_err();
    assert!(refused.to_string().contains("authority"), "{refused}");
    members[leader].crash();
    learner.start();
    members[leader].start();
    wait_until("the new authority on all members", || {
        members.iter().chain([&learner]).all(|member| {
            let authority = &member.node().core().authority;
            authority.certificate() != before
        })
    });
    members[(leader + 1) % 3].create("after").unwrap();
    wait_for_equal_digests(&[&members[0], &members[1], &members[2], &learner]);
}

/// Root on a node that may change nothing in the tree may not change the cluster either, by whatever message.
#[test]
fn a_member_that_joined_as_reader_changes_nothing_of_the_cluster() {
    let members = three();
    let mut reader = Member::new("r1");
    let token = members[0].token_of(3_600, Grant::Reader);
    reader.join(&members[0], &token).unwrap();
    reader.start();
    wait_until("the reader to know the members", || {
        let state = reader.node().core().view.state();
        state.member(NodeId(reader.node().core().view.id)).is_some()
    });
    let leader = &members[leader_of(&members)];
    let token = JoinToken {
        digest: [7; 32],
        grant: Grant::Writer,
        expires: WallTime {
            secs: i64::MAX,
            nanos: 0,
        },
        name: None,
    };
    let remove = ClusterChange::Remove { name: "n1".into() };
    let promote = ClusterChange::Promote { name: "r1".into() };
    for change in [ClusterChange::TokenCreate(token), remove, promote.clone()] {
        let refused = reader.change(change).unwrap_err();
        assert!(refused.contains("reader"), "{refused}");
    }
    let refused = leader.change(promote).unwrap_err();
    assert!(
        refused.contains("reader"),
        "a voter can do anything: {refused}"
    );

    leads_and_votes_for_nobody(&reader, leader);

    leader.make_lock("job").unwrap();
    let proposer = reader.node().proposer();
    let inode = wait_for("the lock to be seen", || {
        proposer.state().tree().resolve("lk/job")
    });
    let broken = reader.block_on(proposer.propose(Proposal {
        author: Author::default(),
        fence: None,
        command: Command::LockBreak { inode },
        bound_to: None,
    }));
    let is_refused =
        matches!(&broken, Err(ProposeError::Refused(reason)) if reason.contains("reader"));
    assert!(is_refused, "it is no lost quorum: {broken:?}");
    let state = leader.node().core().view.state();
    let held = state
        .locks()
        .of(inode)
        .is_some_and(|lock| lock.ended_until.is_none());
    assert!(held);
}

/// It may hold no key, stand for no election, and speak for nobody else.
fn leads_and_votes_for_nobody(reader: &Member, leader: &Member) {
    let key = leader.node().core().authority.key_pem().unwrap();
    let refused = |request: Request<'_>| {
        let asked = reader.ask(leader, request);
        assert!(matches!(asked, Err(AskError::Refused(_))), "{asked:?}");
    };
    refused(Request::TakeAuthority(key.to_string()));
    let term = leader.node().core().view.metrics().current_term;
    for node in [reader.node().core().view.id, leader.node().core().view.id] {
        let vote = Vote {
            term: u64::MAX,
            node,
            committed: false,
        };
        let ballot = Ballot {
            vote,
            last: None,
            transfer: true,
        };
        refused(Request::Vote(ballot));
        refused(Request::PreVote(ballot));
        refused(Request::Append(Append {
            vote: Vote {
                committed: true,
                ..vote
            },
            previous: None,
            entries: Vec::new(),
            committed: None,
            quorum: true,
        }));
    }
    assert_eq!(leader.node().core().view.metrics().current_term, term);
}

/// Whoever sends it: a key that does not sign what the members trust would make the authority useless.
#[test]
fn a_key_that_does_not_belong_to_the_authority_replaces_nothing() {
    let members = three();
    let [one, other, _] = &members;
    let foreign = identity::ClusterCa::generate("other").unwrap().key_pem();
    let before = other.node().core().authority.key_pem().unwrap();
    let taken = one.ask(other, Request::TakeAuthority(foreign.to_string()));
    assert!(matches!(taken, Err(AskError::Refused(_))), "{taken:?}");
    assert_eq!(other.node().core().authority.key_pem().unwrap(), before);
}
