//! The tree: inodes by number, names inside directories, and the steps that keep both in agreement.
//!
//! Invariants: an entry names an inode that exists and that inode knows the name; a number is never used twice; the
//! counters equal what they count. `invariants.rs` checks all of it.
//! Not here: who may do what (`apply/rules.rs`).

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use super::command::Author;
use super::content::Content;
use super::detail;
use super::fs_error::FsError;
use super::ids::{InodeNo, LogIndex};
use super::inode::{Directory, Inode, Kind};
use super::log_time::WallTime;
use super::name::Name;
use super::tree_revisions::TreeRevisions;
use crate::limits::{LINKS_MAX, TREE_BYTES_MAX, TREE_INODES_MAX};

/// Desired state of services on bare metal.
pub const MID: InodeNo = InodeNo(2);
/// Desired state of containers and VMs.
pub const CTX: InodeNo = InodeNo(3);
/// Records.
pub const RUN: InodeNo = InodeNo(4);
/// Locks.
pub const LK: InodeNo = InodeNo(5);
/// Locks of the agents.
pub const LK_DSM: InodeNo = InodeNo(6);
/// The first number that is given to a user's inode; the ones below are fixed.
const FIRST_FREE: InodeNo = InodeNo(1024);

/// Directories that exist from the first start and can be neither removed nor renamed.
const FIXED: [(InodeNo, InodeNo, &str); 5] = [
    (InodeNo::ROOT, MID, "mid"),
    (InodeNo::ROOT, CTX, "ctx"),
    (InodeNo::ROOT, RUN, "run"),
    (InodeNo::ROOT, LK, "lk"),
    (LK, LK_DSM, "dsm"),
];

/// All inodes and names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    inodes: OrdMap<InodeNo, Arc<Inode>>,
    next: InodeNo,
    stored_bytes: u64,
    detail_bytes: u64,
    tree_revisions: TreeRevisions,
}

/// When and by whom a change is made; every step stamps what it touches with it.
#[derive(Debug, Clone)]
pub struct Touch {
    /// The entry.
    pub revision: LogIndex,
    /// Its wall time.
    pub wall: WallTime,
    /// Its author.
    pub author: Arc<Author>,
    /// Who made a content is kept when something else changes.
    pub keeps_writers: bool,
}

impl Default for Namespace {
    fn default() -> Self {
        Self::new()
    }
}

impl Namespace {
    /// The root and the fixed directories.
    pub fn new() -> Self {
        let mut tree = Self {
            inodes: OrdMap::new(),
            next: FIRST_FREE,
            stored_bytes: 0,
            detail_bytes: 0,
            tree_revisions: TreeRevisions::default(),
        };
        let touch = Touch {
            revision: LogIndex(0),
            wall: WallTime::default(),
            author: Arc::default(),
            keeps_writers: false,
        };
        let root = new_inode(
            InodeNo::ROOT,
            Kind::Directory(Directory::default()),
            0o755,
            0,
            0,
            &touch,
        );
        tree.inodes.insert(InodeNo::ROOT, Arc::new(root));
        for (parent, number, name) in FIXED {
            let mut inode = new_inode(
                number,
                Kind::Directory(Directory::default()),
                0o755,
                0,
                0,
                &touch,
            );
            match number {
                LK => inode.xattrs = xattr("user.lk.mkdir", "on"),
                LK_DSM => inode.xattrs = xattr("user.lk.hold", "handle"),
                _ => {}
            }
            tree.detail_bytes += detail::of(&inode);
            tree.inodes.insert(number, Arc::new(inode));
            let name = Name::new(name.as_bytes()).expect("the fixed names are valid");
            tree.link(parent, name, number, &touch)
                .expect("the fixed directories fit an empty tree");
        }
        tree
    }

    /// The inode `number`, if it exists.
    pub fn inode(&self, number: InodeNo) -> Option<&Arc<Inode>> {
        self.inodes.get(&number)
    }

    /// All inodes by number.
    pub fn inodes(&self) -> impl Iterator<Item = &Arc<Inode>> {
        self.inodes.values()
    }

    /// How many inodes there are.
    pub fn inode_count(&self) -> u64 {
        self.inodes.len() as u64
    }

