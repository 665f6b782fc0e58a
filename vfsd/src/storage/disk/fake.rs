//! A disk in memory that behaves as badly as a disk may: for tests.
//!
//! Invariants: what was not flushed may be there after a power cut or not, each sector of a write and each name by
//! itself, as the seed says; what was flushed is there; a machine that is down answers nothing, and handles of an
//! earlier boot stay dead. The same seed and the same calls give the same disk. Names of one directory become durable
//! in their order (a journal), those of two directories independently.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::Notify;

use super::{Disk, DiskFile, Job, Pause, Worker};

/// What is written as a whole or not at all.
pub const SECTOR: usize = 512;

/// What goes wrong, and how slow the disk is.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// The machine goes down at this call, counted from 1 since the last start.
    pub down_at_call: Option<u64>,
    /// The flush with this number, counted from 1 since the last start, fails.
    pub sync_fails_at: Option<u64>,
    /// Bytes that all files together may have.
    pub capacity: Option<u64>,
    /// Longest time that work on the disk takes; each time is drawn up to it.
    pub latency: Duration,
}

/// A disk of a machine that runs. A clone is the same machine since the same start.
#[derive(Clone)]
pub struct FakeDisk {
    platter: Arc<Platter>,
    boot: u64,
}

impl std::fmt::Debug for FakeDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeDisk")
            .field("boot", &self.boot)
            .finish_non_exhaustive()
    }
}

struct Platter {
    // Leaf lock.
    state: Mutex<State>,
    went_down: Notify,
}

/// What a disk held at some moment.
#[derive(Clone)]
pub struct DiskCopy {
    names: BTreeMap<PathBuf, Named>,
    files: BTreeMap<u64, Vec<u8>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Named {
    File(u64),
    Directory,
}

/// A change of names that a crash may forget.
enum NameChange {
    Put(PathBuf, Named),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
}

#[derive(Default)]
struct FileState {
    /// What a reader sees.
    data: Vec<u8>,
    /// What a power cut leaves.
    durable: Vec<u8>,
    /// Writes since the last flush.
    unflushed: Vec<(usize, Vec<u8>)>,
}

struct State {
    rng: StdRng,
    faults: Faults,
    boot: u64,
    up: bool,
    hangs: bool,
    calls: u64,
    syncs: u64,
    next_file: u64,
    files: BTreeMap<u64, FileState>,
    names: BTreeMap<PathBuf, Named>,
    durable_names: BTreeMap<PathBuf, Named>,
    name_changes: Vec<NameChange>,
    /// Handles of each file: one that is open lives on without a name.
    open: BTreeMap<u64, u32>,
}

fn gone() -> io::Error {
    io::Error::other("the machine is down")
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("/")).to_path_buf()
}

fn apply(names: &mut BTreeMap<PathBuf, Named>, change: &NameChange) {
    match change {
        NameChange::Put(path, named) => drop(names.insert(path.clone(), *named)),
        NameChange::Remove(path) => drop(names.remove(path)),
        NameChange::Rename(from, to) => {
            if let Some(named) = names.remove(from) {
                names.insert(to.clone(), named);
            }
        }
    }
}

impl NameChange {
    fn directory(&self) -> PathBuf {
        match self {
            Self::Put(path, _) | Self::Remove(path) | Self::Rename(_, path) => parent(path),
        }
    }
}

impl FileState {
    fn write(&mut self, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        if self.data.len() < end {
            self.data.resize(end, 0);
        }
        self.data[offset..end].copy_from_slice(bytes);
        self.unflushed.push((offset, bytes.to_vec()));
    }

    fn flush(&mut self) {
        self.durable.resize(self.data.len(), 0);
        for (offset, bytes) in self.unflushed.drain(..) {
            let end = self.durable.len().min(offset + bytes.len());
            // A part that was cut off since is not there any more.
            if offset < end {
                self.durable[offset..end].copy_from_slice(&self.data[offset..end]);
            }
        }
    }

