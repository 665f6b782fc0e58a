//! What `apply` decides: names, locks, guards, retries. Goal: each rule once on its allowed and once on its refused
//! side.

use super::super::StateMachine;
use super::super::command::*;
use super::super::fs_error::FsError;
use super::super::ids::*;
use super::super::invariants;
use super::super::level::Level;
use super::super::log_time::*;
use super::super::namespace::{LK, LK_DSM, MID, RUN};
use super::super::outcome::*;

/// A state and the next index; each call is one entry.
struct World {
    state: StateMachine,
    now: LogTime,
    next_request: RequestNo,
}

/// One node with its session.
#[derive(Clone, Copy)]
struct Caller {
    node: NodeId,
    session: SessionId,
}

impl World {
    fn new() -> Self {
        Self {
            state: StateMachine::new_at(Level::KNOWN),
            now: LogTime(1000),
            next_request: RequestNo::first_of(1),
        }
    }

    fn entry(&self, caller: Option<Caller>, command: Command) -> Entry {
        let origin = caller.map(|caller| Origin {
            session: caller.session,
            request: self.next_request,
            settled_below: RequestNo(0),
            abandoned: vec![],
        });
        let author = Author {
            node: caller.map_or(NodeId(0), |caller| caller.node),
            ..Author::default()
        };
        let wall = WallTime {
            secs: i64::try_from(self.now.0).unwrap(),
            nanos: 0,
        };
        Entry {
            stamp: Stamp {
                log_time: self.now,
                wall,
            },
            origin,
            ..Entry::new(author, command)
        }
    }

    fn push(&mut self, entry: &Entry) -> Applied {
        let index = LogIndex(self.state.applied().0 + 1);
        let applied = self.state.apply(index, entry);
        invariants::check(&self.state).unwrap();
        applied
    }

    fn run(&mut self, caller: Caller, command: Command) -> Outcome {
        self.run_fenced(caller, None, command)
    }

    fn run_fenced(
        &mut self,
        caller: Caller,
        fence: Option<FencingToken>,
        command: Command,
    ) -> Outcome {
        let entry = Entry {
            fence,
            ..self.entry(Some(caller), command)
        };
        self.next_request = self.next_request.next();
        self.push(&entry).outcome
    }

    fn leader(&mut self, command: Command) -> Outcome {
        let entry = self.entry(None, command);
        self.push(&entry).outcome
    }

    fn join(&mut self, node: u64) -> Caller {
        let node = NodeId(node);
        match self.leader(Command::SessionOpen { node }) {
            Ok(Done::Session(session)) => Caller { node, session },
            other => panic!("a session opens: {other:?}"),
        }
    }

    fn fence(&self, inode: InodeNo) -> FencingToken {
        self.state.locks().of(inode).expect("it is a lock").fence
    }

    fn advance(&mut self, ms: u64) -> Vec<Outcome> {
        self.now = self.now.plus_ms(ms);
        let due = self.state.due(self.now);
        due.into_iter()
            .map(|command| self.leader(command))
            .collect()
    }
}

fn file(parent: InodeNo, name: &str, exclusive: bool, handle: Option<u64>) -> Command {
    Command::Create(Create {
        parent,
        name: name.into(),
        kind: NodeKind::Regular,
        mode: 0o644,
        uid: 0,
        gid: 0,
        exclusive,
        handle: handle.map(HandleId),
    })
}

fn dir(parent: InodeNo, name: &str) -> Command {
    Command::Mkdir(Mkdir {
        parent,
        name: name.into(),
        mode: 0o755,
        uid: 0,
        gid: 0,
    })
}

fn unlink(parent: InodeNo, name: &str) -> Command {
    Command::Unlink(Remove {
        parent,
        name: name.into(),
    })
}

fn save(inode: InodeNo, text: &str) -> Command {
    let data = text.as_bytes().to_vec();
    let update = ContentUpdate::Replace(vec![ContentOp::Write { offset: 0, data }]);
    Command::Write(Write {
        inode,
        base: None,
        update,
        mtime: None,
        closes: true,
    })
}

fn xattr(inode: InodeNo, name: &str, value: &str) -> Command {
    Command::SetXattr(SetXattr {
        inode,
        name: name.into(),
        value: value.into(),
        mode: XattrMode::Any,
    })
}

fn rename(
    parent: InodeNo,
    name: &str,
    new_parent: InodeNo,
    new_name: &str,
    mode: RenameMode,
) -> Command {
    let (name, new_name) = (name.into(), new_name.into());
    Command::Rename(Rename {
        parent,
        name,
        new_parent,
        new_name,
        mode,
        content: None,
    })
}

