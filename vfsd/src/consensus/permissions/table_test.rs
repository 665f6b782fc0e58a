//! The whole table, written out a second time: each request and each command, from each kind of peer. The functions
//! that number the rows match without `_`, so a new variant does not compile until it has a row.

use super::*;
use crate::consensus::cluster::pledges::Known;
use crate::consensus::raft::snapshot_store::SnapshotHead;
use crate::consensus::raft::types::SnapshotMeta;
use crate::consensus::wire::{Append, AuthorityRequest, Ballot, Greeting, SnapshotPart, Transfer};
use crate::state_machine::command::*;
use crate::state_machine::ids::*;
use crate::state_machine::level::Level;
use crate::state_machine::log_time::WallTime;
use crate::storage::record::Vote;
use crate::transport::enrol::EnrolRequest;

const OWN: u64 = 5;
const OTHER: u64 = 6;

/// The columns: a voter, and a learner of each grant, one that is not known yet, one that was removed,
/// one that rejoined under another id.
fn peers() -> [Peer; 7] {
    let peer = |standing, is_voter| Peer {
        node: NodeId(OWN),
        standing,
        is_voter,
    };
    [
        peer(Standing::Member(Grant::Writer), true),
        peer(Standing::Member(Grant::Writer), false),
        peer(Standing::Member(Grant::Agent), false),
        peer(Standing::Member(Grant::Reader), false),
        peer(Standing::Unheard, false),
        peer(Standing::Gone, false),
        peer(Standing::Replaced, false),
    ]
}

//                            voter writer agent reader unheard gone replaced
const RAFT: [bool; 7] = [true, true, false, false, true, false, false];
const MEMBER: [bool; 7] = [true, true, true, true, false, false, false];
const GREETS: [bool; 7] = [true, true, true, true, true, false, false];
const WRITER: [bool; 7] = [true, true, false, false, false, false, false];
const VOTER: [bool; 7] = [true, false, false, false, false, false, false];
const REJOIN: [bool; 7] = [true, true, true, true, false, false, true];
const NOBODY: [bool; 7] = [false; 7];

fn vote(node: u64) -> Vote {
    Vote {
        term: 3,
        node,
        committed: true,
    }
}

fn ballot(node: u64) -> Ballot {
    Ballot {
        vote: vote(node),
        last: None,
        transfer: false,
    }
}

fn append(node: u64) -> Request<'static> {
    Request::Append(Append {
        vote: vote(node),
        previous: None,
        entries: Vec::new(),
        committed: None,
        quorum: true,
    })
}

fn transfer(node: u64) -> Request<'static> {
    Request::TransferLeader(Transfer {
        from: vote(node),
        to: OWN,
        last: None,
    })
}

fn snapshot(node: u64) -> Request<'static> {
    Request::Snapshot(SnapshotPart {
        vote: vote(node),
        head: SnapshotHead::of(&SnapshotMeta::default()),
        total: 0,
        offset: 0,
        data: &[],
        blob: None,
    })
}

fn enrol() -> EnrolRequest {
    EnrolRequest {
        secret: [0; 16],
        expires_secs: 0,
        name: String::new(),
        address: String::new(),
        age_public: String::new(),
        signing_request: Vec::new(),
    }
}

fn token() -> JoinToken {
    JoinToken {
        digest: [0; 32],
        grant: Grant::Reader,
        expires: WallTime::default(),
        name: None,
    }
}

fn requests() -> Vec<(Request<'static>, [bool; 7])> {
    let name = String::new;
    let change = Request::Change;
    let rejoin = ClusterChange::Rejoin {
        address: name(),
        age_public: name(),
        signing_request: Vec::new(),
    };
    let greeting = Greeting {
        own: Known::default(),
        yours: None,
    };
    vec![
        (append(OWN), RAFT),
        (append(OTHER), NOBODY),
        (Request::Vote(ballot(OWN)), RAFT),
        (Request::Vote(ballot(OTHER)), NOBODY),
        (Request::PreVote(ballot(OWN)), RAFT),
        (Request::PreVote(ballot(OTHER)), NOBODY),
        (transfer(OWN), RAFT),
        (transfer(OTHER), NOBODY),
        (snapshot(OWN), RAFT),
        (snapshot(OTHER), NOBODY),
        (Request::Propose(&[]), MEMBER),
        (Request::ReadIndex, MEMBER),
        (Request::Renew(SessionId(1)), MEMBER),
        (Request::Enrol(enrol()), MEMBER),
        (change(ClusterChange::TokenCreate(token())), WRITER),
        (change(ClusterChange::Promote { name: name() }), WRITER),
        (change(ClusterChange::Remove { name: name() }), WRITER),
        (change(rejoin), REJOIN),
        (Request::TakeAuthority(name()), VOTER),
        (Request::Overview, MEMBER),
        (Request::Lineage(LogIndex(1)), MEMBER),
        (Request::LineageVerdict(LogIndex(1), None), VOTER),
        (
            change(ClusterChange::RotateAuthority { from: [0; 32] }),
            WRITER,
        ),
        (Request::Authority(AuthorityRequest::View), VOTER),
        (Request::Greet(greeting), GREETS),
    ]
}

