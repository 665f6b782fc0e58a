//! Every maximum of the daemon, with its reason. Checks between them are made at compile time.

use std::time::Duration;

/// A session that is not renewed for this long has expired (the leader judges, by log time).
pub const SESSION_TTL: Duration = Duration::from_secs(10);
/// A node that was not renewed for this long refuses guarded writes by itself: before the leader can give its locks
/// away.
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
/// What describes the tree besides its inodes: names, extended attributes, targets of links, and the pieces that
/// contents lie in. Held in memory too; a maximum of its own, so that a tree full of content still takes locks, and a
/// million attributes leave room for content. Two million small files with names of 100 bytes fit.
pub const TREE_DETAIL_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// Longest name of the command that makes a change: the kernel knows 15 bytes of it (`TASK_COMM_LEN`).
pub const COMMAND_NAME_BYTES_MAX: usize = 15;
/// What a name, an attribute or a piece of content counts there besides its bytes: its places in the maps.
pub const DETAIL_OVERHEAD_BYTES: u64 = 64;
/// An inode in a snapshot without what counts as detail: numbers, times, the digest of a content twice, its author.
/// (`snapshot.rs` has a test.)
pub const INODE_IMAGE_BYTES_MAX: u64 = 400;
/// What a small write copies at most; large enough that a 16 MiB file has only 1,024 chunks.
pub const CONTENT_CHUNK_BYTES: usize = 16 * 1024;
/// What holes are counted in, as on most filesystems.
pub const CONTENT_BLOCK_BYTES: usize = 4 * 1024;
/// Names of one file: each is an event to replay when its content changes.
pub const LINKS_MAX: usize = 1_000;
/// One extended attribute's value (`XATTR_SIZE_MAX`).
pub const XATTR_VALUE_BYTES_MAX: usize = 64 * 1024;
/// Names and values of one inode's extended attributes together (`XATTR_LIST_MAX` bounds their listing).
pub const XATTRS_BYTES_MAX: usize = 64 * 1024;
/// Answers kept per session for retries. A node has far fewer proposals under way; older ones are settled.
pub const OUTCOME_WINDOW_MAX: usize = 65_536;
/// An answer in a snapshot: three numbers and the outcome. (`snapshot.rs` has a test.)
pub const ANSWER_IMAGE_BYTES_MAX: u64 = 48;
/// How long an abnormally ended lock stays taken, unless `user.lk.delay` says otherwise: long enough for the children
/// of the dead holder to be gone.
pub const LOCK_DELAY_DEFAULT_MS: u64 = 2_000;
/// Longest `user.lk.delay`.
pub const LOCK_DELAY_MAX_MS: u64 = 3_600_000;

const _: () = assert!(FILE_BYTES_MAX <= TREE_BYTES_MAX);
const _: () = assert!(CONTENT_CHUNK_BYTES.is_multiple_of(CONTENT_BLOCK_BYTES));
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
/// An idle log writes how far it is committed after this long, so that a node that comes up alone shows what it knew.
pub const COMMITTED_MARK_EVERY: Duration = Duration::from_secs(1);
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
/// Bytes of the requests under way on one connection: all that a leader sends ahead. A peer that has sent so much waits
/// until some of it is answered.
pub const REQUEST_BYTES_UNDER_WAY_MAX: usize = 64 * 1024 * 1024;
/// Connections that members may hold here: four of each of 38 others, and room for those that are being made anew.
pub const CONNECTIONS_MAX: usize = 256;
/// Connections that have not shown a member's certificate, joining nodes included: a handshake is done in
/// milliseconds, and nodes join one at a time.
pub const STRANGERS_MAX: usize = 16;
/// Such a connection keeps its place for this long, even if others wait for one: several round trips in a data centre.
pub const STRANGER_GRACE: Duration = Duration::from_millis(50);
/// A connection to a peer is made in this time or not at all: a node that is up answers within a round trip.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection that has not shown who it is by then is closed.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// Sent bytes that a peer's kernel does not confirm for this long end the connection: TCP itself waits a quarter hour.
pub const TCP_SILENCE_MAX: Duration = Duration::from_secs(3);
/// A connection without traffic is probed this often: whoever waits for an answer of a machine that died after it had
/// confirmed the request learns of it by then, not when the request times out.
pub const TCP_PROBE_EVERY: Duration = Duration::from_secs(1);
/// Longest request of a node that is no member yet: names and a signing request.
pub const ENROL_BYTES_MAX: usize = 64 * 1024;
/// Longest wait for being let into a cluster: one write, and the way there.
pub const ENROL_TIMEOUT: Duration = Duration::from_secs(20);