fn made(outcome: Outcome) -> InodeNo {
    match outcome {
        Ok(Done::Inode { inode, .. }) => inode,
        other => panic!("an inode is made: {other:?}"),
    }
}

#[test]
fn of_two_exclusive_creates_the_first_wins() {
    let mut world = World::new();
    let (a, b) = (world.join(1), world.join(2));
    made(world.run(a, file(LK, "job", true, None)));
    assert_eq!(
        world.run(b, file(LK, "job", true, None)),
        Err(FsError::AlreadyExists)
    );
    made(world.run(b, dir(LK, "dir")));
    assert_eq!(world.run(a, dir(LK, "dir")), Err(FsError::AlreadyExists));
}

#[test]
fn a_retry_gets_the_first_outcome_and_has_no_second_effect() {
    let mut world = World::new();
    let a = world.join(1);
    let entry = world.entry(Some(a), file(MID, "x", true, None));
    let first = world.push(&entry);
    let again = world.push(&entry);
    assert_eq!(again.outcome, first.outcome);
    assert!(again.changes.is_empty());
}

#[test]
fn an_abandoned_number_is_refused_and_an_abandoned_grant_is_released() {
    let mut world = World::new();
    let a = world.join(1);
    let late = world.entry(Some(a), file(MID, "late", true, None));
    let given_up = late.origin.as_ref().unwrap().request;
    world.next_request = given_up.next();
    let granted = world.entry(Some(a), file(LK, "lock", true, None));
    let granted_number = granted.origin.as_ref().unwrap().request;
    made(world.push(&granted).outcome);
    world.next_request = granted_number.next();
    let mut notice = world.entry(Some(a), Command::Nothing);
    notice.origin.as_mut().unwrap().abandoned = vec![given_up, granted_number];
    let applied = world.push(&notice);
    assert!(
        matches!(
            applied.changes[..],
            [Change::Removed { .. }, Change::Gone(_)]
        ),
        "the grant nobody knows of is released"
    );
    assert_eq!(
        applied.uncalled, 2,
        "the node that asked for it made no call that would have told its watchers"
    );
    assert!(world.state.tree().lookup(LK, b"lock").is_err());
    assert_eq!(world.push(&late).outcome, Err(FsError::Abandoned));
}

#[test]
fn a_settled_number_and_an_ended_session_are_refused() {
    let mut world = World::new();
    let a = world.join(1);
    let old = world.entry(Some(a), file(MID, "old", true, None));
    world.next_request = old.origin.as_ref().unwrap().request.next();
    let mut newer = world.entry(Some(a), file(MID, "new", true, None));
    newer.origin.as_mut().unwrap().settled_below = world.next_request;
    made(world.push(&newer).outcome);
    assert_eq!(world.push(&old).outcome, Err(FsError::OutcomeForgotten));
    world
        .leader(Command::SessionEnd {
            session: a.session,
            clean: false,
        })
        .unwrap();
    assert_eq!(
        world.run(a, file(MID, "y", true, None)),
        Err(FsError::SessionExpired)
    );
}

#[test]
fn a_dead_holders_lock_stays_for_its_delay_and_then_goes() {
    let mut world = World::new();
    let (a, b) = (world.join(1), world.join(2));
    world.run(a, xattr(LK, "user.lk.delay", "3")).unwrap();
    let lock = made(world.run(a, file(LK, "job", true, None)));
    assert_eq!(
        world.fence(lock).0,
        world.state.applied().0,
        "the fence is the grant's index"
    );
    world
        .leader(Command::SessionEnd {
            session: a.session,
            clean: false,
        })
        .unwrap();
    assert!(world.advance(2999).is_empty());
    assert_eq!(
        world.run(b, file(LK, "job", true, None)),
        Err(FsError::AlreadyExists)
    );
    assert_eq!(world.run(b, unlink(LK, "job")), Err(FsError::NotPermitted));
    assert_eq!(world.advance(1), vec![Ok(Done::Unit)]);
    made(world.run(b, file(LK, "job", true, None)));
}

#[test]
fn the_node_that_held_an_ended_lock_may_clear_it_at_once() {
    let mut world = World::new();
    let a = world.join(1);
    made(world.run(a, file(LK, "job", true, None)));
    let again = world.join(1);
    world.run(again, unlink(LK, "job")).unwrap();
    made(world.run(again, file(LK, "job", true, None)));
}

