//! openraft's state machine on ours: decodes entries, applies them, publishes the result, answers who waits.
//!
//! Invariants: the state is visible to readers before anybody learns that the entry was applied; changes are handed on
//! in log order. Not here: what a command does (`state_machine/apply.rs`).

use std::io;
use std::sync::Arc;

use arc_swap::ArcSwap;
use futures_util::{Stream, TryStreamExt};
use openraft::storage::{ApplyResponder, EntryResponder};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use tokio::sync::watch;

use crate::consensus::proposals::waiters::{Waiter, Waiters};
use crate::consensus::raft::lineages::Lineages;
use crate::consensus::raft::snapshot_store::SnapshotStore;
use crate::consensus::raft::types::{
    LogId, Response, Snapshot, SnapshotMeta, StoredMembership, TypeConfig,
};
use crate::fs::feed::{AppliedEntry, ChangeFeed, Publication};
use crate::fs::proposer::Committed;
use crate::inline_task::promptly;
use crate::state_machine::StateMachine;
use crate::state_machine::command::{Author, Command, Entry};
use crate::state_machine::ids::{InodeNo, LogIndex};
use crate::state_machine::outcome::Outcome;
use crate::state_machine::snapshot::StateImage;

/// Raft on this node.
pub type Raft = openraft::Raft<TypeConfig, RaftStateMachine>;

/// The applied state as everybody else sees it.
pub struct Published {
    /// The state, replaced after each entry.
    pub state: ArcSwap<StateMachine>,
    /// Index of the last applied entry, for waiting on it.
    pub applied: watch::Sender<u64>,
    /// Proposals of this node that wait for their apply.
    pub waiters: Waiters,
    /// What the last entries came to, for comparing it with other members.
    pub lineages: Lineages,
    /// Who is told of each change.
    pub feed: Arc<ChangeFeed>,
}

impl Published {
    /// An empty state that tells `feed` of changes.
    pub fn new(feed: Arc<ChangeFeed>) -> Arc<Self> {
        Arc::new(Self {
            state: ArcSwap::from_pointee(StateMachine::new()),
            applied: watch::Sender::new(0),
            waiters: Waiters::default(),
            lineages: Lineages::default(),
            feed,
        })
    }
}

/// The state machine as openraft drives it.
pub struct RaftStateMachine {
    machine: StateMachine,
    last_applied: Option<LogId>,
    membership: StoredMembership,
    snapshots: SnapshotStore,
    published: Arc<Published>,
}

impl RaftStateMachine {
    /// Begins with the newest snapshot in `snapshots`, or with the empty state.
    ///
    /// # Errors
    /// If the snapshot is damaged or of an unknown version.
    pub fn open(snapshots: SnapshotStore, published: Arc<Published>) -> io::Result<Self> {
        let mut opened = Self {
            machine: StateMachine::new(),
            last_applied: None,
            membership: StoredMembership::default(),
            snapshots,
            published,
        };
        if let Some(snapshot) = opened.snapshots.load()? {
            opened.replace(&snapshot.meta, decode(&snapshot.snapshot)?);
        }
        Ok(opened)
    }

    fn replace(&mut self, meta: &SnapshotMeta, machine: StateMachine) {
        let (old, new) = (self.published.state.load_full(), Arc::new(machine.clone()));
        self.machine = machine;
        self.last_applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        let publication = Publication::Snapshot {
            old: &old,
            new: &new,
        };
        self.published.feed.before(publication);
        self.publish(Arc::clone(&new));
        self.published.feed.after(publication, &new);
        self.published.waiters.complete_from(|(session, number)| {
            let answer = self.machine.session(session)?.answer(number)?;
            Some(Committed {
                index: answer.index,
                outcome: answer.outcome,
            })
        });
    }

    fn publish(&self, state: Arc<StateMachine>) {
        self.published.state.store(state);
        let index = self.last_applied.map_or(0, |id| id.index);
        self.published.lineages.note(index, self.machine.lineage());
        self.published.applied.send_replace(index);
    }

    fn apply_one(
        &mut self,
        id: LogId,
        payload: EntryPayload<
            crate::consensus::raft::types::EntryBytes,
            u64,
            openraft::impls::BasicNode,
        >,
        responder: Option<ApplyResponder<TypeConfig>>,
    ) -> io::Result<()> {
        let index = LogIndex(id.index);
        let command = match payload {
            EntryPayload::Blank => None,
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(id), membership);
                None
            }
            EntryPayload::Normal(bytes) => {
                // An entry that this version cannot read stops the node: going on without it would serve wrong data.
                let entry = Entry::decode(&bytes.0)
                    .map_err(|error| io::Error::other(format!("entry {index}: {error}")))?;
                Some(entry)
            }
        };
        self.last_applied = Some(id);
        let Some(entry) = command else {
            // Index 0 is the membership that a cluster is born with; the core counts from 1.
            if id.index > 0 {
                self.machine.pass(index);
            }
            self.publish(Arc::new(self.machine.clone()));
            respond(responder, None);
            return Ok(());
        };
        let applied = self.machine.apply(index, &entry);
        let outcome = applied.outcome;
        if let (Command::LockBreak { inode }, Ok(_)) = (&entry.command, outcome) {
            self.record_break(index, *inode, &entry.author);
        }
        let origin = entry.origin.as_ref();
        let waiter = origin.and_then(|origin| {
            let id = (origin.session, origin.request);
            self.published.waiters.take(id)
        });
        let entry = Arc::new(AppliedEntry {
            applied,
            author: entry.author,
            wall: entry.stamp.wall,
            is_awaited: waiter.as_ref().is_some_and(Waiter::is_there),
        });
        let (feed, state) = (&self.published.feed, Arc::new(self.machine.clone()));
        feed.before(Publication::Entry(&entry));
        self.publish(Arc::clone(&state));
        feed.after(Publication::Entry(&entry), &state);
        promptly(|| {
            // The responder first: a proposer of this node stops listening to it as soon as its waiter is answered.
            respond(responder, Some(outcome));
            if let Some(waiter) = waiter {
                let answered = waiter.answer(Committed { index, outcome }, Arc::clone(&entry));
                if answered.is_err() && entry.is_awaited {
                    feed.give_up(&entry);
                }
            }
        });
        Ok(())
    }

    fn builder(&self, is_needed: bool) -> SnapshotBuilder {
        SnapshotBuilder {
            machine: self.machine.clone(),
            meta: SnapshotMeta {
                last_log_id: self.last_applied,
                last_membership: self.membership.clone(),
            },
            snapshots: self.snapshots.clone(),
            is_needed,
        }
    }

    /// On every node: a lock that was ended on a person's word is looked for in the log of whichever node is at hand.
    fn record_break(&self, index: LogIndex, inode: InodeNo, author: &Author) {
        let path = self.machine.tree().path_of(inode).unwrap_or_default();
        let node = self.machine.member(author.node);
        tracing::warn!(
            %index,
            path = %String::from_utf8_lossy(&path),
            node = node.map_or("", |member| member.name.as_str()),
            uid = author.uid,
            pid = author.pid,
            comm = author.comm,
            "a lock was broken"
        );
    }
}

