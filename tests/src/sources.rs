//! The repository's own source files, as the tidy test reads them.
//!
//! Invariants: build output and Git's folder are never read; a line knows whether it is test code. Lines are understood
//! as rustfmt writes them: what opens at one indentation closes at the same.
//! Not here: the rules (`tests/tidy.rs`).

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// One text file of the repository.
#[derive(Debug)]
pub struct SourceFile {
    /// Path below the repository, with `/`.
    pub path: String,
    /// Its lines.
    pub lines: Vec<Line>,
}

/// One line.
#[derive(Debug)]
pub struct Line {
    /// Its text.
    pub text: String,
    /// Whether only tests contain it.
    pub is_test: bool,
}

impl Line {
    /// The text without a comment at its end. A `//` inside a string literal is kept.
    pub fn code(&self) -> &str {
        let mut in_string = false;
        let bytes = self.text.as_bytes();
        for (at, byte) in bytes.iter().enumerate() {
            match byte {
                b'"' if at == 0 || bytes[at - 1] != b'\\' => in_string = !in_string,
                b'/' if !in_string && bytes.get(at + 1) == Some(&b'/') => return &self.text[..at],
                _ => {}
            }
        }
        &self.text
    }

    /// Blanks before the first character.
    pub fn indentation(&self) -> usize {
        self.text.len() - self.text.trim_start().len()
    }
}

impl SourceFile {
    /// Whether it is Rust.
    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// The crate's folder and the first module of its path: `("vfsd", "fs")` for `vfsd/src/fs/handles.rs`.
    pub fn module(&self) -> Option<(&str, &str)> {
        let (package, rest) = self.path.split_once("/src/")?;
        let first = rest.split('/').next()?;
        Some((package, first.strip_suffix(".rs").unwrap_or(first)))
    }
}

/// The repository's folder.
///
/// # Errors
/// If this crate has no parent folder.
pub fn repository() -> Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(here
        .parent()
        .context("the tests crate has no parent")?
        .to_owned())
}

/// All text files of the repository, in the order of their paths.
///
/// # Errors
/// If one cannot be read.
pub fn all() -> Result<Vec<SourceFile>> {
    let root = repository()?;
    let mut files = Vec::new();
    collect(&root, &root, &mut files)?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn collect(root: &Path, folder: &Path, files: &mut Vec<SourceFile>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let below = path.strip_prefix(root)?.to_string_lossy().into_owned();
        if path.is_dir() {
            if below != ".git" && below != "target" {
                collect(root, &path, files)?;
            }
        } else if let Ok(text) = fs::read_to_string(&path) {
            files.push(SourceFile {
                lines: lines(&below, &text),
                path: below,
            });
        }
    }
    Ok(())
}

fn lines(path: &str, text: &str) -> Vec<Line> {
    let is_test_file = path.starts_with("tests/")
        || path.contains("/tests/")
        || path.ends_with("_test.rs")
        || path.ends_with("/tests.rs");
    let mut lines: Vec<Line> = Vec::new();
    // Indentation of the `#[cfg(test)]` whose item is open, and whether its first line is still to come.
    let mut open: Option<usize> = None;
    for text in text.lines() {
        let mut line = Line {
            text: text.to_owned(),
            is_test: is_test_file || open.is_some(),
        };
        let trimmed = text.trim();
        if let Some(indentation) = open {
            let closes = line.indentation() == indentation
                && (trimmed.starts_with('}') || trimmed.ends_with(';'));
            if closes {
                open = None;
            }
        } else if trimmed.starts_with("#[cfg(test)]") || trimmed.starts_with("#[cfg(all(test") {
            open = Some(line.indentation());
            line.is_test = true;
        }
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<bool> {
        lines("vfsd/src/x.rs", text)
            .iter()
            .map(|line| line.is_test)
            .collect()
    }

    #[test]
    fn a_test_module_is_test_code_to_its_brace() {
        let text = "a();\n#[cfg(test)]\nmod tests {\n    b();\n}\nc();";
        assert_eq!(parsed(text), [false, true, true, true, true, false]);
    }

    #[test]
    fn a_test_import_is_one_line() {
        assert_eq!(parsed("#[cfg(test)]\nuse a::b;\nc();"), [true, true, false]);
    }

    #[test]
    fn a_comment_is_no_code() {
        let line = |text: &str| Line {
            text: text.to_owned(),
            is_test: false,
        };
        assert_eq!(line("a(); // b").code(), "a(); ");
        assert_eq!(line("a(\"http://b\");").code(), "a(\"http://b\");");
    }
}