#[test]
fn a_handle_held_lock_ends_with_its_handle() {
    let mut world = World::new();
    let a = world.join(1);
    let lock = made(world.run(a, file(LK_DSM, "n1", true, Some(7))));
    world
        .run(
            a,
            Command::HandleClosed {
                session: a.session,
                handle: HandleId(8),
            },
        )
        .unwrap();
    assert!(world.state.locks().of(lock).unwrap().is_held_by(a.session));
    world
        .run(
            a,
            Command::HandleClosed {
                session: a.session,
                handle: HandleId(7),
            },
        )
        .unwrap();
    assert!(!world.state.locks().of(lock).unwrap().is_held_by(a.session));
}

fn newcomer(name: &str, key: u8) -> Newcomer {
    Newcomer {
        name: name.into(),
        address: "10.0.0.1:1".into(),
        age_public: format!("age1{key}"),
        key: [key; 32],
    }
}

fn with_tokens(digests: &[u8]) -> World {
    let mut world = World::new();
    for digest in digests {
        let token = JoinToken {
            digest: [*digest; 32],
            grant: Grant::Agent,
            expires: WallTime {
                secs: i64::MAX,
                nanos: 0,
            },
            name: None,
        };
        world.leader(Command::TokenCreate(token)).unwrap();
    }
    world
}

fn member(outcome: Outcome) -> NodeId {
    match outcome {
        Ok(Done::Member(node)) => node,
        other => panic!("a member is let in: {other:?}"),
    }
}

#[test]
fn a_join_that_is_asked_again_gives_the_same_id_and_only_to_the_same_key() {
    let mut world = with_tokens(&[1]);
    let admit = |name, key| Command::Admit {
        token: [1; 32],
        newcomer: newcomer(name, key),
    };
    let node = member(world.leader(admit("n2", 7)));
    assert_eq!(node.0, world.state.applied().0);
    assert_eq!(member(world.leader(admit("n2", 7))), node);
    assert_eq!(world.leader(admit("n3", 7)), Err(FsError::AlreadyExists));
    assert_eq!(world.leader(admit("n2", 8)), Err(FsError::TokenInvalid));
    assert_eq!(world.state.member(node).unwrap().grant, Grant::Agent);
    world.leader(Command::MemberRemove { node }).unwrap();
    assert_eq!(world.leader(admit("n2", 7)), Err(FsError::TokenInvalid));
}

#[test]
fn a_member_that_lost_its_state_gets_one_new_id_however_often_it_asks() {
    let mut world = with_tokens(&[1]);
    let token = [1; 32];
    let old = member(world.leader(Command::Admit {
        token,
        newcomer: newcomer("n2", 7),
    }));
    let holder = world.join(old.0);
    let lock = made(world.run(holder, file(LK, "job", true, None)));
    let readmit = |name, key| Command::Readmit {
        node: old,
        newcomer: newcomer(name, key),
    };
    assert_eq!(world.leader(readmit("n3", 8)), Err(FsError::Invalid));
    assert_eq!(
        world.leader(readmit("n2", 7)),
        Err(FsError::Invalid),
        "its old key"
    );
    let new = member(world.leader(readmit("n2", 8)));
    assert_eq!(member(world.leader(readmit("n2", 8))), new);
    // Whoever has the old certificate and another key cannot take the new id away.
    assert_eq!(world.leader(readmit("n2", 9)), Err(FsError::AlreadyExists));
    assert!(world.state.member(old).is_none());
    assert_eq!(world.state.member(new).unwrap().grant, Grant::Agent);
    let ended = world.state.locks().of(lock).unwrap().ended_until;
    assert!(ended.is_some(), "its session has ended");
    let image = world.state.image();
    assert_eq!(StateMachine::from_image(&image).unwrap(), world.state);
}

#[test]
fn an_authority_follows_another_in_three_steps_and_in_this_order() {
    let mut world = with_tokens(&[1]);
    let trust = |certificate: u8| AuthorityStep::Trust(vec![certificate]);
    let mut step = |step| world.leader(Command::Authority(step));
    assert_eq!(step(AuthorityStep::Issue), Err(FsError::Invalid));
    step(trust(1)).unwrap();
    assert_eq!(step(AuthorityStep::Only), Err(FsError::Invalid));
    step(trust(2)).unwrap();
    step(AuthorityStep::Issue).unwrap();
    assert_eq!(
        step(trust(3)),
        Err(FsError::Invalid),
        "it has issued certificates"
    );
    assert_eq!(step(AuthorityStep::Issue), Err(FsError::Invalid));
    step(AuthorityStep::Only).unwrap();
    let state = &world.state;
    let expected = AuthorityState {
        present: vec![2],
        next: None,
    };
    assert_eq!(*state.authority(), expected);
    assert!(state.token(&[1; 32]).is_none(), "it pins the old authority");
    assert_eq!(StateMachine::from_image(&state.image()).unwrap(), *state);
}

