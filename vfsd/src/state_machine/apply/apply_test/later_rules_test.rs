//! Rules that came with a later level: each on its allowed and its refused side, and as it was before.

use super::*;
use crate::limits::{TREE_BYTES_MAX, TREE_DETAIL_BYTES_MAX, TREE_INODES_MAX};
use crate::state_machine::namespace::Namespace;

/// The level before the rules of this file.
const BEFORE: Level = Level(1);

fn checked(change: NameChange, found: Found, found_new: Found) -> Command {
    Command::Checked(Checked {
        change,
        found,
        found_new,
    })
}

fn removal(parent: InodeNo, name: &str) -> Remove {
    let name = name.into();
    Remove { parent, name }
}

fn move_over(name: &str, new_name: &str) -> NameChange {
    match rename(MID, name, MID, new_name, RenameMode::Replace) {
        Command::Rename(rename) => NameChange::Rename(rename),
        _ => unreachable!("it is a rename"),
    }
}

/// What another node has put under the name meanwhile is not what this caller's kernel has allowed to remove.
#[test]
fn a_removal_takes_only_what_the_kernel_has_found() {
    let mut world = World::new();
    let a = world.join(1);
    let seen = made(world.run(a, file(MID, "x", true, None)));
    world.run(a, unlink(MID, "x")).unwrap();
    let other = made(world.run(a, file(MID, "x", true, None)));
    let unlink = |found| checked(NameChange::Unlink(removal(MID, "x")), found, Found::Unknown);
    for found in [Found::Inode(seen), Found::Nothing] {
        assert_eq!(world.run(a, unlink(found)), Err(FsError::NameMoved));
    }
    assert_eq!(world.state.tree().lookup(MID, b"x"), Ok(other));
    assert_eq!(world.run(a, unlink(Found::Inode(other))), Ok(Done::Unit));
    // A name that is gone is no other file's.
    let gone = world.run(a, unlink(Found::Inode(other)));
    assert_eq!(gone, Err(FsError::NotFound));
    let old = made(world.run(a, dir(MID, "d")));
    let rmdir = |found| checked(NameChange::Rmdir(removal(MID, "d")), found, Found::Unknown);
    let refused = world.run(a, rmdir(Found::Inode(other)));
    assert_eq!(refused, Err(FsError::NameMoved));
    assert_eq!(world.run(a, rmdir(Found::Inode(old))), Ok(Done::Unit));
}

#[test]
fn a_rename_moves_and_replaces_only_what_the_kernel_has_found() {
    let mut world = World::new();
    let a = world.join(1);
    let moved = made(world.run(a, file(MID, "x", true, None)));
    let there = made(world.run(a, file(MID, "y", true, None)));
    let both = |found, found_new| checked(move_over("x", "y"), found, found_new);
    for (found, found_new) in [
        (Found::Inode(there), Found::Inode(there)),
        (Found::Inode(moved), Found::Inode(moved)),
        (Found::Inode(moved), Found::Nothing),
        (Found::Unknown, Found::Nothing),
    ] {
        let refused = world.run(a, both(found, found_new));
        assert_eq!(refused, Err(FsError::NameMoved), "{found:?} {found_new:?}");
    }
    assert_eq!(world.state.tree().lookup(MID, b"y"), Ok(there));
    let allowed = both(Found::Inode(moved), Found::Inode(there));
    assert_eq!(world.run(a, allowed), Ok(Done::Unit));
    assert_eq!(world.state.tree().lookup(MID, b"y"), Ok(moved));
    // What the kernel saw under the new name may be gone: nothing is replaced then.
    made(world.run(a, file(MID, "x", true, None)));
    world.run(a, unlink(MID, "y")).unwrap();
    let free = both(Found::Unknown, Found::Inode(moved));
    assert_eq!(world.run(a, free), Ok(Done::Unit));
}

