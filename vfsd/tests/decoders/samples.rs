//! Bytes that are right, for each decoder: what the corpora begin with.

use bytes::Bytes;
use vfsd::consensus::raft::entry_format::{MembershipImage, StoredMembershipImage};
use vfsd::consensus::raft::snapshot_store::SnapshotHead;
use vfsd::consensus::wire::{Append, AppendEntry, Ballot, Reply, Request, SnapshotPart};
use vfsd::state_machine::StateMachine;
use vfsd::state_machine::blob;
use vfsd::state_machine::command::{
    Author, Command, ContentOp, ContentUpdate, Create, Entry, Mkdir, NodeKind, Write,
};
use vfsd::state_machine::content::Content;
use vfsd::state_machine::ids::{InodeNo, LogIndex};
use vfsd::storage::append_log::AppendLog;
use vfsd::storage::record::{Position, StoredEntry, Vote};
use vfsd::transport::enrol::{EnrolReply, EnrolRequest, Enrolled};
use vfsd::transport::frame::{Frame, FrameKind};
use vfsd::transport::token::Token;

/// Right bytes for the decoder `name`.
pub fn of(name: &str) -> Vec<Vec<u8>> {
    match name {
        "frame" => frames(),
        "wire" => wire(),
        "entry" => entries(),
        "manifest" => vec![state().image().manifest.to_vec()],
        "blob" => vec![blob::encode(&content())],
        "snapshot" => vec![snapshot()],
        "segment" => vec![segment()],
        "enrolment" => enrolment(),
        "token" => vec![token().to_text().into_bytes()],
        other => panic!("no samples for {other}"),
    }
}

const AT: Position = Position { term: 3, index: 9 };
const VOTE: Vote = Vote {
    term: 3,
    node: 1,
    committed: true,
};

fn token() -> Token {
    Token {
        ca_digest: [7; 32],
        secret: [9; 16],
        expires_secs: 1_900_000_000,
    }
}

fn frames() -> Vec<Vec<u8>> {
    let kinds = [FrameKind::Request, FrameKind::Reply, FrameKind::Refusal];
    let frame = |kind| Frame {
        kind,
        id: 7,
        body: Bytes::from_static(b"body"),
    };
    kinds.map(|kind| frame(kind).encode().to_vec()).into()
}

fn head() -> SnapshotHead {
    SnapshotHead {
        last: Some(AT),
        membership: StoredMembershipImage {
            position: Some(AT),
            membership: MembershipImage {
                voters: vec![[1, 2].into()],
                addresses: [(1, "n1:1".into()), (2, "n2:1".into())].into(),
            },
        },
    }
}

fn wire() -> Vec<Vec<u8>> {
    let entry = AppendEntry {
        position: AT,
        kind: 1,
        payload: b"payload",
    };
    let append = Append {
        vote: VOTE,
        previous: Some(AT),
        entries: vec![entry],
        committed: Some(AT),
        quorum: true,
    };
    let ballot = Ballot {
        vote: VOTE,
        last: Some(AT),
        transfer: false,
    };
    let part = SnapshotPart {
        vote: VOTE,
        head: head(),
        blob: None,
        total: 4,
        offset: 0,
        data: b"data",
    };
    let requests = [
        Request::Append(append),
        Request::Vote(ballot),
        Request::Snapshot(part),
        Request::ReadIndex,
        Request::Overview,
    ];
    let replies = [
        Reply::NotLeader(Some(2)),
        Reply::NotReady("later".into()),
        Reply::ReadIndex(LogIndex(9)),
    ];
    let requests = requests.map(|request| request.encode().to_vec());
    let replies = replies.map(|reply| reply.encode().to_vec());
    requests.into_iter().chain(replies).collect()
}

fn entry(command: Command) -> Entry {
    let author = Author {
        comm: "cp".into(),
        ..Author::default()
    };
    Entry::new(author, command)
}

fn commands() -> Vec<Command> {
    let name = |name: &str| name.as_bytes().to_vec();
    let write = ContentOp::Write {
        offset: 3,
        data: b"bytes".to_vec(),
    };
    vec![
        Command::Mkdir(Mkdir {
            parent: InodeNo::ROOT,
            name: name("d"),
            mode: 0o755,
            uid: 0,
            gid: 0,
        }),
        Command::Create(Create {
            parent: InodeNo::ROOT,
            name: name("f"),
            kind: NodeKind::Regular,
            mode: 0o644,
            uid: 1,
            gid: 1,
            exclusive: true,
            handle: None,
        }),
        Command::Write(Write {
            inode: InodeNo::ROOT,
            base: None,
            update: ContentUpdate::Replace(vec![write]),
            mtime: None,
            closes: true,
        }),
    ]
}

fn entries() -> Vec<Vec<u8>> {
    let commands = commands().into_iter();
    commands.map(|command| entry(command).encode()).collect()
}

fn state() -> StateMachine {
    let mut state = StateMachine::new();
    for (command, index) in commands().into_iter().zip(1..) {
        drop(state.apply(LogIndex(index), &entry(command)));
    }
    state
}

fn content() -> Content {
    let mut content = Content::default();
    let write = ContentOp::Write {
        offset: 20_000,
        data: b"far out".to_vec(),
    };
    content.apply_op(&write).unwrap();
    content
}

/// Without its digest, which the target makes.
fn snapshot() -> Vec<u8> {
    let head = postcard::to_stdvec(&head()).unwrap();
    let mut bytes = b"vfsnap1\n".to_vec();
    bytes.extend(u32::try_from(head.len()).unwrap().to_le_bytes());
    bytes.extend(head);
    bytes.extend(state().image().manifest.iter());
    bytes
}

/// The used part of a segment with votes, entries, a truncation and a mark.
fn segment() -> Vec<u8> {
    const SIZE: u64 = 8_192;
    let dir = tempfile::tempdir().unwrap();
    AppendLog::create_with(dir.path(), SIZE).unwrap();
    let log = AppendLog::open_with(dir.path(), SIZE).unwrap();
    let entries = |from: u64| {
        (from..5).map(|index| StoredEntry {
            position: Position { term: 1, index },
            kind: 1,
            payload: vec![3; 40].into(),
        })
    };
    log.append(entries(0), Box::new(|_| {}));
    log.note_committed(Some(Position { term: 1, index: 1 }));
    let (sender, written) = std::sync::mpsc::channel();
    log.save_vote(VOTE, Box::new(move |result| sender.send(result).unwrap()));
    written.recv().unwrap().unwrap();
    log.truncate_after(Some(2));
    log.append(entries(3), Box::new(|_| {}));
    log.purge(Position { term: 1, index: 0 });
    drop(log);
    let mut bytes = std::fs::read(dir.path().join("0000000000000001.log")).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes.truncate(used + 1);
    bytes
}

fn enrolment() -> Vec<Vec<u8>> {
    let request = EnrolRequest {
        secret: [1; 16],
        expires_secs: 5,
        name: "n2".into(),
        address: "10.0.0.2:7601".into(),
        age_public: "age1".into(),
        signing_request: vec![1, 2, 3],
    };
    let reply: EnrolReply = Ok(Enrolled {
        node: 9,
        cluster: "1-test".into(),
        certificate: vec![1],
        ca: vec![2],
        members: vec![(1, "10.0.0.1:7601".into())],
    });
    let request = postcard::to_stdvec(&request).unwrap();
    vec![request, postcard::to_stdvec(&reply).unwrap()]
}
