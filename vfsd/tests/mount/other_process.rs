//! A process that makes the calls that a test tells it, one after the other.
//!
//! Who has something to commit is never a thread of this process: each node here has one that gets a copy of all
//! descriptors and closes them, and that is taken for a close by the process that has opened them. A daemon that is a
//! process of its own has no files of its mount open.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

/// Performs each line of its input as Python; answers 0, or the number of the error.
const SCRIPT: &str = "
import os, sys
for line in sys.stdin:
    try:
        exec(line)
        print(0, flush=True)
    except OSError as error:
        print(error.errno, flush=True)
";

/// See the module. It ends with this value.
pub struct OtherProcess {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl OtherProcess {
    /// A process that has `path` open as `f`, with these flags of `os`.
    pub fn with(path: &Path, flags: &str) -> Self {
        let mut child = Command::new("python3")
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut process = Self { child, answers };
        let open = format!("f = os.open('{}', {flags})", path.display());
        assert_eq!(process.call(&open), 0, "{open}");
        process
    }

    /// Makes a call and waits for what it comes to.
    pub fn call(&mut self, call: &str) -> i32 {
        self.begin(call);
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        answer.trim_end().parse().unwrap()
    }

    /// Makes a call that may not return.
    pub fn begin(&mut self, call: &str) {
        writeln!(self.child.stdin.as_ref().unwrap(), "{call}").unwrap();
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
    }

    /// Waits until nothing is left of it that has been killed.
    pub fn wait(&mut self) {
        self.child.wait().unwrap();
    }
}

impl Drop for OtherProcess {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
