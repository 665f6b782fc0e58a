//! Who makes a call: what FUSE says, and what `/proc` adds.
//!
//! Only `comm` and `status` are read while a call is open: reading `stat`, `cmdline`, `maps` or `exe` of a process
//! inside `execve` waits for a lock that the process holds until we answer. The one exception is
//! [`Caller::died_by_signal`], which looks at a process that has no memory map any more.

use std::fs;

use crate::limits::DESCRIPTORS_LOOKED_AT_MAX;
use crate::state_machine::command::Author;
use crate::state_machine::ids::InodeNo;

/// The thread that makes a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Thread id; 0 when the kernel acts on nobody's behalf.
    pub tid: u32,
}

impl Caller {
    /// The author of a change that this caller makes. The command name is read now; it is empty if the thread is gone.
    pub fn author(self) -> Author {
        let comm = match self.tid {
            0 => String::new(),
            tid => fs::read_to_string(format!("/proc/{tid}/comm"))
                .unwrap_or_default()
                .trim_end()
                .to_owned(),
        };
        self.author_named(comm)
    }

    /// The author of what this caller will write, and its thread group as [`Caller::thread_group`] tells it: both by
    /// one look.
    pub fn author_and_thread_group(self) -> (Author, Option<u32>) {
        let status = self.status().unwrap_or_default();
        let comm = status
            .strip_prefix("Name:\t")
            .and_then(|rest| rest.lines().next());
        // The kernel writes newlines and backslashes of it as \n and \\ (proc_pid_status(5)).
        let parts: Vec<String> = comm
            .unwrap_or_default()
            .split("\\\\")
            .map(|part| part.replace("\\n", "\n"))
            .collect();
        let comm = parts.join("\\");
        let group = status_field(&status, "Tgid:").and_then(|group| group.parse().ok());
        (self.author_named(comm), group)
    }

    fn author_named(self, comm: String) -> Author {
        Author {
            uid: self.uid,
            gid: self.gid,
            pid: self.tid,
            comm,
            ..Author::default()
        }
    }

    /// The thread group (process) of this thread; `None` if it is gone. `execve` keeps it.
    pub fn thread_group(self) -> Option<u32> {
        status_field(&self.status()?, "Tgid:")?.parse().ok()
    }

    /// Whether the process is being ended by a signal: it has no memory any more, and its exit code names one.
    pub fn died_by_signal(self) -> bool {
        let Some(status) = self.status() else {
            // Not visible from here (another pid namespace): then nothing speaks for a signal.
            return false;
        };
        if status_field(&status, "VmSize:").is_some() {
            return false;
        }
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.tid)).unwrap_or_default();
        // The command name, field 2, may hold anything; the fields after it start behind the last parenthesis.
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let exit_code: Option<u32> = after_name
            .split_whitespace()
            .nth(52 - 3)
            .and_then(|field| field.parse().ok());
        exit_code.is_some_and(|code| code & 0x7f != 0)
    }

    /// Whether nobody hears what the call comes to: the caller was killed or is gone, or its process ends, and what
    /// closes its files then looks at no error. In doubt somebody hears it.
    pub fn is_deaf(self) -> bool {
        // Nobody, or somebody of another pid namespace.
        if self.tid == 0 {
            return false;
        }
        let has_memory = |status: String| status_field(&status, "VmSize:").is_some();
        is_killed(self.tid) || !self.status().is_some_and(has_memory)
    }

    /// Whether its process has another descriptor of this inode, as far as can be told; in doubt it has. Reading
    /// `fdinfo` waits for nothing: it takes the table of descriptors and no lock that an `execve` holds (proc(5)).
    pub fn has_other_descriptor(self, inode: InodeNo) -> bool {
        let Ok(entries) = fs::read_dir(format!("/proc/{}/fdinfo", self.tid)) else {
            return true;
        };
        let mut looked_at = 0;
        for entry in entries.flatten() {
            looked_at += 1;
            // One that was closed meanwhile is none.
            let Ok(info) = fs::read_to_string(entry.path()) else {
                continue;
            };
            let number = status_field(&info, "ino:").and_then(|ino| ino.parse::<u64>().ok());
            if looked_at > DESCRIPTORS_LOOKED_AT_MAX || number.is_none_or(|ino| ino == inode.0) {
                return true;
            }
        }
        false
    }

    fn status(self) -> Option<String> {
        fs::read_to_string(format!("/proc/{}/status", self.tid)).ok()
    }
}

/// Whether a thread that waits for an answer was killed meanwhile: nothing but SIGKILL ends a wait for a majority (a
/// `rename` that answers EINTR breaks programs that may not expect it).
pub fn is_killed(tid: u32) -> bool {
    const SIGKILL_BIT: u64 = 1 << (libc::SIGKILL - 1);
    let Ok(status) = fs::read_to_string(format!("/proc/{tid}/status")) else {
        return true;
    };
    let pending = |name| {
        status_field(&status, name)
            .and_then(|mask| u64::from_str_radix(mask, 16).ok())
            .unwrap_or(0)
    };
    (pending("SigPnd:") | pending("ShdPnd:")) & SIGKILL_BIT != 0
}

fn status_field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    let rest = status.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn myself() -> Caller {
        Caller {
            uid: 0,
            gid: 0,
            tid: std::process::id(),
        }
    }

    #[test]
    fn this_process_is_its_own_thread_group_and_alive() {
        assert_eq!(myself().thread_group(), Some(std::process::id()));
        assert!(!myself().died_by_signal());
        assert!(!is_killed(std::process::id()));
        assert!(!myself().is_deaf());
        assert!(!myself().author().comm.is_empty());
        let (author, group) = myself().author_and_thread_group();
        assert_eq!(
            (author, group),
            (myself().author(), myself().thread_group())
        );
    }

    #[test]
    fn a_thread_that_is_gone_counts_as_killed() {
        // Above the largest possible pid (PID_MAX_LIMIT is 2^22).
        let gone = Caller {
            uid: 0,
            gid: 0,
            tid: 1 << 23,
        };
        assert_eq!(gone.thread_group(), None);
        assert!(is_killed(gone.tid) && gone.is_deaf());
        assert!(!Caller { tid: 0, ..gone }.is_deaf(), "nobody can say");
    }
}