    /// Each sector of each unflushed write reaches the platter or does not.
    fn flush_at_random(&mut self, rng: &mut StdRng) {
        if rng.random_bool(0.5) {
            self.durable.resize(self.data.len(), 0);
        }
        // All or nothing are as likely as anything in between.
        let chance = [0.0, 0.5, 0.9, 1.0][rng.random_range(0..4)];
        for (offset, bytes) in std::mem::take(&mut self.unflushed) {
            let mut at = offset;
            let whole = offset + bytes.len();
            while at < whole {
                let next = whole.min((at / SECTOR + 1) * SECTOR);
                let end = next.min(self.durable.len());
                if rng.random_bool(chance) && at < end {
                    self.durable[at..end].copy_from_slice(&bytes[at - offset..end - offset]);
                }
                at = next;
            }
        }
    }
}

impl State {
    /// Counts a call; an error if the machine is not up, or goes down by it. A call that takes the machine down may
    /// still have its effect, which is not durable then.
    fn enter(&mut self, boot: u64) -> io::Result<Fate> {
        if !self.up || self.boot != boot {
            return Err(gone());
        }
        self.calls += 1;
        if self.faults.down_at_call != Some(self.calls) {
            return Ok(Fate::GoOn);
        }
        self.up = false;
        if self.rng.random_bool(0.5) {
            Ok(Fate::LastEffect)
        } else {
            Err(gone())
        }
    }

    fn file(&mut self, id: u64) -> io::Result<&mut FileState> {
        self.files.get_mut(&id).ok_or_else(gone)
    }