const _: () = assert!(4 * FILE_BYTES_MAX <= UNCOMMITTED_BYTES_MAX);
const _: () = assert!(STRANGER_GRACE.as_millis() * 10 <= CONNECT_TIMEOUT.as_millis());
const _: () = assert!(REPLICATION_BYTES_MAX as usize + 64 * 1024 <= FRAME_BYTES_MAX);
const _: () = assert!(ENTRY_BYTES_MAX + 64 * 1024 <= FRAME_BYTES_MAX);
const _: () = assert!(FRAME_BYTES_MAX <= REQUEST_BYTES_UNDER_WAY_MAX);
const _: () =
    assert!(APPENDS_UNDER_WAY_MAX * REPLICATION_BYTES_MAX as usize <= REQUEST_BYTES_UNDER_WAY_MAX);

/// Stores through a shared mapping are committed after this long, if nothing else commits them before.
pub const MAPPED_COMMIT_DELAY: Duration = Duration::from_secs(1);
/// How often a save is tried again that nobody waits for (the last close has returned).
pub const UNSAVED_RETRY_EVERY: Duration = Duration::from_millis(500);
/// How long such a save is tried: past a partition of a day, its bytes are of no use to anybody.
pub const UNSAVED_RETRY_FOR: Duration = Duration::from_secs(24 * 3600);
/// What all handles of a node hold uncommitted: sixteen of the largest files. A write that finds no room waits.
pub const UNCOMMITTED_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// What an uncommitted range counts besides its bytes: its place among the others.
pub const DIRTY_RANGE_OVERHEAD_BYTES: u64 = 96;
/// What programs of a node add to files that have no name any more: they are this node's alone.
pub const PRIVATE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Saves without a waiter that were given up and are still named in `status.json`: enough to see a pattern.
pub const DROPPED_SAVES_NAMED_MAX: usize = 32;
/// Descriptors of a process that are looked at when it closes one; with more it counts as having another.
pub const DESCRIPTORS_LOOKED_AT_MAX: usize = 1_024;
/// A connection with an overdue answer that was silent for this long is dropped and made anew.
pub const CONNECTION_SILENCE_MAX: Duration = Duration::from_secs(1);