/// A cluster that never used what is new keeps the format that its other members read.
#[test]
fn a_state_without_enrolments_has_the_earlier_format() {
    let mut world = with_tokens(&[1]);
    world.state.level = Level::FIRST;
    world.state.lineage = [0; 32];
    assert_eq!(world.state.image().manifest[0], 2);
    let admit = Command::Admit {
        token: [1; 32],
        newcomer: newcomer("n2", 7),
    };
    let node = member(world.leader(admit));
    assert_eq!(world.state.image().manifest[0], 3);
    world.leader(Command::MemberRemove { node }).unwrap();
    let image = world.state.image();
    assert_eq!(image.manifest[0], 2);
    assert_eq!(StateMachine::from_image(&image).unwrap(), world.state);
}

/// Locks keep nodes apart that are confined to a part of the tree; the notice of a close goes where the grant goes.
#[test]
fn a_lock_is_broken_and_a_close_announced_only_by_a_node_whose_grant_covers_it() {
    let mut world = World::new();
    let (a, b) = (world.join(1), world.join(2));
    let lock = made(world.run(a, file(LK, "job", true, None)));
    let inode = made(world.run(a, file(MID, "wish", true, None)));
    let record = made(world.run(a, file(RUN, "record", true, None)));
    let mut run = |grant, command| {
        let mut entry = world.entry(Some(b), command);
        entry.author.grant = grant;
        world.next_request = world.next_request.next();
        let applied = world.push(&entry);
        (applied.outcome, applied.changes.len())
    };
    for grant in [Grant::Reader, Grant::Agent] {
        let refused = (Err(FsError::AccessDenied), 0);
        assert_eq!(run(grant, Command::LockBreak { inode: lock }), refused);
        assert_eq!(run(grant, Command::CloseWrite { inode }), refused);
    }
    let done = (Ok(Done::Unit), 1);
    assert_eq!(
        run(Grant::Agent, Command::CloseWrite { inode: record }),
        done
    );
    assert_eq!(run(Grant::Writer, Command::CloseWrite { inode }), done);
    assert_eq!(run(Grant::Writer, Command::LockBreak { inode: lock }), done);
}

#[test]
fn another_sessions_lock_cannot_be_touched_moved_or_linked() {
    let mut world = World::new();
    let (a, b) = (world.join(1), world.join(2));
    let lock = made(world.run(a, file(LK, "job", true, None)));
    let folder = made(world.run(a, dir(LK, "taken")));
    let touch = SetAttr {
        inode: lock,
        mtime: Some(TimeSet::Now),
        ..SetAttr::default()
    };
    assert_eq!(
        world.run(b, Command::SetAttr(touch.clone())),
        Err(FsError::NotPermitted)
    );
    assert_eq!(world.run(b, save(lock, "x")), Err(FsError::NotPermitted));
    assert_eq!(
        world.run(b, file(folder, "pid", false, None)),
        Err(FsError::NotPermitted)
    );
    made(world.run(a, file(folder, "pid", false, None)));
    world.run(a, Command::SetAttr(touch)).unwrap();
    let move_away = rename(LK, "job", LK, "job2", RenameMode::Replace);
    assert_eq!(
        world.run(a, move_away),
        Err(FsError::NotPermitted),
        "not even its own session moves it"
    );
    let plain = made(world.run(a, file(MID, "plain", false, None)));
    let link = Link {
        inode: plain,
        parent: LK,
        name: b"l".to_vec(),
        content: None,
    };
    assert_eq!(
        world.run(a, Command::Link(link)),
        Err(FsError::NotPermitted)
    );
}

#[test]
fn a_lock_directory_goes_with_what_is_in_it() {
    let mut world = World::new();
    let a = world.join(1);
    let lock = made(world.run(a, dir(LK, "job")));
    made(world.run(a, file(lock, "pid", false, None)));
    let rmdir = Command::Rmdir(Remove {
        parent: LK,
        name: b"job".to_vec(),
    });
    assert_eq!(world.run(a, rmdir), Err(FsError::NotEmpty));
    world
        .leader(Command::SessionEnd {
            session: a.session,
            clean: false,
        })
        .unwrap();
    assert_eq!(world.advance(2000), vec![Ok(Done::Unit)]);
    assert!(world.state.tree().lookup(LK, b"job").is_err());
}

