//! What a log entry may ask of the state machine.
//!
//! Invariants: variants are only ever appended and a released variant never changes (the payload is positional); a
//! command carries everything that varies, so that `apply` needs no clock and no random number.
//! Not here: the frame around the payload on disk (`storage/append_log.rs`) and on the wire (`transport/frame.rs`).

use serde::{Deserialize, Serialize};

use super::ids::{FencingToken, HandleId, InodeNo, LogIndex, NodeId, RequestNo, SessionId};
use super::level::Level;
use super::log_time::{Stamp, WallTime};
use super::versioned::{self, Refusal};

/// First byte of every encoded [`Entry`].
pub const ENTRY_VERSION: u8 = 1;

/// A command with everything that identifies it, as the leader writes it into the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When, set by the leader.
    pub stamp: Stamp,
    /// Who; node and grant are set by the leader from the peer's certificate.
    pub author: Author,
    /// Identifies a retry; `None` for entries of the leader itself.
    pub origin: Option<Origin>,
    /// Fence of the guard that the handle or call was begun under.
    pub fence: Option<FencingToken>,
    /// What to do.
    pub command: Command,
}

/// Why bytes are not an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Written by a version that this one does not know.
    #[error(
        "entry format {0} is not known to this version (it knows {ENTRY_VERSION}); upgrade this node"
    )]
    Version(u8),
    /// Not an entry, or cut off.
    #[error("entry of {len} bytes cannot be decoded: {reason}")]
    Malformed {
        /// Size of the payload.
        len: usize,
        /// What the decoder said.
        reason: String,
    },
}

impl Entry {
    /// `author` asks for `command`, once and under no guard. The leader stamps it.
    pub fn new(author: Author, command: Command) -> Self {
        Self {
            stamp: Stamp::default(),
            author,
            origin: None,
            fence: None,
            command,
        }
    }

    /// The payload of a log entry.
    ///
    /// # Panics
    /// Never: encoding into memory cannot fail for these types.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![ENTRY_VERSION];
        bytes = postcard::to_extend(self, bytes)
            .expect("plain data always encodes into a growing buffer");
        bytes
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// [`EntryError`] for an unknown version, a cut or a malformed payload, or trailing bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, EntryError> {
        versioned::decode(ENTRY_VERSION, bytes).map_err(|refusal| match refusal {
            Refusal::Version(version) => EntryError::Version(version),
            Refusal::Malformed(reason) => EntryError::Malformed {
                len: bytes.len(),
                reason,
            },
        })
    }
}

/// Who asked for a change.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Author {
    /// The node whose mount was used.
    pub node: NodeId,
    /// What that node may change.
    pub grant: Grant,
    /// User id of the caller.
    pub uid: u32,
    /// Group id of the caller.
    pub gid: u32,
    /// Process id of the caller; 0 when the kernel wrote on nobody's behalf.
    pub pid: u32,
    /// Command name of the caller, at most 15 bytes.
    pub comm: String,
}

impl Author {
    /// A daemon on its own behalf, and nobody's who has called it.
    pub fn daemon() -> Self {
        Self {
            comm: "vfsd".into(),
            ..Self::default()
        }
    }
}

/// What a node may change, from its certificate.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Grant {
    /// Nothing.
    Reader,
    /// `/run` and `/lk`.
    Agent,
    /// Everything.
    #[default]
    Writer,
}

/// Identity of a proposal: a retry carries the same and gets the first outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Session of the proposing node.
    pub session: SessionId,
    /// Number of this proposal in that session.
    pub request: RequestNo,
    /// Every number below this one was answered or given up; their outcomes may be forgotten.
    pub settled_below: RequestNo,
    /// Numbers that were given up (reported as failed): refused from this entry on.
    pub abandoned: Vec<RequestNo>,
}