    /// Bytes that contents take.
    pub fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    /// Bytes that names, attributes, targets of links and the pieces of contents take.
    pub fn detail_bytes(&self) -> u64 {
        self.detail_bytes
    }

    /// The newest revision of a directory and of anything beneath it; `None` if it is no directory of the tree.
    pub fn tree_revision(&self, directory: InodeNo) -> Option<LogIndex> {
        self.tree_revisions.of_directory(directory)
    }

    /// How many directories there are.
    pub(super) fn directory_count(&self) -> usize {
        self.tree_revisions.len()
    }

    /// The number that the next inode gets.
    pub fn next_number(&self) -> InodeNo {
        self.next
    }

    /// What `name` stands for in `parent`.
    ///
    /// # Errors
    /// [`FsError::NotFound`] or [`FsError::NotDirectory`].
    pub fn lookup(&self, parent: InodeNo, name: &[u8]) -> Result<InodeNo, FsError> {
        self.directory(parent)?
            .entries
            .get(name)
            .copied()
            .ok_or(FsError::NotFound)
    }

    /// What a path without leading slash stands for; symbolic links are not followed.
    pub fn resolve(&self, path: &str) -> Option<InodeNo> {
        let mut parts = path.split('/').filter(|part| !part.is_empty());
        parts.try_fold(InodeNo::ROOT, |at, part| {
            self.lookup(at, part.as_bytes()).ok()
        })
    }

    /// A path of an inode without leading slash, by its first name; empty for the root, `None` if it does not exist.
    pub fn path_of(&self, number: InodeNo) -> Option<Vec<u8>> {
        let mut parts = Vec::new();
        for at in self.ancestors(number) {
            match self.inode(at)?.names.get_min() {
                Some((_, name)) => parts.push(name.as_bytes().to_vec()),
                None if at == InodeNo::ROOT => {}
                None => return None,
            }
        }
        parts.reverse();
        Some(parts.join(&b'/'))
    }

    /// `number` and the directories above it, up to the root.
    pub fn ancestors(&self, number: InodeNo) -> impl Iterator<Item = InodeNo> {
        std::iter::successors(Some(number), |at| {
            self.inode(*at).and_then(|inode| inode.parent())
        })
    }

    /// Whether `number` is `above` or lies beneath it.
    pub fn is_within(&self, number: InodeNo, above: InodeNo) -> bool {
        self.ancestors(number).any(|at| at == above)
    }

    /// Value of the nearest `name` attribute on `number` or above it.
    pub fn nearest_xattr(&self, number: InodeNo, name: &str) -> Option<(InodeNo, &str)> {
        self.ancestors(number)
            .find_map(|at| Some((at, self.inode(at)?.xattr_text(name)?)))
    }

    /// Whether `number` can be neither removed nor renamed.
    pub fn is_fixed(number: InodeNo) -> bool {
        number < FIRST_FREE
    }

    /// The directory `number`.
    ///
    /// # Errors
    /// [`FsError::NotFound`] or [`FsError::NotDirectory`].
    pub fn directory(&self, number: InodeNo) -> Result<&Directory, FsError> {
        self.inode(number)
            .ok_or(FsError::NotFound)?
            .directory()
            .ok_or(FsError::NotDirectory)
    }

    /// Makes an inode with a first name. Its group is the directory's where that is setgid.
    ///
    /// # Errors
    /// [`FsError::AlreadyExists`], [`FsError::NoSpace`], or as [`Namespace::directory`].
    pub fn create(
        &mut self,
        parent: InodeNo,
        name: Name,
        kind: Kind,
        (mode, uid, gid): (u32, u32, u32),
        touch: &Touch,
    ) -> Result<InodeNo, FsError> {
        const SETGID: u32 = 0o2000;
        if self.directory(parent)?.entries.contains_key(&name) {
            return Err(FsError::AlreadyExists);
        }
        if self.inode_count() >= TREE_INODES_MAX {
            return Err(FsError::NoSpace);
        }
        let (mut mode, mut group) = (mode & 0o7777, gid);
        if let Some(above) = self.inode(parent).filter(|above| above.mode & SETGID != 0) {
            group = above.gid;
            if matches!(kind, Kind::Directory(_)) {
                mode |= SETGID;
            }
        }
        let number = self.next;
        self.next = InodeNo(number.0 + 1);
        let inode = new_inode(number, kind, mode, uid, group, touch);
        self.detail_bytes += detail::of(&inode);
        self.inodes.insert(number, Arc::new(inode));
        self.link(parent, name, number, touch)?;
        Ok(number)
    }

