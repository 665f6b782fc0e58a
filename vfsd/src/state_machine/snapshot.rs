//! The whole state as a manifest and the large contents that it names by digest: what a snapshot holds.
//!
//! Format of the manifest: a version byte, then one postcard document. Equal states give equal bytes, so the digest of
//! the manifest is the digest of the state. Contents above [`BLOB_BYTES_MIN`] stand in it by digest, once, whatever
//! files share them. `docs/FORMATS.md` describes it. Not here: the frame of the file and its checksum
//! (`consensus/raft/snapshot_store.rs`), the bytes of a content (`blob.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::StateMachine;
use super::blob::{self, BLOB_BYTES_MIN, BlobDigest, ContentImage};
use super::command::{Author, AuthorityState, Enrolment, JoinToken, Member};
use super::content::Content;
use super::ids::{InodeNo, LogIndex, NodeId, RequestNo, SessionId};
use super::inode::{Directory, Inode, Kind, Written};
use super::level::Level;
use super::lineage::Lineage;
use super::lock::{Hold, Lock};
use super::log_time::{LogTime, WallTime};
use super::name::Name;
use super::namespace::Namespace;
use super::outcome::Outcome;
use super::session::{Answer, Session};
use super::versioned::{self, Refusal};

/// First byte of a manifest that holds all that this version knows.
const SNAPSHOT_VERSION: u8 = 4;
/// First byte of one without writers. A state that needs none is still written so.
const SNAPSHOT_VERSION_LATER: u8 = 3;
/// First byte of one without [`Later`] as well. A state that needs nothing of it is still written so.
const SNAPSHOT_VERSION_EARLIER: u8 = 2;

/// Why bytes are not a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Written by a version that this one does not know.
    #[error(
        "snapshot format {0} is not known to this version \
         (it knows {SNAPSHOT_VERSION_EARLIER} to {SNAPSHOT_VERSION}); run the version that wrote it, or: vfsd rejoin"
    )]
    Version(u8),
    /// Of a cluster whose rules this version does not know.
    #[error(
        "the snapshot is of a cluster whose rules are of level {0}; this version knows {known}: upgrade this node",
        known = Level::KNOWN
    )]
    Level(Level),
    /// Not a snapshot, or damaged.
    #[error("the snapshot of {len} bytes is damaged: {reason}")]
    Malformed {
        /// Its size.
        len: usize,
        /// What is wrong.
        reason: String,
    },
    /// A content that the manifest names is not there.
    #[error("the snapshot names the content {0}, which is not there")]
    Missing(BlobDigest),
}

/// A state as a snapshot holds it. A clone is cheap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateImage {
    /// Everything but the large contents.
    pub manifest: Arc<[u8]>,
    /// The large contents, shared with the state that the image was made of.
    pub blobs: Arc<BTreeMap<BlobDigest, Content>>,
}

#[derive(Serialize, Deserialize)]
struct Image {
    applied: LogIndex,
    log_time: LogTime,
    cluster: String,
    members: Vec<Member>,
    tokens: Vec<JoinToken>,
    next_inode: InodeNo,
    blobs: Vec<BlobDigest>,
    authors: Vec<Author>,
    inodes: Vec<InodeImage>,
    locks: Vec<LockImage>,
    sessions: Vec<SessionImage>,
}

/// What came with version 3; it stands behind the [`Image`].
#[derive(Default, PartialEq, Eq, Serialize, Deserialize)]
struct Later {
    level: Level,
    lineage: Lineage,
    enrolments: Vec<Enrolment>,
    authority: AuthorityState,
}

/// Who made the content of an inode, where something else was changed after it. Came with version 4; the list stands
/// behind [`Later`], by inodes.
#[derive(Serialize, Deserialize)]
struct WrittenImage {
    inode: InodeNo,
    author: u32,
    time: WallTime,
}

#[derive(Serialize, Deserialize)]
struct InodeImage {
    number: InodeNo,
    kind: KindImage,
    mode: u32,
    uid: u32,
    gid: u32,
    times: [WallTime; 4],
    revisions: [LogIndex; 3],
    author: u32,
    xattrs: Vec<(String, Vec<u8>)>,
    names: Vec<(InodeNo, Vec<u8>)>,
}

