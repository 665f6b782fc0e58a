//! The log on a disk that crashes at any call: what it holds afterwards. Goal: an acknowledged write is never lost, the
//! rest of the log is what was asked for up to some moment, and it always opens again. Method: random calls on the fake
//! disk, a crash at a random disk call (a power cut, a kill, a failed flush, a full disk; also while the log is being
//! opened), again and again on the same disk; beside it a model of every moment since the last opening.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::sleep;

use super::super::disk::fake::{FakeDisk, Faults};
use super::super::log_queue::Next;
use super::*;
use crate::limits::COMMITTED_MARK_EVERY;
use crate::storage::record::Vote;

const SEGMENT: u64 = 32 * 1024;
const SEEDS: u64 = 250;
const LIVES: usize = 6;
const STEPS: usize = 60;

/// What the log must hold at one moment.
#[derive(Clone, Default, PartialEq, Eq)]
struct Model {
    vote: Option<Vote>,
    purged: Option<Position>,
    entries: Vec<StoredEntry>,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let entries = self.entries.iter();
        let short = entries.map(|entry| {
            (
                entry.position.term,
                entry.position.index,
                entry.payload.len(),
            )
        });
        f.debug_struct("Model")
            .field("vote", &self.vote)
            .field("purged", &self.purged)
            .field("entries", &short.collect::<Vec<_>>())
            .finish()
    }
}

impl Model {
    fn last(&self) -> Option<Position> {
        self.entries.last().map(|e| e.position).or(self.purged)
    }

    fn of(log: &AppendLog) -> Self {
        Self {
            vote: log.vote(),
            purged: log.bounds().purged,
            entries: log.entries_now(0..u64::MAX, u64::MAX).unwrap(),
        }
    }
}

/// One life of the log: from an opening to a crash.
struct Life {
    log: AppendLog,
    /// The log after each call; the first is as it was opened.
    moments: Vec<Model>,
    acknowledged: Arc<Mutex<usize>>,
    committed: Option<Position>,
    term: u64,
}

struct Run {
    rng: StdRng,
    disk: FakeDisk,
    mark: Option<Position>,
}

fn dir() -> &'static Path {
    Path::new("/log")
}

impl Life {
    fn new(log: AppendLog) -> Self {
        let opened = Model::of(&log);
        let term = opened.last().map_or(0, |last| last.term);
        Self {
            committed: log.committed(),
            term: term.max(opened.vote.map_or(0, |vote| vote.term)),
            moments: vec![opened],
            acknowledged: Arc::default(),
            log,
        }
    }

    fn now(&self) -> &Model {
        self.moments.last().unwrap()
    }

    /// The completion of the call that makes the newest moment.
    fn completion(&self) -> Completion {
        let (acknowledged, moment) = (Arc::clone(&self.acknowledged), self.moments.len() - 1);
        Box::new(move |result| {
            if result.is_ok() {
                let mut acknowledged = acknowledged.lock();
                assert!(*acknowledged <= moment, "completions run in order");
                *acknowledged = moment;
            }
        })
    }

    fn append(&mut self, rng: &mut StdRng) {
        let mut next = self.now().clone();
        let mut entries = Vec::new();
        for _ in 0..rng.random_range(1..5) {
            let index = next.last().map_or(0, |last| last.index + 1);
            let len = [0, 20, 700, 3_000][rng.random_range(0..4)];
            let entry = StoredEntry {
                position: Position {
                    term: self.term,
                    index,
                },
                kind: 1,
                payload: vec![rng.random(); len].into(),
            };
            next.entries.push(entry.clone());
            // A crash may cut between the entries of a call.
            self.moments.push(next.clone());
            entries.push(entry);
        }
        self.log.append(entries, self.completion());
    }

    fn vote(&mut self, rng: &mut StdRng) {
        self.term += rng.random_range(0..2);
        let vote = Vote {
            term: self.term,
            node: rng.random_range(1..4),
            committed: rng.random(),
        };
        let mut next = self.now().clone();
        next.vote = Some(vote);
        self.moments.push(next);
        self.log.save_vote(vote, self.completion());
    }