    /// Gives an inode another name.
    ///
    /// # Errors
    /// [`FsError::AlreadyExists`], [`FsError::TooManyLinks`], [`FsError::NotFound`], or as [`Namespace::directory`].
    pub fn link(
        &mut self,
        parent: InodeNo,
        name: Name,
        number: InodeNo,
        touch: &Touch,
    ) -> Result<(), FsError> {
        if self.directory(parent)?.entries.contains_key(&name) {
            return Err(FsError::AlreadyExists);
        }
        let inode = self.inode_mut(number)?;
        if inode.names.len() >= LINKS_MAX {
            return Err(FsError::TooManyLinks);
        }
        inode.names.insert((parent, name.clone()));
        stamp_change(inode, touch);
        let is_directory = inode.is_directory();
        self.detail_bytes += detail::of_name(&name);
        self.raise(number, touch);
        self.change_entries(parent, touch, |directory| {
            directory.entries.insert(name, number);
            directory.subdirectories += u32::from(is_directory);
        })
    }

    /// Takes a name away. An inode without names is gone.
    ///
    /// # Errors
    /// As [`Namespace::lookup`].
    pub fn unlink(
        &mut self,
        parent: InodeNo,
        name: &Name,
        touch: &Touch,
    ) -> Result<Unlinked, FsError> {
        let number = self.lookup(parent, name.as_bytes())?;
        let before = self.inode(number).ok_or(FsError::NotFound)?.clone();
        let inode = self.inode_mut(number)?;
        inode.names.remove(&(parent, name.clone()));
        stamp_change(inode, touch);
        let mut unlinked = Unlinked {
            gone: None,
            inode: number,
            directory: inode.is_directory(),
            links_left: u32::try_from(inode.names.len()).unwrap_or(u32::MAX),
        };
        self.detail_bytes -= detail::of_name(name);
        self.raise(number, touch);
        self.change_entries(parent, touch, |directory| {
            directory.entries.remove(name);
            directory.subdirectories -= u32::from(unlinked.directory);
        })?;
        if unlinked.links_left == 0
            && let Some(gone) = self.inodes.remove(&number)
        {
            self.stored_bytes -= gone.content().map_or(0, Content::stored_bytes);
            self.detail_bytes -= detail::of(&gone);
            self.tree_revisions.forget(number);
            unlinked.gone = Some(before);
        }
        Ok(unlinked)
    }

    /// Moves a name; the new one must be free.
    ///
    /// # Errors
    /// As [`Namespace::link`] and [`Namespace::unlink`].
    pub fn move_name(
        &mut self,
        (parent, name): (InodeNo, &Name),
        (new_parent, new_name): (InodeNo, &Name),
        touch: &Touch,
    ) -> Result<(), FsError> {
        let number = self.lookup(parent, name.as_bytes())?;
        if self.directory(new_parent)?.entries.contains_key(new_name) {
            return Err(FsError::AlreadyExists);
        }
        let inode = self.inode_mut(number)?;
        inode.names.remove(&(parent, name.clone()));
        inode.names.insert((new_parent, new_name.clone()));
        stamp_change(inode, touch);
        let is_directory = u32::from(inode.is_directory());
        self.detail_bytes += detail::of_name(new_name);
        self.detail_bytes -= detail::of_name(name);
        self.raise(number, touch);
        self.change_entries(parent, touch, |directory| {
            directory.entries.remove(name);
            directory.subdirectories -= is_directory;
        })?;
        self.change_entries(new_parent, touch, |directory| {
            directory.entries.insert(new_name.clone(), number);
            directory.subdirectories += is_directory;
        })
    }