/// The leader says that it lives this often.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(200);
/// A leader's lease is the maximum, and one that is not answered for as long falls silent by itself; a follower that
/// hears nothing for a time between the two, at random, after the end of the lease stands for election. So a leader
/// that falls silent is replaced within about a second, one whose daemon is gone at the end of its lease, and one that
/// stalls for three signs of life keeps its place.
pub const ELECTION_TIMEOUT_MIN: Duration = Duration::from_millis(300);
/// See [`ELECTION_TIMEOUT_MIN`].
pub const ELECTION_TIMEOUT_MAX: Duration = Duration::from_millis(600);
/// A leader that is silent for longer may have to be replaced: one sign of life is overdue, and its lease still lasts.
pub const LEADER_SILENCE_MAX: Duration = Duration::from_millis(300);
/// When a leader's daemon is gone, its followers ask for votes one after the other, this long apart: an election is
/// over by then.
pub const SUCCESSION_STEP: Duration = Duration::from_millis(50);
/// How often each asks before it leaves the rest to the timer: the lease of the others may end a sign of life later.
pub const SUCCESSION_TRIES: usize = 3;
/// Silence after which a node knows that it has no quorum: longer than any election that succeeds at once.
pub const QUORUM_SILENCE_MAX: Duration = Duration::from_millis(2500);
/// A write is taken at once if a majority was in contact within this time: a few signs of life may be late.
pub const CONTACT_FRESH_MAX: Duration = Duration::from_millis(600);
/// Otherwise it waits this long for the next sign: a shell cannot tell a later error of its redirection.
pub const CONTACT_WAIT_MAX: Duration = Duration::from_secs(1);
/// What a member looks at now and then, it looks at together, and a leader shows then that it lives: each look of its
/// own would wake an idle member.
pub const BEAT: Duration = HEARTBEAT_INTERVAL;
/// Replication requests to one follower that are under way at once; each has at most [`REPLICATION_BYTES_MAX`].
pub const APPENDS_UNDER_WAY_MAX: usize = 16;
/// An answer to a replication request takes at most this long; a disk that is slower is as good as gone.
pub const REPLICATION_TIMEOUT: Duration = Duration::from_secs(5);
/// A disk that works on one batch of the log for this long is as good as gone: its node gives the leadership away, and
/// stands for no election until the batch is written.
pub const LOG_STALL_MAX: Duration = REPLICATION_TIMEOUT;
/// How often that is looked at, in beats.
pub const LOG_STALL_CHECK_BEATS: u64 = 3;
/// A part of a snapshot in one request.
pub const SNAPSHOT_PART_BYTES: usize = 4 * 1024 * 1024;
/// An answer to a part of a snapshot that is taken into memory: a slow network brings its bytes by then.
pub const SNAPSHOT_PART_TIMEOUT: Duration = Duration::from_secs(10);
/// How often such a part is sent until the snapshot is begun anew: a connection may break at any time.
pub const SNAPSHOT_PART_TRIES: usize = 5;
/// An answer to the last part, after which the receiver reads or writes its disk.
pub const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(60);
/// A snapshot whose next part has not come by then is given up: its sender has waited for an answer in vain twice, or
/// leads no more.
pub const SNAPSHOT_PART_WAIT_MAX: Duration = Duration::from_secs(120);
/// A snapshot that is received: the whole tree and what surrounds it.
pub const SNAPSHOT_BYTES_MAX: u64 = TREE_BYTES_MAX + TREE_BYTES_MAX / 2;
/// What a snapshot holds besides the tree: the answers that sessions keep, members, tokens.
pub const SNAPSHOT_REST_BYTES_MAX: u64 = 160 * 1024 * 1024;
/// Log bytes since the last snapshot that make a new one due, unless that one was larger.
pub const SNAPSHOT_DUE_BYTES: u64 = 64 * 1024 * 1024;
/// How often that is looked at, in beats.
pub const SNAPSHOT_CHECK_BEATS: u64 = 5;
/// Pause before a snapshot that could not be written is tried again: writing a large one costs as much as it has bytes,
/// and a full disk is seldom emptied at once.
pub const SNAPSHOT_RETRY_EVERY: Duration = Duration::from_secs(30);
/// Entries kept behind a snapshot, so that a node that was away for a moment needs no snapshot.
pub const LOG_ENTRIES_KEPT: u64 = 5_000;
/// The same in bytes: whichever is reached first.
pub const LOG_BYTES_KEPT: u64 = SNAPSHOT_DUE_BYTES;
/// Pause before asking again who leads: shorter than an election, longer than a busy loop.
pub const LEADER_RETRY_EVERY: Duration = Duration::from_millis(20);
/// Voters of a cluster: each one more makes every write slower.
pub const VOTERS_MAX: usize = 7;
/// Learners of a cluster: the leader sends each of them every entry.
pub const LEARNERS_MAX: usize = 32;
/// How often the leader compares the members' lineages: replicas that differ are found within this time.
pub const LINEAGE_CHECK_EVERY: Duration = Duration::from_secs(5);
/// An answer to that question, the entry applied meanwhile included.
pub const LINEAGE_TIMEOUT: Duration = Duration::from_secs(2);
/// Lineages kept for being asked: the entries of a busy second, and more.
pub const LINEAGES_KEPT: usize = 16_384;
/// How often a member tells the others what its disk holds, if that has changed, and makes durable what they told, in
/// beats: an older copy of a disk is older than a second, or nobody but its leader can tell.
pub const PLEDGE_TELL_BEATS: u64 = 5;
/// How often it tells them all the same: one that went back while it ran hears of it then.
pub const PLEDGE_REPEAT_EVERY: Duration = Duration::from_secs(10);
/// An answer to that; a starting member waits this long for one that is not there.
pub const PLEDGE_TIMEOUT: Duration = CONNECT_TIMEOUT;
/// The newest rules for applying entries that this build knows (`state_machine/level.rs`).
pub const RULES_KNOWN: u32 = 3;
/// How often the leader looks whether every member knows newer rules, in beats.
pub const LEVEL_CHECK_BEATS: u64 = 5;
/// How long an entry from the leader waits for room in the queue for the disk: the leader waits no longer for the
/// answer, and sends it again.
pub const LOG_ROOM_WAIT_MAX: Duration = REPLICATION_TIMEOUT;
/// How long a stopping member waits for each of its parts that may wait for the disk: Raft, the addresses of the
/// members, the end of the log. A healthy disk needs milliseconds; what one that hangs still has to write was
/// acknowledged to nobody.
pub const STOP_STEP_MAX: Duration = Duration::from_secs(5);
/// How often a stopping member looks whether the log's writer has ended.
pub const STOP_LOOK_EVERY: Duration = Duration::from_millis(5);
/// How long a stopping leader waits for another node to take over.
pub const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(2);
/// Entries that a learner may lack when it becomes a voter: one replication request brings them.
pub const PROMOTE_BEHIND_MAX: u64 = 100;
/// How long a change of the members waits for the one before it.
pub const CHANGE_TURN_MAX: Duration = WRITE_TIMEOUT;
/// How often a node looks whether the certificate authority is being changed, in beats.
pub const AUTHORITY_CHECK_BEATS: u64 = 1;
/// Longest answer of a member that is brought along to another authority: it reads or writes a small file.
pub const AUTHORITY_ASK_MAX: Duration = Duration::from_secs(2);
/// Longest change of the membership, replication to a new voter included.
pub const MEMBER_CHANGE_TIMEOUT: Duration = Duration::from_secs(30);

