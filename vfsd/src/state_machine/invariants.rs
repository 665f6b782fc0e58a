//! What must hold of every state, checked as a whole. Tests and the simulation call it; a snapshot must pass it too.

use std::collections::BTreeSet;

use super::StateMachine;
use super::content::Content;
use super::detail;
use super::ids::InodeNo;
use super::inode::Inode;
use super::namespace::Namespace;

/// Checks everything that the parts promise each other.
///
/// # Errors
/// The first promise that is broken, in words.
pub fn check(state: &StateMachine) -> Result<(), String> {
    check_tree(state)?;
    check_members(state)?;
    for (inode, lock) in state.locks().iter() {
        if state.tree().inode(inode).is_none() {
            return Err(format!("lock {inode} (fence {}) has no inode", lock.fence));
        }
        if lock.ended_until.is_none() && state.session(lock.session).is_none() {
            return Err(format!(
                "lock {inode} is held by session {}, which has ended",
                lock.session
            ));
        }
    }
    Ok(())
}

fn check_members(state: &StateMachine) -> Result<(), String> {
    for (node, enrolment) in &state.enrolments {
        if state.member(*node).is_none() {
            return Err(format!("node {node} was let in and is no member"));
        }
        if let Some(old) = enrolment
            .replaces
            .filter(|old| state.member(*old).is_some())
        {
            return Err(format!(
                "node {old} is a member beside {node}, which replaces it"
            ));
        }
    }
    Ok(())
}

fn check_tree(state: &StateMachine) -> Result<(), String> {
    let tree = state.tree();
    let reached = reached_from_the_root(tree);
    let (mut stored, mut directories, mut details) = (0, 0, 0);
    for inode in tree.inodes() {
        let number = inode.number;
        if number >= tree.next_number() {
            return Err(format!(
                "inode {number} is above the next number {}",
                tree.next_number()
            ));
        }
        if inode.names.is_empty() != (number == InodeNo::ROOT)
            || (inode.is_directory() && inode.names.len() > 1)
        {
            return Err(format!("inode {number} has {} names", inode.names.len()));
        }
        for (parent, name) in &inode.names {
            if tree.lookup(*parent, name.as_bytes()) != Ok(number) {
                return Err(format!(
                    "inode {number} knows a name in {parent} that is not there"
                ));
            }
        }
        if !reached.contains(&number) {
            return Err(format!("inode {number} cannot be reached from the root"));
        }
        stored += inode.content().map_or(0, Content::stored_bytes);
        details += detail::of(inode) + detail::of_names(inode);
        check_tree_revision(tree, inode)?;
        let Some(directory) = inode.directory() else {
            continue;
        };
        directories += 1;
        let mut subdirectories = 0;
        for (name, child) in &directory.entries {
            let child = tree
                .inode(*child)
                .ok_or_else(|| format!("directory {number} names a missing inode {child}"))?;
            if !child.names.contains(&(number, name.clone())) {
                return Err(format!(
                    "inode {} does not know its name in {number}",
                    child.number
                ));
            }
            subdirectories += u32::from(child.is_directory());
        }
        if subdirectories != directory.subdirectories {
            return Err(format!(
                "directory {number} counts {} directories",
                directory.subdirectories
            ));
        }
    }
    check_counts(tree, directories, details, stored)
}

/// From above: on the way up, a directory that lies in itself would have no end.
fn reached_from_the_root(tree: &Namespace) -> BTreeSet<InodeNo> {
    let mut reached = BTreeSet::new();
    let mut way = vec![InodeNo::ROOT];
    while let Some(at) = way.pop() {
        if !reached.insert(at) {
            continue;
        }
        let inode = tree.inode(at).into_iter();
        way.extend(inode.flat_map(|inode| inode.children()));
    }
    reached
}

fn check_counts(
    tree: &Namespace,
    directories: usize,
    details: u64,
    stored: u64,
) -> Result<(), String> {
    if directories != tree.directory_count() {
        return Err(format!(
            "{directories} directories are there, {} have a revision of their tree",
            tree.directory_count()
        ));
    }
    if details != tree.detail_bytes() {
        return Err(format!(
            "{details} bytes describe the tree, {} are counted",
            tree.detail_bytes()
        ));
    }
    if stored != tree.stored_bytes() {
        return Err(format!(
            "{stored} bytes are stored, {} are counted",
            tree.stored_bytes()
        ));
    }
    Ok(())
}

/// A directory's is its own revision or the newest of those of its entries; of all directories together that is the
/// maximum over everything beneath.
fn check_tree_revision(tree: &Namespace, inode: &Inode) -> Result<(), String> {
    if !inode.is_directory() {
        return Ok(());
    }
    let of_entries = inode.children().map(|child| {
        let own = tree.inode(child).map(|child| child.revision);
        tree.tree_revision(child).max(own)
    });
    let newest = of_entries.chain([Some(inode.revision)]).max().flatten();
    let known = tree.tree_revision(inode.number);
    if known == newest {
        Ok(())
    } else {
        Err(format!(
            "directory {} has {known:?} as the newest revision of its tree, and {newest:?} is",
            inode.number
        ))
    }
}