    fn file_at(&self, path: &Path) -> io::Result<u64> {
        match self.names.get(path) {
            Some(Named::File(id)) => Ok(*id),
            Some(Named::Directory) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn change(&mut self, change: NameChange) {
        apply(&mut self.names, &change);
        self.name_changes.push(change);
    }

    fn has_room_for(&self, more: usize) -> bool {
        let used: usize = self.files.values().map(|file| file.data.len()).sum();
        let capacity = self.faults.capacity;
        capacity.is_none_or(|capacity| (used + more) as u64 <= capacity)
    }

    /// Frees what nothing leads to any more.
    fn collect(&mut self) {
        let changes = self.name_changes.iter().filter_map(|change| match change {
            NameChange::Put(_, named) => Some(named),
            NameChange::Remove(_) | NameChange::Rename(..) => None,
        });
        let named = self.names.values().chain(self.durable_names.values());
        let named: BTreeSet<u64> = named
            .chain(changes)
            .filter_map(|named| match named {
                Named::File(id) => Some(*id),
                Named::Directory => None,
            })
            .collect();
        let open = &self.open;
        self.files
            .retain(|id, _| named.contains(id) || open.get(id).is_some_and(|count| *count > 0));
    }

    fn lose_power(&mut self) {
        let mut directories: Vec<PathBuf> = self
            .name_changes
            .iter()
            .map(NameChange::directory)
            .collect();
        directories.sort();
        directories.dedup();
        let changes = std::mem::take(&mut self.name_changes);
        for directory in directories {
            let of_it = changes.iter().filter(|c| c.directory() == directory);
            let kept = self.rng.random_range(0..=of_it.clone().count());
            for change in of_it.take(kept) {
                apply(&mut self.durable_names, change);
            }
        }
        for file in self.files.values_mut() {
            file.flush_at_random(&mut self.rng);
            file.data.clone_from(&file.durable);
        }
        self.names.clone_from(&self.durable_names);
        self.collect();
    }
}

#[derive(PartialEq, Eq)]
enum Fate {
    GoOn,
    LastEffect,
}

impl FakeDisk {
    /// An empty disk with a root directory, of a machine that runs.
    pub fn new(seed: u64, faults: Faults) -> Self {
        let root = BTreeMap::from([(PathBuf::from("/"), Named::Directory)]);
        let state = State {
            rng: StdRng::seed_from_u64(seed),
            faults,
            boot: 1,
            up: true,
            hangs: false,
            calls: 0,
            syncs: 0,
            next_file: 1,
            files: BTreeMap::new(),
            names: root.clone(),
            durable_names: root,
            name_changes: Vec::new(),
            open: BTreeMap::new(),
        };
        let platter = Arc::new(Platter {
            state: Mutex::new(state),
            went_down: Notify::new(),
        });
        Self { platter, boot: 1 }
    }

    /// What goes wrong from now on; calls and flushes are counted from here.
    pub fn set_faults(&self, faults: Faults) {
        let mut state = self.platter.state.lock();
        state.faults = faults;
        (state.calls, state.syncs) = (0, 0);
    }

    /// From now on work on the disk does not end, or does again.
    pub fn set_hanging(&self, hangs: bool) {
        self.platter.state.lock().hangs = hangs;
    }

    /// Calls since the faults were set.
    pub fn calls(&self) -> u64 {
        self.platter.state.lock().calls
    }

    /// Whether the machine of this start still runs.
    pub fn is_up(&self) -> bool {
        let state = self.platter.state.lock();
        state.up && state.boot == self.boot
    }

    /// Ends when the machine has gone down at a call.
    pub async fn went_down(&self) {
        while self.is_up() {
            self.platter.went_down.notified().await;
        }
    }

    /// Takes the machine down now.
    pub fn take_down(&self) {
        self.platter.state.lock().up = false;
        self.platter.went_down.notify_waiters();
    }

    /// Starts the machine again after its power was cut: what was not flushed may be lost.
    #[must_use]
    pub fn after_power_cut(&self) -> Self {
        self.platter.state.lock().lose_power();
        self.after_kill()
    }

    /// Starts again after the process alone was killed: the kernel has kept all that was written.
    #[must_use]
    pub fn after_kill(&self) -> Self {
        let mut state = self.platter.state.lock();
        state.boot += 1;
        state.up = true;
        state.hangs = false;
        state.faults = Faults {
            latency: state.faults.latency,
            ..Faults::default()
        };
        (state.calls, state.syncs) = (0, 0);
        let boot = state.boot;
        drop(state);
        Self {
            platter: Arc::clone(&self.platter),
            boot,
        }
    }

    /// What it holds now, as whoever looks at it sees it.
    pub fn copy(&self) -> DiskCopy {
        let state = self.platter.state.lock();
        let files = state.files.iter();
        DiskCopy {
            names: state.names.clone(),
            files: files.map(|(id, file)| (*id, file.data.clone())).collect(),
        }
    }

    /// Starts the machine again with what the disk held when the copy was made: all else is gone.
    #[must_use]
    pub fn after_put_back(&self, copy: &DiskCopy) -> Self {
        let mut state = self.platter.state.lock();
        let whole = |data: &Vec<u8>| FileState {
            data: data.clone(),
            durable: data.clone(),
            unflushed: Vec::new(),
        };
        let files = copy.files.iter();
        state.files = files.map(|(id, data)| (*id, whole(data))).collect();
        state.names.clone_from(&copy.names);
        state.durable_names.clone_from(&copy.names);
        state.name_changes.clear();
        state.open.clear();
        drop(state);
        self.after_kill()
    }

    /// The content of a file, without a call of the machine.
    pub fn peek(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.platter.state.lock();
        let id = state.file_at(path).ok()?;
        Some(state.files.get(&id)?.data.clone())
    }

    fn with<T>(&self, call: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.platter.state.lock();
        let fate = state.enter(self.boot);
        let result = match &fate {
            Ok(_) => call(&mut state),
            Err(_) => Err(gone()),
        };
        let is_up = state.up;
        drop(state);
        if !is_up {
            self.platter.went_down.notify_waiters();
        }
        match fate? {
            Fate::GoOn => result,
            Fate::LastEffect => Err(gone()),
        }
    }

    fn handle(&self, file: u64) -> Arc<dyn DiskFile> {
        let disk = self.clone();
        *disk.platter.state.lock().open.entry(file).or_default() += 1;
        Arc::new(FakeFile { disk, file })
    }

    fn pause(&self) -> Pause {
        let disk = self.clone();
        Box::pin(async move {
            let mut longest = disk.platter.state.lock().faults.latency;
            loop {
                let drawn = {
                    let mut state = disk.platter.state.lock();
                    let micros = u64::try_from(longest.as_micros()).unwrap_or(u64::MAX);
                    Duration::from_micros(state.rng.random_range(0..=micros))
                };
                tokio::time::sleep(drawn).await;
                let state = disk.platter.state.lock();
                if !state.hangs || !state.up || state.boot != disk.boot {
                    return;
                }
                longest = longest.max(Duration::from_millis(10));
            }
        })
    }
}

struct FakeFile {
    disk: FakeDisk,
    file: u64,
}

impl std::fmt::Debug for FakeFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("FakeFile").field(&self.file).finish()
    }
}

