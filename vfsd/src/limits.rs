//! Every maximum of the daemon, with its reason. Checks between them are made at compile time.

use std::time::Duration;

/// A session that is not renewed for this long has expired (the leader judges, by log time).
pub const SESSION_TTL: Duration = Duration::from_secs(10);
/// A node that was not renewed for this long refuses guarded writes by itself: before the leader can give its locks away.
pub const SESSION_SELF_DEADLINE: Duration = Duration::from_millis(7500);
/// How often a node renews its session: three tries fit before its own deadline.
pub const SESSION_RENEW_EVERY: Duration = Duration::from_millis(2500);
/// Longest time an operation waits for a majority.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

const _: () = assert!(SESSION_SELF_DEADLINE.as_millis() < SESSION_TTL.as_millis());
const _: () = assert!(SESSION_RENEW_EVERY.as_millis() * 3 <= SESSION_SELF_DEADLINE.as_millis());

/// Longest file name, as on every Linux filesystem (`NAME_MAX`).
pub const NAME_LEN_BYTES_MAX: usize = 255;
/// Longest symbolic link (`PATH_MAX` less the NUL).
pub const SYMLINK_BYTES_MAX: usize = 4095;
/// Largest file: the tree holds documents and records, and a file's content travels in one entry.
pub const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// All content of the tree together: it is held in memory.
pub const TREE_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// Inodes of the tree: about 500 bytes each in memory.
pub const TREE_INODES_MAX: u64 = 2_000_000;
/// What a small write copies at most; large enough that a 16 MiB file has only 1,024 chunks.
pub const CONTENT_CHUNK_BYTES: usize = 16 * 1024;
/// Names of one file: each is an event to replay when its content changes.
pub const LINKS_MAX: usize = 1_000;
/// One extended attribute's value (`XATTR_SIZE_MAX`).
pub const XATTR_VALUE_BYTES_MAX: usize = 64 * 1024;
/// Names and values of one inode's extended attributes together (`XATTR_LIST_MAX` bounds their listing).
pub const XATTRS_BYTES_MAX: usize = 64 * 1024;
/// Answers kept per session for retries. A node has far fewer proposals under way; older ones are settled.
pub const OUTCOME_WINDOW_MAX: usize = 65_536;
/// How long an abnormally ended lock stays taken, unless `user.lk.delay` says otherwise: long enough for the children
/// of the dead holder to be gone.
pub const LOCK_DELAY_DEFAULT_MS: u64 = 2_000;
/// Longest `user.lk.delay`.
pub const LOCK_DELAY_MAX_MS: u64 = 3_600_000;

const _: () = assert!(FILE_BYTES_MAX <= TREE_BYTES_MAX);
const _: () = assert!(FILE_BYTES_MAX / CONTENT_CHUNK_BYTES as u64 <= u32::MAX as u64);

/// Longest payload of a log entry: a whole file and what surrounds it.
pub const ENTRY_BYTES_MAX: usize = 17 * 1024 * 1024;
/// Size of a log segment: large enough that preparing one is rare, small enough to be read at once when starting.
pub const LOG_SEGMENT_BYTES: u64 = 32 * 1024 * 1024;
/// Longest body of a log frame: the largest entry, or a batch and one entry more.
pub const LOG_FRAME_LEN_MAX: u32 = 20 * 1024 * 1024;
/// A batch is written when it has this size: beyond it a flush costs less than the wait for more.
pub const LOG_BATCH_BYTES_MAX: usize = 1024 * 1024;
/// What may wait for the disk; a faster proposer waits then.
pub const LOG_QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Newest entries kept in memory for replication; older ones are read from the segments.
pub const LOG_CACHE_BYTES_MAX: u64 = 16 * 1024 * 1024;

const _: () = assert!(FILE_BYTES_MAX as usize + 512 * 1024 <= ENTRY_BYTES_MAX);
const _: () = assert!(ENTRY_BYTES_MAX + LOG_BATCH_BYTES_MAX + 1024 <= LOG_FRAME_LEN_MAX as usize);
const _: () = assert!(LOG_FRAME_LEN_MAX as u64 + 4096 <= LOG_SEGMENT_BYTES);
/// Entries in one replication request end at this size, so that one slow request does not hold back the commit.
pub const REPLICATION_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Longest frame between nodes: a replication request with one largest entry in it.
pub const FRAME_BYTES_MAX: usize = 24 * 1024 * 1024;
/// Requests under way on one connection; a peer that asks for more waits.
pub const REQUESTS_UNDER_WAY_MAX: usize = 1024;
/// Connections that peers may hold here: four of each of 38 other members, and room for joining nodes.
pub const CONNECTIONS_MAX: usize = 256;
/// A connection to a peer is made in this time or not at all: a node that is up answers within a round trip.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection that has not shown who it is by then is closed.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// Sent bytes that a peer's kernel does not confirm for this long end the connection: TCP itself waits a quarter hour.
pub const TCP_SILENCE_MAX: Duration = Duration::from_secs(3);
/// Longest wait for being let into a cluster: one write, and the way there.
pub const ENROL_TIMEOUT: Duration = Duration::from_secs(20);

const _: () = assert!(REPLICATION_BYTES_MAX as usize + 64 * 1024 <= FRAME_BYTES_MAX);
const _: () = assert!(ENTRY_BYTES_MAX + 64 * 1024 <= FRAME_BYTES_MAX);
