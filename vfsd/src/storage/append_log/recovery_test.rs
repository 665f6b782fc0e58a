//! What a log holds after it was closed, cut, or damaged. Method: write a few batches, change the files, open again.

use std::fs;
use std::path::PathBuf;
use std::sync::mpsc;

use super::*;

const SEGMENT: u64 = 64 * 1024;

struct Fixture {
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        AppendLog::create_with(dir.path(), SEGMENT).unwrap();
        Self { dir }
    }

    fn open(&self) -> Result<AppendLog, StorageError> {
        AppendLog::open_with(self.dir.path(), SEGMENT)
    }

    fn segment(&self, number: u64) -> PathBuf {
        segment::path(self.dir.path(), number)
    }

    fn segments(&self) -> usize {
        segment::list(&RealDisk, self.dir.path()).unwrap().len()
    }
}

fn entry(term: u64, index: u64, len: usize) -> StoredEntry {
    let payload = (0..len)
        .map(|at| (at as u64 * 31 + index * 97 + 1) as u8)
        .collect::<Vec<_>>();
    StoredEntry {
        position: Position { term, index },
        kind: 1,
        payload: payload.into(),
    }
}

/// Appends and waits until it is durable, so that each call is a batch of its own.
fn append(log: &AppendLog, entries: impl IntoIterator<Item = StoredEntry>) {
    let (sender, receiver) = mpsc::channel();
    log.append(
        entries,
        Box::new(move |result| sender.send(result).unwrap()),
    );
    receiver.recv().unwrap().unwrap();
}

fn save_vote(log: &AppendLog, vote: Vote) {
    let (sender, receiver) = mpsc::channel();
    log.save_vote(vote, Box::new(move |result| sender.send(result).unwrap()));
    receiver.recv().unwrap().unwrap();
}

fn all(log: &AppendLog) -> Vec<StoredEntry> {
    log.entries_now(0..u64::MAX, u64::MAX).unwrap()
}

#[test]
fn everything_durable_is_there_after_a_restart() {
    let fixture = Fixture::new();
    let vote = Vote {
        term: 3,
        node: 7,
        committed: true,
    };
    let log = fixture.open().unwrap();
    append(&log, (0..50).map(|index| entry(1, index, 100)));
    save_vote(&log, vote);
    log.truncate_after(Some(39));
    append(&log, (40..45).map(|index| entry(3, index, 10)));
    log.note_committed(Some(Position { term: 3, index: 44 }));
    let before = all(&log);
    drop(log);
    let log = fixture.open().unwrap();
    assert_eq!(all(&log), before);
    assert_eq!(log.vote(), Some(vote));
    assert_eq!(log.committed(), Some(Position { term: 3, index: 44 }));
}

#[test]
fn a_log_cut_at_any_byte_of_its_tail_recovers_to_the_last_whole_frame() {
    let fixture = Fixture::new();
    let log = fixture.open().unwrap();
    append(&log, [entry(1, 0, 40)]);
    append(&log, [entry(1, 1, 40)]);
    append(&log, [entry(1, 2, 40), entry(1, 3, 8)]);
    drop(log);
    let path = fixture.segment(1);
    let whole = fs::read(&path).unwrap();
    let frame_ends = frame_ends(&whole);
    let used = *frame_ends.last().unwrap();
    let entries_after = [0, 1, 2, 4];
    for cut in 0..=used {
        let frames = frame_ends.iter().filter(|&&end| end <= cut).count();
        // Once shorter, as after a lost size change, and once of full size with zeros, as after lost pages.
        for zeros in [0, whole.len() - cut] {
            let mut bytes = whole[..cut].to_vec();
            bytes.extend(std::iter::repeat_n(0, zeros));
            fs::write(&path, &bytes).unwrap();
            let log = fixture
                .open()
                .unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
            assert_eq!(
                all(&log).len(),
                entries_after[frames],
                "cut at {cut}, {zeros} zeros"
            );
            let next = entries_after[frames] as u64;
            append(&log, [entry(2, next, 5)]);
            drop(log);
            assert_eq!(
                all(&fixture.open().unwrap()).last(),
                Some(&entry(2, next, 5)),
                "after cut at {cut}"
            );
        }
    }
}

fn frame_ends(bytes: &[u8]) -> Vec<usize> {
    let mut ends = Vec::new();
    let mut at = 0;
    while let super::super::frame::FrameRead::Whole { end, .. } =
        super::super::frame::read_at(bytes, 1, at)
    {
        ends.push(end);
        at = end;
    }
    ends
}

