//! Random calls out of a seed.
//!
//! A call is a line: the number of its process, the call, and its arguments. Calls need not succeed: on what does not
//! exist both filesystems must refuse alike.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const FILES: &[&str] = &["a", "b", "c", "d/a"];
const PATHS: &[&str] = &[
    "a",
    "b",
    "c",
    "d",
    "d/a",
    "d/b",
    "e",
    "e/a",
    "s",
    "nothing/a",
];
const SIZES: &[usize] = &[
    1, 2, 4, 10, 100, 255, 1000, 4095, 4096, 4097, 5000, 8192, 12_288, 20_000, 70_000,
];
const OFFSETS: &[usize] = &[
    0, 0, 0, 1, 2, 50, 100, 256, 1024, 4095, 4096, 8192, 10_000, 65_536,
];
const MODES: &[&str] = &["600", "644", "640", "755", "4755", "2755", "1777", "0"];
const XATTRS: &[&str] = &[
    "user.one",
    "user.two",
    "trusted.one",
    "nothing.one",
    "user.",
];

/// What a sequence is about. Few kinds of calls on few files meet each other more often than many on many.
const TOPICS: &[&[(Kind, u32)]] = &[CONTENT, CONTENT, NAMES, ATTRIBUTES, MAPPINGS, ALL];

const CONTENT: &[(Kind, u32)] = &[
    (Kind::Open, 14),
    (Kind::Write, 24),
    (Kind::Read, 16),
    (Kind::Resize, 12),
    (Kind::Look, 14),
    (Kind::Handle, 14),
    (Kind::Seek, 5),
];
const NAMES: &[(Kind, u32)] = &[
    (Kind::Open, 12),
    (Kind::Write, 12),
    (Kind::Read, 8),
    (Kind::Resize, 4),
    (Kind::Look, 16),
    (Kind::Handle, 8),
    (Kind::Name, 30),
];
const ATTRIBUTES: &[(Kind, u32)] = &[
    (Kind::Open, 12),
    (Kind::Write, 8),
    (Kind::Look, 18),
    (Kind::Handle, 8),
    (Kind::Name, 10),
    (Kind::Attribute, 30),
];
const MAPPINGS: &[(Kind, u32)] = &[
    (Kind::Open, 10),
    (Kind::Write, 14),
    (Kind::Read, 10),
    (Kind::Resize, 6),
    (Kind::Handle, 8),
    (Kind::Map, 36),
];
const ALL: &[(Kind, u32)] = &[
    (Kind::Open, 14),
    (Kind::Write, 16),
    (Kind::Read, 12),
    (Kind::Resize, 8),
    (Kind::Look, 12),
    (Kind::Handle, 12),
    (Kind::Seek, 4),
    (Kind::Name, 14),
    (Kind::Attribute, 10),
    (Kind::Map, 10),
    (Kind::Lock, 6),
];

#[derive(Clone, Copy)]
enum Kind {
    Open,
    Write,
    Read,
    Resize,
    Look,
    Handle,
    Seek,
    Name,
    Attribute,
    Map,
    Lock,
}

/// `calls` random calls of up to `workers` processes, and then everything closed in random order.
pub fn sequence(seed: u64, calls: usize, workers: Option<usize>) -> Vec<String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let one_or_three = if rng.random_bool(0.5) { 1 } else { 3 };
    let topic = TOPICS[rng.random_range(0..TOPICS.len())];
    // Few files: calls on different ones do not meet.
    let mut files = FILES.to_vec();
    while files.len() > 1 && rng.random_bool(0.7) {
        files.swap_remove(rng.random_range(0..files.len()));
    }
    let mut generator = Generator {
        files,
        workers: workers.unwrap_or(one_or_three),
        rng,
        open: Vec::new(),
        mapped: Vec::new(),
        made: 0,
    };
    let mut lines = Vec::new();
    // Most sequences find their files in place: what is not there is refused, and refusals are soon the same.
    if generator.rng.random_bool(0.75) {
        lines.push("0 mkdir d".to_owned());
        for file in generator.files.clone() {
            let data = generator.data();
            lines.push(format!("0 save {file} {data}"));
        }
    }
    while lines.len() < calls {
        lines.extend(generator.call(topic));
    }
    lines.extend(generator.closes());
    lines
}