/// "`user.lk.guard` ...: a guard set later binds a second name outside, too."
#[test]
fn a_guard_binds_a_file_by_each_of_its_names() {
    let mut world = World::new();
    world.state.level = BEFORE;
    let (a, b) = (world.join(1), world.join(2));
    let outside = made(world.run(a, dir(MID, "outside")));
    let inside = made(world.run(a, dir(RUN, "inside")));
    let inode = made(world.run(a, file(outside, "x", true, None)));
    let (parent, name) = (inside, b"y".to_vec());
    let link = Command::Link(Link {
        inode,
        parent,
        name,
        content: None,
    });
    world.run(a, link).unwrap();
    let lock = made(world.run(a, dir(LK, "planner")));
    let fence = world.fence(lock);
    let guard = xattr(inside, "user.lk.guard", "lk/planner");
    world.run_fenced(a, Some(fence), guard).unwrap();
    // The first name lies outside: that one alone counted.
    assert_eq!(world.run(b, save(inode, "b")), Ok(Done::Unit));
    world.leader(Command::RaiseLevel(Level::KNOWN)).unwrap();
    assert_eq!(world.run(b, save(inode, "b")), Err(FsError::FenceRevoked));
    assert_eq!(world.run(a, save(inode, "a")), Err(FsError::FenceRevoked));
    let known = world.state.guard_of_inode(inode).map(|guard| guard.fence);
    assert_eq!(known, Some(Some(fence)), "what a handle begins under");
    let held = world.run_fenced(a, Some(fence), save(inode, "a"));
    assert_eq!(held, Ok(Done::Unit));
    // The name outside may go without the lock: the guarded one stays as it is.
    world.run(b, unlink(outside, "x")).unwrap();
    assert_eq!(world.run(b, save(inode, "b")), Err(FsError::FenceRevoked));
}

/// A record that is linked into a wish is a wish as well: an agent's node may not write it.
#[test]
fn a_grant_must_cover_every_name_of_a_file() {
    let mut world = World::new();
    let a = world.join(1);
    let inode = made(world.run(a, file(RUN, "x", true, None)));
    let save_as_agent = |world: &mut World| {
        let mut entry = world.entry(Some(a), save(inode, "x"));
        entry.author.grant = Grant::Agent;
        world.next_request = world.next_request.next();
        world.push(&entry).outcome
    };
    assert_eq!(save_as_agent(&mut world), Ok(Done::Unit));
    let (parent, name) = (MID, b"y".to_vec());
    let link = Command::Link(Link {
        inode,
        parent,
        name,
        content: None,
    });
    world.run(a, link).unwrap();
    assert_eq!(save_as_agent(&mut world), Err(FsError::AccessDenied));
}

/// Its holder could not be told apart from the file that is left, once the lock has gone.
#[test]
fn a_lock_gets_no_second_name_outside_either() {
    for (level, expected) in [(BEFORE, None), (Level::KNOWN, Some(FsError::NotPermitted))] {
        let mut world = World::new();
        world.state.level = level;
        let a = world.join(1);
        let lock = made(world.run(a, file(LK, "job", true, None)));
        let plain = made(world.run(a, file(LK, "plain", false, None)));
        let mut link = |inode, name: &str| {
            let command = Command::Link(Link {
                inode,
                parent: RUN,
                name: name.into(),
                content: None,
            });
            world.run(a, command).err()
        };
        assert_eq!(link(lock, "x"), expected, "level {level}");
        assert_eq!(link(plain, "y"), None, "no lock");
    }
}

impl World {
    /// With a tree of which something is counted that is not there.
    fn with(mut self, counted: impl FnOnce(Namespace) -> Namespace) -> Self {
        self.state.tree = counted(self.state.tree().clone());
        self
    }

    /// As `run`, without a look at the sums.
    fn run_uncounted(&mut self, caller: Caller, command: Command) -> Outcome {
        let entry = self.entry(Some(caller), command);
        self.next_request = self.next_request.next();
        let index = LogIndex(self.state.applied().0 + 1);
        self.state.apply(index, &entry).outcome
    }
}

