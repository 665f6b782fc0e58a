//! Times of two filesystems cannot be equal, but they must move at the same calls.
//!
//! Each side keeps what it saw last of a handle or a path; what is compared is whether mtime and ctime stand still
//! (`=`), go on (`>`) or go back (`<`). Before Linux 6.13 ext4 knows only ticks of some milliseconds: nothing is
//! compared there.

use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Calls that may make a path mean another file.
const MOVES_NAMES: &[&str] = &[
    "open", "save", "shell", "link", "unlink", "rename", "mkdir", "rmdir", "symlink", "reopen",
];

/// What one side saw last.
pub struct Times {
    seen: BTreeMap<String, [i128; 2]>,
    is_exact: bool,
    /// When the kernel notices a store through a mapping is its own affair.
    is_mapped: bool,
}

impl Times {
    /// Of filesystems whose times are exact.
    pub fn new(is_exact: bool) -> Self {
        Self {
            seen: BTreeMap::new(),
            is_exact,
            is_mapped: false,
        }
    }

    /// The answer to `call` in the form that is compared.
    pub fn compared(&mut self, call: &str, answer: &str) -> String {
        let mut words = call.split(' ');
        let (verb, target) = (words.next().unwrap(), words.next().unwrap_or_default());
        self.is_mapped |= verb == "mmap";
        if MOVES_NAMES.contains(&verb) {
            self.seen.retain(|key, _| is_handle(key) || key == ".");
        }
        if ["open", "reopen", "dup", "adopt", "close"].contains(&verb) {
            self.seen.remove(target);
        }
        let Some((text, times)) = answer.split_once('\t') else {
            return self.told(answer);
        };
        let (modified, changed) = times.split_once(' ').unwrap();
        let now = [modified, changed].map(|time| time.parse::<i128>().unwrap());
        match self.seen.insert(target.to_owned(), now) {
            Some(before) if self.is_exact && !self.is_mapped => {
                let [modified, changed] = [0, 1].map(|at| match now[at].cmp(&before[at]) {
                    Ordering::Less => '<',
                    Ordering::Equal => '=',
                    Ordering::Greater => '>',
                });
                format!("{text} mtime{modified} ctime{changed}")
            }
            _ => self.told(text),
        }
    }

    fn told(&self, text: &str) -> String {
        if self.is_mapped {
            without_fixed(text)
        } else {
            text.to_owned()
        }
    }
}

/// `text` without the times that a call has set: the kernel may notice an earlier store through a mapping after it.
pub fn without_fixed(text: &str) -> String {
    let words = text.split(' ').filter(|word| !word.starts_with("mtime="));
    words.collect::<Vec<_>>().join(" ")
}

fn is_handle(key: &str) -> bool {
    key.strip_prefix('h')
        .is_some_and(|number| number.parse::<u32>().is_ok())
}

#[test]
fn times_are_compared_by_how_they_move() {
    let mut times = Times::new(true);
    assert_eq!(times.compared("fstat h1", "ok file\t5 6"), "ok file");
    assert_eq!(
        times.compared("fstat h1", "ok file\t5 7"),
        "ok file mtime= ctime>"
    );
    assert_eq!(times.compared("stat a", "ok file\t5 7"), "ok file");
    times.compared("link a b", "ok");
    assert_eq!(times.compared("stat a", "ok file\t5 7"), "ok file");
    assert_eq!(
        times.compared("fstat h1", "ok file\t4 8"),
        "ok file mtime< ctime>"
    );
    times.compared("mmap m1 h1 10", "ok");
    assert_eq!(times.compared("stat a", "ok mtime=5.0 x\t5 9"), "ok x");
    assert_eq!(times.compared("fstat h1", "ok file\t5 9"), "ok file");
}
