//! Making files, directories, symbolic links and further names. Exclusive creates are decided here and nowhere else.

use super::Step;
use crate::limits::SYMLINK_BYTES_MAX;
use crate::state_machine::command::{Create, Link, Mkdir, NodeKind, Symlink};
use crate::state_machine::content::Content;
use crate::state_machine::fs_error::FsError;
use crate::state_machine::ids::{FencingToken, HandleId, InodeNo};
use crate::state_machine::inode::{Directory, Kind};
use crate::state_machine::level::Level;
use crate::state_machine::lock::{Hold, Lock};
use crate::state_machine::name::Name;
use crate::state_machine::namespace::LK;
use crate::state_machine::outcome::{Change, Done, Outcome};

impl Step<'_> {
    pub(super) fn create(&mut self, create: &Create) -> Outcome {
        let name = self.new_name(create.parent, &create.name)?;
        if let Ok(existing) = self.state.tree().lookup(create.parent, name.as_bytes()) {
            return self.found(create, existing);
        }
        self.check_entries_of(create.parent)?;
        let makes_lock = create.exclusive
            && create.kind == NodeKind::Regular
            && self.may_hold_locks(create.parent);
        let kind = match create.kind {
            NodeKind::Regular => Kind::Regular(Content::default()),
            NodeKind::Fifo => Kind::Fifo,
            NodeKind::Socket => Kind::Socket,
            NodeKind::CharDevice(number) => Kind::CharDevice(number),
            NodeKind::BlockDevice(number) => Kind::BlockDevice(number),
        };
        let inode = self.make(
            create.parent,
            name,
            kind,
            (create.mode, create.uid, create.gid),
        )?;
        if makes_lock {
            self.grant(inode, create.handle);
        }
        Ok(Done::Inode {
            inode,
            created: true,
        })
    }

    pub(super) fn mkdir(&mut self, mkdir: &Mkdir) -> Outcome {
        let name = self.new_name(mkdir.parent, &mkdir.name)?;
        if self
            .state
            .tree()
            .lookup(mkdir.parent, name.as_bytes())
            .is_ok()
        {
            return Err(FsError::AlreadyExists);
        }
        self.check_entries_of(mkdir.parent)?;
        let parent = self
            .state
            .tree()
            .inode(mkdir.parent)
            .ok_or(FsError::NotFound)?;
        let makes_lock =
            parent.xattr_text("user.lk.mkdir") == Some("on") && self.may_hold_locks(mkdir.parent);
        let parent_is_empty = parent
            .directory()
            .is_some_and(|directory| directory.entries.is_empty());
        if parent_is_empty && self.state.locks().of(mkdir.parent).is_some() {
            // `mkdir -p a/b`: what was just taken as the lock `a` is meant as a container.
            self.state.locks_mut().forget(mkdir.parent);
        }
        let kind = Kind::Directory(Directory::default());
        let inode = self.make(mkdir.parent, name, kind, (mkdir.mode, mkdir.uid, mkdir.gid))?;
        if makes_lock {
            self.grant(inode, None);
        }
        Ok(Done::Inode {
            inode,
            created: true,
        })
    }

    pub(super) fn symlink(&mut self, symlink: &Symlink) -> Outcome {
        let name = self.new_name(symlink.parent, &symlink.name)?;
        if symlink.target.is_empty() || symlink.target.contains(&0) {
            return Err(FsError::Invalid);
        }
        if symlink.target.len() > SYMLINK_BYTES_MAX {
            return Err(FsError::NameTooLong);
        }
        self.check_entries_of(symlink.parent)?;
        let kind = Kind::Symlink(symlink.target.as_slice().into());
        let inode = self.make(
            symlink.parent,
            name,
            kind,
            (0o777, symlink.uid, symlink.gid),
        )?;
        Ok(Done::Inode {
            inode,
            created: true,
        })
    }

    pub(super) fn link(&mut self, link: &Link) -> Outcome {
        let name = self.new_name(link.parent, &link.name)?;
        let inode = self
            .state
            .tree()
            .inode(link.inode)
            .ok_or(FsError::NotFound)?;
        if inode.is_directory() || self.state.tree().is_within(link.parent, LK) {
            return Err(FsError::NotPermitted);
        }
        let is_lock = self.state.locks().of(link.inode).is_some();
        if is_lock && self.follows(Level::LOCKS_HAVE_ONE_NAME) {
            return Err(FsError::NotPermitted);
        }
        let own_guard = self
            .state
            .guard_of_inode(link.inode)
            .map(|guard| guard.directory);
        if own_guard
            != self
                .state
                .guard_of_entries(link.parent)
                .map(|guard| guard.directory)
        {
            return Err(FsError::NotPermitted);
        }
        self.check_inode(link.inode)?;
        self.check_entries_of(link.parent)?;
        self.commit_first(link.content.as_ref())?;
        let touch = self.touch.clone();
        self.state
            .tree_mut()
            .link(link.parent, name, link.inode, &touch)?;
        self.changes.push(Change::Created {
            parent: link.parent,
            name: link.name.clone(),
            inode: link.inode,
            link: true,
        });
        Ok(Done::Inode {
            inode: link.inode,
            created: false,
        })
    }

    /// A non-exclusive create that lost a race finds the file; anything else is in the way.
    fn found(&self, create: &Create, existing: InodeNo) -> Outcome {
        let inode = self.state.tree().inode(existing).ok_or(FsError::NotFound)?;
        match &inode.kind {
            _ if create.exclusive || create.kind != NodeKind::Regular => {
                Err(FsError::AlreadyExists)
            }
            Kind::Regular(_) => Ok(Done::Inode {
                inode: existing,
                created: false,
            }),
            Kind::Directory(_) => Err(FsError::IsDirectory),
            _ => Err(FsError::AlreadyExists),
        }
    }

    fn make(
        &mut self,
        parent: InodeNo,
        name: Name,
        kind: Kind,
        owner: (u32, u32, u32),
    ) -> Result<InodeNo, FsError> {
        let touch = self.touch.clone();
        let bytes = name.as_bytes().to_vec();
        let inode = self
            .state
            .tree_mut()
            .create(parent, name, kind, owner, &touch)?;
        self.changes.push(Change::Created {
            parent,
            name: bytes,
            inode,
            link: false,
        });
        Ok(inode)
    }

    /// Checks a name that is about to appear. `.vfs` in the root is the virtual directory.
    pub(super) fn new_name(&self, parent: InodeNo, bytes: &[u8]) -> Result<Name, FsError> {
        if parent == InodeNo::ROOT && bytes == b".vfs" {
            return Err(FsError::NotPermitted);
        }
        Name::new(bytes)
    }

    /// Whether a name made in `parent` by this session can be a lock: under `/lk`, and not inside another lock.
    fn may_hold_locks(&self, parent: InodeNo) -> bool {
        self.session().is_some()
            && self.state.tree().is_within(parent, LK)
            && self.state.enclosing_lock(parent).is_none()
    }

    fn grant(&mut self, inode: InodeNo, handle: Option<HandleId>) {
        let Some(session) = self.session() else {
            return;
        };
        let by_handle = self
            .state
            .tree()
            .nearest_xattr(inode, "user.lk.hold")
            .is_some_and(|(_, v)| v == "handle");
        let hold = match handle {
            Some(handle) if by_handle => Hold::Handle(handle),
            _ => Hold::Session,
        };
        let fence = FencingToken(self.index.0);
        let node = self.entry.author.node;
        self.state.locks_mut().grant(
            inode,
            Lock {
                session,
                node,
                fence,
                hold,
                ended_until: None,
            },
        );
    }
}