#[derive(Serialize, Deserialize)]
enum KindImage {
    Regular(ContentImage),
    Blob(BlobDigest),
    Directory,
    Symlink(Vec<u8>),
    Fifo,
    Socket,
    CharDevice(u32),
    BlockDevice(u32),
}

#[derive(Serialize, Deserialize)]
struct LockImage {
    inode: InodeNo,
    session: SessionId,
    node: NodeId,
    fence: super::ids::FencingToken,
    handle: Option<super::ids::HandleId>,
    ended_until: Option<LogTime>,
}

#[derive(Serialize, Deserialize)]
struct SessionImage {
    id: SessionId,
    node: NodeId,
    settled_below: RequestNo,
    outcomes: Vec<(RequestNo, LogIndex, Outcome)>,
    abandoned: Vec<RequestNo>,
}

impl StateMachine {
    /// The state as a snapshot holds it; equal states give equal images.
    pub fn image(&self) -> StateImage {
        let (image, written, blobs) = self.parts();
        let later = Later {
            level: self.level,
            lineage: self.lineage,
            enrolments: self.enrolments.values().cloned().collect(),
            authority: self.authority.clone(),
        };
        let encoded = if !written.is_empty() {
            postcard::to_extend(&(image, later, written), vec![SNAPSHOT_VERSION])
        } else if later != Later::default() {
            postcard::to_extend(&(image, later), vec![SNAPSHOT_VERSION_LATER])
        } else {
            postcard::to_extend(&image, vec![SNAPSHOT_VERSION_EARLIER])
        };
        let manifest = encoded.expect("plain data encodes into a growing buffer");
        StateImage {
            manifest: manifest.into(),
            blobs: Arc::new(blobs),
        }
    }

    /// BLAKE3 of the manifest, which holds the digest of each large content: replicas compare it at the same index.
    pub fn digest(&self) -> [u8; 32] {
        blake3::hash(&self.image().manifest).into()
    }

    /// The state of which [`StateMachine::image`] made `image`.
    ///
    /// # Errors
    /// [`SnapshotError`]; a state that breaks an invariant is refused too.
    pub fn from_image(image: &StateImage) -> Result<Self, SnapshotError> {
        let (parts, later, written) = parse(&image.manifest)?;
        let mut named = BTreeMap::new();
        for digest in &parts.blobs {
            let content = image
                .blobs
                .get(digest)
                .ok_or(SnapshotError::Missing(*digest))?;
            named.insert(*digest, content);
        }
        let malformed = |reason| SnapshotError::Malformed {
            len: image.manifest.len(),
            reason,
        };
        let mut state = Self::from_parts(parts, &written, &named).map_err(malformed)?;
        state.level = later.level;
        state.lineage = later.lineage;
        state.authority = later.authority;
        let enrolments = later.enrolments.into_iter();
        state.enrolments = enrolments
            .map(|enrolment| (enrolment.node, enrolment))
            .collect();
        super::invariants::check(&state).map_err(malformed)?;
        Ok(state)
    }

    fn parts(&self) -> (Image, Vec<WrittenImage>, BTreeMap<BlobDigest, Content>) {
        let mut blobs = BTreeMap::new();
        let mut authors = AuthorTable::default();
        let inodes = self
            .tree
            .inodes()
            .map(|inode| inode_image(inode, &mut blobs, &mut authors))
            .collect();
        let written = self.tree.inodes().filter_map(|inode| {
            let written = inode.written.as_ref()?;
            Some(WrittenImage {
                inode: inode.number,
                author: authors.number_of(&written.author),
                time: written.time,
            })
        });
        let written = written.collect();
        let image = Image {
            applied: self.applied,
            log_time: self.log_time,
            cluster: self.cluster.clone(),
            members: self.members.values().cloned().collect(),
            tokens: self.tokens.values().cloned().collect(),
            next_inode: self.tree.next_number(),
            blobs: blobs.keys().copied().collect(),
            authors: authors.list,
            inodes,
            locks: self
                .locks
                .iter()
                .map(|(inode, lock)| lock_image(inode, lock))
                .collect(),
            sessions: self
                .sessions
                .iter()
                .map(|(id, session)| session_image(id, session))
                .collect(),
        };
        (image, written, blobs)
    }

