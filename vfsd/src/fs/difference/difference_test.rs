//! The difference of two states, made into a list of names call by call. Goal: from the old names it comes to the new
//! ones by calls that a kernel would take.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{Difference, between};
use crate::state_machine::StateMachine;
use crate::state_machine::command::*;
use crate::state_machine::ids::{InodeNo, LogIndex, NodeId, RequestNo, SessionId};
use crate::state_machine::inode::Kind;
use crate::state_machine::level::Level;
use crate::state_machine::log_time::{LogTime, Stamp};
use crate::state_machine::namespace::{LK, MID};
use crate::state_machine::outcome::{Change, Done, Outcome};

const MANY: usize = usize::MAX;

/// A state and one node with a session.
#[derive(Clone)]
struct World {
    state: StateMachine,
    session: SessionId,
    next: u64,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            state: StateMachine::new_at(Level::KNOWN),
            session: SessionId(1),
            next: 1,
        };
        let node = NodeId(1);
        world.push(None, Command::SessionOpen { node }).unwrap();
        world
    }

    fn push(&mut self, origin: Option<Origin>, command: Command) -> Outcome {
        let index = LogIndex(self.state.applied().0 + 1);
        let author = Author {
            node: NodeId(1),
            ..Author::default()
        };
        let stamp = Stamp {
            log_time: LogTime(index.0),
            ..Stamp::default()
        };
        let entry = Entry {
            stamp,
            origin,
            ..Entry::new(author, command)
        };
        self.state.apply(index, &entry).outcome
    }

    fn run(&mut self, command: Command) -> Outcome {
        let origin = Origin {
            session: self.session,
            request: RequestNo(self.next),
            settled_below: RequestNo(self.next),
            abandoned: Vec::new(),
        };
        self.next += 1;
        self.push(Some(origin), command)
    }

    fn file(&mut self, parent: InodeNo, name: &str) -> Outcome {
        self.run(Command::Create(Create {
            parent,
            name: name.into(),
            kind: NodeKind::Regular,
            mode: 0o644,
            uid: 0,
            gid: 0,
            exclusive: true,
            handle: None,
        }))
    }

    fn dir(&mut self, parent: InodeNo, name: &str) -> Outcome {
        self.run(Command::Mkdir(Mkdir {
            parent,
            name: name.into(),
            mode: 0o755,
            uid: 0,
            gid: 0,
        }))
    }

    fn remove(&mut self, parent: InodeNo, name: &str) -> Outcome {
        let child = self.state.tree().lookup(parent, name.as_bytes())?;
        let is_directory = self.state.tree().directory(child).is_ok();
        let remove = Remove {
            parent,
            name: name.into(),
        };
        self.run(match is_directory {
            true => Command::Rmdir(remove),
            false => Command::Unlink(remove),
        })
    }

    fn rename(&mut self, from: (InodeNo, &str), to: (InodeNo, &str), mode: RenameMode) -> Outcome {
        self.run(Command::Rename(Rename {
            parent: from.0,
            name: from.1.into(),
            new_parent: to.0,
            new_name: to.1.into(),
            mode,
            content: None,
        }))
    }

    fn link(&mut self, inode: InodeNo, parent: InodeNo, name: &str) -> Outcome {
        self.run(Command::Link(Link {
            inode,
            parent,
            name: name.into(),
            content: None,
        }))
    }

    fn save(&mut self, inode: InodeNo, text: &str) -> Outcome {
        let data = text.as_bytes().to_vec();
        let update = ContentUpdate::Replace(vec![ContentOp::Write { offset: 0, data }]);
        self.run(Command::Write(Write {
            inode,
            base: None,
            update,
            mtime: None,
            closes: true,
        }))
    }

    fn directories(&self) -> Vec<InodeNo> {
        let inodes = self.state.tree().inodes();
        let directories = inodes.filter(|inode| inode.is_directory());
        directories.map(|inode| inode.number).collect()
    }
}

fn made(outcome: Outcome) -> InodeNo {
    match outcome {
        Ok(Done::Inode { inode, .. }) => inode,
        other => panic!("an inode is made: {other:?}"),
    }
}

fn changes(old: &World, new: &World) -> Vec<Change> {
    let known = old.directories().into_iter().chain(new.directories());
    match between(&old.state, &new.state, &known.collect(), MANY) {
        Difference::Changes(changes) => changes,
        Difference::In(_) => panic!("there is no bound"),
    }
}

type Names = BTreeMap<(InodeNo, Vec<u8>), InodeNo>;