#[test]
fn mkdir_p_makes_a_container_of_an_empty_lock_directory() {
    let mut world = World::new();
    let (a, b) = (world.join(1), world.join(2));
    let outer = made(world.run(a, dir(LK, "shop")));
    assert!(world.state.locks().of(outer).is_some());
    assert_eq!(
        world.run(b, dir(outer, "x")),
        Err(FsError::NotPermitted),
        "the racing one is refused"
    );
    let inner = made(world.run(a, dir(outer, "db")));
    assert!(world.state.locks().of(outer).is_none());
    assert!(
        world.state.locks().of(inner).is_none(),
        "lk.mkdir is not inherited"
    );
    made(world.run(b, file(inner, "planner", true, None)));
}

#[test]
fn a_guarded_directory_changes_only_under_the_fence_that_the_call_began_with() {
    let mut world = World::new();
    let (a, b) = (world.join(1), world.join(2));
    let lock = made(world.run(a, file(LK, "planner", true, None)));
    let fence = world.fence(lock);
    let plans = made(world.run(a, dir(RUN, "plans")));
    assert_eq!(
        world.run(b, xattr(plans, "user.lk.guard", "lk/planner")),
        Err(FsError::FenceRevoked)
    );
    world
        .run(a, xattr(plans, "user.lk.guard", "lk/planner"))
        .unwrap();
    assert_eq!(
        world.run(a, file(plans, "x", false, None)),
        Err(FsError::FenceRevoked),
        "no fence was carried"
    );
    let inode = made(world.run_fenced(a, Some(fence), file(plans, "x", false, None)));
    assert_eq!(
        world.run_fenced(b, Some(fence), save(inode, "y")),
        Err(FsError::FenceRevoked)
    );
    world.run(a, unlink(LK, "planner")).unwrap();
    let newer = made(world.run(b, file(LK, "planner", true, None)));
    let newer = world.fence(newer);
    assert_eq!(
        world.run_fenced(a, Some(fence), save(inode, "thawed")),
        Err(FsError::FenceRevoked)
    );
    world
        .run_fenced(b, Some(newer), save(inode, "new holder"))
        .unwrap();
    assert_eq!(
        world.run(
            a,
            Command::RemoveXattr {
                inode: plans,
                name: "user.lk.guard".into()
            }
        ),
        Err(FsError::FenceRevoked)
    );
}

#[test]
fn virtual_and_unknown_lock_attributes_cannot_be_set() {
    let mut world = World::new();
    let a = world.join(1);
    assert_eq!(
        world.run(a, xattr(LK, "user.lk.fence", "1")),
        Err(FsError::NotPermitted)
    );
    assert_eq!(
        world.run(a, xattr(LK, "user.lk.ttl", "5")),
        Err(FsError::NotSupported)
    );
    assert_eq!(
        world.run(a, xattr(LK, "user.lk.hold", "forever")),
        Err(FsError::Invalid)
    );
    assert_eq!(
        world.run(a, xattr(LK, "user.lk.guard", "run/x")),
        Err(FsError::Invalid)
    );
    assert_eq!(
        world.run(a, xattr(LK, "system.posix_acl_access", "")),
        Err(FsError::NotSupported)
    );
    world.run(a, xattr(LK, "user.anything", "is fine")).unwrap();
}

#[test]
fn the_fixed_directories_stay() {
    let mut world = World::new();
    let a = world.join(1);
    let rmdir = Command::Rmdir(Remove {
        parent: InodeNo::ROOT,
        name: b"mid".to_vec(),
    });
    assert_eq!(world.run(a, rmdir), Err(FsError::NotPermitted));
    let away = rename(
        InodeNo::ROOT,
        "run",
        InodeNo::ROOT,
        "walk",
        RenameMode::Replace,
    );
    assert_eq!(world.run(a, away), Err(FsError::NotPermitted));
    assert_eq!(
        world.run(a, dir(InodeNo::ROOT, ".vfs")),
        Err(FsError::NotPermitted)
    );
    made(world.run(a, dir(InodeNo::ROOT, "home")));
}