    /// Lets two names change places.
    ///
    /// # Errors
    /// As [`Namespace::lookup`].
    pub fn exchange_names(
        &mut self,
        one: (InodeNo, &Name),
        other: (InodeNo, &Name),
        touch: &Touch,
    ) -> Result<(), FsError> {
        let first = self.lookup(one.0, one.1.as_bytes())?;
        let second = self.lookup(other.0, other.1.as_bytes())?;
        for (number, from, to) in [(first, one, other), (second, other, one)] {
            let inode = self.inode_mut(number)?;
            inode.names.remove(&(from.0, from.1.clone()));
            inode.names.insert((to.0, to.1.clone()));
            stamp_change(inode, touch);
            self.raise(number, touch);
        }
        for (place, new, old) in [(one, second, first), (other, first, second)] {
            let comes = u32::from(self.inode(new).is_some_and(|inode| inode.is_directory()));
            let goes = u32::from(self.inode(old).is_some_and(|inode| inode.is_directory()));
            self.change_entries(place.0, touch, |directory| {
                directory.entries.insert(place.1.clone(), new);
                directory.subdirectories = directory.subdirectories + comes - goes;
            })?;
        }
        Ok(())
    }

    /// Changes attributes of an inode; its ctime, revision and author follow.
    ///
    /// # Errors
    /// [`FsError::NotFound`].
    pub fn change(
        &mut self,
        number: InodeNo,
        touch: &Touch,
        edit: impl FnOnce(&mut Inode),
    ) -> Result<(), FsError> {
        self.edit(number, |inode| {
            edit(inode);
            stamp_change(inode, touch);
        })?;
        self.raise(number, touch);
        Ok(())
    }

    /// Changes an inode that the same entry has stamped already.
    ///
    /// # Errors
    /// [`FsError::NotFound`].
    pub fn edit(&mut self, number: InodeNo, edit: impl FnOnce(&mut Inode)) -> Result<(), FsError> {
        let inode = self.inode_mut(number)?;
        let before = detail::Edited::of(inode);
        edit(inode);
        let (more, less) = before.difference(inode);
        self.detail_bytes = self.detail_bytes + more - less;
        Ok(())
    }

    /// Sets the time of an inode's last change.
    ///
    /// # Errors
    /// [`FsError::NotFound`].
    pub fn set_ctime(&mut self, number: InodeNo, time: WallTime) -> Result<(), FsError> {
        self.edit(number, |inode| inode.ctime = time)
    }

    /// Replaces the content of a regular file; times are the caller's. `added_only` says that bytes were only added at
    /// the end.
    ///
    /// # Errors
    /// [`FsError::NotFound`], [`FsError::IsDirectory`], [`FsError::Invalid`] for other kinds, [`FsError::NoSpace`].
    pub fn set_content(
        &mut self,
        number: InodeNo,
        content: Content,
        added_only: bool,
        touch: &Touch,
    ) -> Result<(), FsError> {
        let inode = self.inode(number).ok_or(FsError::NotFound)?;
        let old = match &inode.kind {
            Kind::Regular(old) => old.stored_bytes(),
            Kind::Directory(_) => return Err(FsError::IsDirectory),
            _ => return Err(FsError::Invalid),
        };
        let used = self.stored_bytes - old + content.stored_bytes();
        if used > TREE_BYTES_MAX && content.stored_bytes() > old {
            return Err(FsError::NoSpace);
        }
        self.stored_bytes = used;
        self.change(number, touch, |inode| {
            inode.kind = Kind::Regular(content);
            inode.content_revision = touch.revision;
            inode.written = None;
            if !added_only {
                inode.rewritten = touch.revision;
            }
        })
    }