fn names_of(world: &World) -> Names {
    let mut names = Names::new();
    for inode in world.state.tree().inodes() {
        let own = inode.names.iter();
        names.extend(own.map(|(parent, name)| ((*parent, name.as_bytes().to_vec()), inode.number)));
    }
    names
}

/// Makes a change of a list of names as a kernel would, or panics where it would refuse.
fn make(names: &mut Names, change: &Change, new: &World) {
    let lives_on = |inode: &InodeNo| new.state.tree().inode(*inode).is_some();
    match change.clone() {
        Change::Created {
            parent,
            name,
            inode,
            ..
        } => assert_eq!(names.insert((parent, name), inode), None, "{change:?}"),
        Change::Removed {
            parent,
            name,
            inode,
            directory,
            ..
        } => {
            assert_eq!(names.remove(&(parent, name)), Some(inode), "{change:?}");
            let is_empty = names.keys().all(|(parent, _)| *parent != inode);
            assert!(!directory || (is_empty && !lives_on(&inode)), "{change:?}");
        }
        Change::Renamed {
            parent,
            name,
            new_parent,
            new_name,
            inode,
            replaced,
            exchange,
        } => {
            assert_eq!(
                names.remove(&(parent, name.clone())),
                Some(inode),
                "{change:?}"
            );
            let other = names.insert((new_parent, new_name), inode);
            assert_eq!(other, replaced.map(|(other, _)| other), "{change:?}");
            if let (Some(other), true) = (other, exchange) {
                names.insert((parent, name), other);
            }
        }
        Change::Gone(inode) => {
            assert!(
                !lives_on(&inode.number) && inode.names.len() == 1,
                "{change:?}"
            );
            assert!(
                names.values().all(|named| *named != inode.number),
                "{change:?}"
            );
        }
        // A directory that is told of as a whole is read again.
        Change::Attributes { inode: directory } => {
            names.retain(|(parent, _), _| *parent != directory);
            let fresh = names_of(new).into_iter();
            names.extend(fresh.filter(|((parent, _), _)| *parent == directory));
        }
        Change::Modified { .. } | Change::ClosedWrite { .. } => {}
    }
}

#[test]
fn random_changes_of_a_tree_are_told_in_an_order_that_calls_could_have() {
    let chosen = std::env::var("CONTEXTOS_SEED").ok();
    let seed: u64 = chosen
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| rand::rng().random());
    println!("CONTEXTOS_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    for _ in 0..200 {
        let mut old = World::new();
        operate(&mut old, &mut rng, 40);
        let mut new = old.clone();
        operate(&mut new, &mut rng, 40);
        let mut names = names_of(&old);
        for change in changes(&old, &new) {
            make(&mut names, &change, &new);
        }
        // Of what has gone with its directory nobody keeps a list.
        names.retain(|(parent, _), _| new.state.tree().inode(*parent).is_some());
        assert_eq!(names, names_of(&new), "CONTEXTOS_SEED={seed}");
    }
}

fn operate(world: &mut World, rng: &mut StdRng, calls: usize) {
    for _ in 0..calls {
        let directories = world.directories();
        let mut place = || {
            let above = directories[rng.random_range(0..directories.len())];
            (above, ["a", "b", "c"][rng.random_range(0..3)])
        };
        let (one, other) = (place(), place());
        // Whether it is allowed depends on what came before.
        let _ = match rng.random_range(0..9) {
            0 => world.file(one.0, one.1),
            1 | 2 => world.dir(one.0, one.1),
            3 => world.remove(one.0, one.1),
            4 | 5 => world.rename(one, other, RenameMode::Replace),
            6 | 7 => world.rename(one, other, RenameMode::Exchange),
            _ => match world.state.tree().lookup(one.0, one.1.as_bytes()) {
                Ok(inode) => world.link(inode, other.0, other.1),
                Err(error) => Err(error),
            },
        };
    }
}

#[test]
fn a_save_a_chmod_and_the_end_of_a_lock_are_told_and_what_is_the_same_is_not() {
    let mut old = World::new();
    let [saved, set, same] = ["saved", "set", "same"].map(|name| made(old.file(MID, name)));
    let lock = made(old.file(LK, "job"));
    let mut new = old.clone();
    new.save(saved, "text").unwrap();
    new.run(Command::SetAttr(SetAttr {
        inode: set,
        mode: Some(0o600),
        ..SetAttr::default()
    }))
    .unwrap();
    let (session, clean) = (new.session, false);
    new.push(None, Command::SessionEnd { session, clean })
        .unwrap();
    let told = changes(&old, &new);
    let modified = Change::Modified {
        inode: saved,
        closed: true,
        by_path: false,
    };
    let attributes = |inode| Change::Attributes { inode };
    assert_eq!(
        told,
        [modified, attributes(set), attributes(lock)],
        "{same} is as it was"
    );
}

