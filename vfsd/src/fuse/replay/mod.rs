//! Raises other nodes' changes as events of this kernel.
//!
//! No notification of the FUSE protocol reaches inotify. So a thread repeats the system call of the other node on this
//! node's own mount; the adapter recognises it (`tickets.rs`) and answers from what is applied already. The kernel then
//! raises the same events as for a local call, on the same watches.

mod prune;
mod queue;
mod replayer;
mod syscalls;
mod tickets;

pub use self::prune::{MountRoot, prune_unneeded};
pub use self::queue::ReplayQueue;
pub use self::replayer::Replayer;
pub use self::tickets::{NameBefore, REPLAY_HANDLE, Ticket, Tickets};
