//! What waits for the replay: in which shape changes come into the queue, what merges, what a bound makes of it.

use super::*;
use crate::state_machine::command::{
    Author, Command, ContentOp, ContentUpdate, Create, Entry, NodeKind, Rename, RenameMode, Write,
};
use crate::state_machine::ids::LogIndex;
use crate::state_machine::namespace::{MID, RUN};
use crate::state_machine::outcome::{Applied, Done};

fn apply(state: &mut StateMachine, command: Command) -> Applied {
    let entry = Entry::new(Author::default(), command);
    let index = LogIndex(state.applied().0 + 1);
    state.apply(index, &entry)
}

fn file(state: &mut StateMachine, name: &str) -> InodeNo {
    let applied = apply(
        state,
        Command::Create(Create {
            parent: MID,
            name: name.into(),
            kind: NodeKind::Regular,
            mode: 0o644,
            uid: 0,
            gid: 0,
            exclusive: true,
            handle: None,
        }),
    );
    match applied.outcome {
        Ok(Done::Inode { inode, .. }) => inode,
        other => panic!("{other:?}"),
    }
}

fn unseen(changes: &[Change]) -> Vec<(&Change, bool)> {
    changes.iter().map(|change| (change, false)).collect()
}

/// A filesystem whose kernel knows the directory, a queue for its node, and the state as of now.
fn queue_over(state: StateMachine) -> (Arc<FileSystem>, Arc<ReplayQueue>, Arc<StateMachine>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let fs = FileSystem::new(0, runtime.unwrap().handle().clone());
    fs.known().add(MID);
    let queue = ReplayQueue::new(NodeId(2), &fs);
    (fs, queue, Arc::new(state))
}

/// The waiting events as short text.
fn waiting(queue: &ReplayQueue) -> Vec<String> {
    let inner = queue.inner.lock();
    let text = |event: &Event| match event {
        Event::Change { change, .. } => match change {
            Change::Created { name, .. } => format!("+{}", String::from_utf8_lossy(name)),
            Change::Removed { name, .. } => format!("-{}", String::from_utf8_lossy(name)),
            Change::Modified { inode, .. } => format!("m{inode}"),
            Change::Attributes { inode } => format!("a{inode}"),
            other => format!("{other:?}"),
        },
        Event::Difference { old, new } => format!("{}..{}", old.applied(), new.applied()),
        Event::Rescan(directory) => format!("all of {directory}"),
        Event::MountChanged => "mount".into(),
    };
    inner.events.iter().map(text).collect()
}

/// `mv` while a writer has uncommitted bytes: they are written under the old name, on the acting node too.
#[test]
fn content_that_a_rename_carries_is_told_under_the_old_name() {
    let mut state = StateMachine::new();
    let inode = file(&mut state, "old");
    let data = b"text".to_vec();
    let content = Write {
        inode,
        base: None,
        update: ContentUpdate::Patch(vec![ContentOp::Write { offset: 0, data }]),
        mtime: None,
        closes: false,
    };
    let applied = apply(
        &mut state,
        Command::Rename(Rename {
            parent: MID,
            name: b"old".to_vec(),
            new_parent: RUN,
            new_name: b"new".to_vec(),
            mode: RenameMode::Replace,
            content: Some(content),
        }),
    );
    let events = events_of(&state, &unseen(&applied.changes));
    let names = |event: &Event| match event {
        Event::Change { inode, .. } => {
            let names = inode.names.iter();
            names
                .map(|(at, name)| (*at, name.as_bytes().to_vec()))
                .collect::<Vec<_>>()
        }
        _ => Vec::new(),
    };
    let told: Vec<_> = events.iter().map(names).collect();
    let (old, new) = ((MID, b"old".to_vec()), (RUN, b"new".to_vec()));
    assert_eq!(told, [vec![old], vec![new]], "modified, then moved");
}