/// A change of the replicated state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Only carries `origin.abandoned`.
    Nothing,
    /// Creates a file that is no directory and no symlink.
    Create(Create),
    /// Creates a directory.
    Mkdir(Mkdir),
    /// Creates a symbolic link.
    Symlink(Symlink),
    /// Adds a name to a file.
    Link(Link),
    /// Removes a name of a file that is no directory.
    Unlink(Remove),
    /// Removes an empty directory (or a lock directory with what is in it, when its session ended).
    Rmdir(Remove),
    /// Moves, replaces or exchanges names.
    Rename(Rename),
    /// Changes attributes; with `size`, content too (`truncate(2)` by path).
    SetAttr(SetAttr),
    /// Sets an extended attribute.
    SetXattr(SetXattr),
    /// Removes an extended attribute.
    RemoveXattr {
        /// The inode.
        inode: InodeNo,
        /// `user.vfs.history`.
        name: String,
    },
    /// Commits content that was gathered in one node's buffer.
    Write(Write),
    /// A handle that committed earlier was closed: raises `IN_CLOSE_WRITE` on the other nodes.
    CloseWrite {
        /// The inode.
        inode: InodeNo,
    },
    /// Opens the session of a node and ends the node's older ones as if they had expired.
    SessionOpen {
        /// The node.
        node: NodeId,
    },
    /// Ends a session: expired (`clean` is false) or closed by its own node on a clean stop.
    SessionEnd {
        /// The session.
        session: SessionId,
        /// Whether its node stopped in order.
        clean: bool,
    },
    /// The handle that holds locks under `hold=handle` was closed without removing them.
    HandleClosed {
        /// The session.
        session: SessionId,
        /// The handle.
        handle: HandleId,
    },
    /// The delay after an abnormal end is over: the lock file goes.
    LockDelayEnd {
        /// The lock's inode.
        inode: InodeNo,
        /// The void fence that it had; another one means it was taken again meanwhile.
        fence: FencingToken,
    },
    /// `vfsd lock break`: ends a lock as if its session had expired.
    LockBreak {
        /// The lock's inode.
        inode: InodeNo,
    },
    /// Records a member; the Raft membership itself is openraft's.
    MemberPut(Member),
    /// Records that a member is gone for good.
    MemberRemove {
        /// The node.
        node: NodeId,
    },
    /// Records a join token (its digest only).
    TokenCreate(JoinToken),
    /// Uses up a join token and allocates the joining node's id: this entry's log index.
    TokenUse {
        /// Digest of the token's secret.
        digest: [u8; 32],
        /// Name that the node asks for.
        name: String,
        /// `ip:port` that it listens on.
        address: String,
        /// Public half of its sealing identity, `age1...`.
        age_public: String,
    },
    /// Names the cluster, once, in its first entry.
    ClusterInit {
        /// Cluster id, 16 random bytes as hex.
        cluster: String,
        /// The first member.
        first: Member,
    },
    /// From here on entries are applied by the rules of this level; every member has said that it knows them.
    RaiseLevel(Level),
    /// Uses up a join token as [`Command::TokenUse`] does, for the holder of a key: asked again, it gives the same id.
    Admit {
        /// Digest of the token's secret.
        token: [u8; 32],
        /// Who joins.
        newcomer: Newcomer,
    },
    /// Replaces a member that lost its state by itself under a new id, this entry's log index.
    Readmit {
        /// The id that it had.
        node: NodeId,
        /// Who it is from now on; the name is the member's.
        newcomer: Newcomer,
    },
    /// Goes a step to another certificate authority.
    Authority(AuthorityStep),
    /// Takes a name away or moves it, if it stands for what the caller's kernel has checked.
    Checked(Checked),
}

/// A change of names whose permission depends on what they stand for: the caller's kernel has looked before the entry
/// was made, and another node may have been quicker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// What is to be done.
    pub change: NameChange,
    /// What the kernel has found under the name.
    pub found: Found,
    /// The same of a rename's new name.
    pub found_new: Found,
}

/// A change of names that [`Checked`] holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NameChange {
    /// As [`Command::Unlink`].
    Unlink(Remove),
    /// As [`Command::Rmdir`].
    Rmdir(Remove),
    /// As [`Command::Rename`].
    Rename(Rename),
}

impl From<NameChange> for Command {
    fn from(change: NameChange) -> Self {
        match change {
            NameChange::Unlink(remove) => Self::Unlink(remove),
            NameChange::Rmdir(remove) => Self::Rmdir(remove),
            NameChange::Rename(rename) => Self::Rename(rename),
        }
    }
}

