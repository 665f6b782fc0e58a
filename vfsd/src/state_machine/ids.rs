//! A newtype for each id that is stored or sent. All are plain numbers on the wire.

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// A member of the cluster. Allocated from a log index and never used again after its removal.
    NodeId
}
id! {
    /// An inode of the tree. Allocated in `apply`, never used again.
    InodeNo
}
id! {
    /// Position in the log; also the revision that the entry at that position made.
    LogIndex
}
id! {
    /// Proof of a lock grant: the log index of the grant. Grows with every grant in the cluster.
    FencingToken
}
id! {
    /// A mounted node's session: the log index of the entry that opened it.
    SessionId
}
id! {
    /// A proposal of a session. The upper 24 bits are the incarnation of the proposing daemon, the rest counts up.
    RequestNo
}
id! {
    /// An open file handle, unique within a session.
    HandleId
}

impl InodeNo {
    /// The root directory; fixed by the FUSE protocol.
    pub const ROOT: Self = Self(1);
}

impl RequestNo {
    const COUNTER_BITS: u32 = 40;

    /// The first number of an incarnation.
    pub const fn first_of(incarnation: u32) -> Self {
        Self((incarnation as u64) << Self::COUNTER_BITS)
    }

    /// The number after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}
