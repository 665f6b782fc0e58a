//! A snapshot that is being received: first the manifest, then the contents that this node lacks.
//!
//! Invariants: parts come in order and add up to what the first of them said; the whole never exceeds
//! [`SNAPSHOT_BYTES_MAX`]; a content is taken only under its digest; one snapshot is received at a time, and what is
//! begun goes when no part has come for [`SNAPSHOT_PART_WAIT_MAX`]. Pure: what this node has, and the time, are given
//! to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use crate::consensus::wire::SnapshotPart;
use crate::limits::{SNAPSHOT_BYTES_MAX, SNAPSHOT_PART_WAIT_MAX};
use crate::state_machine::blob::{self, BlobDigest};
use crate::state_machine::content::Content;
use crate::state_machine::snapshot::{StateImage, named_in};
use crate::storage::record::{Position, Vote};

/// What came of a part.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// More parts are expected.
    GoOn,
    /// The manifest is whole: [`IncomingSnapshot::lack`] must be told what of this is here already.
    Names(BTreeSet<BlobDigest>),
    /// The last lacking content is there.
    Whole(StateImage),
}

/// The snapshot that is being received, if any. There is one leader, so there is one: whoever leads now has it, and
/// what another has begun is of no use any more.
#[derive(Debug, Default)]
pub struct Receiving {
    begun: Option<Begun>,
}

#[derive(Debug)]
struct Begun {
    sender: u64,
    vote: Vote,
    last_part: Instant,
    snapshot: IncomingSnapshot,
}

impl Receiving {
    /// Takes a part of what `sender` sends. The snapshot has to be given back ([`Receiving::keep`]) if more is to come;
    /// it is given up if the part does not fit, and begun anew by a first part.
    ///
    /// # Errors
    /// As [`IncomingSnapshot::take`], and if a newer leader is sending.
    pub fn take(
        &mut self,
        sender: u64,
        part: &SnapshotPart<'_>,
    ) -> Result<(IncomingSnapshot, Progress), String> {
        let newer = self.begun.as_ref().map(|begun| (begun.vote, begun.sender));
        if let Some((vote, other)) = newer
            && vote.term > part.vote.term
        {
            return Err(format!(
                "node {other} sends a snapshot as the leader of term {}, which is after term {}",
                vote.term, part.vote.term
            ));
        }
        let is_first = part.blob.is_none() && part.offset == 0;
        let begun = self.begun.take();
        let goes_on = begun.filter(|begun| begun.sender == sender && !is_first);
        let snapshot = goes_on.map(|begun| begun.snapshot);
        let mut snapshot = snapshot.map_or_else(|| IncomingSnapshot::begin(part), Ok)?;
        let progress = snapshot.take(part)?;
        Ok((snapshot, progress))
    }

    /// More of it is to come.
    pub fn keep(&mut self, sender: u64, vote: Vote, snapshot: IncomingSnapshot, now: Instant) {
        self.begun = Some(Begun {
            sender,
            vote,
            last_part: now,
            snapshot,
        });
    }

    /// Lets go what a leader has begun that does not go on. Cheap.
    pub fn forget_old(&mut self, now: Instant) {
        let is_old = |begun: &mut Begun| {
            now.saturating_duration_since(begun.last_part) > SNAPSHOT_PART_WAIT_MAX
        };
        if let Some(begun) = self.begun.take_if(is_old) {
            let (node, bytes) = (begun.sender, begun.snapshot.total);
            tracing::warn!(node, bytes, "gave up a snapshot whose parts come no more");
        }
    }
}

/// A snapshot of one sender.
#[derive(Debug)]
pub struct IncomingSnapshot {
    last: Option<Position>,
    // What the parts belong to: the manifest, or a content.
    current: Option<BlobDigest>,
    bytes: Vec<u8>,
    total: u64,
    manifest: Arc<[u8]>,
    blobs: BTreeMap<BlobDigest, Content>,
    lacking: BTreeSet<BlobDigest>,
}

impl IncomingSnapshot {
    /// Begins with the first part.
    ///
    /// # Errors
    /// If it is not a first part.
    pub fn begin(part: &SnapshotPart<'_>) -> Result<Self, String> {
        if part.blob.is_some() || part.offset > 0 {
            return Err(out_of_order(part));
        }
        Ok(Self {
            last: part.head.last,
            current: None,
            bytes: Vec::new(),
            total: 0,
            manifest: Arc::default(),
            blobs: BTreeMap::new(),
            lacking: BTreeSet::new(),
        })
    }