    /// A new leader drops what is not committed.
    fn truncate(&mut self, rng: &mut StdRng) {
        let mut next = self.now().clone();
        let committed = self.committed.map(|committed| committed.index);
        let kept = |entry: &StoredEntry| Some(entry.position.index) <= committed;
        let least = next.entries.iter().filter(|entry| kept(entry)).count();
        next.entries
            .truncate(rng.random_range(least..=next.entries.len()));
        let Some(last) = next.last() else { return };
        self.term += 1;
        self.moments.push(next);
        self.log.truncate_after(Some(last.index));
    }

    fn commit(&mut self, rng: &mut StdRng) {
        let known = self.now().entries.clone();
        let ahead = known
            .iter()
            .map(|entry| entry.position)
            .filter(|position| Some(*position) > self.committed)
            .collect::<Vec<_>>();
        if !ahead.is_empty() {
            self.committed = Some(ahead[rng.random_range(0..ahead.len())]);
            self.log.note_committed(self.committed);
        }
    }

    /// A snapshot covers what is committed, or, when another node sends it, more than this log has.
    fn purge(&mut self, rng: &mut StdRng) {
        let mut next = self.now().clone();
        let upto = if rng.random_bool(0.1) {
            self.term += 1;
            let index = next.last().map_or(0, |last| last.index + 1) + rng.random_range(0..20);
            Position {
                term: self.term,
                index,
            }
        } else {
            match self.committed.filter(|_| !next.entries.is_empty()) {
                Some(committed) => committed,
                None => return,
            }
        };
        next.entries
            .retain(|entry| entry.position.index > upto.index);
        next.purged = next.purged.max(Some(upto));
        self.committed = self.committed.max(Some(upto));
        self.moments.push(next);
        self.log.note_committed(self.committed);
        self.log.purge(upto);
    }

    async fn step(&mut self, rng: &mut StdRng) {
        match rng.random_range(0..100) {
            0..45 => self.append(rng),
            45..55 => self.vote(rng),
            55..62 => self.truncate(rng),
            62..75 => self.commit(rng),
            75..80 => self.purge(rng),
            80..98 => sleep(Duration::from_micros(rng.random_range(0..4_000))).await,
            _ => sleep(2 * COMMITTED_MARK_EVERY).await,
        }
    }
}

impl Run {
    /// How the machine goes down in this life.
    fn faults(&mut self) -> Faults {
        let mut faults = Faults {
            latency: Duration::from_millis(2),
            ..Faults::default()
        };
        let at = Some(self.rng.random_range(1..120));
        match self.rng.random_range(0..4) {
            0 => faults.sync_fails_at = at,
            1 => faults.capacity = Some(self.rng.random_range(1..5) * SEGMENT),
            _ => faults.down_at_call = at,
        }
        faults
    }

    /// A machine goes down and comes up again.
    fn restart(&mut self) {
        self.disk.take_down();
        self.disk = if self.rng.random_bool(0.7) {
            self.disk.after_power_cut()
        } else {
            self.disk.after_kill()
        };
    }

    /// Opens the log, sometimes on a machine that goes down meanwhile.
    fn open(&mut self) -> AppendLog {
        while self.rng.random_bool(0.3) {
            let down_at_call = Some(self.rng.random_range(1..12));
            self.disk.set_faults(Faults {
                down_at_call,
                ..Faults::default()
            });
            let opened = AppendLog::open_on(Arc::new(self.disk.clone()), dir(), SEGMENT);
            assert!(opened.is_ok() || !self.disk.is_up(), "{opened:?}");
            self.restart();
        }
        let opened = AppendLog::open_on(Arc::new(self.disk.clone()), dir(), SEGMENT);
        opened.unwrap_or_else(|error| panic!("a log always opens again: {error}"))
    }