/// Calls that keep nothing open: whichever node makes them, each sees all that was done before.
const OF_PATHS: &[&str] = &[
    "save",
    "shell",
    "cat",
    "stat",
    "lstat",
    "list",
    "truncate",
    "link",
    "unlink",
    "rename",
    "mkdir",
    "rmdir",
    "symlink",
    "readlink",
    "chmod",
    "chown",
    "utimens",
    "setxattr",
    "getxattr",
    "listxattr",
    "removexattr",
];

/// As [`sequence`], of calls that name a path and leave nothing open.
pub fn sequence_of_paths(seed: u64, calls: usize) -> Vec<String> {
    let is_of_path = |call: &String| {
        let verb = call.split(' ').nth(1).unwrap_or_default();
        OF_PATHS.contains(&verb)
    };
    // What a topic has few of needs a longer sequence to choose from.
    let all = sequence(seed, calls * 4, Some(super::sides::WORKERS));
    all.into_iter().filter(is_of_path).take(calls).collect()
}

struct Generator {
    rng: StdRng,
    files: Vec<&'static str>,
    workers: usize,
    /// Handles that may be open, with their processes.
    open: Vec<(usize, String)>,
    mapped: Vec<(usize, String)>,
    /// Handles, mappings and runs of bytes made so far: each has a name of its own.
    made: usize,
}