const _: () = assert!(HEARTBEAT_INTERVAL.as_millis() * 3 <= CONTACT_FRESH_MAX.as_millis());
const _: () = assert!(
    HEARTBEAT_INTERVAL.as_millis() * 3
        <= ELECTION_TIMEOUT_MIN.as_millis() + ELECTION_TIMEOUT_MAX.as_millis()
);
const _: () =
    assert!(LEADER_SILENCE_MAX.as_millis() + BEAT.as_millis() <= ELECTION_TIMEOUT_MAX.as_millis());
// A tree that is full in every way fits a snapshot, and the answers of a session for each member beside it.
const _: () = assert!(
    TREE_BYTES_MAX
        + TREE_DETAIL_BYTES_MAX
        + TREE_INODES_MAX * INODE_IMAGE_BYTES_MAX
        + SNAPSHOT_REST_BYTES_MAX
        <= SNAPSHOT_BYTES_MAX
);
const _: () = assert!(
    (VOTERS_MAX + LEARNERS_MAX) as u64 * OUTCOME_WINDOW_MAX as u64 * ANSWER_IMAGE_BYTES_MAX
        <= SNAPSHOT_REST_BYTES_MAX
);
const _: () = assert!(SNAPSHOT_PART_WAIT_MAX.as_secs() >= 2 * SNAPSHOT_TIMEOUT.as_secs());
const _: () = assert!(ELECTION_TIMEOUT_MAX.as_millis() * 4 <= QUORUM_SILENCE_MAX.as_millis());
const _: () = assert!(QUORUM_SILENCE_MAX.as_millis() < WRITE_TIMEOUT.as_millis());
/// Abandoned numbers that one entry names; the next one names the rest.
pub const ABANDONED_PER_ENTRY_MAX: usize = 1024;
/// Barriers that wait for the next round; more wait before they queue.
pub const BARRIERS_WAITING_MAX: usize = 1024;

/// Largest WRITE that the kernel sends: one `write(2)` of this size to an `O_APPEND` handle is one entry.
pub const FUSE_WRITE_BYTES_MAX: u32 = 1024 * 1024;
/// A caller that waits for longer is looked at, whether it was killed.
pub const KILLED_CALLER_AFTER: Duration = Duration::from_millis(200);
/// How often waiting callers are looked at.
pub const KILLED_CALLER_EVERY: Duration = Duration::from_millis(150);
/// A leader renews sessions only while a majority confirmed it within this time: a newer leader, which it may not know
/// of yet, gives every session a full TTL from its own election.
pub const RENEW_CONFIRMED_MAX: Duration = Duration::from_secs(1);
/// The boot clock gets ahead of the other one by this much only in a suspend: reading both takes less.
pub const SUSPEND_MIN: Duration = Duration::from_millis(100);
/// Pause before opening or renewing a session is tried again.
pub const SESSION_RETRY_EVERY: Duration = Duration::from_millis(250);