    /// Takes a part.
    ///
    /// # Errors
    /// If it does not follow the one before, is too long, or completes what is not what it should be. The snapshot is
    /// then of no use.
    pub fn take(&mut self, part: &SnapshotPart<'_>) -> Result<Progress, String> {
        if self.is_repeated(part) {
            return Ok(Progress::GoOn);
        }
        if part.offset == 0 {
            self.current = part.blob;
            self.bytes.clear();
        }
        let follows = self.last == part.head.last
            && self.current == part.blob
            && self.bytes.len() as u64 == part.offset;
        let is_expected = match part.blob {
            None => self.manifest.is_empty(),
            Some(digest) => self.lacking.contains(&digest),
        };
        if !follows || !is_expected {
            return Err(out_of_order(part));
        }
        let whole = self.total.saturating_add(part.total);
        if whole > SNAPSHOT_BYTES_MAX {
            return Err(format!(
                "a snapshot of {whole} bytes is larger than {SNAPSHOT_BYTES_MAX}"
            ));
        }
        self.bytes.extend_from_slice(part.data);
        match (self.bytes.len() as u64).cmp(&part.total) {
            std::cmp::Ordering::Less => Ok(Progress::GoOn),
            std::cmp::Ordering::Equal => self.complete(part.blob),
            std::cmp::Ordering::Greater => {
                let total = part.total;
                Err(format!(
                    "the parts are longer than the whole of {total} bytes"
                ))
            }
        }
    }

    /// Whether it is the part that was taken last: its sender did not hear the answer.
    fn is_repeated(&self, part: &SnapshotPart<'_>) -> bool {
        let end = part.offset + part.data.len() as u64;
        let is_last_taken = self.last == part.head.last
            && self.current == part.blob
            && !part.data.is_empty()
            && end == self.bytes.len() as u64;
        is_last_taken && self.bytes.ends_with(part.data)
    }

    fn complete(&mut self, blob: Option<BlobDigest>) -> Result<Progress, String> {
        let bytes = std::mem::take(&mut self.bytes);
        self.total += bytes.len() as u64;
        let Some(digest) = blob else {
            let named = named_in(&bytes).map_err(|error| error.to_string())?;
            self.manifest = bytes.into();
            return Ok(Progress::Names(named));
        };
        let content = blob::decode(digest, &bytes)?;
        self.lacking.remove(&digest);
        self.blobs.insert(digest, content);
        Ok(if self.lacking.is_empty() {
            Progress::Whole(self.image())
        } else {
            Progress::GoOn
        })
    }

    /// Takes what of `named` is `here` already, and returns what is lacking, or the whole if nothing is.
    pub fn lack(
        &mut self,
        named: BTreeSet<BlobDigest>,
        here: BTreeMap<BlobDigest, Content>,
    ) -> Result<StateImage, Vec<BlobDigest>> {
        self.blobs = here;
        self.lacking = named;
        self.lacking
            .retain(|digest| !self.blobs.contains_key(digest));
        if self.lacking.is_empty() {
            Ok(self.image())
        } else {
            Err(self.lacking.iter().copied().collect())
        }
    }

    fn image(&mut self) -> StateImage {
        StateImage {
            manifest: Arc::clone(&self.manifest),
            blobs: Arc::new(std::mem::take(&mut self.blobs)),
        }
    }
}