impl Generator {
    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.rng.random_range(0..of.len())]
    }

    fn size(&mut self) -> usize {
        SIZES[self.rng.random_range(0..SIZES.len())]
    }

    fn offset(&mut self) -> usize {
        OFFSETS[self.rng.random_range(0..OFFSETS.len())]
    }

    fn worker(&mut self) -> usize {
        self.rng.random_range(0..self.workers)
    }

    fn data(&mut self) -> String {
        self.made += 1;
        let letter = char::from(b'A' + u8::try_from(self.made % 26).unwrap());
        format!("{letter}*{}", self.size())
    }

    fn handle(&mut self) -> Option<(usize, String)> {
        let count = self.open.len();
        (count > 0).then(|| self.open[self.rng.random_range(0..count)].clone())
    }

    fn mapping(&mut self) -> Option<(usize, String)> {
        let count = self.mapped.len();
        (count > 0).then(|| self.mapped[self.rng.random_range(0..count)].clone())
    }

    fn new_handle(&mut self, worker: usize) -> String {
        self.made += 1;
        let handle = format!("h{}", self.made);
        self.open.push((worker, handle.clone()));
        handle
    }

    /// A file in most cases, sometimes any path.
    fn path(&mut self) -> &'static str {
        let all = self.rng.random_bool(0.15);
        let among = if all { PATHS } else { &self.files.clone() };
        self.pick(among)
    }

    fn call(&mut self, topic: &[(Kind, u32)]) -> Option<String> {
        let sum = topic.iter().map(|(_, weight)| weight).sum();
        let mut at: u32 = self.rng.random_range(0..sum);
        let mut kinds = topic.iter();
        let kind = loop {
            let (kind, weight) = kinds.next()?;
            match at.checked_sub(*weight) {
                Some(rest) => at = rest,
                None => break kind,
            }
        };
        match kind {
            Kind::Open => Some(self.open()),
            Kind::Write => self.write(),
            Kind::Read => self.read(),
            Kind::Resize => self.resize(),
            Kind::Look => self.look(),
            Kind::Handle => self.of_handle(),
            Kind::Seek => self.seek(),
            Kind::Name => Some(self.name()),
            Kind::Attribute => self.attribute(),
            Kind::Map => self.map(),
            Kind::Lock => self.lock(),
        }
    }

    fn flags(&mut self) -> String {
        let mut flags = vec![self.pick(&["r", "w", "rw", "rw", "rw", "rw", "rw"])];
        let chances = [
            ("creat", 0.8),
            ("trunc", 0.25),
            ("append", 0.25),
            ("excl", 0.05),
            ("sync", 0.08),
            ("nofollow", 0.03),
            ("directory", 0.02),
        ];
        for (flag, chance) in chances {
            // O_DIRECTORY with O_CREAT is refused by newer kernels and is not about files.
            let is_possible = flag != "directory" || !flags.contains(&"creat");
            if self.rng.random_bool(chance) && is_possible {
                flags.push(flag);
            }
        }
        flags.join(",")
    }

    fn open(&mut self) -> String {
        let (worker, path, flags) = (self.worker(), self.path(), self.flags());
        let handle = self.new_handle(worker);
        format!("{worker} open {handle} {path} {flags}")
    }

    fn write(&mut self) -> Option<String> {
        if self.rng.random_bool(0.15) {
            let (worker, path, data) = (self.worker(), self.path(), self.data());
            return Some(match self.rng.random_range(0..6) {
                0 => format!("{worker} shell > {path} {data}"),
                1 => format!("{worker} shell >> {path} {data}"),
                _ => format!("{worker} save {path} {data}"),
            });
        }
        let (worker, handle) = self.handle()?;
        let (offset, data) = (self.offset(), self.data());
        Some(match self.rng.random_range(0..20) {
            0..=8 => format!("{worker} write {handle} {data}"),
            9 => format!("{worker} child {handle} {data}"),
            10..=17 => format!("{worker} pwrite {handle} {offset} {data}"),
            _ => {
                let (to, to_handle) = self.handle()?;
                let (len, to_offset) = (self.size(), self.offset());
                if to != worker {
                    return None;
                }
                format!("{worker} copy {handle} {offset} {to_handle} {to_offset} {len}")
            }
        })
    }

    fn read(&mut self) -> Option<String> {
        if self.rng.random_bool(0.3) {
            let (worker, path) = (self.worker(), self.path());
            return Some(format!("{worker} cat {path}"));
        }
        let (worker, handle) = self.handle()?;
        let (offset, len) = (self.offset(), self.size());
        Some(match self.rng.random_range(0..10) {
            0..=3 => format!("{worker} read {handle} {len}"),
            4..=7 => format!("{worker} pread {handle} {offset} {len}"),
            8 => format!("{worker} position {handle} set {offset}"),
            _ => {
                let whence = self.pick(&["cur", "end"]);
                format!("{worker} position {handle} {whence} 0")
            }
        })
    }

    fn resize(&mut self) -> Option<String> {
        let size = self.offset();
        if self.rng.random_bool(0.3) {
            let (worker, path) = (self.worker(), self.path());
            return Some(format!("{worker} truncate {path} {size}"));
        }
        let (worker, handle) = self.handle()?;
        if self.rng.random_bool(0.5) {
            return Some(format!("{worker} ftruncate {handle} {size}"));
        }
        let mode = self.pick(&["plain", "keep", "punch", "punch", "zero", "zerokeep"]);
        let len = self.size();
        Some(format!("{worker} fallocate {handle} {mode} {size} {len}"))
    }

    fn look(&mut self) -> Option<String> {
        let (worker, path) = (self.worker(), self.path());
        Some(match self.rng.random_range(0..12) {
            0..=3 => format!("{worker} stat {path}"),
            4 => format!("{worker} lstat {path}"),
            5 => {
                let folder = self.pick(&[".", "d", "e"]);
                format!("{worker} list {folder}")
            }
            6 => {
                let folder = self.pick(&[".", "d", "e"]);
                format!("{worker} stat {folder}")
            }
            7 => {
                let (worker, handle) = self.handle()?;
                format!("{worker} same {path} {handle}")
            }
            _ => {
                let (worker, handle) = self.handle()?;
                format!("{worker} fstat {handle}")
            }
        })
    }

    fn of_handle(&mut self) -> Option<String> {
        let (worker, other) = self.handle()?;
        Some(match self.rng.random_range(0..10) {
            0..=4 => {
                self.open.retain(|(_, handle)| *handle != other);
                format!("{worker} close {other}")
            }
            5 if self.workers > 1 => {
                let heir = self.worker();
                let handle = self.new_handle(heir);
                format!("{heir} adopt {handle} {worker} {other}")
            }
            5 | 6 => {
                let handle = self.new_handle(worker);
                format!("{worker} dup {handle} {other}")
            }
            7 => {
                let flags = self.pick(&["rw", "r", "w,append", "rw,trunc"]);
                let handle = self.new_handle(worker);
                format!("{worker} reopen {handle} {other} {flags}")
            }
            8 => format!("{worker} fsync {other}"),
            _ => format!("{worker} fdatasync {other}"),
        })
    }

    fn seek(&mut self) -> Option<String> {
        let (worker, handle) = self.handle()?;
        let (what, offset) = (self.pick(&["data", "hole"]), self.offset());
        Some(format!("{worker} {what} {handle} {offset}"))
    }

    fn name(&mut self) -> String {
        let (worker, path) = (self.worker(), self.path());
        let (any, other) = (self.pick(PATHS), self.pick(PATHS));
        let folder = self.pick(&["d", "e", "d/b", "a"]);
        match self.rng.random_range(0..16) {
            0..=2 => format!("{worker} link {path} {other}"),
            3..=5 => format!("{worker} unlink {path}"),
            6..=8 => {
                let to = self.pick(&self.files.clone());
                format!("{worker} rename {path} {to}")
            }
            9 => format!("{worker} rename {any} {other}"),
            10 => format!("{worker} rename {any} {other} exchange"),
            11 => format!("{worker} rename {path} {other} noreplace"),
            12 | 13 => format!("{worker} mkdir {folder}"),
            14 => format!("{worker} rmdir {folder}"),
            _ if self.rng.random_bool(0.5) => format!("{worker} readlink {any}"),
            _ => format!("{worker} symlink {other} s"),
        }
    }

    fn attribute(&mut self) -> Option<String> {
        if self.rng.random_bool(0.5) {
            let (worker, handle) = self.handle()?;
            return Some(self.attribute_of(worker, &handle, "f"));
        }
        let (worker, path) = (self.worker(), self.path());
        Some(self.attribute_of(worker, path, ""))
    }

    /// `f` before the name of a call makes it the one that takes a handle.
    fn attribute_of(&mut self, worker: usize, of: &str, f: &str) -> String {
        let (name, mode) = (self.pick(XATTRS), self.pick(MODES));
        match self.rng.random_range(0..10) {
            0 | 1 => format!("{worker} {f}chmod {of} {mode}"),
            2 => {
                let owner = self.pick(&["0 0", "12 34"]);
                format!("{worker} {f}chown {of} {owner}")
            }
            3 | 4 => {
                let seconds = self.rng.random_range(1..1000) * 1000;
                if f.is_empty() {
                    format!("{worker} utimens {of} {seconds}")
                } else {
                    format!("{worker} futimens {of} {seconds}")
                }
            }
            5 | 6 => {
                self.made += 1;
                let value = self.made;
                format!("{worker} {f}setxattr {of} {name} value{value}")
            }
            7 => format!("{worker} {f}getxattr {of} {name}"),
            8 => format!("{worker} {f}listxattr {of}"),
            _ => format!("{worker} {f}removexattr {of} {name}"),
        }
    }

    fn lock(&mut self) -> Option<String> {
        let (worker, handle) = self.handle()?;
        let kind = self.pick(&["shared", "exclusive", "exclusive", "none"]);
        if self.rng.random_bool(0.5) {
            return Some(format!("{worker} flock {handle} {kind}"));
        }
        let (offset, len) = (self.offset(), self.size());
        Some(format!("{worker} lock {handle} {kind} {offset} {len}"))
    }

    fn map(&mut self) -> Option<String> {
        if self.rng.random_bool(0.2) {
            let (worker, handle) = self.handle()?;
            self.made += 1;
            let mapping = format!("m{}", self.made);
            self.mapped.push((worker, mapping.clone()));
            let len = [4096, 8192, 5000][self.rng.random_range(0..3)];
            return Some(format!("{worker} mmap {mapping} {handle} {len}"));
        }
        let (worker, mapping) = self.mapping()?;
        let offset = [0, 10, 100, 4090, 4096][self.rng.random_range(0..5)];
        let len = [1, 4, 10, 100, 900][self.rng.random_range(0..5)];
        Some(match self.rng.random_range(0..10) {
            0..=3 => {
                self.made += 1;
                let letter = char::from(b'a' + u8::try_from(self.made % 26).unwrap());
                format!("{worker} store {mapping} {offset} {letter}*{len}")
            }
            4..=7 => format!("{worker} load {mapping} {offset} {len}"),
            8 => format!("{worker} msync {mapping}"),
            _ => {
                self.mapped.retain(|(_, name)| *name != mapping);
                format!("{worker} munmap {mapping}")
            }
        })
    }

    fn closes(&mut self) -> Vec<String> {
        let handles = self.open.drain(..).map(|open| (open, "close"));
        let mut all: Vec<_> = handles
            .chain(self.mapped.drain(..).map(|mapped| (mapped, "munmap")))
            .collect();
        let mut lines = Vec::new();
        while !all.is_empty() {
            let ((worker, name), verb) = all.swap_remove(self.rng.random_range(0..all.len()));
            lines.push(format!("{worker} {verb} {name}"));
        }
        lines
    }
}

#[test]
fn a_seed_gives_the_same_calls_again() {
    let calls = sequence(7, 200, None);
    assert_eq!(calls, sequence(7, 200, None));
    assert_ne!(calls, sequence(8, 200, None));
    assert!(calls.len() >= 200, "and then everything is closed");
}