impl Drop for FakeFile {
    fn drop(&mut self) {
        let mut state = self.disk.platter.state.lock();
        // A disk that was put back knows nothing of handles from before.
        if let Some(count) = state.open.get_mut(&self.file) {
            *count = count.saturating_sub(1);
        }
    }
}

impl DiskFile for FakeFile {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        self.disk.with(|state| {
            let len = state.file(self.file)?.data.len();
            let more = (offset + bytes.len()).saturating_sub(len);
            if more > 0 && !state.has_room_for(more) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            state.file(self.file)?.write(bytes, offset);
            Ok(())
        })
    }

    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        self.disk.with(|state| {
            let data = &state.file(self.file)?.data;
            let found = data.get(offset..offset + bytes.len());
            bytes.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.with(|state| {
            state.syncs += 1;
            let fails = state.faults.sync_fails_at == Some(state.syncs) || !state.up;
            let State { files, rng, .. } = state;
            let file = files.get_mut(&self.file).ok_or_else(gone)?;
            if fails {
                // The kernel gives up on what it could not write: the next flush does not try it again.
                file.flush_at_random(rng);
                return Err(io::Error::from_raw_os_error(libc::EIO));
            }
            file.flush();
            Ok(())
        })
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        self.disk.with(|state| {
            let before = state.file(self.file)?.data.len();
            assert!(len >= before, "storage makes no file shorter");
            let more = len - before;
            if more > 0 && !state.has_room_for(more) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            state.file(self.file)?.data.resize(len, 0);
            Ok(())
        })
    }
}