/// Threads whose last lookups are remembered: more than change names at one moment.
pub const FOUND_NAMES_MAX: usize = 1_024;
/// How often a change of names is tried whose name another node replaces meanwhile by a file of the same owner.
pub const NAME_TRIES_MAX: usize = 8;
/// Events that wait to be raised in this kernel; past it, directories are announced as a whole. One event takes about
/// half a millisecond, so a full queue is some seconds old.
pub const REPLAY_QUEUE_MAX: usize = 16_384;
/// Changes that are told one by one of what a snapshot brought; past it, directories are announced as a whole. What
/// comes after the snapshot has room behind them.
pub const DIFFERENCE_CHANGES_MAX: usize = REPLAY_QUEUE_MAX / 2;
/// How often an event is tried whose directory moves meanwhile; then the directory is announced as a whole.
pub const REPLAY_STALE_TRIES_MAX: usize = 5;
/// Pause before that: whoever moves the directory is done within some calls. All tries of an event together hold up the
/// next one for less than a hundredth of a second.
pub const REPLAY_STALE_PAUSE: Duration = Duration::from_millis(2);
/// Lookups that a thread makes of a directory right after one that had the kernel move it, and that wait: more than the
/// kernel makes before the call ends with ESTALE.
pub const MOVED_TRIES_MAX: usize = 3;
/// A lookup by the same thread within this time after the first is such a try.
pub const MOVED_TRY_WITHIN: Duration = Duration::from_millis(100);
/// Threads whose last move of a directory is remembered: more than walk into moved directories at one moment.
pub const MOVED_THREADS_MAX: usize = 1_024;
/// Pause before a further try is answered: the thread that holds the lock runs again meanwhile.
pub const MOVED_TRY_PAUSE: Duration = Duration::from_millis(10);
/// Threads that read requests from the kernel. They never wait for anything, so few are enough.
pub const FUSE_THREADS: usize = 2;
/// Threads that run consensus and its connections. None of its tasks takes long, and a second thread costs every entry
/// several wake-ups of one by the other: a fifth fewer saves per second on two cores.
pub const RUNTIME_WORKERS: usize = 1;
/// How often the mount table is read even if nothing announces a change, in milliseconds.
pub const MOUNT_CHECK_EVERY_MS: u16 = 1_000;
/// What an entry holds besides content: names, attributes, numbers.
pub const ENTRY_OVERHEAD_MAX: usize = 256 * 1024;
/// How long a starting daemon waits for the end of the one before.
pub const DATA_DIR_WAIT_MAX: Duration = Duration::from_secs(5);
/// How often the addresses of the members are written at most, when the members change.
pub const PEERS_SAVE_EVERY: Duration = Duration::from_secs(1);
/// How long a node that rejoins waits for a leader: a killed voter is started again and an election is over by then.
pub const REJOIN_WAIT_MAX: Duration = Duration::from_secs(60);
/// Longest wait for an answer on the admin socket: a change of the members waits for its turn, for voters and for
/// learners, each with a bound of its own.
pub const ADMIN_ANSWER_MAX: Duration = Duration::from_secs(90);
/// The consensus loop answers within this time, or the watchdog is not fed.
pub const WATCHDOG_ANSWER_MAX: Duration = Duration::from_secs(5);
/// Longest line on the admin socket.
pub const ADMIN_LINE_BYTES_MAX: usize = 1024 * 1024;
/// Pause before another connection is accepted when accepting fails: descriptors are short, and become free meanwhile.
pub const ACCEPT_RETRY_EVERY: Duration = Duration::from_millis(100);
/// Requests on the admin socket at once.
pub const ADMIN_CONNECTIONS_MAX: usize = 32;

const _: () = assert!(
    CHANGE_TURN_MAX.as_millis() + 2 * MEMBER_CHANGE_TIMEOUT.as_millis()
        < ADMIN_ANSWER_MAX.as_millis()
);
const _: () = assert!(
    SESSION_SELF_DEADLINE.as_millis() + RENEW_CONFIRMED_MAX.as_millis() + SUSPEND_MIN.as_millis()
        < SESSION_TTL.as_millis()
);
const _: () = assert!(FILE_BYTES_MAX as usize + ENTRY_OVERHEAD_MAX <= ENTRY_BYTES_MAX);

/// Directories that the kernel is still to be told of as unneeded; each notice only saves work, so one too many is
/// dropped.
pub const UNNEEDED_MAX: usize = 1_024;