const REQUEST_ROWS: usize = 20;

fn request_row(request: &Request<'_>) -> usize {
    match request {
        Request::Append(_) => 0,
        Request::Vote(_) => 1,
        Request::PreVote(_) => 2,
        Request::TransferLeader(_) => 3,
        Request::Snapshot(_) => 4,
        Request::Propose(_) => 5,
        Request::ReadIndex => 6,
        Request::Renew(_) => 7,
        Request::Enrol(_) => 8,
        Request::Change(ClusterChange::TokenCreate(_)) => 9,
        Request::Change(ClusterChange::Promote { .. }) => 10,
        Request::Change(ClusterChange::Remove { .. }) => 11,
        Request::Change(ClusterChange::Rejoin { .. }) => 12,
        Request::TakeAuthority(_) => 13,
        Request::Overview => 14,
        Request::Lineage(_) => 15,
        Request::LineageVerdict(..) => 16,
        Request::Change(ClusterChange::RotateAuthority { .. }) => 17,
        Request::Authority(_) => 18,
        Request::Greet(_) => 19,
    }
}

#[test]
fn every_request_is_answered_to_those_who_may_ask_it() {
    let mut rows = std::collections::BTreeSet::new();
    for (request, expected) in requests() {
        rows.insert(request_row(&request));
        let allowed = peers().map(|peer| check(&peer, &request).is_ok());
        assert_eq!(allowed, expected, "{request:?}");
    }
    assert!(rows.into_iter().eq(0..REQUEST_ROWS), "a row is missing");
}

/// A reader remembers as anybody does, and stops nobody by it.
#[test]
fn only_who_may_lead_ends_others_by_what_it_remembers() {
    assert_eq!(peers().map(|peer| may_end_others(&peer)), RAFT);
}

/// Whatever its grant says: the key that it holds lets a voter do anything anyway.
#[test]
fn a_voter_of_any_grant_may_lead() {
    for grant in [Grant::Reader, Grant::Agent, Grant::Writer] {
        let peer = Peer {
            node: NodeId(OWN),
            standing: Standing::Member(grant),
            is_voter: true,
        };
        assert_eq!(check(&peer, &append(OWN)), Ok(()));
    }
}

fn entry(command: Command, numbered: bool) -> Entry {
    let origin = Origin {
        session: SessionId(1),
        request: RequestNo(1),
        settled_below: RequestNo(0),
        abandoned: Vec::new(),
    };
    Entry {
        origin: numbered.then_some(origin),
        ..Entry::new(Author::default(), command)
    }
}

fn create() -> Create {
    Create {
        parent: InodeNo::ROOT,
        name: Vec::new(),
        kind: NodeKind::Regular,
        mode: 0,
        uid: 0,
        gid: 0,
        exclusive: true,
        handle: None,
    }
}

/// Commands about the tree, which `apply` judges by their place.
fn tree_commands() -> Vec<Command> {
    let (parent, inode) = (InodeNo::ROOT, InodeNo::ROOT);
    let remove = Remove {
        parent,
        name: Vec::new(),
    };
    vec![
        Command::Nothing,
        Command::Create(create()),
        Command::Mkdir(Mkdir {
            parent,
            name: Vec::new(),
            mode: 0,
            uid: 0,
            gid: 0,
        }),
        Command::Symlink(Symlink {
            parent,
            name: Vec::new(),
            target: Vec::new(),
            uid: 0,
            gid: 0,
        }),
        Command::Link(Link {
            inode,
            parent,
            name: Vec::new(),
            content: None,
        }),
        Command::Unlink(remove.clone()),
        Command::Rmdir(remove.clone()),
        Command::Checked(Checked {
            change: NameChange::Unlink(remove),
            found: Found::Nothing,
            found_new: Found::Unknown,
        }),
        Command::Rename(Rename {
            parent,
            name: Vec::new(),
            new_parent: parent,
            new_name: Vec::new(),
            mode: RenameMode::Replace,
            content: None,
        }),
        Command::SetAttr(SetAttr::default()),
        Command::SetXattr(SetXattr {
            inode,
            name: String::new(),
            value: Vec::new(),
            mode: XattrMode::Any,
        }),
        Command::RemoveXattr {
            inode,
            name: String::new(),
        },
        Command::Write(Write {
            inode,
            base: None,
            update: ContentUpdate::Patch(Vec::new()),
            mtime: None,
            closes: true,
        }),
        Command::CloseWrite { inode },
    ]
}

