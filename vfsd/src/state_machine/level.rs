//! Which rules a cluster applies its entries by. Members of different builds apply the same log: what a newer build
//! does otherwise counts only from the entry on that says so, and the leader writes that entry when every member can
//! follow it (`consensus/cluster/level_keeper.rs`).
//!
//! Invariants: a level is never taken back; a rule of a released level never changes. Not here: what members speak
//! with each other (`transport/tls.rs`).

use serde::{Deserialize, Serialize};

use crate::limits::RULES_KNOWN;

/// A set of rules; each includes all before it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash, Serialize, Deserialize,
)]
pub struct Level(pub u32);

impl Level {
    /// What clusters began with.
    pub const FIRST: Self = Self(0);

    /// The time of a content commit is that of its last write, for ctime too.
    pub const TIMES_OF_WRITES: Self = Self(1);
    /// A change of content by an ordinary user takes capabilities away besides set-id bits, by whatever call.
    pub const CAPABILITIES_GO: Self = Self(1);
    /// The state has a lineage (`lineage.rs`).
    pub const LINEAGES: Self = Self(1);
    /// Members are let in by [`super::command::Command::Admit`] and its like.
    pub const ENROLMENTS: Self = Self(1);
    /// The certificate authority may be changed ([`super::command::Command::Authority`]).
    pub const AUTHORITIES: Self = Self(1);
    /// Breaking a lock and announcing a close need a grant.
    pub const GRANTS_FOR_ALL: Self = Self(1);

    /// Who made a file's content outlives a later change of its names or attributes.
    pub const AUTHORS_OF_CONTENT: Self = Self(2);
    /// Names, attributes and what else describes the tree have a maximum ([`crate::limits::TREE_DETAIL_BYTES_MAX`]).
    pub const DETAILS_ARE_BOUNDED: Self = Self(2);
    /// Names are taken away and moved by what the caller's kernel has checked
    /// ([`super::command::Command::Checked`]).
    pub const NAMES_AS_CHECKED: Self = Self(2);
    /// A file with several names is bound by the guard, the lock and the grant of the place of each.
    pub const ALL_NAMES_BIND: Self = Self(2);
    /// A lock gets no second name, wherever.
    pub const LOCKS_HAVE_ONE_NAME: Self = Self(2);

    /// Members tell each other what their disks hold. No entry is applied otherwise: a member that knows it is greeted.
    pub const PLEDGES: Self = Self(3);

    /// The newest that this build knows.
    pub const KNOWN: Self = Self(RULES_KNOWN);
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}