fn out_of_order(part: &SnapshotPart<'_>) -> String {
    let of = part
        .blob
        .map_or("the manifest".to_owned(), |digest| format!("{digest}"));
    let offset = part.offset;
    format!("the part of {of} at {offset} does not follow the ones before")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::raft::images_test::image;
    use crate::consensus::raft::snapshot_store::SnapshotHead;
    use crate::storage::record::Vote;

    fn part(
        blob: Option<BlobDigest>,
        total: usize,
        offset: usize,
        data: &[u8],
    ) -> SnapshotPart<'_> {
        SnapshotPart {
            vote: Vote {
                term: 1,
                node: 1,
                committed: true,
            },
            head: SnapshotHead {
                last: Some(Position { term: 1, index: 9 }),
                membership: Default::default(),
            },
            blob,
            total: total as u64,
            offset: offset as u64,
            data,
        }
    }

    #[test]
    fn a_part_whose_answer_was_lost_is_taken_once() {
        let first = part(None, 6, 0, b"abc");
        let mut incoming = IncomingSnapshot::begin(&first).unwrap();
        for _ in 0..3 {
            assert_eq!(incoming.take(&first), Ok(Progress::GoOn));
        }
        assert_eq!(incoming.bytes, b"abc");
        assert!(
            incoming.take(&part(None, 6, 2, b"c")).is_ok(),
            "the same bytes"
        );
        assert!(
            incoming.take(&part(None, 6, 0, b"xbc")).is_ok(),
            "begun anew"
        );
        assert_eq!(incoming.bytes, b"xbc");
        assert!(incoming.take(&part(None, 6, 4, b"ef")).is_err());
    }

    /// Takes `bytes` in two parts.
    fn send(
        incoming: &mut IncomingSnapshot,
        blob: Option<BlobDigest>,
        bytes: &[u8],
    ) -> Result<Progress, String> {
        let (first, second) = bytes.split_at(bytes.len() / 2);
        let progress = incoming.take(&part(blob, bytes.len(), 0, first))?;
        assert_eq!(progress, Progress::GoOn);
        incoming.take(&part(blob, bytes.len(), first.len(), second))
    }

    #[test]
    fn only_what_is_lacking_is_sent_and_the_whole_comes_out() {
        let image = image(&[1, 2, 3]);
        let mut incoming = IncomingSnapshot::begin(&part(None, 9, 0, b"")).unwrap();
        let Ok(Progress::Names(named)) = send(&mut incoming, None, &image.manifest) else {
            panic!("the manifest is whole")
        };
        let mut digests = named.iter().copied();
        let (here, one, two) = (digests.next(), digests.next(), digests.next());
        let here = BTreeMap::from([(here.unwrap(), image.blobs[&here.unwrap()].clone())]);
        let lacking = incoming.lack(named.clone(), here).unwrap_err();
        assert_eq!(lacking, [one.unwrap(), two.unwrap()]);
        let bytes = |digest| blob::encode(&image.blobs[&digest]);
        let progress = send(&mut incoming, two, &bytes(two.unwrap())).unwrap();
        assert_eq!(progress, Progress::GoOn);
        let again = send(&mut incoming, two, &bytes(two.unwrap()));
        assert!(again.is_err(), "it was not lacking any more");
        let progress = send(&mut incoming, one, &bytes(one.unwrap())).unwrap();
        assert_eq!(progress, Progress::Whole(image.clone()));
    }

    #[test]
    fn a_node_that_lacks_nothing_gets_the_manifest_alone() {
        let image = image(&[1]);
        let mut incoming = IncomingSnapshot::begin(&part(None, 9, 0, b"")).unwrap();
        let Ok(Progress::Names(named)) = send(&mut incoming, None, &image.manifest) else {
            panic!("the manifest is whole")
        };
        assert_eq!(incoming.lack(named, (*image.blobs).clone()), Ok(image));
    }

    #[test]
    fn a_part_that_does_not_follow_is_refused() {
        assert!(IncomingSnapshot::begin(&part(None, 6, 3, b"def")).is_err());
        let mut incoming = IncomingSnapshot::begin(&part(None, 6, 0, b"abc")).unwrap();
        incoming.take(&part(None, 6, 0, b"abc")).unwrap();
        let mut of_another = part(None, 6, 3, b"def");
        of_another.head.last = Some(Position { term: 1, index: 10 });
        assert!(incoming.take(&of_another).is_err(), "of another snapshot");
        assert!(incoming.take(&part(None, 6, 4, b"ef")).is_err(), "a gap");
        let content = Some(BlobDigest::of(b"x"));
        assert!(
            incoming.take(&part(content, 1, 0, b"x")).is_err(),
            "unasked"
        );
    }

    /// A leader that died in mid-transfer must not keep half a tree in memory for ever.
    #[test]
    fn what_is_begun_makes_way_for_a_newer_leader_and_goes_with_age() {
        let mut receiving = Receiving::default();
        let now = Instant::now();
        let of = |term: u64, offset: usize| {
            let mut part = part(None, 9, offset, b"abc");
            part.vote.term = term;
            part
        };
        let begin = |receiving: &mut Receiving, sender: u64, term: u64| {
            let (snapshot, progress) = receiving.take(sender, &of(term, 0)).unwrap();
            assert_eq!(progress, Progress::GoOn);
            receiving.keep(sender, of(term, 0).vote, snapshot, now);
        };
        begin(&mut receiving, 1, 4);
        let older = receiving.take(2, &of(3, 0)).unwrap_err();
        assert!(older.contains("term 4"), "{older}");
        begin(&mut receiving, 2, 5);
        assert!(receiving.take(1, &of(5, 3)).is_err(), "it was given up");
        begin(&mut receiving, 2, 5);
        receiving.forget_old(now + SNAPSHOT_PART_WAIT_MAX);
        assert!(receiving.begun.is_some(), "it may still go on");
        let late = now + SNAPSHOT_PART_WAIT_MAX + std::time::Duration::from_millis(1);
        receiving.forget_old(late);
        assert!(receiving.begun.is_none());
    }

    #[test]
    fn what_is_too_long_or_not_what_it_should_be_is_refused() {
        let begun = || IncomingSnapshot::begin(&part(None, 6, 0, b"")).unwrap();
        assert!(begun().take(&part(None, 2, 0, b"too long")).is_err());
        let mut vast = part(None, 1, 0, b"");
        vast.total = SNAPSHOT_BYTES_MAX + 1;
        assert!(begun().take(&vast).is_err());
        assert!(
            begun().take(&part(None, 3, 0, b"abc")).is_err(),
            "no manifest"
        );
        let image = image(&[1]);
        let digest = image.blobs.keys().next().copied();
        let mut incoming = begun();
        send(&mut incoming, None, &image.manifest).unwrap();
        let named = image.blobs.keys().copied().collect();
        incoming.lack(named, BTreeMap::new()).unwrap_err();
        assert!(incoming.take(&part(digest, 3, 0, b"abc")).is_err());
    }
}
