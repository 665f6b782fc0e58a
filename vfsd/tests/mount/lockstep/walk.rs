//! All that a folder holds, on one line, as a worker tells it.

use std::fmt::Write;

use nix::sys::stat::{self, SFlag};

use super::worker::{Answer, Refusal};
use super::{attributes, bytes};

/// Between the entries of [`all`].
pub const BETWEEN: &str = " ; ";

/// A file's content.
pub fn content(path: &str) -> Answer {
    let content = std::fs::read(path)?;
    Ok(format!(
        "ok {} {}",
        content.len(),
        bytes::describe(&content)
    ))
}

/// The names in a directory.
pub fn names(path: &str) -> Answer {
    Ok(format!("ok {}", sorted(path)?.join(" ")))
}

fn sorted(path: &str) -> Result<Vec<String>, Refusal> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

/// Each entry below the working directory with its attributes, extended attributes and content.
pub fn all() -> Answer {
    let mut text = "ok".to_owned();
    below(".", &mut text)?;
    Ok(text)
}

fn below(folder: &str, text: &mut String) -> Result<(), Refusal> {
    for name in sorted(folder)? {
        let path = format!("{folder}/{name}");
        let seen = stat::lstat(path.as_str())?;
        let described = attributes::describe(&seen);
        // Times come from the clock of each filesystem.
        let described = described.split('\t').next().unwrap();
        write!(text, "{BETWEEN}{path} {}", &described["ok ".len()..]).unwrap();
        match SFlag::from_bits_truncate(seen.st_mode & SFlag::S_IFMT.bits()) {
            SFlag::S_IFLNK => {
                let target = std::fs::read_link(&path)?;
                write!(text, " -> {}", target.display()).unwrap();
                continue;
            }
            SFlag::S_IFDIR => below(&path, text)?,
            SFlag::S_IFREG => write!(text, " {}", &content(&path)?["ok ".len()..]).unwrap(),
            _ => {}
        }
        let named = attributes::list(attributes::Of::Path(&path))?;
        for name in named.split(' ').skip(1).filter(|name| !name.is_empty()) {
            let value = attributes::get(attributes::Of::Path(&path), name)?;
            write!(text, " {name}={}", &value["ok ".len()..]).unwrap();
        }
    }
    Ok(())
}
