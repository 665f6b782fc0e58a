//! Every bound of the agent, with its reason.

use std::time::Duration;

/// Largest wish file that is decoded. A wish names what should run; data belongs elsewhere.
pub const WISH_BYTES_MAX: usize = 1 << 20;

/// Deepest nesting of a wish; deeper documents are refused before they can exhaust the stack.
pub const WISH_DEPTH_MAX: usize = 48;

/// Most values in one wish, so that a small binary document cannot unfold into a large one.
pub const WISH_VALUES_MAX: usize = 100_000;

/// Largest integer that every JSON reader holds exactly (RFC 8785 numbers are IEEE doubles).
pub const EXACT_INTEGER_MAX: u64 = (1 << 53) - 1;

/// Most nodes of one deployment: seven voters and thirty-two learners are the largest cluster.
pub const NODES_MAX: usize = 39;

/// Longest name of a deployment, in bytes, so that its record's paths stay below PATH_MAX with room for file names.
pub const DEPLOYMENT_NAME_BYTES_MAX: usize = 1024;

/// Deepest folder nesting of a wish file below `/mid` or `/ctx`.
pub const DEPLOYMENT_DEPTH_MAX: usize = 16;

/// Most wishes that one agent looks after; more would make the minute's sweep longer than the minute.
pub const DEPLOYMENTS_MAX: usize = 20_000;

/// Deployments of which the agent keeps what it has read, as long as nothing moves: tens of KiB each. Of more, the rest
/// is read again with each look.
pub const VIEWS_KEPT_MAX: usize = 1_000;

/// Largest value of `policy.max_unavailable`: each slot is a lock file.
pub const MAX_UNAVAILABLE_MAX: u64 = 39;

/// Most steps of one plan; the planner's graph checks are linear in it.
pub const PLAN_STEPS_MAX: usize = 20_000;

/// Most lines of one node's log of one generation; beyond it the generation is Failed instead of growing without end.
pub const LOG_LINES_MAX: u64 = 100_000;

/// Lines of one log up to which it also tells of plans and waits. The rest is left to starts and outcomes, so that
/// notes never fill a log.
pub const LOG_NOTES_MAX: u64 = 50_000;

/// Largest record file that is read back.
pub const RECORD_BYTES_MAX: u64 = 16 << 20;

/// Longest text kept of one error, so that a log line stays one append entry.
pub const ERROR_TEXT_BYTES_MAX: usize = 8 << 10;

/// Longest `changes` and `out` of one line, in bytes of JSON: one `write()` to the tree is one entry of at most 1 MiB.
pub const LINE_BYTES_MAX: usize = 512 << 10;

/// Default of `remove_grace`: how long a wish must stay absent before its deployment is removed.
pub const REMOVE_GRACE: Duration = Duration::from_secs(10);

/// Share of all deployments, in per cent, that may vanish at once without approval.
pub const REMOVE_SHARE_PERCENT_MAX: usize = 20;

/// How long a member's presence may be gone before the others plan without it.
pub const MEMBER_GRACE: Duration = Duration::from_secs(15);

/// Default of `policy.deadline`.
pub const DEADLINE_DEFAULT: Duration = Duration::from_secs(600);

/// How long each rank waits for the one before it to take the planner's lock: a few rounds of consensus.
pub const PLANNER_RANK_DELAY: Duration = Duration::from_millis(60);

/// Delay before a failed observation is tried again.
pub const OBSERVE_RETRY: Duration = Duration::from_secs(2);

/// How often a deployment that runs, but not as it should, is looked at: a standby that comes back is seen at once.
pub const OBSERVE_DEGRADED: Duration = Duration::from_secs(2);

/// Delay before a lock that another node held is tried again although no event came.
pub const LOCK_RETRY: Duration = Duration::from_secs(1);

/// How long a step waits before the log tells it: a line costs an entry of the replicated log, and must never delay a
/// step that could start at once.
pub const WAIT_UNTOLD_MAX: Duration = Duration::from_secs(1);

/// Generations of reason `resume` a minute after which something else is taken to fight for the same state.
pub const RESUMES_A_MINUTE_MAX: u32 = 5;

/// Window in which resumes are counted.
pub const RESUME_WINDOW: Duration = Duration::from_secs(60);

/// How often everything is read again although no event came.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// How often locks, presence and the mount are looked at.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// How long a step goes on while its fence cannot be read. A node refuses its own guarded writes 7.5 s after the last
/// renewal and loses its session after 10 s; stopping must be over before that.
pub const FENCE_UNSEEN_MAX: Duration = Duration::from_secs(5);

/// How long a stopping agent waits for its steps to notice.
pub const STOP_GRACE: Duration = Duration::from_secs(5);

/// Delay before a status is written, so that a burst of changes is one write and never delays a step.
pub const STATUS_DELAY: Duration = Duration::from_millis(50);

/// Shortest time between two writes of one deployment's status.
pub const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// Shortest time between two progress lines of one step: each costs an entry of the replicated log.
pub const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

/// Rounds of read, decide, act in one pass before it is put back into the queue, so that one deployment cannot starve
/// the others.
pub const ROUNDS_A_PASS_MAX: u32 = 64;

/// Delay before a pass is tried again after the tree refused a write.
pub const TREE_RETRY: Duration = Duration::from_millis(500);

/// Deployments that are worked on at the same time; each pass may wait for consensus.
pub const PASSES_AT_ONCE_MAX: usize = 8;

/// Steps of one node that run at the same time, over all deployments.
pub const STEPS_AT_ONCE_MAX: usize = 16;

/// Most secrets of one deployment.
pub const SECRETS_MAX: usize = 256;

/// Longest secret, in bytes.
pub const SECRET_BYTES_MAX: usize = 64 << 10;

/// Most generations looked at by `log`, `diff` and `audit` in one call.
pub const GENERATIONS_SHOWN_MAX: usize = 10_000;

const _: () = assert!(LINE_BYTES_MAX < 1 << 20, "a line must fit one append entry");
const _: () = assert!(
    PLAN_STEPS_MAX as u64 <= LOG_NOTES_MAX
        && 2 * PLAN_STEPS_MAX as u64 + LOG_NOTES_MAX < LOG_LINES_MAX,
    "each step can be told of, and started and ended once"
);
const _: () = assert!(WISH_BYTES_MAX as u64 <= RECORD_BYTES_MAX);
const _: () = assert!(PROGRESS_INTERVAL.as_millis() >= STATUS_INTERVAL.as_millis());
