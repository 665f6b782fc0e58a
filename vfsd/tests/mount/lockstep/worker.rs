//! One process of the lockstep: it performs one call per line of its standard input and answers with one line.
//!
//! It is this test program started again, so that its calls come from a process of their own: the mount tells
//! processes apart. Its working directory is the folder of the run; paths are relative to it.
//!
//! An answer is `ok` and what the call gave, or the name of the errno. What follows a tab are times, which are not
//! compared as they are (`times.rs`).

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::fcntl::{self, AT_FDCWD, FallocateFlags, FcntlArg, OFlag, RenameFlags};
use nix::sys::mman::{MapFlags, MsFlags, ProtFlags, mmap, msync, munmap};
use nix::sys::stat::{self, FchmodatFlags, Mode, UtimensatFlags};
use nix::sys::time::TimeSpec;
use nix::sys::uio;
use nix::unistd::{self, Whence};

use super::{attributes, bytes, walk};

/// Set in the environment of a worker.
pub const VARIABLE: &str = "CONTEXTOS_LOCKSTEP_WORKER";

/// What an answer begins with: the test harness has lines of its own to print.
pub const ANSWER: &str = "= ";

/// Not a test: the body of the worker processes. Without their variable it does nothing.
#[test]
fn worker_process() {
    if std::env::var_os(VARIABLE).is_none() {
        return;
    }
    stat::umask(Mode::from_bits_truncate(0o022));
    let mut worker = Worker::default();
    let mut output = std::io::stdout();
    // The harness has begun a line that it ends at the end.
    writeln!(output).unwrap();
    for line in std::io::stdin().lock().lines() {
        let answer = worker.answer(&line.unwrap());
        if writeln!(output, "{ANSWER}{answer}")
            .and_then(|()| output.flush())
            .is_err()
        {
            break;
        }
    }
    // The harness would have more to say, and nobody listens.
    std::process::exit(0);
}

/// Why a call gave nothing.
#[derive(Debug)]
pub enum Refusal {
    /// The system's answer.
    Errno(Errno),
    /// The handle or mapping that the call names was never made, or a shrink has deleted the call that made it.
    Unopened,
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        Self::Errno(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
    }
}

pub type Answer = Result<String, Refusal>;

/// A shared mapping.
struct Mapping {
    at: NonNull<libc::c_void>,
    len: usize,
}

impl Mapping {
    /// By the mapping itself: a descriptor that is kept for it would be closed with it, and a close commits.
    fn size_of_file(&self) -> nix::Result<usize> {
        let start = self.at.as_ptr().addr();
        let end = start + self.len.next_multiple_of(PAGE_BYTES);
        let seen = stat::stat(format!("/proc/self/map_files/{start:x}-{end:x}").as_str())?;
        Ok(usize::try_from(seen.st_size).unwrap())
    }
}

/// Mappings begin and end with pages.
const PAGE_BYTES: usize = 4096;

#[derive(Default)]
struct Worker {
    handles: BTreeMap<String, OwnedFd>,
    mappings: BTreeMap<String, Mapping>,
}

fn number<T: std::str::FromStr>(text: &str) -> T {
    let parsed = text.parse().ok();
    parsed.unwrap_or_else(|| panic!("{text:?} is no number of a call"))
}

fn done<T>(outcome: nix::Result<T>) -> Answer {
    Ok(outcome.map(|_| "ok".to_owned())?)
}

impl Worker {
    fn answer(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split(' ').collect();
        let answer = self
            .of_handles(&words)
            .or_else(|| self.of_content(&words))
            .or_else(|| self.of_mappings(&words))
            .or_else(|| self.of_attributes(&words))
            .or_else(|| of_names(&words))
            .unwrap_or_else(|| panic!("no call: {line}"));
        match answer {
            Ok(text) => text,
            Err(Refusal::Errno(errno)) => format!("{errno:?}"),
            Err(Refusal::Unopened) => "unopened".to_owned(),
        }
    }

    fn handle(&self, name: &str) -> Result<&OwnedFd, Refusal> {
        self.handles.get(name).ok_or(Refusal::Unopened)
    }