#[test]
fn a_change_merges_with_its_like_if_nothing_else_happened_to_its_inode() {
    let mut state = StateMachine::new();
    let [one, other] = ["one", "other"].map(|name| file(&mut state, name));
    let (fs, queue, state) = queue_over(state);
    let push = |change: Change| {
        let mut inner = queue.inner.lock();
        inner.push_all(&fs, &state, &[(&change, false)]);
    };
    let attributes = |inode| push(Change::Attributes { inode });
    let written = |closed| {
        push(Change::Modified {
            inode: one,
            closed,
            by_path: false,
        });
    };
    attributes(one);
    attributes(one);
    let twice = [format!("a{one}"), format!("a{one}")];
    assert_eq!(waiting(&queue), twice, "the first one may be told already");
    attributes(other);
    attributes(one);
    assert_eq!(waiting(&queue).len(), 3, "the other's is not in the way");
    written(false);
    attributes(one);
    written(true);
    written(true);
    let last = format!("a{one} m{one} m{one}");
    assert_eq!(waiting(&queue)[4..].join(" "), last, "order, and each save");
    for _ in 0..7 {
        queue.done();
    }
    attributes(one);
    assert_eq!(
        waiting(&queue).len(),
        1,
        "what was told merges with nothing"
    );
    assert!(queue.inner.lock().last_of.len() == 1);
}

/// Snapshots hold a whole state each: two of them wait at most, one under way.
#[test]
fn a_snapshot_takes_what_came_after_the_one_before_it() {
    let mut state = StateMachine::new();
    let states: Vec<Arc<StateMachine>> = (0..4)
        .map(|number| {
            file(&mut state, &format!("f{number}"));
            Arc::new(state.clone())
        })
        .collect();
    let (fs, queue, _) = queue_over(state.clone());
    let snapshot = |old: usize, new: usize| {
        let (old, new) = (&states[old], &states[new]);
        queue.after(Publication::Snapshot { old, new }, new);
    };
    snapshot(0, 1);
    snapshot(1, 2);
    let inode = states[0].tree().lookup(MID, b"f0").unwrap();
    let mut inner = queue.inner.lock();
    inner.push_all(&fs, &states[2], &[(&Change::Attributes { inode }, false)]);
    drop(inner);
    snapshot(2, 3);
    assert_eq!(waiting(&queue), ["1..2", "2..4"]);

    queue.look_into(&states[0], &states[1]);
    assert_eq!(waiting(&queue), ["1..2", "+f1", "2..4"]);
    queue.done();
    queue.done();
    assert_eq!(waiting(&queue), ["2..4"]);
    queue.look_into(&states[1], &states[3]);
    assert_eq!(waiting(&queue), ["2..4", "+f2", "+f3"]);
}

#[test]
fn past_its_bound_the_queue_names_directories_and_keeps_a_snapshot() {
    let mut state = StateMachine::new();
    let old = Arc::new(state.clone());
    let inode = file(&mut state, "x");
    let (fs, queue, state) = queue_over(state);
    let mut inner = queue.inner.lock();
    let saved = Change::Modified {
        inode,
        closed: true,
        by_path: false,
    };
    for _ in 0..10 {
        inner.push_all(&fs, &state, &[(&saved, false)]);
    }
    inner.push_snapshot(&old, &old);
    for _ in inner.events.len()..=REPLAY_QUEUE_MAX {
        inner.push_all(&fs, &state, &[(&saved, false)]);
    }
    drop(inner);
    let (under_way, rest) = (format!("m{inode}"), format!("all of {MID}"));
    assert_eq!(waiting(&queue), [under_way, rest, "0..1".into()]);
}

/// A name that a snapshot takes away may be told of until then: its creation waits before it.
#[test]
fn a_name_is_told_of_until_the_snapshot_that_takes_it() {
    let mut state = StateMachine::new();
    let inode = file(&mut state, "x");
    let (_fs, queue, old) = queue_over(state);
    let new = Arc::new(StateMachine::new());
    assert!(!queue.is_telling(MID, b"x", inode));
    let publication = Publication::Snapshot {
        old: &old,
        new: &new,
    };
    queue.after(publication, &new);
    assert!(queue.is_telling(MID, b"x", inode));
    queue.done();
    assert!(!queue.is_telling(MID, b"x", inode));
}
