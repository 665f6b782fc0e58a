//! What must hold of every world, one file a property.

pub mod acknowledged;
pub mod digests;
pub mod exclusive;
pub mod levels;
pub mod linearizable;
pub mod locks;
pub mod log_ids;
pub mod older_copies;
pub mod sticky;
pub mod whole;

/// All of them, and what they have seen.
#[derive(Default)]
pub struct Checkers {
    /// Lines of the appended file.
    pub lines: acknowledged::Lines,
    /// Digests of the states.
    pub digests: digests::Digests,
    /// Names made by exclusive creates.
    pub names: exclusive::Winners,
    /// Saves and reads of each file.
    pub saves: linearizable::Histories,
    /// Who said to hold a lock.
    pub locks: locks::Holders,
    /// Entries of all logs.
    pub log_ids: log_ids::LogIds,
    /// The rules that may be followed.
    pub levels: levels::Levels,
    /// Who stands on an older copy of its disk.
    pub older_copies: older_copies::OlderCopies,
    /// Whose files were taken away.
    pub sticky: sticky::Sticky,
}