    fn of_handles(&mut self, words: &[&str]) -> Option<Answer> {
        Some(match *words {
            ["enter", folder] => self.enter(folder),
            ["leave"] => self.leave(),
            ["depart"] => self.depart(),
            ["open", handle, path, flags] => self.open(handle, path, flags),
            ["reopen", handle, other, flags] => match self.handle(other) {
                Ok(file) => {
                    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
                    self.open(handle, &path, flags)
                }
                Err(refusal) => Err(refusal),
            },
            ["dup", handle, other] => {
                let copy = self.handle(other).and_then(|file| Ok(unistd::dup(file)?));
                copy.map(|file| {
                    self.handles.insert(handle.to_owned(), file);
                    "ok".to_owned()
                })
            }
            ["number", handle] => self.with(handle, |file| {
                Ok(format!("ok {} {}", std::process::id(), file.as_raw_fd()))
            }),
            ["adopt", _, "none"] => Err(Refusal::Unopened),
            ["adopt", handle, process, descriptor] => adopted(number(process), number(descriptor))
                .map(|file| {
                    self.handles.insert(handle.to_owned(), file);
                    "ok".to_owned()
                }),
            ["close", handle] => match self.handles.remove(handle) {
                Some(file) => done(unistd::close(file)),
                None => Err(Refusal::Unopened),
            },
            ["closeall"] => self.close_all(),
            ["flock", handle, kind] => self.with(handle, |file| flock(file, kind)),
            ["lock", handle, kind, offset, len] => {
                self.with(handle, |file| lock(file, kind, number(offset), number(len)))
            }
            _ => return None,
        })
    }