#[test]
fn an_agents_node_changes_records_and_locks_only() {
    let mut world = World::new();
    let a = world.join(1);
    for (grant, parent, allowed) in [
        (Grant::Agent, RUN, true),
        (Grant::Agent, LK_DSM, true),
        (Grant::Agent, MID, false),
        (Grant::Reader, RUN, false),
        (Grant::Writer, MID, true),
    ] {
        let mut entry = world.entry(Some(a), file(parent, &format!("{grant:?}"), false, None));
        world.next_request = world.next_request.next();
        entry.author.grant = grant;
        let outcome = world.push(&entry).outcome;
        assert_eq!(
            outcome.is_ok(),
            allowed,
            "{grant:?} in {parent}: {outcome:?}"
        );
        assert!(allowed || outcome == Err(FsError::AccessDenied));
    }
}

#[test]
fn rename_replaces_exchanges_or_refuses_as_its_mode_says() {
    let mut world = World::new();
    let a = world.join(1);
    let x = made(world.run(a, file(MID, "x", false, None)));
    let y = made(world.run(a, file(MID, "y", false, None)));
    let d = made(world.run(a, dir(MID, "d")));
    let sub = made(world.run(a, dir(d, "sub")));
    let look = |world: &World, name: &str| world.state.tree().lookup(MID, name.as_bytes());
    assert_eq!(
        world.run(a, rename(MID, "x", MID, "y", RenameMode::NoReplace)),
        Err(FsError::AlreadyExists)
    );
    world
        .run(a, rename(MID, "x", MID, "y", RenameMode::Exchange))
        .unwrap();
    assert_eq!((look(&world, "x"), look(&world, "y")), (Ok(y), Ok(x)));
    world
        .run(a, rename(MID, "x", MID, "d", RenameMode::Exchange))
        .unwrap();
    assert_eq!((look(&world, "x"), look(&world, "d")), (Ok(d), Ok(y)));
    world
        .run(a, rename(MID, "d", MID, "y", RenameMode::Replace))
        .unwrap();
    assert_eq!(look(&world, "y"), Ok(y));
    assert!(
        world.state.tree().inode(x).is_none(),
        "the replaced file is gone"
    );
    assert_eq!(
        world.run(a, rename(MID, "y", MID, "x", RenameMode::Replace)),
        Err(FsError::IsDirectory)
    );
    assert_eq!(
        world.run(a, rename(MID, "x", MID, "y", RenameMode::Replace)),
        Err(FsError::NotDirectory)
    );
    assert_eq!(
        world.run(a, rename(MID, "x", sub, "loop", RenameMode::Replace)),
        Err(FsError::Invalid)
    );
    assert_eq!(
        world.run(a, rename(MID, "gone", MID, "z", RenameMode::Exchange)),
        Err(FsError::NotFound)
    );
}

#[test]
fn a_retried_save_never_overwrites_a_newer_one() {
    let mut world = World::new();
    let a = world.join(1);
    let x = made(world.run(a, file(MID, "x", false, None)));
    let base = world.state.tree().inode(x).unwrap().content_revision;
    let late = |base| {
        let Command::Write(write) = save(x, "late") else {
            unreachable!()
        };
        Command::Write(Write {
            base: Some(base),
            ..write
        })
    };
    world.run(a, save(x, "newer")).unwrap();
    assert_eq!(world.run(a, late(base)), Err(FsError::RevisionChanged));
    let now = world.state.tree().inode(x).unwrap().content_revision;
    world.run(a, late(now)).unwrap();
    assert_eq!(
        world
            .state
            .tree()
            .inode(x)
            .unwrap()
            .content()
            .unwrap()
            .to_vec(),
        b"late"
    );
}

#[test]
fn appends_of_several_nodes_follow_each_other() {
    let mut world = World::new();
    let (a, b) = (world.join(1), world.join(2));
    let x = made(world.run(a, file(MID, "log", false, None)));
    let append = |text: &str| {
        let update = ContentUpdate::Append {
            truncate: false,
            data: text.into(),
        };
        Command::Write(Write {
            inode: x,
            base: None,
            update,
            mtime: None,
            closes: false,
        })
    };
    let rewritten = |world: &World| world.state.tree().inode(x).unwrap().rewritten;
    let before = rewritten(&world);
    assert_eq!(world.run(a, append("one\n")), Ok(Done::Appended { end: 4 }));
    assert_eq!(world.run(b, append("two\n")), Ok(Done::Appended { end: 8 }));
    assert_eq!(
        rewritten(&world),
        before,
        "a reader at the old end may go on"
    );
    world.run(b, save(x, "new")).unwrap();
    assert!(rewritten(&world) > before);
}