#[test]
fn a_new_file_is_told_of_as_written_if_it_holds_something() {
    let old = World::new();
    let mut new = old.clone();
    let full = made(new.file(MID, "full"));
    made(new.file(MID, "empty"));
    new.save(full, "text").unwrap();
    let told = changes(&old, &new);
    let written = told
        .iter()
        .filter(|change| matches!(change, Change::Modified { .. }));
    let written: Vec<_> = written.collect();
    assert_eq!((told.len(), written.len()), (3, 1), "{told:?}");
}

/// What nobody can watch is told to nobody, and too much is told of as a whole.
#[test]
fn only_what_is_known_is_looked_at_and_beyond_the_bound_its_directories_are_named() {
    let mut old = World::new();
    let (near, far) = (made(old.dir(MID, "near")), made(old.dir(MID, "far")));
    let mut new = old.clone();
    for number in 0..10 {
        made(new.file(near, &format!("f{number}")));
        made(new.file(far, &format!("f{number}")));
    }
    let known = BTreeSet::from([InodeNo::ROOT, MID, near]);
    let looked = |max| between(&old.state, &new.state, &known, max);
    let Difference::Changes(told) = looked(10) else {
        panic!("they fit")
    };
    let in_near =
        |change: &Change| matches!(change, Change::Created { parent, .. } if *parent == near);
    assert!(told.len() == 10 && told.iter().all(in_near), "{told:?}");
    assert_eq!(looked(9), Difference::In(BTreeSet::from([near])));
}

/// The kernel would take a directory for dead that was removed, also when it is made again.
#[test]
fn names_that_went_round_are_exchanged() {
    let mut old = World::new();
    for name in ["a", "b", "c"] {
        made(old.dir(MID, name));
    }
    let mut new = old.clone();
    for (from, to) in [("a", "x"), ("b", "a"), ("c", "b"), ("x", "c")] {
        let moved = new.rename((MID, from), (MID, to), RenameMode::Replace);
        moved.unwrap();
    }
    let told = changes(&old, &new);
    let exchanged = told
        .iter()
        .filter(|change| matches!(change, Change::Renamed { exchange: true, .. }));
    assert_eq!((told.len(), exchanged.count()), (2, 2), "{told:?}");
    assert!(matches!(
        old.state.tree().inode(MID).unwrap().kind,
        Kind::Directory(_)
    ));
}

/// No call moves an entry of a directory over it; a third name was taken for a while.
#[test]
fn what_a_third_name_was_needed_for_is_told_of_by_its_directories() {
    let mut old = World::new();
    let above = made(old.dir(MID, "a"));
    made(old.dir(above, "b"));
    let mut new = old.clone();
    for (from, to) in [((above, "b"), (MID, "x")), ((MID, "x"), (MID, "a"))] {
        let moved = new.rename(from, to, RenameMode::Replace);
        moved.unwrap();
    }
    assert_eq!(changes(&old, &new), [Change::Attributes { inode: MID }]);
}

/// A directory goes after what was moved out of it, although that waits for another one to be empty.
#[test]
fn a_directory_goes_after_what_is_moved_out_of_it_onto_another_that_goes() {
    let mut old = World::new();
    let [going, replaced] = ["going", "replaced"].map(|name| made(old.dir(MID, name)));
    made(old.dir(going, "kept"));
    made(old.file(replaced, "f"));
    let mut new = old.clone();
    new.remove(replaced, "f").unwrap();
    let to = (MID, "replaced");
    new.rename((going, "kept"), to, RenameMode::Replace)
        .unwrap();
    new.remove(MID, "going").unwrap();
    let told = changes(&old, &new);
    let told = told
        .iter()
        .filter(|change| !matches!(change, Change::Gone(_)));
    let kinds: Vec<&str> = told
        .map(|change| match change {
            Change::Removed { name, .. } if name == b"f" => "removed f",
            Change::Removed { .. } => "removed going",
            Change::Renamed { .. } => "moved kept",
            _ => "other",
        })
        .collect();
    assert_eq!(kinds, ["removed f", "moved kept", "removed going"]);
}
