//! A member whose data directory is put back to an older copy of itself, as a machine's snapshot does it.

use std::path::Path;

use vfsd::consensus::cluster::pledge_keeper;
use vfsd::consensus::cluster::pledges::Known;
use vfsd::consensus::wire::{Ballot, ClusterChange, Reply, Request};
use vfsd::state_machine::ids::InodeNo;
use vfsd::storage::append_log::AppendLog;
use vfsd::storage::disk::RealDisk;
use vfsd::storage::record::{Pledge, Vote};

use crate::members::{
    Member, SEGMENT, leader_of, three, wait_for, wait_for_equal_digests, wait_until,
};

/// Copies a directory that is in use: what is being written beside a file may be gone a moment later.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (path, beside) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &beside);
        } else if path.extension().is_none_or(|ending| ending != "tmp") {
            std::fs::copy(&path, &beside).unwrap();
        }
    }
}

/// Copies the data of a member as it lies there: while it runs, or between two runs of it.
fn take_copy(member: &Member) {
    copy(&member.data(), &member.dir.path().join("copy"));
}

/// Puts the copy in the place of the data of a member that is down.
fn put_back(member: &Member) {
    std::fs::remove_dir_all(member.data()).unwrap();
    copy(&member.dir.path().join("copy"), &member.data());
}

/// What a member that is down would hold if it was started from its copy.
fn held_by_copy(member: &Member) -> Known {
    let log = AppendLog::open_with(&member.dir.path().join("copy/log"), SEGMENT).unwrap();
    let (vote, last) = (log.vote(), log.bounds().last);
    Known {
        starts: u32::MAX,
        pledge: Pledge { vote, last },
    }
}

fn refuses_to_vote(member: &Member, candidate: &Member) {
    let vote = Vote {
        term: 1_000,
        node: candidate.node().core().view.id,
        committed: false,
    };
    let ballot = Ballot {
        vote,
        last: None,
        transfer: true,
    };
    // A connection to the run before may have to end first.
    let reply = wait_for("an answer", || {
        candidate.ask(member, Request::Vote(ballot)).ok()
    });
    assert!(matches!(reply, Reply::NotReady(_)), "{reply:?}");
}

#[test]
fn a_member_on_an_older_copy_votes_for_nobody_and_is_told_to_rejoin() {
    let mut members = three();
    members[0].create("before the copy").unwrap();
    let leader = leader_of(&members);
    let (older, other) = ((leader + 1) % 3, (leader + 2) % 3);
    members[older].crash();
    take_copy(&members[older]);
    members[older].start();
    for number in 0..10 {
        members[older].create(&format!("after {number}")).unwrap();
    }
    wait_for_equal_digests(&[&members[0], &members[1], &members[2]]);
    members[older].crash();
    put_back(&members[older]);
    members[older].start();
    wait_until("it to be found", || {
        members[older].node().core().unfit.is_declared()
    });
    assert!(!members[older].node().core().pledges.takes_part());
    refuses_to_vote(&members[older], &members[other]);
    let why = members[older].ends_as_unfit();
    assert!(
        why.contains("vfsd rejoin") && why.contains("it began 2 times, of which 1"),
        "{why}"
    );
    members[other].create("the others go on").unwrap();
    members[older].rejoin();
    members[older].start();
    members[older].create("after rejoining").unwrap();
    let name = members[older].name.into();
    members[other]
        .change(ClusterChange::Promote { name })
        .unwrap();
    wait_for_equal_digests(&[&members[0], &members[1], &members[2]]);
}

/// The leader that knew how far it was has gone down, too: the others have it on disk.
#[test]
fn an_older_copy_is_found_also_when_all_members_start_at_once() {
    let mut members = three();
    members[0].create("before the copy").unwrap();
    let leader = leader_of(&members);
    for older in [leader, (leader + 1) % 3] {
        let mut copied = members;
        take_copy(&copied[older]);
        for number in 0..10 {
            copied[(older + 1) % 3]
                .create(&format!("after {older} {number}"))
                .unwrap();
        }
        wait_for_equal_digests(&[&copied[0], &copied[1], &copied[2]]);
        let held = held_by_copy(&copied[older]);
        let id = copied[older].node().core().view.id;
        for (at, other) in copied.iter().enumerate() {
            let file = other.data().join("pledges.json");
            wait_until("all others to have it on disk", || {
                let known = pledge_keeper::load(&RealDisk, &file);
                let known = known.get(&id);
                at == older || known.is_some_and(|known| known.forgotten_by(&held).is_some())
            });
        }
        copied.iter_mut().for_each(Member::crash);
        put_back(&copied[older]);
        copied.iter_mut().for_each(Member::start);
        let why = copied[older].ends_as_unfit();
        assert!(
            why.contains("vfsd rejoin") && !why.contains("it began"),
            "it was started once more, as it may be: {why}"
        );
        copied[(older + 1) % 3]
            .create(&format!("{older} is out"))
            .unwrap();
        copied[older].rejoin();
        copied[older].start();
        let name = copied[older].name.into();
        copied[(older + 1) % 3]
            .change(ClusterChange::Promote { name })
            .unwrap();
        members = copied;
    }
}

/// Alone it hears of no leader that would tell it what is committed: the mark on its own disk does.
#[test]
fn a_lone_survivor_shows_what_it_knew() {
    let mut members = three();
    let survivor = (leader_of(&members) + 1) % 3;
    members[survivor].create("known to be committed").unwrap();
    let applied = members[survivor].applied();
    // The copy is what its disk holds at that moment; going down in order would write the mark.
    wait_until("the mark to be on disk", || {
        drop(std::fs::remove_dir_all(
            members[survivor].dir.path().join("copy"),
        ));
        take_copy(&members[survivor]);
        let log = members[survivor].dir.path().join("copy/log");
        let marked = AppendLog::open_with(&log, SEGMENT).unwrap().committed();
        marked.is_some_and(|mark| mark.index >= applied)
    });
    members.iter_mut().for_each(Member::crash);
    put_back(&members[survivor]);
    members[survivor].start();
    wait_until("it to be shown", || {
        let state = members[survivor].node().core().view.state();
        let found = state.tree().lookup(InodeNo::ROOT, b"known to be committed");
        found.is_ok()
    });
    assert!(!members[survivor].is_leader());
}