    fn from_parts(
        image: Image,
        written: &[WrittenImage],
        blobs: &BTreeMap<BlobDigest, &Content>,
    ) -> Result<Self, String> {
        let authors: Vec<Arc<Author>> = image.authors.into_iter().map(Arc::new).collect();
        let inodes: Result<Vec<Inode>, String> = image
            .inodes
            .into_iter()
            .map(|inode| inode_of(inode, blobs, &authors))
            .collect();
        let mut inodes = inodes?;
        for written in written {
            note_written(&mut inodes, written, &authors)?;
        }
        let mut state = Self {
            applied: image.applied,
            log_time: image.log_time,
            cluster: image.cluster,
            tree: Namespace::from_inodes(image.next_inode, inodes)?,
            members: image
                .members
                .into_iter()
                .map(|member| (member.node, member))
                .collect(),
            tokens: image
                .tokens
                .into_iter()
                .map(|token| (token.digest, token))
                .collect(),
            ..Self::new()
        };
        for lock in image.locks {
            let hold = lock.handle.map_or(Hold::Session, Hold::Handle);
            let LockImage {
                inode,
                session,
                node,
                fence,
                ended_until,
                ..
            } = lock;
            state.locks.grant(
                inode,
                Lock {
                    session,
                    node,
                    fence,
                    hold,
                    ended_until,
                },
            );
        }
        for session in image.sessions {
            let outcomes = session.outcomes.into_iter();
            let answers =
                outcomes.map(|(number, index, outcome)| (number, Answer { index, outcome }));
            let open = Session::from_parts(
                session.node,
                session.settled_below,
                answers,
                session.abandoned,
            );
            state.sessions.open(session.id, open);
        }
        Ok(state)
    }
}

/// The contents that a manifest names.
///
/// # Errors
/// [`SnapshotError::Version`], [`SnapshotError::Malformed`].
pub fn named_in(manifest: &[u8]) -> Result<BTreeSet<BlobDigest>, SnapshotError> {
    parse(manifest).map(|(image, ..)| image.blobs.into_iter().collect())
}

fn parse(manifest: &[u8]) -> Result<(Image, Later, Vec<WrittenImage>), SnapshotError> {
    let parsed = match manifest.first() {
        Some(&SNAPSHOT_VERSION_EARLIER) => {
            let image = versioned::decode(SNAPSHOT_VERSION_EARLIER, manifest);
            image.map(|image| (image, Later::default(), Vec::new()))
        }
        Some(&SNAPSHOT_VERSION_LATER) => {
            let both = versioned::decode(SNAPSHOT_VERSION_LATER, manifest);
            both.map(|(image, later)| (image, later, Vec::new()))
        }
        _ => versioned::decode(SNAPSHOT_VERSION, manifest),
    };
    let (image, later, written): (Image, Later, _) = parsed.map_err(|refusal| match refusal {
        Refusal::Version(version) => SnapshotError::Version(version),
        Refusal::Malformed(reason) => SnapshotError::Malformed {
            len: manifest.len(),
            reason,
        },
    })?;
    if later.level > Level::KNOWN {
        return Err(SnapshotError::Level(later.level));
    }
    Ok((image, later, written))
}

/// Authors repeat all over the tree: each stands once, in the order of first use.
#[derive(Default)]
struct AuthorTable {
    numbers: BTreeMap<String, u32>,
    list: Vec<Author>,
}

impl AuthorTable {
    fn number_of(&mut self, author: &Author) -> u32 {
        let Author {
            node,
            grant,
            uid,
            gid,
            pid,
            comm,
        } = author;
        let key = format!("{node} {grant:?} {uid} {gid} {pid} {comm}");
        *self.numbers.entry(key).or_insert_with(|| {
            self.list.push(author.clone());
            u32::try_from(self.list.len() - 1)
                .expect("authors are fewer than inodes, which TREE_INODES_MAX bounds")
        })
    }
}