    /// Compares what was found with every moment that may be the last one.
    fn check(&mut self, before: &Life, log: &AppendLog) {
        let found = Model::of(log);
        let acknowledged = *before.acknowledged.lock();
        let possible = &before.moments[acknowledged..];
        assert!(
            possible.contains(&found),
            "after moment {acknowledged} of {}, found {found:?}\nacknowledged was {:?}",
            before.moments.len() - 1,
            possible[0],
        );
        let mark = log.committed();
        assert!(
            mark >= self.mark,
            "a mark never goes back: {mark:?} after {:?}",
            self.mark
        );
        assert!(mark <= before.committed, "{mark:?} was never committed");
        let has = |mark: Position| {
            Some(mark) <= found.purged || found.entries.iter().any(|e| e.position == mark)
        };
        assert!(mark.is_none_or(has), "{mark:?} is not in the log");
        self.mark = mark;
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
}

async fn run(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let disk = FakeDisk::new(rng.random(), Faults::default());
    disk.create_dir(dir()).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    AppendLog::create_on(&disk, dir(), SEGMENT).unwrap();
    let mark = None;
    let mut run = Run { rng, disk, mark };
    let mut life = Life::new(run.open());
    for _ in 0..LIVES {
        let faults = run.faults();
        run.disk.set_faults(faults);
        for _ in 0..STEPS {
            life.step(&mut run.rng).await;
        }
        run.restart();
        let log = run.open();
        run.check(&life, &log);
        life = Life::new(log);
    }
}

#[test]
fn whatever_call_a_crash_meets_the_log_opens_with_all_that_was_acknowledged() {
    let chosen = std::env::var("CONTEXTOS_SEED").ok();
    let first = chosen.as_ref().map(|seed| seed.parse().unwrap());
    let seeds = first.map_or(0..SEEDS, |seed| seed..seed + 1);
    for seed in seeds {
        let runtime = runtime();
        let ran = std::panic::catch_unwind(|| runtime.block_on(run(seed)));
        assert!(
            ran.is_ok(),
            "seed {seed} failed; to repeat it: scripts/replay.sh {seed} whatever_call"
        );
    }
}

/// A disk with an empty log, for the crashes that a seed has found.
fn new_log() -> FakeDisk {
    let disk = FakeDisk::new(1, Faults::default());
    disk.create_dir(dir()).unwrap();
    AppendLog::create_on(&disk, dir(), SEGMENT).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk
}

fn open(disk: &FakeDisk) -> AppendLog {
    AppendLog::open_on(Arc::new(disk.clone()), dir(), SEGMENT).unwrap()
}

fn entries(term: u64, indexes: Range<u64>, len: usize) -> Vec<StoredEntry> {
    let entry = |index| StoredEntry {
        position: Position { term, index },
        kind: 1,
        payload: vec![7; len].into(),
    };
    indexes.map(entry).collect()
}

/// Appends each entry by itself, so that frames are small.
async fn append(log: &AppendLog, entries: Vec<StoredEntry>) -> io::Result<()> {
    for entry in entries {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        log.append([entry], Box::new(move |result| drop(sender.send(result))));
        receiver.await.unwrap()?;
    }
    Ok(())
}

/// The kernel shows what a failed flush did not write, to a daemon that is started again, too, and never writes it.
#[test]
fn a_frame_whose_flush_failed_is_written_again_before_another_follows_it() {
    runtime().block_on(async {
        for seed in 0..20 {
            let disk = new_log();
            let log = open(&disk);
            append(&log, entries(1, 0..2, 700)).await.unwrap();
            disk.set_faults(Faults {
                sync_fails_at: Some(1),
                ..Faults::default()
            });
            append(&log, entries(1, 2..3, 700 + seed))
                .await
                .unwrap_err();
            disk.take_down();
            let disk = disk.after_kill();
            let log = open(&disk);
            let next = log.bounds().last.unwrap().index + 1;
            append(&log, entries(2, next..next + 1, 700)).await.unwrap();
            disk.take_down();
            let last = open(&disk.after_power_cut()).bounds().last;
            let index = next;
            assert_eq!(last, Some(Position { term: 2, index }));
        }
    });
}

/// Segments 1 and 2 go with a purge that stands in a later segment; the third, now the oldest, tells of a truncation
/// to what was in them.
#[test]
fn a_truncation_into_a_segment_that_was_deleted_since_is_no_damage() {
    runtime().block_on(async {
        let disk = new_log();
        let log = open(&disk);
        append(&log, entries(1, 0..30, 3_000)).await.unwrap();
        log.truncate_after(Some(4));
        append(&log, entries(4, 5..40, 3_000)).await.unwrap();
        log.purge(Position { term: 4, index: 24 });
        append(&log, entries(4, 40..41, 10)).await.unwrap();
        assert_eq!(segment::list(&disk, dir()).unwrap().first(), Some(&3));
        let before = Model::of(&log);
        disk.take_down();
        let log = open(&disk.after_kill());
        assert_eq!(Model::of(&log), before);
    });
}

#[test]
fn the_purged_term_is_that_of_the_purge_and_not_of_the_entry_after_it() {
    runtime().block_on(async {
        let disk = new_log();
        let log = open(&disk);
        append(&log, entries(1, 0..25, 3_000)).await.unwrap();
        append(&log, entries(5, 25..50, 3_000)).await.unwrap();
        let purged = Position { term: 1, index: 24 };
        log.purge(purged);
        append(&log, entries(5, 50..51, 10)).await.unwrap();
        disk.take_down();
        let disk = disk.after_kill();
        assert_eq!(open(&disk).bounds().purged, Some(purged));
    });
}

/// A snapshot of another node covers entries that this log has from another leader.
#[test]
fn a_mark_that_a_snapshot_covers_never_comes_before_its_purge() {
    runtime().block_on(async {
        let disk = new_log();
        let log = open(&disk);
        append(&log, entries(1, 0..20, 10)).await.unwrap();
        let known = Some(Position { term: 1, index: 3 });
        log.note_committed(known);
        append(&log, entries(1, 20..21, 10)).await.unwrap();
        // More than a batch waits before the purge.
        log.append(entries(1, 21..25, 3_000), Box::new(|_| {}));
        let snapshot = Position { term: 2, index: 22 };
        log.purge(snapshot);
        log.note_committed(Some(snapshot));
        disk.set_faults(Faults {
            down_at_call: Some(3),
            ..Faults::default()
        });
        disk.went_down().await;
        let found = open(&disk.after_power_cut()).committed();
        assert!([known, Some(snapshot)].contains(&found), "{found:?}");
    });
}

/// Raft waits for entries and votes. Whoever runs the log has to hear of the rest, too: a member whose log is closed
/// would refuse all entries, and be sent them again for ever.
#[test]
fn a_failure_of_what_nobody_waits_for_is_told_all_the_same() {
    runtime().block_on(async {
        let disk = new_log();
        let log = open(&disk);
        append(&log, entries(1, 0..3, 10)).await.unwrap();
        assert_eq!(log.failure(), None);
        let sync_fails_at = Some(1);
        disk.set_faults(Faults {
            sync_fails_at,
            ..Faults::default()
        });
        log.note_committed(Some(Position { term: 1, index: 2 }));
        let failed = tokio::time::timeout(Duration::from_secs(10), log.failed()).await;
        assert!(failed.unwrap().contains("flush"));
        assert!(log.wait_for_room().await.is_err());
    });
}

/// A daemon whose disk was full did not end: its writer went on and on with a mark that it could not write.
#[test]
fn a_log_that_an_error_has_closed_comes_to_its_end_whatever_is_committed_by_then() {
    runtime().block_on(async {
        let disk = new_log();
        let log = open(&disk);
        append(&log, entries(1, 0..3, 10)).await.unwrap();
        let sync_fails_at = Some(1);
        disk.set_faults(Faults {
            sync_fails_at,
            ..Faults::default()
        });
        assert!(append(&log, entries(1, 3..5, 10)).await.is_err());
        // The others have it, and the leader says so.
        log.note_committed(Some(Position { term: 1, index: 4 }));
        log.close();
        let mut batches = (0..10).map(|_| log.shared.next_batch(1 << 20, false));
        assert!(
            batches.any(|next| matches!(next, Next::End)),
            "it never ends"
        );
    });
}

/// A member that starts alone shows what it knew to be committed: without another write nothing else makes it durable.
#[test]
fn an_idle_log_makes_its_mark_durable_within_a_second() {
    runtime().block_on(async {
        let disk = new_log();
        let log = open(&disk);
        append(&log, entries(1, 0..3, 10)).await.unwrap();
        let mark = Some(Position { term: 1, index: 2 });
        log.note_committed(mark);
        sleep(COMMITTED_MARK_EVERY + Duration::from_millis(10)).await;
        disk.take_down();
        assert_eq!(open(&disk.after_power_cut()).committed(), mark);
    });
    assert!(COMMITTED_MARK_EVERY <= Duration::from_secs(1));
}

#[test]
fn how_long_the_disk_is_busy_counts_from_the_batch_that_hangs() {
    runtime().block_on(async {
        let disk = new_log();
        let log = open(&disk);
        append(&log, entries(1, 0..3, 10)).await.unwrap();
        sleep(Duration::from_secs(60)).await;
        assert_eq!(
            log.stalled_for(),
            Duration::ZERO,
            "an idle disk is no stalled one"
        );
        disk.set_hanging(true);
        log.append(entries(1, 3..4, 10), Box::new(|_| {}));
        while log.stalled_for() == Duration::ZERO {
            sleep(Duration::from_millis(1)).await;
        }
        disk.set_hanging(false);
        append(&log, entries(1, 4..5, 10)).await.unwrap();
        assert_eq!(log.stalled_for(), Duration::ZERO);
    });
}

/// It is what others are told and may count on.
#[test]
fn only_what_came_to_disk_under_a_vote_is_pledged() {
    runtime().block_on(async {
        let disk = new_log();
        let log = open(&disk);
        let vote = |term, committed| Vote {
            term,
            node: 7,
            committed,
        };
        let save = async |vote| {
            let (sender, saved) = tokio::sync::oneshot::channel();
            log.save_vote(vote, Box::new(|result| sender.send(result).unwrap()));
            saved.await.unwrap().unwrap();
        };
        assert_eq!(log.pledge(), Pledge::default());
        save(vote(1, true)).await;
        append(&log, entries(1, 0..3, 10)).await.unwrap();
        let last = Some(Position { term: 1, index: 2 });
        let pledged = |vote, last| Pledge {
            vote: Some(vote),
            last,
        };
        assert_eq!(log.pledge(), pledged(vote(1, true), last));
        disk.set_hanging(true);
        log.append(entries(1, 3..4, 10), Box::new(|_| {}));
        sleep(Duration::from_secs(1)).await;
        assert_eq!(log.pledge(), pledged(vote(1, true), last), "not flushed");
        disk.set_hanging(false);
        // Under another leader's vote nothing is its own yet, and all may be truncated.
        save(vote(2, true)).await;
        assert_eq!(log.pledge(), pledged(vote(2, true), None));
        append(&log, entries(2, 4..5, 10)).await.unwrap();
        drop(log);
        let log = open(&disk.after_kill());
        assert_eq!(log.pledge(), pledged(vote(2, true), None));
    });
}

/// The next segment is prepared ahead. A disk that was full then, and has room by the time it is needed, closes no log.
#[test]
fn a_disk_that_was_full_for_a_while_closes_the_log_only_if_it_still_is() {
    runtime().block_on(async {
        let disk = new_log();
        let full = Faults {
            capacity: Some(0),
            ..Faults::default()
        };
        disk.set_faults(full.clone());
        let log = open(&disk);
        append(&log, entries(1, 0..1, 10)).await.unwrap();
        disk.set_faults(Faults::default());
        append(&log, entries(1, 1..20, 4_000)).await.unwrap();
        disk.set_faults(full);
        assert!(append(&log, entries(1, 20..60, 4_000)).await.is_err());
        assert!(log.failure().is_some());
    });
}

/// A daemon that waits for a disk that never answers does not end when it is told to.
#[test]
fn a_log_whose_writer_hangs_is_closed_in_time_and_waited_for_by_nobody() {
    runtime().block_on(async {
        let (hangs, wait) = std::sync::mpsc::channel::<()>();
        let log = open(&new_log());
        *log.writer.lock() = Some(std::thread::spawn(move || wait.recv().unwrap_or_default()));
        assert!(!log.close_within(Duration::from_secs(5)).await);
        drop(log);
        drop(hangs);
        let log = open(&new_log());
        let ended = std::thread::spawn(|| ());
        while !ended.is_finished() {
            std::thread::yield_now();
        }
        *log.writer.lock() = Some(ended);
        assert!(log.close_within(Duration::from_secs(5)).await);
    });
}
