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
