//! Random entries against what must hold of every state. Goal: no panic, no broken invariant, the same bytes on two
//! replicas, and a snapshot at any point that continues like the original.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::super::StateMachine;
use super::super::command::*;
use super::super::ids::*;
use super::super::inode::Inode;
use super::super::invariants;
use super::super::level::Level;
use super::super::log_time::*;
use super::super::snapshot::{SnapshotError, StateImage, named_in};

const ENTRIES: u64 = 3000;
/// Entries after which every directory is looked at: what the tree has then is there.
const WATCHED: u64 = 1000;

fn seed() -> u64 {
    let chosen = std::env::var("CONTEXTOS_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = chosen.unwrap_or_else(|| rand::rng().random());
    println!("CONTEXTOS_SEED={seed}");
    seed
}

fn any_name(rng: &mut StdRng) -> Vec<u8> {
    format!("f{}", rng.random_range(0..6)).into_bytes()
}

fn any_inode(rng: &mut StdRng, state: &StateMachine) -> InodeNo {
    if rng.random_bool(0.1) {
        return InodeNo(rng.random_range(0..1100));
    }
    let all: Vec<InodeNo> = state.tree().inodes().map(|inode| inode.number).collect();
    all[rng.random_range(0..all.len())]
}

fn any_write(rng: &mut StdRng, inode: InodeNo) -> Write {
    let data = vec![rng.random(); rng.random_range(0..70_000)];
    let ops = vec![ContentOp::Write {
        offset: rng.random_range(0..40_000),
        data: data.clone(),
    }];
    let update = match rng.random_range(0..3) {
        0 => ContentUpdate::Replace(ops),
        1 => ContentUpdate::Patch(ops),
        _ => ContentUpdate::Append {
            truncate: rng.random(),
            data,
        },
    };
    Write {
        inode,
        base: None,
        update,
        mtime: None,
        closes: rng.random(),
    }
}

fn any_command(rng: &mut StdRng, state: &StateMachine) -> Command {
    let (parent, new_parent) = (any_inode(rng, state), any_inode(rng, state));
    let (name, new_name) = (any_name(rng), any_name(rng));
    let inode = any_inode(rng, state);
    let content = rng.random_bool(0.3).then(|| any_write(rng, inode));
    match rng.random_range(0..16) {
        0..=6 => any_new_name(rng, parent, name, inode, content),
        7 => maybe_checked(rng, state, NameChange::Unlink(Remove { parent, name })),
        8 => maybe_checked(rng, state, NameChange::Rmdir(Remove { parent, name })),
        9..=10 => {
            let mode = [
                RenameMode::Replace,
                RenameMode::NoReplace,
                RenameMode::Exchange,
            ][rng.random_range(0..3)];
            let rename = Rename {
                parent,
                name,
                new_parent,
                new_name,
                mode,
                content,
            };
            maybe_checked(rng, state, NameChange::Rename(rename))
        }
        11 => Command::SetAttr(SetAttr {
            inode,
            size: Some(rng.random_range(0..50_000)),
            ..SetAttr::default()
        }),
        12 => Command::SetXattr(any_xattr(rng, inode)),
        13 => Command::HandleClosed {
            session: any_session(rng, state),
            handle: HandleId(rng.random_range(0..5)),
        },
        _ => Command::Write(any_write(rng, inode)),
    }
}

fn maybe_checked(rng: &mut StdRng, state: &StateMachine, change: NameChange) -> Command {
    let mut found = || match rng.random_range(0..4) {
        0 => Found::Nothing,
        1 => Found::Inode(any_inode(rng, state)),
        _ => Found::Unknown,
    };
    let (found, found_new) = (found(), found());
    if rng.random() {
        return Command::Checked(Checked {
            change,
            found,
            found_new,
        });
    }
    change.into()
}

fn any_new_name(
    rng: &mut StdRng,
    parent: InodeNo,
    name: Vec<u8>,
    inode: InodeNo,
    content: Option<Write>,
) -> Command {
    let (mode, uid, gid) = (0o2755, 0, 7);
    match rng.random_range(0..7) {
        0..=2 => Command::Create(Create {
            parent,
            name,
            kind: NodeKind::Regular,
            mode,
            uid,
            gid,
            exclusive: rng.random(),
            handle: rng
                .random_bool(0.5)
                .then(|| HandleId(rng.random_range(0..5))),
        }),
        3..=4 => Command::Mkdir(Mkdir {
            parent,
            name,
            mode,
            uid,
            gid,
        }),
        5 => Command::Symlink(Symlink {
            parent,
            name,
            target: b"elsewhere".to_vec(),
            uid,
            gid,
        }),
        _ => Command::Link(Link {
            inode,
            parent,
            name,
            content,
        }),
    }
}

fn any_xattr(rng: &mut StdRng, inode: InodeNo) -> SetXattr {
    let (name, value) = [
        ("user.lk.guard", "lk/f1"),
        ("user.lk.mkdir", "on"),
        ("user.lk.hold", "handle"),
        ("user.lk.delay", "0"),
        ("user.note", "x"),
    ][rng.random_range(0..5)];
    let mode = XattrMode::Any;
    SetXattr {
        inode,
        name: name.into(),
        value: value.into(),
        mode,
    }
}

fn any_session(rng: &mut StdRng, state: &StateMachine) -> SessionId {
    let all: Vec<SessionId> = state.sessions().map(|(id, _)| id).collect();
    if all.is_empty() {
        SessionId(1)
    } else {
        all[rng.random_range(0..all.len())]
    }
}

fn any_entry(rng: &mut StdRng, state: &StateMachine, number: u64) -> Entry {
    let log_time = LogTime(number * 10);
    let wall = WallTime {
        secs: i64::try_from(number).unwrap(),
        nanos: 5,
    };
    let mut entry = Entry {
        stamp: Stamp { log_time, wall },
        ..Entry::new(Author::default(), Command::Nothing)
    };
    let due = state.due(log_time);
    entry.command = match rng.random_range(0..50) {
        0 => Command::SessionOpen {
            node: NodeId(rng.random_range(1..4)),
        },
        1 => Command::SessionEnd {
            session: any_session(rng, state),
            clean: false,
        },
        2..=5 if !due.is_empty() => due[0].clone(),
        _ => {
            let session = any_session(rng, state);
            entry.author.node = state
                .session(session)
                .map_or(NodeId(1), |session| session.node);
            let back = rng.random_range(0..20);
            let low = number.saturating_sub(500);
            entry.origin = Some(Origin {
                session,
                request: RequestNo(number.saturating_sub(if back < 2 { back } else { 0 })),
                settled_below: RequestNo(low),
                abandoned: if back == 3 {
                    vec![RequestNo(number.saturating_sub(1)), RequestNo(number + 1)]
                } else {
                    vec![]
                },
            });
            let guard = state.locks().iter().map(|(_, lock)| lock.fence).last();
            entry.fence = if rng.random_bool(0.7) { guard } else { None };
            any_command(rng, state)
        }
    };
    entry
}

#[test]
fn replicas_stay_equal_and_whole_under_random_entries() {
    let mut rng = StdRng::seed_from_u64(seed());
    let (mut one, mut other) = (
        StateMachine::new_at(Level::KNOWN),
        StateMachine::new_at(Level::KNOWN),
    );
    let mut accepted = 0;
    for number in 1..=ENTRIES {
        let entry = any_entry(&mut rng, &one, number);
        let sent = Entry::decode(&entry.encode()).unwrap();
        assert_eq!(sent, entry);
        let before = one.clone();
        let (first, second) = (
            one.apply(LogIndex(number), &entry),
            other.apply(LogIndex(number), &sent),
        );
        assert_eq!(
            (&first.outcome, &first.changes),
            (&second.outcome, &second.changes)
        );
        accepted += u64::from(first.outcome.is_ok());
        if let Err(broken) = invariants::check(&one) {
            panic!("entry {number} {:?} breaks: {broken}", entry.command);
        }
        if number <= WATCHED
            && let Some(directory) = unnoticed_change(&before, &one)
        {
            let command = &entry.command;
            panic!(
                "entry {number} {command:?} changes something beneath {directory} and its revision stays"
            );
        }
        if number % 97 == 0 {
            let image = one.image();
            other = StateMachine::from_image(&image).unwrap();
            assert_eq!(other, one, "a snapshot continues like the original");
            assert_eq!(other.image(), image, "equal states give equal images");
        }
    }
    assert_eq!(one.digest(), other.digest());
    assert!(
        accepted > ENTRIES / 10,
        "only {accepted} of {ENTRIES} random entries were accepted: the test tests little"
    );
}

/// A directory whose tree differs and that does not say so, or that went back.
fn unnoticed_change(before: &StateMachine, after: &StateMachine) -> Option<InodeNo> {
    let directories = after.tree().inodes().filter(|inode| inode.is_directory());
    let mut known = directories.filter(|inode| before.tree().inode(inode.number).is_some());
    let wrong = known.find(|inode| {
        let revisions = [before, after].map(|state| state.tree().tree_revision(inode.number));
        let differs = beneath(before, inode.number) != beneath(after, inode.number);
        match differs {
            true => revisions[1] != Some(after.applied()),
            false => revisions[0] != revisions[1],
        }
    });
    wrong.map(|inode| inode.number)
}

/// Everything at and beneath a directory.
fn beneath(state: &StateMachine, directory: InodeNo) -> BTreeMap<InodeNo, *const Inode> {
    let (mut found, mut way) = (BTreeMap::new(), vec![directory]);
    while let Some(at) = way.pop() {
        let inode = state.tree().inode(at).unwrap();
        found.insert(at, Arc::as_ptr(inode));
        way.extend(inode.children());
    }
    found
}

#[test]
fn a_damaged_snapshot_is_refused_and_never_panics() {
    let mut rng = StdRng::seed_from_u64(seed());
    let mut state = StateMachine::new_at(Level::KNOWN);
    for number in 1..200 {
        let entry = any_entry(&mut rng, &state, number);
        state.apply(LogIndex(number), &entry);
    }
    let image = state.image();
    let with = |manifest: &[u8]| StateImage {
        manifest: manifest.into(),
        blobs: image.blobs.clone(),
    };
    assert!(matches!(
        StateMachine::from_image(&with(&[9])),
        Err(SnapshotError::Version(9))
    ));
    let missing = StateImage {
        manifest: image.manifest.clone(),
        blobs: Default::default(),
    };
    let refused = StateMachine::from_image(&missing);
    let names_any = !named_in(&image.manifest).unwrap().is_empty();
    assert_eq!(matches!(refused, Err(SnapshotError::Missing(_))), names_any);
    let len = image.manifest.len();
    for cut in (0..len).step_by(1 + len / 300) {
        let refused = StateMachine::from_image(&with(&image.manifest[..cut]));
        assert!(refused.is_err(), "cut at {cut}");
    }
    for _ in 0..300 {
        let mut bytes = image.manifest.to_vec();
        let at = rng.random_range(1..bytes.len());
        bytes[at] ^= 1 << rng.random_range(0..8);
        // A flipped bit may give another valid state; the frame's checksum is what tells. It must only never panic.
        let _ = StateMachine::from_image(&with(&bytes));
    }
}