/// What a kernel has found under a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Found {
    /// Not known, or nothing depends on it.
    #[default]
    Unknown,
    /// The name was free.
    Nothing,
    /// This inode.
    Inode(InodeNo),
}

/// A step from one certificate authority to the next, taken when every member has done what the one before asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuthorityStep {
    /// Members trust this authority (DER of its certificate) beside the present one.
    Trust(Vec<u8>),
    /// Members get certificates of the new one.
    Issue,
    /// Members trust the new one alone.
    Only,
}

/// The certificate authority, as far as it is not the one that the cluster was founded with.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AuthorityState {
    /// DER of the present one's certificate; empty for the founding one.
    pub present: Vec<u8>,
    /// The one that follows it.
    pub next: Option<NextAuthority>,
}

/// An authority on its way in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextAuthority {
    /// DER of its certificate.
    pub certificate: Vec<u8>,
    /// Whether all members trust it, so that certificates of it may be used.
    pub is_issuing: bool,
}

/// A node that joins, or joins anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Newcomer {
    /// Its name.
    pub name: String,
    /// `ip:port` that it listens on.
    pub address: String,
    /// Public half of its sealing identity, `age1...`.
    pub age_public: String,
    /// Digest of the public key that its certificate is made for.
    pub key: [u8; 32],
}

/// How a member came in. Whoever shows the same key again gets the same id, not another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    /// The member.
    pub node: NodeId,
    /// Digest of the public key that its certificate was made for.
    pub key: [u8; 32],
    /// The id that it had before it lost its state.
    pub replaces: Option<NodeId>,
}

/// Creates a file that is no directory and no symlink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Create {
    /// Directory.
    pub parent: InodeNo,
    /// Name in it.
    pub name: Vec<u8>,
    /// Kind.
    pub kind: NodeKind,
    /// Permission bits, `umask` applied.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group, unless the directory is setgid.
    pub gid: u32,
    /// Fail if the name is taken (`O_EXCL`); otherwise an existing regular file is the outcome.
    pub exclusive: bool,
    /// The handle that this creates, if it opens the file too.
    pub handle: Option<HandleId>,
}

/// Kinds that [`Create`] makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeKind {
    /// Regular file.
    Regular,
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
    /// Character device with its number.
    CharDevice(u32),
    /// Block device with its number.
    BlockDevice(u32),
}

/// Creates a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mkdir {
    /// Directory.
    pub parent: InodeNo,
    /// Name in it.
    pub name: Vec<u8>,
    /// Permission bits, `umask` applied.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group, unless the parent is setgid.
    pub gid: u32,
}

/// Creates a symbolic link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Symlink {
    /// Directory.
    pub parent: InodeNo,
    /// Name in it.
    pub name: Vec<u8>,
    /// What it points to.
    pub target: Vec<u8>,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Adds a name to a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The file.
    pub inode: InodeNo,
    /// Directory of the new name.
    pub parent: InodeNo,
    /// The new name.
    pub name: Vec<u8>,
    /// Uncommitted content of the inode, committed first.
    pub content: Option<Write>,
}

/// Removes a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remove {
    /// Directory.
    pub parent: InodeNo,
    /// Name in it.
    pub name: Vec<u8>,
}

/// Moves, replaces or exchanges names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rename {
    /// Old directory.
    pub parent: InodeNo,
    /// Old name.
    pub name: Vec<u8>,
    /// New directory.
    pub new_parent: InodeNo,
    /// New name.
    pub new_name: Vec<u8>,
    /// What happens to a taken new name.
    pub mode: RenameMode,
    /// Uncommitted content of the moved inode, committed first.
    pub content: Option<Write>,
}

/// See `rename(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RenameMode {
    /// A taken name is replaced.
    Replace,
    /// A taken name is an error (`RENAME_NOREPLACE`).
    NoReplace,
    /// Both names must exist and change places (`RENAME_EXCHANGE`).
    Exchange,
}

/// Changes attributes. `None` leaves one as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SetAttr {
    /// The inode.
    pub inode: InodeNo,
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// New size.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<TimeSet>,
    /// Modification time.
    pub mtime: Option<TimeSet>,
}