fn commands() -> Vec<(Command, [bool; 7])> {
    let tree = tree_commands().into_iter().map(|command| (command, MEMBER));
    let others = [
        (Command::LockBreak { inode: InodeNo(9) }, WRITER),
        (
            Command::HandleClosed {
                session: SessionId(OWN),
                handle: HandleId(1),
            },
            MEMBER,
        ),
        (
            Command::HandleClosed {
                session: SessionId(OTHER),
                handle: HandleId(1),
            },
            NOBODY,
        ),
        (session_end(OWN), MEMBER),
        (session_end(OTHER), NOBODY),
        // With a number: a session cannot be opened under a session.
        (Command::SessionOpen { node: NodeId(OWN) }, NOBODY),
    ];
    let of_the_leader = leaders_commands().into_iter();
    let of_the_leader = of_the_leader.map(|command| (command, NOBODY));
    tree.chain(others).chain(of_the_leader).collect()
}

/// What no member may propose.
fn leaders_commands() -> Vec<Command> {
    let member = Member {
        node: NodeId(OWN),
        name: String::new(),
        address: String::new(),
        grant: Grant::Writer,
        age_public: String::new(),
    };
    vec![
        Command::LockDelayEnd {
            inode: InodeNo(9),
            fence: FencingToken(1),
        },
        Command::MemberPut(member.clone()),
        Command::MemberRemove {
            node: NodeId(OTHER),
        },
        Command::TokenCreate(token()),
        Command::TokenUse {
            digest: [0; 32],
            name: String::new(),
            address: String::new(),
            age_public: String::new(),
        },
        Command::ClusterInit {
            cluster: String::new(),
            first: member,
        },
        Command::RaiseLevel(Level::KNOWN),
        Command::Admit {
            token: [0; 32],
            newcomer: newcomer(),
        },
        Command::Authority(AuthorityStep::Issue),
        Command::Readmit {
            node: NodeId(OWN),
            newcomer: newcomer(),
        },
    ]
}

fn newcomer() -> Newcomer {
    Newcomer {
        name: String::new(),
        address: String::new(),
        age_public: String::new(),
        key: [0; 32],
    }
}

fn session_end(session: u64) -> Command {
    Command::SessionEnd {
        session: SessionId(session),
        clean: true,
    }
}

const COMMAND_ROWS: usize = 28;

fn command_row(command: &Command) -> usize {
    match command {
        Command::Nothing => 0,
        Command::Create(_) => 1,
        Command::Mkdir(_) => 2,
        Command::Symlink(_) => 3,
        Command::Link(_) => 4,
        Command::Unlink(_) => 5,
        Command::Rmdir(_) => 6,
        Command::Rename(_) => 7,
        Command::SetAttr(_) => 8,
        Command::SetXattr(_) => 9,
        Command::RemoveXattr { .. } => 10,
        Command::Write(_) => 11,
        Command::CloseWrite { .. } => 12,
        Command::SessionOpen { .. } => 13,
        Command::SessionEnd { .. } => 14,
        Command::HandleClosed { .. } => 15,
        Command::LockDelayEnd { .. } => 16,
        Command::LockBreak { .. } => 17,
        Command::MemberPut(_) => 18,
        Command::MemberRemove { .. } => 19,
        Command::TokenCreate(_) => 20,
        Command::TokenUse { .. } => 21,
        Command::ClusterInit { .. } => 22,
        Command::RaiseLevel(_) => 23,
        Command::Admit { .. } => 24,
        Command::Readmit { .. } => 25,
        Command::Authority(_) => 26,
        Command::Checked(_) => 27,
    }
}

/// Sessions have the numbers of their nodes here.
fn owner(session: SessionId) -> Option<NodeId> {
    Some(NodeId(session.0))
}

fn allowed(entry: &Entry) -> [bool; 7] {
    peers().map(|peer| check_proposal(&peer, entry, owner).is_ok())
}

#[test]
fn every_command_is_taken_from_those_who_may_propose_it() {
    let mut rows = std::collections::BTreeSet::new();
    for (command, expected) in commands() {
        rows.insert(command_row(&command));
        let entry = entry(command, true);
        assert_eq!(allowed(&entry), expected, "{:?}", entry.command);
    }
    assert!(rows.into_iter().eq(0..COMMAND_ROWS), "a row is missing");
}

#[test]
fn a_change_of_the_tree_needs_a_number_and_opening_a_session_needs_none() {
    for command in tree_commands() {
        let entry = entry(command, false);
        assert_eq!(allowed(&entry), NOBODY, "{:?}", entry.command);
    }
    let open = |node| entry(Command::SessionOpen { node: NodeId(node) }, false);
    assert_eq!(allowed(&open(OWN)), MEMBER);
    assert_eq!(allowed(&open(OTHER)), NOBODY);
}