/// "contents 4 GiB (ENOSPC)": what takes less, or no more, is let through, or nobody could make room.
#[test]
fn what_the_contents_take_has_a_maximum() {
    let mut world = World::new();
    let a = world.join(1);
    let full = made(world.run(a, file(MID, "full", true, None)));
    let empty = made(world.run(a, file(MID, "empty", true, None)));
    world.run(a, save(full, "four")).unwrap();
    let mut world = world.with(|tree| tree.counting_content(TREE_BYTES_MAX));
    let refused = Err(FsError::NoSpace);
    assert_eq!(world.run_uncounted(a, save(empty, "x")), refused);
    assert_eq!(world.run_uncounted(a, save(full, "fours")), refused);
    assert_eq!(world.run_uncounted(a, save(full, "five")), Ok(Done::Unit));
    assert_eq!(world.run_uncounted(a, save(full, "one")), Ok(Done::Unit));
    assert_eq!(world.run_uncounted(a, save(empty, "xx")), refused);
    assert_eq!(world.run_uncounted(a, save(empty, "x")), Ok(Done::Unit));
    assert_eq!(world.run_uncounted(a, save(full, "four")), refused);
    assert_eq!(world.run_uncounted(a, unlink(MID, "empty")), Ok(Done::Unit));
    assert_eq!(world.run_uncounted(a, save(full, "four")), Ok(Done::Unit));
}

/// "two million names (ENOSPC)".
#[test]
fn inodes_have_a_maximum() {
    let mut world = World::new();
    let a = world.join(1);
    made(world.run(a, file(MID, "x", true, None)));
    let mut world = world.with(|tree| tree.crowded(TREE_INODES_MAX));
    let refused = Err(FsError::NoSpace);
    assert_eq!(world.run_uncounted(a, file(MID, "y", true, None)), refused);
    assert_eq!(world.run_uncounted(a, dir(LK, "job")), refused);
    let moved = rename(MID, "x", RUN, "z", RenameMode::Replace);
    assert_eq!(world.run_uncounted(a, moved), Ok(Done::Unit));
    assert_eq!(world.run_uncounted(a, unlink(RUN, "z")), Ok(Done::Unit));
    made(world.run_uncounted(a, file(MID, "y", true, None)));
    assert_eq!(world.run_uncounted(a, file(MID, "z", true, None)), refused);
}

/// "names, attributes ... (ENOSPC)": whatever makes more of them is refused at the maximum, what makes less is not.
#[test]
fn what_describes_the_tree_has_a_maximum() {
    let mut world = World::new();
    let a = world.join(1);
    let inode = made(world.run(a, file(MID, "x", true, None)));
    world.run(a, xattr(inode, "user.note", "four")).unwrap();
    let mut world = world.with(|tree| tree.counting(TREE_DETAIL_BYTES_MAX));
    let mut run = |command| world.run_uncounted(a, command);
    let refused = Err(FsError::NoSpace);
    assert_eq!(run(file(MID, "y", true, None)), refused);
    assert_eq!(run(dir(LK, "job")), refused);
    assert_eq!(run(xattr(inode, "user.note", "fours")), refused);
    assert_eq!(run(xattr(inode, "user.more", "x")), refused);
    assert_eq!(run(save(inode, "it has no piece yet")), refused);
    let longer = rename(MID, "x", MID, "xx", RenameMode::Replace);
    assert_eq!(run(longer), refused);
    assert_eq!(run(xattr(inode, "user.note", "five")), Ok(Done::Unit));
    let moved = rename(MID, "x", RUN, "z", RenameMode::Replace);
    assert_eq!(run(moved), Ok(Done::Unit));
    let shorter = xattr(inode, "user.note", "one");
    assert_eq!(run(shorter), Ok(Done::Unit));
    assert_eq!(run(xattr(inode, "user.note", "two")), Ok(Done::Unit));
    assert_eq!(run(unlink(RUN, "z")), Ok(Done::Unit));
    made(run(file(MID, "y", true, None)));
}

/// Entries that earlier builds have taken are taken again when they are applied anew.
#[test]
fn before_its_level_the_maximum_does_not_count() {
    let mut world = World::new();
    world.state.level = BEFORE;
    let a = world.join(1);
    let mut world = world.with(|tree| tree.counting(TREE_DETAIL_BYTES_MAX));
    made(world.run_uncounted(a, file(MID, "y", true, None)));
}
