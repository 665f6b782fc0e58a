//! A file, directory or other object of the tree, and what is known of it.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use super::command::Author;
use super::content::Content;
use super::ids::{InodeNo, LogIndex};
use super::log_time::WallTime;
use super::name::Name;

/// An object of the tree. Shared between the state and its readers; changed by copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inode {
    /// Its number.
    pub number: InodeNo,
    /// What it is.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last access; only ever set explicitly.
    pub atime: WallTime,
    /// Last change of the content or the entries.
    pub mtime: WallTime,
    /// Last change of anything.
    pub ctime: WallTime,
    /// When it was created.
    pub born: WallTime,
    /// Entry that last changed anything of it.
    pub revision: LogIndex,
    /// Entry that last changed its content.
    pub content_revision: LogIndex,
    /// Entry that last changed its content other than by adding bytes at its end: a reader that has read a version
    /// since then may go on at the end of the newest one.
    pub rewritten: LogIndex,
    /// Who made [`Inode::revision`].
    pub author: Arc<Author>,
    /// Who made the content, once something else was changed after it; see [`Inode::content_author`].
    pub written: Option<Written>,
    /// Extended attributes.
    pub xattrs: OrdMap<String, Arc<[u8]>>,
    /// Every name it has: one for a directory, none for the root.
    pub names: OrdSet<(InodeNo, Name)>,
}

/// Who made a content, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Who.
    pub author: Arc<Author>,
    /// Time of the last write.
    pub time: WallTime,
}

/// What an inode is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Regular file.
    Regular(Content),
    /// Directory.
    Directory(Directory),
    /// Symbolic link with its target.
    Symlink(Arc<[u8]>),
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
    /// Character device with its number.
    CharDevice(u32),
    /// Block device with its number.
    BlockDevice(u32),
}

/// The entries of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Directory {
    /// What the names stand for, in the order of their bytes.
    pub entries: OrdMap<Name, InodeNo>,
    /// How many of them are directories.
    pub subdirectories: u32,
}

impl Inode {
    /// The directory, if it is one.
    pub fn directory(&self) -> Option<&Directory> {
        match &self.kind {
            Kind::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    /// What the entries of a directory stand for, in the order of their names; nothing for what is none.
    pub fn children(&self) -> impl Iterator<Item = InodeNo> {
        let entries = self.directory().map(|directory| directory.entries.values());
        entries.into_iter().flatten().copied()
    }

    /// The content, if it is a regular file.
    pub fn content(&self) -> Option<&Content> {
        match &self.kind {
            Kind::Regular(content) => Some(content),
            _ => None,
        }
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.directory().is_some()
    }

    /// Who made the content of a file and when, if that is known: it is not where an entry of rules before
    /// `Level::AUTHORS_OF_CONTENT` has changed something else since.
    pub fn content_author(&self) -> Option<Written> {
        self.content()?;
        if self.revision != self.content_revision {
            return self.written.clone();
        }
        Some(Written {
            author: Arc::clone(&self.author),
            time: self.ctime,
        })
    }

    /// Number of links as `stat(2)` shows it.
    pub fn links(&self) -> u32 {
        match &self.kind {
            Kind::Directory(_) if self.names.is_empty() && self.number != InodeNo::ROOT => 0,
            Kind::Directory(directory) => 2 + directory.subdirectories,
            _ => u32::try_from(self.names.len()).unwrap_or(u32::MAX),
        }
    }

    /// Size as `stat(2)` shows it.
    pub fn size(&self) -> u64 {
        match &self.kind {
            Kind::Regular(content) => content.size(),
            Kind::Symlink(target) => target.len() as u64,
            Kind::Directory(directory) => directory.entries.len() as u64,
            _ => 0,
        }
    }

    /// Directory that it lies in: the only one of a directory, the first of a file with several names.
    pub fn parent(&self) -> Option<InodeNo> {
        self.names.get_min().map(|(parent, _)| *parent)
    }

    /// Value of an extended attribute as text, if it has one that is text.
    pub fn xattr_text(&self, name: &str) -> Option<&str> {
        self.xattrs
            .get(name)
            .and_then(|value| std::str::from_utf8(value).ok())
            .map(str::trim_end)
    }
}

const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o010;

/// What a write by an ordinary user leaves of a mode (write(2): set-user-ID and set-group-ID go).
pub fn without_privileges(mode: u32) -> u32 {
    let group = if mode & GROUP_EXECUTE != 0 { SETGID } else { 0 };
    mode & !(SETUID | group)
}