#[test]
fn a_flipped_bit_in_the_middle_is_refused_with_file_and_offset() {
    let fixture = Fixture::new();
    let log = fixture.open().unwrap();
    (0..4).for_each(|index| append(&log, [entry(1, index, 40)]));
    drop(log);
    let path = fixture.segment(1);
    let whole = fs::read(&path).unwrap();
    let ends = frame_ends(&whole);
    for byte in 0..ends[2] {
        let mut bytes = whole.clone();
        bytes[byte] ^= 0x10;
        fs::write(&path, &bytes).unwrap();
        let error = fixture
            .open()
            .expect_err("a damaged middle must not be opened");
        let StorageError::Corrupt {
            path: named,
            offset,
            ..
        } = &error
        else {
            panic!("byte {byte}: {error}")
        };
        assert_eq!(named, &path);
        assert!(*offset <= byte as u64);
        assert!(error.to_string().contains("vfsd rejoin"));
    }
}

/// It is no damage: `vfsd rejoin` would throw away what the right build reads.
#[test]
fn records_of_an_unknown_version_are_refused_by_number_and_stay_as_they_are() {
    use super::super::frame;
    use super::super::record::RECORD_VERSION;
    for unknown in [RECORD_VERSION - 1, RECORD_VERSION + 1] {
        let fixture = Fixture::new();
        // As that version may write it: behind the number nothing needs to be readable.
        let mut first = frame::begin();
        first.extend([0, unknown, 0xff, 0xff]);
        frame::seal(&mut first, 1, 0);
        let path = fixture.segment(1);
        let mut bytes = fs::read(&path).unwrap();
        bytes[..first.len()].copy_from_slice(&first);
        fs::write(&path, &bytes).unwrap();
        let refused = fixture.open().unwrap_err();
        assert!(matches!(refused, StorageError::Format { .. }), "{refused}");
        let said = refused.to_string();
        let found = format!("log records {unknown}");
        let known = format!("log records {RECORD_VERSION}");
        assert!(said.contains(&found) && said.contains(&known), "{said}");
        assert!(!said.contains("rejoin"), "{said}");
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
}

#[test]
fn purged_segments_are_deleted_and_the_rest_recovers() {
    let fixture = Fixture::new();
    let log = fixture.open().unwrap();
    let vote = Vote {
        term: 9,
        node: 1,
        committed: false,
    };
    save_vote(&log, vote);
    for index in 0..40 {
        append(&log, [entry(1, index, 10_000)]);
    }
    assert!(fixture.segments() >= 6);
    log.purge(Position { term: 1, index: 34 });
    append(&log, [entry(1, 40, 10)]);
    assert!(fixture.segments() <= 3);
    drop(log);
    let log = fixture.open().unwrap();
    assert_eq!(log.vote(), Some(vote));
    assert_eq!(log.bounds().purged, Some(Position { term: 1, index: 34 }));
    assert_eq!(
        all(&log)
            .iter()
            .map(|entry| entry.position.index)
            .collect::<Vec<_>>(),
        (35..=40).collect::<Vec<_>>()
    );
}

#[test]
fn a_missing_segment_in_the_middle_is_refused() {
    let fixture = Fixture::new();
    let log = fixture.open().unwrap();
    (0..20).for_each(|index| append(&log, [entry(1, index, 10_000)]));
    drop(log);
    fs::remove_file(fixture.segment(2)).unwrap();
    assert!(matches!(fixture.open(), Err(StorageError::Corrupt { .. })));
}

#[test]
fn a_lost_log_is_not_taken_for_an_empty_one() {
    let fixture = Fixture::new();
    fs::remove_file(fixture.segment(1)).unwrap();
    assert!(matches!(fixture.open(), Err(StorageError::LogMissing(_))));
}

#[test]
fn old_entries_are_read_back_from_disk_and_checked() {
    let fixture = Fixture::new();
    let log = fixture.open().unwrap();
    append(&log, (0..4).map(|index| entry(1, index, 1_000)));
    drop(log);
    let log = fixture.open().unwrap();
    assert_eq!(
        log.entries_now(2..3, u64::MAX).unwrap(),
        [entry(1, 2, 1_000)]
    );
    assert_eq!(
        log.entries_now(0..4, 1_500).unwrap().len(),
        1,
        "the size of a reply is bounded"
    );
    let path = fixture.segment(1);
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes
        .windows(1_000)
        .position(|window| window == &entry(1, 2, 1_000).payload[..])
        .unwrap();
    bytes[at + 20] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(matches!(
        log.entries_now(2..3, u64::MAX),
        Err(StorageError::Corrupt { .. })
    ));
}

/// What a crash leaves after each frame of the only segment: the log as it opens then.
fn after_each_frame(fixture: &Fixture) -> Vec<AppendLog> {
    let path = fixture.segment(1);
    let whole = fs::read(&path).unwrap();
    let cuts = frame_ends(&whole).into_iter();
    cuts.map(|cut| {
        let mut bytes = whole[..cut].to_vec();
        bytes.resize(whole.len(), 0);
        fs::write(&path, &bytes).unwrap();
        fixture.open().unwrap()
    })
    .collect()
}

fn assert_mark_is_in_the_log(log: &AppendLog) {
    if let Some(mark) = log.committed() {
        let held = log
            .entries_now(mark.index..mark.index + 1, u64::MAX)
            .unwrap();
        assert_eq!(
            held.first().map(|entry| entry.position),
            Some(mark),
            "the mark names what the log has"
        );
    }
}

#[test]
fn a_committed_mark_never_outruns_its_entries_whatever_frame_a_crash_cuts() {
    let dir = tempfile::tempdir().unwrap();
    AppendLog::create_with(dir.path(), 32 << 20).unwrap();
    let fixture = Fixture { dir };
    let log = AppendLog::open_with(fixture.dir.path(), 32 << 20).unwrap();
    append(&log, [entry(1, 0, 10)]);
    log.note_committed(Some(Position { term: 1, index: 0 }));
    // Four frames in one append, of which the majority has all before this disk has the first.
    log.append(
        (1..5).map(|index| entry(1, index, 1 << 20)),
        Box::new(|_| {}),
    );
    log.note_committed(Some(Position { term: 1, index: 4 }));
    drop(log);
    let logs = after_each_frame(&fixture);
    assert!(
        logs.len() >= 5,
        "several frames, so that there is something to cut"
    );
    logs.iter().for_each(assert_mark_is_in_the_log);
    assert_eq!(
        logs.last().unwrap().committed(),
        Some(Position { term: 1, index: 4 })
    );
}

#[test]
fn a_mark_is_never_taken_for_another_terms_entry_at_its_index() {
    let fixture = Fixture::new();
    let log = fixture.open().unwrap();
    append(&log, (0..3).map(|index| entry(1, index, 10)));
    log.note_committed(Some(Position { term: 1, index: 2 }));
    append(&log, (3..9).map(|index| entry(1, index, 10)));
    // Nothing of 3 to 8 was committed: the next leader writes others there.
    log.truncate_after(Some(2));
    log.append((3..12).map(|index| entry(2, index, 10)), Box::new(|_| {}));
    log.note_committed(Some(Position { term: 2, index: 11 }));
    drop(log);
    let logs = after_each_frame(&fixture);
    logs.iter().for_each(assert_mark_is_in_the_log);
    assert_eq!(
        logs.last().unwrap().committed(),
        Some(Position { term: 2, index: 11 })
    );
}

#[test]
fn a_mark_that_an_earlier_build_wrote_before_its_entries_is_not_believed() {
    use super::super::record::Record;
    let fixture = Fixture::new();
    let log = fixture.open().unwrap();
    append(&log, [entry(1, 0, 10)]);
    log.note_committed(Some(Position { term: 1, index: 0 }));
    append(&log, [entry(1, 1, 10)]);
    drop(log);
    // That build put the mark first into a frame; here the entries behind it never came.
    let path = fixture.segment(1);
    let mut bytes = fs::read(&path).unwrap();
    let end = *frame_ends(&bytes).last().unwrap();
    let mut frame = super::super::frame::begin();
    frame.extend(Record::Committed(Position { term: 1, index: 7 }).encode_to(Vec::new()));
    super::super::frame::seal(&mut frame, 1, end as u64);
    bytes[end..end + frame.len()].copy_from_slice(&frame);
    fs::write(&path, &bytes).unwrap();
    let log = fixture.open().unwrap();
    assert_eq!(log.committed(), Some(Position { term: 1, index: 0 }));
    append(&log, (2..9).map(|index| entry(1, index, 10)));
    drop(log);
    assert_eq!(
        fixture.open().unwrap().committed(),
        Some(Position { term: 1, index: 7 }),
        "it is believed once its entry is there"
    );
}

#[test]
fn an_idle_log_makes_its_mark_durable_by_itself() {
    let fixture = Fixture::new();
    let log = fixture.open().unwrap();
    append(&log, [entry(1, 0, 10)]);
    log.note_committed(Some(Position { term: 1, index: 0 }));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    let path = fixture.segment(1);
    let frames = || frame_ends(&fs::read(&path).unwrap()).len();
    while frames() < 2 {
        assert!(
            std::time::Instant::now() < deadline,
            "no frame with the mark came"
        );
        std::thread::park_timeout(std::time::Duration::from_millis(10));
    }
    let copy = tempfile::tempdir().unwrap();
    fs::copy(&path, segment::path(copy.path(), 1)).unwrap();
    let found = AppendLog::open_with(copy.path(), SEGMENT).unwrap();
    assert_eq!(found.committed(), Some(Position { term: 1, index: 0 }));
}