fn decode(image: &StateImage) -> io::Result<StateMachine> {
    StateMachine::from_image(image)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn respond(responder: Option<ApplyResponder<TypeConfig>>, outcome: Option<Outcome>) {
    if let Some(responder) = responder {
        responder.send(Response(outcome));
    }
}

/// Writes a snapshot of the state as it was when the builder was made.
///
/// openraft takes an error here for the end of the member. But a snapshot only saves room, and the log may have enough
/// of it for long while the disk has none for a whole snapshot: so one that cannot be written is told, is answered as
/// one of nothing, which openraft has a newer one than, and is due again (`log_compaction.rs`). What the log itself
/// cannot write ends the member still.
pub struct SnapshotBuilder {
    machine: StateMachine,
    meta: SnapshotMeta,
    snapshots: SnapshotStore,
    /// Openraft cannot do without it.
    is_needed: bool,
}

impl SnapshotBuilder {
    /// What stands for a snapshot that could not be written.
    fn nothing() -> Snapshot {
        Snapshot {
            meta: SnapshotMeta::default(),
            snapshot: StateImage {
                manifest: Arc::from([]),
                blobs: Arc::default(),
            },
        }
    }
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = StateImage;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let (machine, meta) = (self.machine.clone(), self.meta.clone());
        let save = move |snapshots: &SnapshotStore| {
            let image = machine.image();
            snapshots.save(&meta, &image).map(|()| image)
        };
        let saved = self.snapshots.run_blocking(save).await.flatten();
        self.snapshots.note_outcome(&saved);
        let image = match saved {
            Ok(image) => image,
            Err(_) if !self.is_needed => return Ok(Self::nothing()),
            Err(error) => return Err(error),
        };
        Ok(Snapshot {
            meta: self.meta.clone(),
            snapshot: image,
        })
    }
}

impl openraft::storage::RaftStateMachine<TypeConfig> for RaftStateMachine {
    type SnapshotData = StateImage;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.last_applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            self.apply_one(entry.log_id, entry.payload, responder)?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        self.builder(true)
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Self::SnapshotBuilder> {
        Some(self.builder(force))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: StateImage,
    ) -> Result<(), io::Error> {
        let head = meta.clone();
        let save = move |snapshots: &SnapshotStore| {
            // Decoded before it is saved: what cannot be read must never replace what can.
            let machine = decode(&snapshot)?;
            snapshots.save(&head, &snapshot)?;
            io::Result::Ok(machine)
        };
        let machine = self.snapshots.run_blocking(save).await??;
        self.replace(meta, machine);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        self.snapshots.run_blocking(SnapshotStore::load).await?
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use openraft::storage::RaftStateMachine as _;

    use super::*;
    use crate::consensus::raft::types;
    use crate::storage::disk::Disk;
    use crate::storage::disk::fake::{FakeDisk, Faults};
    use crate::storage::record::Position;

    #[tokio::test]
    async fn a_snapshot_that_finds_no_room_is_no_error_unless_it_is_needed() {
        let disk = FakeDisk::new(1, Faults::default());
        let dir = Path::new("/snapshots");
        disk.create_dir(dir).unwrap();
        let store = SnapshotStore::open(Arc::new(disk.clone()), dir.into()).unwrap();
        let published = Published::new(Arc::default());
        let mut machine = RaftStateMachine::open(store.clone(), published).unwrap();
        let position = Position { term: 1, index: 7 };
        machine.last_applied = Some(types::log_id(position));
        disk.set_faults(Faults {
            capacity: Some(0),
            ..Faults::default()
        });
        let mut builder = machine.try_create_snapshot_builder(false).await.unwrap();
        let nothing = builder.build_snapshot().await.unwrap();
        assert_eq!(nothing.meta.last_log_id, None);
        assert!(store.has_failed() && store.load().unwrap().is_none());
        let mut needed = machine.try_create_snapshot_builder(true).await.unwrap();
        assert!(needed.build_snapshot().await.is_err());
        disk.set_faults(Faults::default());
        let whole = builder.build_snapshot().await.unwrap();
        assert_eq!(whole.meta.last_log_id, machine.last_applied);
        assert!(!store.has_failed() && store.load().unwrap().is_some());
    }
}