    /// Begins a run in `folder`, which the first worker makes.
    fn enter(&mut self, folder: &str) -> Answer {
        self.close_all()?;
        match unistd::mkdir(folder, Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        done(unistd::chdir(folder))
    }

    /// Ends a run.
    fn depart(&mut self) -> Answer {
        self.close_all()?;
        std::env::set_current_dir("/")?;
        Ok("ok".into())
    }

    /// Ends a run and takes its folder away.
    fn leave(&mut self) -> Answer {
        let folder = std::env::current_dir()?;
        self.depart()?;
        std::fs::remove_dir_all(&folder)?;
        Ok("ok".into())
    }

    fn open(&mut self, handle: &str, path: &str, flags: &str) -> Answer {
        let flags = flags.split(',').map(|flag| match flag {
            "r" => OFlag::O_RDONLY,
            "w" => OFlag::O_WRONLY,
            "rw" => OFlag::O_RDWR,
            "creat" => OFlag::O_CREAT,
            "excl" => OFlag::O_EXCL,
            "trunc" => OFlag::O_TRUNC,
            "append" => OFlag::O_APPEND,
            "sync" => OFlag::O_SYNC,
            "nofollow" => OFlag::O_NOFOLLOW,
            "directory" => OFlag::O_DIRECTORY,
            _ => panic!("{flag:?} is no flag of open"),
        });
        let flags = flags.fold(OFlag::O_CLOEXEC, |all, flag| all | flag);
        let file = fcntl::open(path, flags, Mode::from_bits_truncate(0o644))?;
        self.handles.insert(handle.to_owned(), file);
        Ok("ok".into())
    }

    /// Closes what is open, and tells what failed.
    fn close_all(&mut self) -> Answer {
        for (_, mapping) in std::mem::take(&mut self.mappings) {
            unmap(&mapping)?;
        }
        for (_, file) in std::mem::take(&mut self.handles) {
            unistd::close(file)?;
        }
        Ok("ok".into())
    }

    fn of_content(&mut self, words: &[&str]) -> Option<Answer> {
        Some(match *words {
            ["write", handle, data] => self.with(handle, |file| {
                let count = unistd::write(file, &bytes::parse(data))?;
                Ok(format!("ok {count}"))
            }),
            ["pwrite", handle, offset, data] => self.with(handle, |file| {
                let count = uio::pwrite(file, &bytes::parse(data), number(offset))?;
                Ok(format!("ok {count}"))
            }),
            ["read", handle, len] => self.with(handle, |file| {
                let mut buffer = vec![0; number(len)];
                let count = unistd::read(file, &mut buffer)?;
                Ok(format!("ok {count} {}", bytes::describe(&buffer[..count])))
            }),
            ["pread", handle, offset, len] => self.with(handle, |file| {
                let mut buffer = vec![0; number(len)];
                let count = uio::pread(file, &mut buffer, number(offset))?;
                Ok(format!("ok {count} {}", bytes::describe(&buffer[..count])))
            }),
            ["copy", from, offset, to, to_offset, len] => {
                self.copy((from, number(offset)), (to, number(to_offset)), number(len))
            }
            ["position", handle, whence, offset] => self.with(handle, |file| {
                let whence = match whence {
                    "set" => Whence::SeekSet,
                    // Where a directory ends is its own affair: ext4 tells the largest number there is.
                    "end" if size_of_file(file)?.is_none() => return Ok("ok".into()),
                    "end" => Whence::SeekEnd,
                    _ => Whence::SeekCur,
                };
                let at = unistd::lseek(file, number(offset), whence)?;
                Ok(format!("ok {at}"))
            }),
            ["data", handle, offset] => self.with(handle, |file| find_data(file, number(offset))),
            ["hole", handle, offset] => self.with(handle, |file| find_hole(file, number(offset))),
            ["ftruncate", handle, size] => {
                self.with(handle, |file| done(unistd::ftruncate(file, number(size))))
            }
            ["truncate", path, size] => done(unistd::truncate(path, number(size))),
            ["fallocate", handle, mode, offset, len] => self.with(handle, |file| {
                let mode = allocation(mode);
                done(fcntl::fallocate(file, mode, number(offset), number(len)))
            }),
            ["fsync", handle] => self.with(handle, |file| done(unistd::fsync(file))),
            ["fdatasync", handle] => self.with(handle, |file| done(unistd::fdatasync(file))),
            ["child", handle, data] => self.with(handle, |file| {
                let output = file.try_clone()?;
                program(Command::new("cat").stdout(output), data)
            }),
            ["shell", redirection, path, data] => {
                let script = format!("exec cat {redirection} \"$0\"");
                program(Command::new("sh").args(["-c", &script, path]), data)
            }
            ["save", path, data] => std::fs::write(path, bytes::parse(data))
                .map(|()| "ok".to_owned())
                .map_err(Refusal::from),
            ["cat", path] => walk::content(path),
            _ => return None,
        })
    }

    fn with(&self, handle: &str, call: impl FnOnce(&OwnedFd) -> Answer) -> Answer {
        call(self.handle(handle)?)
    }

    fn copy(&self, from: (&str, i64), to: (&str, i64), len: usize) -> Answer {
        let (source, target) = (self.handle(from.0)?, self.handle(to.0)?);
        let (mut at, mut to_at) = (from.1, to.1);
        let count = fcntl::copy_file_range(source, Some(&mut at), target, Some(&mut to_at), len)?;
        Ok(format!("ok {count}"))
    }

    fn of_mappings(&mut self, words: &[&str]) -> Option<Answer> {
        Some(match *words {
            ["mmap", mapping, handle, len] => self.map(mapping, handle, number(len)),
            ["load", mapping, offset, len] => {
                self.mapped(mapping, number(offset), number(len), load)
            }
            ["store", mapping, offset, data] => {
                let data = bytes::parse(data);
                self.mapped(mapping, number(offset), data.len(), |at, len| {
                    store(at, &data[..len])
                })
            }
            ["msync", mapping] => match self.mappings.get(mapping) {
                // SAFETY: the mapping exists until it is removed from the table.
                Some(mapping) => done(unsafe { msync(mapping.at, mapping.len, MsFlags::MS_SYNC) }),
                None => Err(Refusal::Unopened),
            },
            ["munmap", mapping] => match self.mappings.remove(mapping) {
                Some(mapping) => unmap(&mapping),
                None => Err(Refusal::Unopened),
            },
            _ => return None,
        })
    }

    fn map(&mut self, mapping: &str, handle: &str, len: usize) -> Answer {
        let file = self.handle(handle)?;
        let size = NonZeroUsize::new(len).ok_or(Errno::EINVAL)?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: the kernel chooses the place, so nothing of this process lies there.
        let at = unsafe { mmap(None, size, access, MapFlags::MAP_SHARED, file, 0) }?;
        self.mappings
            .insert(mapping.to_owned(), Mapping { at, len });
        Ok("ok".into())
    }

    /// A part of a mapping, up to the end of the file: what lies behind it in the last page is nobody's promise.
    fn mapped(
        &self,
        mapping: &str,
        offset: usize,
        len: usize,
        access: impl FnOnce(*mut libc::c_void, usize) -> Answer,
    ) -> Answer {
        let mapping = self.mappings.get(mapping).ok_or(Refusal::Unopened)?;
        let end = mapping.len.min(mapping.size_of_file()?).min(offset + len);
        if offset >= end {
            return Ok("behind the end".into());
        }
        // SAFETY: the offset lies in the mapping, and the length ends in it.
        access(
            unsafe { mapping.at.as_ptr().byte_add(offset) },
            end - offset,
        )
    }

    fn of_attributes(&mut self, words: &[&str]) -> Option<Answer> {
        Some(match *words {
            ["fstat", handle] => {
                self.with(handle, |file| Ok(attributes::describe(&stat::fstat(file)?)))
            }
            ["same", path, handle] => self.with(handle, |file| {
                let (one, other) = (stat::stat(path)?, stat::fstat(file)?);
                Ok(format!("ok {}", one.st_ino == other.st_ino))
            }),
            ["fchmod", handle, mode] => self.with(handle, |file| {
                done(stat::fchmod(file, attributes::mode(mode)))
            }),
            ["fchown", handle, uid, gid] => self.with(handle, |file| {
                let (uid, gid) = (number::<u32>(uid).into(), number::<u32>(gid).into());
                done(unistd::fchown(file, Some(uid), Some(gid)))
            }),
            ["futimens", handle, seconds] => self.with(handle, |file| {
                let time = TimeSpec::new(number(seconds), 0);
                done(stat::futimens(file, &time, &time))
            }),
            ["fsetxattr", handle, name, value] => self.with(handle, |file| {
                attributes::set(attributes::Of::Handle(file), name, value)
            }),
            ["fgetxattr", handle, name] => self.with(handle, |file| {
                attributes::get(attributes::Of::Handle(file), name)
            }),
            ["flistxattr", handle] => self.with(handle, |file| {
                attributes::list(attributes::Of::Handle(file))
            }),
            ["fremovexattr", handle, name] => self.with(handle, |file| {
                attributes::remove(attributes::Of::Handle(file), name)
            }),
            _ => return None,
        })
    }
}

/// A program that copies its input to where its output goes: a descriptor that it inherits or a shell has opened. It
/// answers its exit status: whoever writes is told of an error, not this process.
fn program(command: &mut Command, data: &str) -> Answer {
    let mut child = command
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut input = child.stdin.take().unwrap();
    // A program that could not open its output does not read.
    let _ = input.write_all(&bytes::parse(data));
    drop(input);
    Ok(format!("ok {}", child.wait()?))
}

fn of_names(words: &[&str]) -> Option<Answer> {
    let path = |path| attributes::Of::Path(path);
    Some(match *words {
        ["stat", path] => stat::stat(path)
            .map(|seen| attributes::describe(&seen))
            .map_err(Refusal::from),
        ["lstat", path] => stat::lstat(path)
            .map(|seen| attributes::describe(&seen))
            .map_err(Refusal::from),
        ["list", path] => walk::names(path),
        ["walk"] => walk::all(),
        ["link", from, to] => done(unistd::linkat(
            AT_FDCWD,
            from,
            AT_FDCWD,
            to,
            fcntl::AtFlags::empty(),
        )),
        ["unlink", path] => done(unistd::unlink(path)),
        ["rename", from, to] => rename(from, to, RenameFlags::empty()),
        ["rename", from, to, "noreplace"] => rename(from, to, RenameFlags::RENAME_NOREPLACE),
        ["rename", from, to, "exchange"] => rename(from, to, RenameFlags::RENAME_EXCHANGE),
        ["mkdir", path] => done(unistd::mkdir(path, Mode::from_bits_truncate(0o755))),
        ["rmdir", path] => std::fs::remove_dir(path)
            .map(|()| "ok".to_owned())
            .map_err(Refusal::from),
        ["symlink", target, path] => done(unistd::symlinkat(target, AT_FDCWD, path)),
        ["readlink", path] => fcntl::readlink(path)
            .map(|target| format!("ok {}", target.to_string_lossy()))
            .map_err(Refusal::from),
        ["chmod", path, mode] => {
            let mode = attributes::mode(mode);
            done(stat::fchmodat(
                AT_FDCWD,
                path,
                mode,
                FchmodatFlags::FollowSymlink,
            ))
        }
        ["chown", path, uid, gid] => {
            let (uid, gid) = (number::<u32>(uid).into(), number::<u32>(gid).into());
            done(unistd::chown(path, Some(uid), Some(gid)))
        }
        ["utimens", path, seconds] => {
            let time = TimeSpec::new(number(seconds), 0);
            let follow = UtimensatFlags::FollowSymlink;
            done(stat::utimensat(AT_FDCWD, path, &time, &time, follow))
        }
        ["setxattr", of, name, value] => attributes::set(path(of), name, value),
        ["getxattr", of, name] => attributes::get(path(of), name),
        ["listxattr", of] => attributes::list(path(of)),
        ["removexattr", of, name] => attributes::remove(path(of), name),
        _ => return None,
    })
}

fn rename(from: &str, to: &str, flags: RenameFlags) -> Answer {
    done(fcntl::renameat2(AT_FDCWD, from, AT_FDCWD, to, flags))
}

fn allocation(mode: &str) -> FallocateFlags {
    let keep = FallocateFlags::FALLOC_FL_KEEP_SIZE;
    match mode {
        "plain" => FallocateFlags::empty(),
        "keep" => keep,
        "punch" => FallocateFlags::FALLOC_FL_PUNCH_HOLE | keep,
        "zero" => FallocateFlags::FALLOC_FL_ZERO_RANGE,
        "zerokeep" => FallocateFlags::FALLOC_FL_ZERO_RANGE | keep,
        _ => panic!("{mode:?} is no mode of fallocate"),
    }
}

/// `SEEK_DATA`. Where data begins may be rounded to blocks, so not the answer is compared but whether it is true:
/// nothing but zeros may lie before it.
fn find_data(file: &OwnedFd, offset: i64) -> Answer {
    let Some(size) = size_of_file(file)? else {
        return Ok("no file".into());
    };
    let before = unistd::lseek(file, 0, Whence::SeekCur)?;
    let found = unistd::lseek(file, offset, Whence::SeekData);
    unistd::lseek(file, before, Whence::SeekSet)?;
    let end = match found {
        // At or past the end there is no data; before it, the rest of the file must be a hole.
        Err(Errno::ENXIO) if (0..size).contains(&offset) => size,
        other => other?,
    };
    if !(offset..=size).contains(&end) {
        return Ok(format!(
            "ok, but data at {end} of {size}, asked from {offset}"
        ));
    }
    Ok(zeros(file, offset, end)?)
}

/// `SEEK_HOLE`. A filesystem may know of no hole but the end; what it calls a hole must hold a zero.
fn find_hole(file: &OwnedFd, offset: i64) -> Answer {
    let Some(size) = size_of_file(file)? else {
        return Ok("no file".into());
    };
    let before = unistd::lseek(file, 0, Whence::SeekCur)?;
    let found = unistd::lseek(file, offset, Whence::SeekHole);
    unistd::lseek(file, before, Whence::SeekSet)?;
    let at = found?;
    if !(offset..=size).contains(&at) {
        return Ok(format!(
            "ok, but a hole at {at} of {size}, asked from {offset}"
        ));
    }
    Ok(zeros(file, at, size.min(at + 1))?)
}

/// The size of a regular file; what a directory calls a hole is its own affair.
fn size_of_file(file: &OwnedFd) -> nix::Result<Option<i64>> {
    let seen = stat::fstat(file)?;
    let is_file = seen.st_mode & libc::S_IFMT == libc::S_IFREG;
    Ok(is_file.then_some(seen.st_size))
}

/// Whether a range that is called a hole reads as zeros. A handle that cannot read says nothing.
fn zeros(file: &OwnedFd, from: i64, to: i64) -> nix::Result<String> {
    let mut range = vec![0; usize::try_from(to - from).unwrap()];
    match uio::pread(file, &mut range, from) {
        Err(Errno::EBADF) => Ok("ok".into()),
        Err(errno) => Err(errno),
        Ok(_) if range.iter().all(|byte| *byte == 0) => Ok("ok".into()),
        Ok(_) => Ok(format!("ok, but a hole with {}", bytes::describe(&range))),
    }
}

/// A descriptor of another process for the same open file, as a child inherits one.
fn adopted(process: libc::pid_t, descriptor: i32) -> Result<OwnedFd, Refusal> {
    let opened = |outcome: libc::c_long| -> Result<OwnedFd, Refusal> {
        let number = i32::try_from(Errno::result(outcome)?).unwrap();
        // SAFETY: the call has just made the descriptor, and nobody else knows of it.
        Ok(unsafe { OwnedFd::from_raw_fd(number) })
    };
    // SAFETY: the call takes numbers only.
    let process = opened(unsafe { libc::syscall(libc::SYS_pidfd_open, process, 0) })?;
    // SAFETY: as above.
    opened(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), descriptor, 0) })
}