fn inode_image(
    inode: &Inode,
    blobs: &mut BTreeMap<BlobDigest, Content>,
    authors: &mut AuthorTable,
) -> InodeImage {
    let kind = match &inode.kind {
        Kind::Regular(content) if content.size() > BLOB_BYTES_MIN => {
            let digest = BlobDigest::of(&blob::encode(content));
            blobs.entry(digest).or_insert_with(|| content.clone());
            KindImage::Blob(digest)
        }
        Kind::Regular(content) => KindImage::Regular(ContentImage::of(content)),
        Kind::Directory(_) => KindImage::Directory,
        Kind::Symlink(target) => KindImage::Symlink(target.to_vec()),
        Kind::Fifo => KindImage::Fifo,
        Kind::Socket => KindImage::Socket,
        Kind::CharDevice(number) => KindImage::CharDevice(*number),
        Kind::BlockDevice(number) => KindImage::BlockDevice(*number),
    };
    InodeImage {
        number: inode.number,
        kind,
        mode: inode.mode,
        uid: inode.uid,
        gid: inode.gid,
        times: [inode.atime, inode.mtime, inode.ctime, inode.born],
        revisions: [inode.revision, inode.content_revision, inode.rewritten],
        author: authors.number_of(&inode.author),
        xattrs: inode
            .xattrs
            .iter()
            .map(|(name, value)| (name.clone(), value.to_vec()))
            .collect(),
        names: inode
            .names
            .iter()
            .map(|(parent, name)| (*parent, name.as_bytes().to_vec()))
            .collect(),
    }
}

fn inode_of(
    image: InodeImage,
    blobs: &BTreeMap<BlobDigest, &Content>,
    authors: &[Arc<Author>],
) -> Result<Inode, String> {
    let number = image.number;
    let kind = match image.kind {
        KindImage::Regular(content) => Kind::Regular(content.into_content()?),
        KindImage::Blob(digest) => Kind::Regular(
            (*blobs
                .get(&digest)
                .ok_or_else(|| format!("inode {number} names a missing content"))?)
            .clone(),
        ),
        KindImage::Directory => Kind::Directory(Directory::default()),
        KindImage::Symlink(target) => Kind::Symlink(target.into()),
        KindImage::Fifo => Kind::Fifo,
        KindImage::Socket => Kind::Socket,
        KindImage::CharDevice(device) => Kind::CharDevice(device),
        KindImage::BlockDevice(device) => Kind::BlockDevice(device),
    };
    let author = authors
        .get(image.author as usize)
        .ok_or_else(|| format!("inode {number} has no author"))?
        .clone();
    let mut names = imbl::OrdSet::new();
    for (parent, name) in image.names {
        names.insert((
            parent,
            Name::new(&name).map_err(|e| format!("a name of inode {number}: {e}"))?,
        ));
    }
    let [atime, mtime, ctime, born] = image.times;
    let [revision, content_revision, rewritten] = image.revisions;
    let xattrs = image
        .xattrs
        .into_iter()
        .map(|(name, value)| (name, Arc::<[u8]>::from(value)))
        .collect();
    let InodeImage { mode, uid, gid, .. } = image;
    Ok(Inode {
        number,
        kind,
        mode,
        uid,
        gid,
        atime,
        mtime,
        ctime,
        born,
        revision,
        content_revision,
        rewritten,
        author,
        written: None,
        xattrs,
        names,
    })
}

fn note_written(
    inodes: &mut [Inode],
    written: &WrittenImage,
    authors: &[Arc<Author>],
) -> Result<(), String> {
    let number = written.inode;
    // An image holds inodes by their numbers.
    let position = inodes.binary_search_by_key(&number, |inode| inode.number);
    let position = position.map_err(|_| format!("inode {number} has a writer and is not there"))?;
    let author = authors.get(written.author as usize);
    let author = author.ok_or_else(|| format!("the writer of inode {number} is not there"))?;
    inodes[position].written = Some(Written {
        author: Arc::clone(author),
        time: written.time,
    });
    Ok(())
}

fn lock_image(inode: InodeNo, lock: &Lock) -> LockImage {
    let handle = match lock.hold {
        Hold::Session => None,
        Hold::Handle(handle) => Some(handle),
    };
    let Lock {
        session,
        node,
        fence,
        ended_until,
        ..
    } = *lock;
    LockImage {
        inode,
        session,
        node,
        fence,
        handle,
        ended_until,
    }
}

fn session_image(id: SessionId, session: &Session) -> SessionImage {
    let (settled_below, outcomes, abandoned) = session.parts();
    SessionImage {
        id,
        node: session.node,
        settled_below,
        outcomes: outcomes
            .map(|(number, answer)| (*number, answer.index, answer.outcome))
            .collect(),
        abandoned: abandoned.copied().collect(),
    }
}

#[cfg(test)]
#[path = "snapshot/size_test.rs"]
mod size_test;

#[cfg(test)]
#[path = "snapshot/damage_test.rs"]
mod damage_test;