    /// Rebuilds a tree from its inodes; the names inside directories are rebuilt from the inodes' names.
    ///
    /// # Errors
    /// What does not fit together, in words.
    pub fn from_inodes(
        next: InodeNo,
        inodes: impl IntoIterator<Item = Inode>,
    ) -> Result<Self, String> {
        let mut tree = Self {
            inodes: OrdMap::new(),
            next,
            stored_bytes: 0,
            detail_bytes: 0,
            tree_revisions: TreeRevisions::default(),
        };
        let mut names = Vec::new();
        for inode in inodes {
            tree.stored_bytes += inode.content().map_or(0, Content::stored_bytes);
            tree.detail_bytes += detail::of(&inode) + detail::of_names(&inode);
            names.extend(
                inode
                    .names
                    .iter()
                    .map(|(parent, name)| (*parent, name.clone(), inode.number)),
            );
            if tree.inodes.insert(inode.number, Arc::new(inode)).is_some() {
                return Err("an inode number stands twice".into());
            }
        }
        for (parent, name, number) in names {
            let is_directory = tree.inode(number).is_some_and(|inode| inode.is_directory());
            let above = tree
                .inodes
                .get_mut(&parent)
                .ok_or_else(|| format!("inode {number} lies in no directory"))?;
            let Kind::Directory(directory) = &mut Arc::make_mut(above).kind else {
                return Err(format!("inode {parent} has entries and is no directory"));
            };
            directory.subdirectories += u32::from(is_directory);
            if directory.entries.insert(name, number).is_some() {
                return Err(format!("a name stands twice in directory {parent}"));
            }
        }
        tree.tree_revisions = TreeRevisions::of(&tree.inodes);
        Ok(tree)
    }

    /// As if so much described it: a test cannot fill it.
    #[cfg(test)]
    pub(super) fn counting(mut self, detail_bytes: u64) -> Self {
        self.detail_bytes = detail_bytes;
        self
    }

    /// As if its contents took so much.
    #[cfg(test)]
    pub(super) fn counting_content(mut self, stored_bytes: u64) -> Self {
        self.stored_bytes = stored_bytes;
        self
    }

    /// With so many inodes; those that are not there yet are one, far behind the others.
    #[cfg(test)]
    pub(super) fn crowded(mut self, inodes: u64) -> Self {
        let one = Arc::clone(&self.inodes[&LK_DSM]);
        let more = inodes - self.inode_count();
        let numbers = (1 << 40..).take(usize::try_from(more).expect("it is a few millions"));
        self.inodes
            .extend(numbers.map(|number| (InodeNo(number), Arc::clone(&one))));
        self
    }

    fn raise(&mut self, changed: InodeNo, touch: &Touch) {
        self.tree_revisions
            .raise(&self.inodes, changed, touch.revision);
    }

    fn inode_mut(&mut self, number: InodeNo) -> Result<&mut Inode, FsError> {
        self.inodes
            .get_mut(&number)
            .map(Arc::make_mut)
            .ok_or(FsError::NotFound)
    }

    fn change_entries(
        &mut self,
        parent: InodeNo,
        touch: &Touch,
        edit: impl FnOnce(&mut Directory),
    ) -> Result<(), FsError> {
        let inode = self.inode_mut(parent)?;
        let Kind::Directory(directory) = &mut inode.kind else {
            return Err(FsError::NotDirectory);
        };
        edit(directory);
        inode.mtime = touch.wall;
        stamp_change(inode, touch);
        self.raise(parent, touch);
        Ok(())
    }
}

/// What [`Namespace::unlink`] took away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unlinked {
    /// What the name stood for.
    pub inode: InodeNo,
    /// Whether that was a directory.
    pub directory: bool,
    /// Names that it still has.
    pub links_left: u32,
    /// The inode as it was, when that was its last name.
    pub gone: Option<Arc<Inode>>,
}

fn new_inode(number: InodeNo, kind: Kind, mode: u32, uid: u32, gid: u32, touch: &Touch) -> Inode {
    Inode {
        number,
        kind,
        mode,
        uid,
        gid,
        atime: touch.wall,
        mtime: touch.wall,
        ctime: touch.wall,
        born: touch.wall,
        revision: touch.revision,
        content_revision: touch.revision,
        rewritten: touch.revision,
        author: touch.author.clone(),
        written: None,
        xattrs: OrdMap::new(),
        names: OrdSet::new(),
    }
}

fn xattr(name: &str, value: &str) -> OrdMap<String, Arc<[u8]>> {
    OrdMap::unit(name.to_owned(), value.as_bytes().into())
}

fn stamp_change(inode: &mut Inode, touch: &Touch) {
    let was_saved_last = inode.revision == inode.content_revision;
    if touch.keeps_writers && was_saved_last && inode.revision != touch.revision {
        inode.written = inode.content_author();
    }
    inode.ctime = touch.wall;
    inode.revision = touch.revision;
    inode.author = touch.author.clone();
}