/// Takes or gives a lock of the open file, without waiting.
fn flock(file: &OwnedFd, kind: &str) -> Answer {
    let operation = match kind {
        "shared" => libc::LOCK_SH,
        "exclusive" => libc::LOCK_EX,
        "none" => libc::LOCK_UN,
        _ => panic!("{kind:?} is no lock"),
    };
    // SAFETY: the descriptor is open for the call.
    let outcome = unsafe { libc::flock(file.as_raw_fd(), operation | libc::LOCK_NB) };
    done(Errno::result(outcome))
}

/// Takes or gives a range for this process, without waiting.
fn lock(file: &OwnedFd, kind: &str, offset: i64, len: i64) -> Answer {
    let kind = match kind {
        "shared" => libc::F_RDLCK,
        "exclusive" => libc::F_WRLCK,
        "none" => libc::F_UNLCK,
        _ => panic!("{kind:?} is no lock"),
    };
    let range = libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: offset,
        l_len: len,
        l_pid: 0,
    };
    done(fcntl::fcntl(file, FcntlArg::F_SETLK(&range)))
}

/// Loads from a mapping by a system call: a page that is gone meanwhile is EFAULT then instead of a signal.
fn load(at: *mut libc::c_void, len: usize) -> Answer {
    let (read, write) = unistd::pipe()?;
    // SAFETY: the kernel checks the range itself.
    let count = unsafe { libc::write(write.as_raw_fd(), at, len) };
    let count = usize::try_from(Errno::result(count)?).unwrap();
    let mut buffer = vec![0; count];
    unistd::read(&read, &mut buffer)?;
    Ok(format!("ok {count} {}", bytes::describe(&buffer)))
}

/// Stores through a mapping, as [`load`].
fn store(at: *mut libc::c_void, data: &[u8]) -> Answer {
    let (read, write) = unistd::pipe()?;
    unistd::write(&write, data)?;
    // SAFETY: the kernel checks the range itself, and it is a mapping that no Rust value lies in.
    let count = unsafe { libc::read(read.as_raw_fd(), at, data.len()) };
    Ok(format!("ok {}", Errno::result(count)?))
}

fn unmap(mapping: &Mapping) -> Answer {
    // SAFETY: it was taken out of the table, so nobody uses it any more.
    done(unsafe { munmap(mapping.at, mapping.len) })
}