impl Disk for FakeDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.with(|state| state.file_at(path))?;
        Ok(self.handle(file))
    }

    fn create(&self, path: &Path, _mode: u32) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.with(|state| {
            if state.names.contains_key(path) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            if state.names.get(&parent(path)) != Some(&Named::Directory) {
                return Err(io::ErrorKind::NotFound.into());
            }
            let file = state.next_file;
            state.next_file += 1;
            state.files.insert(file, FileState::default());
            state.change(NameChange::Put(path.to_path_buf(), Named::File(file)));
            Ok(file)
        })?;
        Ok(self.handle(file))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.with(|state| {
            let file = state.file_at(path)?;
            Ok(state.file(file)?.data.clone())
        })
    }

    fn size(&self, path: &Path) -> io::Result<u64> {
        self.with(|state| {
            let file = state.file_at(path)?;
            Ok(state.file(file)?.data.len() as u64)
        })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.with(|state| {
            if state.names.get(dir) != Some(&Named::Directory) {
                return Err(io::ErrorKind::NotFound.into());
            }
            let inside = state.names.keys().filter(|path| path.parent() == Some(dir));
            let names = inside.filter_map(|path| path.file_name()?.to_str().map(str::to_owned));
            Ok(names.collect())
        })
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.with(|state| {
            if state.names.contains_key(path) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            state.change(NameChange::Put(path.to_path_buf(), Named::Directory));
            Ok(())
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        assert_eq!(
            parent(from),
            parent(to),
            "storage renames within a directory"
        );
        self.with(|state| {
            state.file_at(from)?;
            state.change(NameChange::Rename(from.to_path_buf(), to.to_path_buf()));
            state.collect();
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.with(|state| {
            state.file_at(path)?;
            state.change(NameChange::Remove(path.to_path_buf()));
            state.collect();
            Ok(())
        })
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.with(|state| {
            state.syncs += 1;
            if state.faults.sync_fails_at == Some(state.syncs) || !state.up {
                return Err(io::Error::from_raw_os_error(libc::EIO));
            }
            let changes = std::mem::take(&mut state.name_changes);
            let (of_it, others) = changes
                .into_iter()
                .partition::<Vec<_>, _>(|change| change.directory() == dir);
            state.name_changes = others;
            for change in &of_it {
                apply(&mut state.durable_names, change);
            }
            state.collect();
            Ok(())
        })
    }

    /// Runs the job at once: in one thread there is no other time.
    fn start(&self, _name: &str, job: Job) -> io::Result<()> {
        job();
        Ok(())
    }

    fn employ(&self, _name: &str, worker: Box<dyn Worker>) -> io::Result<Option<JoinHandle<()>>> {
        let disk = self.clone();
        tokio::spawn(worker.run_as_task(Box::new(move || disk.pause())));
        Ok(None)
    }

    fn wait_for(&self, job: Job) -> Pause {
        let pause = self.pause();
        Box::pin(async move {
            pause.await;
            job();
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(disk: &FakeDisk, name: &str) -> Arc<dyn DiskFile> {
        disk.create(Path::new(name), 0o600).unwrap()
    }

    #[test]
    fn what_was_flushed_survives_a_power_cut_and_a_name_only_with_its_directory() {
        let (mut with_name, mut with_tail) = (0, 0);
        for seed in 0..100 {
            let disk = FakeDisk::new(seed, Faults::default());
            let kept = file(&disk, "/kept");
            kept.write_all_at(b"flushed", 0).unwrap();
            kept.sync_all().unwrap();
            disk.sync_dir(Path::new("/")).unwrap();
            kept.write_all_at(b"tail", 7).unwrap();
            file(&disk, "/unnamed").sync_all().unwrap();
            let disk = disk.after_power_cut();
            let found = disk.read(Path::new("/kept")).unwrap();
            assert!(found.starts_with(b"flushed"));
            with_tail += u32::from(found == b"flushedtail");
            with_name += u32::from(disk.read(Path::new("/unnamed")).is_ok());
            assert!(kept.sync_all().is_err(), "a handle of an earlier start");
        }
        assert!((1..100).contains(&with_name) && (1..100).contains(&with_tail));
    }

    #[test]
    fn a_killed_process_loses_nothing_that_it_wrote() {
        let disk = FakeDisk::new(1, Faults::default());
        file(&disk, "/a").write_all_at(b"written", 0).unwrap();
        let disk = disk.after_kill();
        assert_eq!(disk.read(Path::new("/a")).unwrap(), b"written");
    }

    #[test]
    fn a_machine_goes_down_at_the_chosen_call_and_answers_nothing() {
        let down_at_call = Some(3);
        let faults = Faults {
            down_at_call,
            ..Faults::default()
        };
        let disk = FakeDisk::new(1, faults);
        let a = file(&disk, "/a");
        a.write_all_at(b"x", 0).unwrap();
        assert!(a.sync_all().is_err());
        assert!(!disk.is_up() && disk.read(Path::new("/a")).is_err());
    }

    #[test]
    fn a_write_is_torn_between_sectors_only() {
        let mut torn = 0;
        for seed in 0..50 {
            let disk = FakeDisk::new(seed, Faults::default());
            let a = file(&disk, "/a");
            a.set_len(4 * SECTOR as u64).unwrap();
            a.sync_all().unwrap();
            disk.sync_dir(Path::new("/")).unwrap();
            a.write_all_at(&[7; 4 * SECTOR], 0).unwrap();
            let found = disk.after_power_cut().read(Path::new("/a")).unwrap();
            let whole = |sector: &[u8]| sector.iter().all(|byte| *byte == sector[0]);
            assert!(found.chunks(SECTOR).all(whole));
            torn += u32::from(!whole(&found));
        }
        assert!(torn > 0);
    }

    #[test]
    fn a_full_disk_and_a_failing_flush_say_so() {
        let faults = Faults {
            capacity: Some(4),
            sync_fails_at: Some(1),
            ..Faults::default()
        };
        let disk = FakeDisk::new(1, faults);
        let a = file(&disk, "/a");
        let full = a.write_all_at(b"12345", 0).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        a.write_all_at(b"1234", 0).unwrap();
        assert_eq!(a.sync_data().unwrap_err().raw_os_error(), Some(libc::EIO));
        a.sync_data().unwrap();
    }
}