/// A time to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TimeSet {
    /// The entry's own time.
    Now,
    /// This time.
    At(WallTime),
}

/// Sets an extended attribute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetXattr {
    /// The inode.
    pub inode: InodeNo,
    /// `user.lk.delay`.
    pub name: String,
    /// Its value.
    pub value: Vec<u8>,
    /// What an existing or missing one means.
    pub mode: XattrMode,
}

/// See `setxattr(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum XattrMode {
    /// Either.
    Any,
    /// It must not exist (`XATTR_CREATE`).
    Create,
    /// It must exist (`XATTR_REPLACE`).
    Replace,
}

/// Commits content that was gathered in one node's buffer, as one step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// The inode.
    pub inode: InodeNo,
    /// For a save that is retried after its handle is gone: refuse unless the file is still at this revision.
    pub base: Option<LogIndex>,
    /// What is written.
    pub update: ContentUpdate,
    /// Time of the last write; `None` keeps the modification time (an explicit `utimens` came after it).
    pub mtime: Option<WallTime>,
    /// Whether the handle is closed with it (raises `IN_CLOSE_WRITE` rather than `IN_MODIFY` alone).
    pub closes: bool,
}

/// A change of a file's bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContentUpdate {
    /// The file was truncated to 0 first: these operations make the whole content.
    Replace(Vec<ContentOp>),
    /// Applied in order to the content as it is then.
    Patch(Vec<ContentOp>),
    /// Placed at the end as it is then; with `truncate`, the end is 0.
    Append {
        /// Whether the content goes first (`O_APPEND | O_TRUNC`).
        truncate: bool,
        /// The bytes.
        #[serde(with = "serde_bytes_vec")]
        data: Vec<u8>,
    },
}

/// One operation on a file's bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContentOp {
    /// Bytes at an offset.
    Write {
        /// Where.
        offset: u64,
        /// The bytes.
        #[serde(with = "serde_bytes_vec")]
        data: Vec<u8>,
    },
    /// The size becomes this.
    Truncate(u64),
    /// `fallocate(2)` without `KEEP_SIZE`: the size is at least this.
    Extend(u64),
    /// `FALLOC_FL_PUNCH_HOLE` or `ZERO_RANGE`: zeros from `offset`, the size unchanged.
    Zero {
        /// Where.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
}

/// A member of the cluster as the tree shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its id.
    pub node: NodeId,
    /// Its name, unique in the cluster.
    pub name: String,
    /// `ip:port` it listens on for peers.
    pub address: String,
    /// What it may change.
    pub grant: Grant,
    /// Public half of its sealing identity, `age1...`.
    pub age_public: String,
}

/// A join token as the cluster remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// Digest of its secret.
    pub digest: [u8; 32],
    /// Grant of the node that joins with it.
    pub grant: Grant,
    /// Wall time after which the leader refuses it.
    pub expires: WallTime,
    /// Name that the node must have, if it was fixed.
    pub name: Option<String>,
}

mod serde_bytes_vec {
    //! Byte vectors as one byte string instead of a sequence of numbers.
    use serde::{Deserializer, Serializer, de::Visitor};

    pub fn serialize<S: Serializer>(value: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(value)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, value: &[u8]) -> Result<Vec<u8>, E> {
                Ok(value.to_vec())
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_an_unknown_version_is_refused_with_both_numbers() {
        let whole = Entry::new(Author::default(), Command::Nothing).encode();
        assert!(Entry::decode(&whole).is_ok());
        for unknown in [ENTRY_VERSION - 1, ENTRY_VERSION + 1] {
            let mut bytes = whole.clone();
            bytes[0] = unknown;
            // Behind the number, another version's bytes need not be readable.
            for bytes in [&bytes[..], &[unknown]] {
                let refused = Entry::decode(bytes).unwrap_err();
                assert!(matches!(refused, EntryError::Version(found) if found == unknown));
                let said = refused.to_string();
                let known = format!("knows {ENTRY_VERSION}");
                assert!(
                    said.contains(&format!("format {unknown} ")) && said.contains(&known),
                    "{said}"
                );
            }
        }
    }
}