#[test]
fn a_token_lets_one_node_in_once() {
    let mut world = World::new();
    let token = |digest: u8, secs: i64| JoinToken {
        digest: [digest; 32],
        grant: Grant::Agent,
        expires: WallTime { secs, nanos: 0 },
        name: None,
    };
    let use_it = |digest: u8, name: &str| Command::TokenUse {
        digest: [digest; 32],
        name: name.into(),
        address: "10.0.0.9:1".into(),
        age_public: String::new(),
    };
    world.leader(Command::TokenCreate(token(1, 5000))).unwrap();
    world.leader(Command::TokenCreate(token(2, 1000))).unwrap();
    assert_eq!(
        world.leader(use_it(2, "n2")),
        Err(FsError::TokenInvalid),
        "expired"
    );
    let Ok(Done::Member(node)) = world.leader(use_it(1, "n2")) else {
        panic!("the token is good")
    };
    assert_eq!(
        node.0,
        world.state.applied().0,
        "the id is the entry's index"
    );
    assert_eq!(world.state.member(node).unwrap().grant, Grant::Agent);
    assert_eq!(
        world.leader(use_it(1, "n3")),
        Err(FsError::TokenInvalid),
        "used"
    );
}

#[test]
fn a_lock_directory_of_any_depth_is_taken_away_within_a_small_stack() {
    let deep = || {
        let mut world = World::new();
        let a = world.join(1);
        let job = made(world.run(a, dir(LK, "job")));
        made(world.run(a, file(job, "x", true, None)));
        let mut parent = job;
        for _ in 0..1_500 {
            // Without a check of all invariants after each: there are too many.
            let entry = world.entry(Some(a), dir(parent, "d"));
            world.next_request = world.next_request.next();
            let index = LogIndex(world.state.applied().0 + 1);
            parent = made(world.state.apply(index, &entry).outcome);
        }
        let entry = world.entry(Some(a), Command::LockBreak { inode: job });
        let index = LogIndex(world.state.applied().0 + 1);
        world.state.apply(index, &entry).outcome.unwrap();
        let fence = world.state.locks().of(job).unwrap().fence;
        let end = Command::LockDelayEnd { inode: job, fence };
        world.now = LogTime(world.now.0 + crate::limits::LOCK_DELAY_DEFAULT_MS);
        let entry = world.entry(None, end);
        let index = LogIndex(world.state.applied().0 + 1);
        assert_eq!(world.state.apply(index, &entry).outcome, Ok(Done::Unit));
        assert!(world.state.tree().inode(parent).is_none());
        assert!(world.state.tree().lookup(LK, b"job").is_err());
    };
    let thread = std::thread::Builder::new().stack_size(128 << 10);
    thread.spawn(deep).unwrap().join().unwrap();
}

/// What a build does otherwise than the one before counts only from the entry on that says so.
#[test]
fn rules_of_a_level_count_from_its_entry_on() {
    let mut world = World::new();
    world.state = StateMachine::new();
    let a = world.join(1);
    let capability = "security.capability";
    let inode = made(world.run(a, file(MID, "x", true, None)));
    let set = |world: &mut World| {
        let set = Command::SetXattr(SetXattr {
            inode,
            name: capability.into(),
            value: vec![1],
            mode: XattrMode::Any,
        });
        world.run(a, set).unwrap();
    };
    let write = |world: &mut World| {
        let update = ContentUpdate::Patch(vec![]);
        let mtime = Some(WallTime { secs: 5, nanos: 0 });
        let write = Write {
            inode,
            base: None,
            update,
            mtime,
            closes: true,
        };
        let mut entry = world.entry(Some(a), Command::Write(write));
        entry.author.uid = 1000;
        world.next_request = world.next_request.next();
        world.push(&entry).outcome.unwrap();
        let written = world.state.tree().inode(inode).unwrap();
        written.xattrs.contains_key(capability)
    };
    set(&mut world);
    assert!(write(&mut world));
    let entry = world.entry(None, Command::RaiseLevel(Level::KNOWN));
    world.push(&entry).outcome.unwrap();
    assert_eq!(world.state.level(), Level::KNOWN);
    assert!(!write(&mut world));
    let image = world.state.image();
    assert_eq!(StateMachine::from_image(&image).unwrap(), world.state);
}

/// "Saved by root on n2 with vim" stays true when somebody else changes a mode, a name or an attribute.
#[test]
fn the_author_of_a_content_is_known_until_the_next_save_once_the_level_says_so() {
    let mut world = World::new();
    world.state.level = Level(Level::AUTHORS_OF_CONTENT.0 - 1);
    let a = world.join(1);
    let inode = made(world.run(a, file(MID, "x", true, None)));
    let by = |world: &mut World, comm: &str, command| {
        let mut entry = world.entry(Some(a), command);
        entry.author.comm = comm.into();
        world.next_request = world.next_request.next();
        world.push(&entry).outcome.unwrap();
        let written = world.state.tree().inode(inode).unwrap().content_author();
        written.map(|written| (written.author.comm.clone(), written.time.secs))
    };
    let known = |comm: &str, secs| Some((comm.to_owned(), secs));
    let chmod = || {
        Command::SetAttr(SetAttr {
            inode,
            mode: Some(0o600),
            ..SetAttr::default()
        })
    };
    assert_eq!(by(&mut world, "vim", save(inode, "1")), known("vim", 1000));
    assert_eq!(
        by(&mut world, "chmod", chmod()),
        None,
        "by the rules before"
    );
    assert_eq!(world.state.image().manifest[0], 3);

    world.leader(Command::RaiseLevel(Level::KNOWN)).unwrap();
    assert_eq!(by(&mut world, "chmod", chmod()), None, "it was lost");
    assert_eq!(by(&mut world, "vim", save(inode, "2")), known("vim", 1000));
    assert_eq!(world.state.image().manifest[0], 3, "nothing is added yet");
    world.now = world.now.plus_ms(500);
    let moved = rename(MID, "x", RUN, "y", RenameMode::Replace);
    for (comm, command) in [
        ("chmod", chmod()),
        ("mv", moved),
        ("attr", xattr(inode, "user.a", "b")),
    ] {
        assert_eq!(by(&mut world, comm, command), known("vim", 1000), "{comm}");
    }
    let image = world.state.image();
    assert_eq!(image.manifest[0], 4);
    assert_eq!(StateMachine::from_image(&image).unwrap(), world.state);
    assert_eq!(by(&mut world, "sed", save(inode, "3")), known("sed", 1500));
    assert_eq!(world.state.image().manifest[0], 3);
}

/// "of a directory the newest revision of anything beneath it, itself included": through each name of a file, and a
/// removal counts where the name was.
#[test]
fn a_directory_has_the_newest_revision_of_what_is_beneath_it() {
    let mut world = World::new();
    let a = world.join(1);
    let made = |outcome: Outcome| match outcome {
        Ok(Done::Inode { inode, .. }) => inode,
        other => panic!("an inode is made: {other:?}"),
    };
    let (one, two) = (
        made(world.run(a, dir(MID, "one"))),
        made(world.run(a, dir(RUN, "two"))),
    );
    let deep = made(world.run(a, dir(one, "deep")));
    let inode = made(world.run(a, file(deep, "x", false, None)));
    let (parent, name) = (two, b"y".to_vec());
    let link = Command::Link(Link {
        inode,
        parent,
        name,
        content: None,
    });
    world.run(a, link).unwrap();
    let newest = |world: &World, of: &[InodeNo]| -> Vec<bool> {
        let tree = world.state.tree();
        let is_newest = |at: &InodeNo| tree.tree_revision(*at) == Some(world.state.applied());
        of.iter().map(is_newest).collect()
    };
    let all = [InodeNo::ROOT, MID, one, deep, RUN, two];
    assert_eq!(newest(&world, &all), [true; 6], "both names of the file");
    world.run(a, file(one, "z", false, None)).unwrap();
    let above_z = [true, true, true, false, false, false];
    assert_eq!(newest(&world, &all), above_z, "only what is above");
    world.run(a, unlink(two, "y")).unwrap();
    assert_eq!(newest(&world, &all), [true; 6], "it has a link less");
    world.run(a, unlink(deep, "x")).unwrap();
    let above_x = [true, true, true, true, false, false];
    assert_eq!(newest(&world, &all), above_x, "nothing of it is left");
    let refused = world.run(a, unlink(deep, "x"));
    assert_eq!(refused, Err(FsError::NotFound));
    assert_eq!(
        newest(&world, &all),
        [false; 6],
        "a refusal changes nothing"
    );
    assert_eq!(
        world.state.tree().tree_revision(inode),
        None,
        "no directory"
    );
}

#[path = "apply_test/later_rules_test.rs"]
mod later_rules_test;
