//! Files with a content, an owner and a mode; and files that are not there.
//!
//! Invariants: a reader sees the old content or the new one; with a validator, content that it refuses never reaches
//! the path; the content of a secret file stands in no change.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use similar::TextDiff;

use super::{Check, State, check_absent};
use crate::driver::StateChange;
use crate::error::DriverError;
use crate::host::{Attributes, Command, FileKind, Host};
use crate::limits::DIFF_BYTES_MAX;

/// A regular file with exactly this content.
#[derive(Debug, Clone)]
pub struct FilePresent {
    /// Where; its directory exists.
    pub path: PathBuf,
    /// All of it.
    pub content: Vec<u8>,
    /// Owner, group, mode.
    pub attributes: Attributes,
    /// True keeps the content out of every record.
    pub is_secret: bool,
    /// A program that must end with status 0 before the file is put in place; `{}` stands for the staged file.
    pub validator: Option<Command>,
}

impl FilePresent {
    /// A file that anybody may see, without validator.
    pub fn new(
        path: impl Into<PathBuf>,
        content: impl Into<Vec<u8>>,
        attributes: Attributes,
    ) -> Self {
        Self {
            path: path.into(),
            content: content.into(),
            attributes,
            is_secret: false,
            validator: None,
        }
    }

    /// The same, kept out of every record.
    pub fn secret(mut self) -> Self {
        self.is_secret = true;
        self
    }

    /// The same, put in place only if `validator` accepts it.
    pub fn validated_by(mut self, validator: Command) -> Self {
        self.validator = Some(validator);
        self
    }

    fn validate(&self, host: &dyn Host) -> Result<(), DriverError> {
        let Some(validator) = &self.validator else {
            return Ok(());
        };
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let staged = self
            .path
            .with_file_name(format!(".{name}.contextos-staged"));
        host.write_file(&staged, &self.content, &self.attributes)?;
        let mut command = validator.clone();
        for word in &mut command.argv {
            *word = word.replace("{}", &staged.to_string_lossy());
        }
        let verdict = host.run(&command);
        host.remove_file(&staged)?;
        let verdict = verdict?;
        if verdict.status == 0 {
            return Ok(());
        }
        Err(DriverError::permanent(
            "content-refused",
            format!(
                "{} refuses the new {}: {}",
                command.program(),
                self.path.display(),
                verdict.last_words()
            ),
            "correct the parameter that it names; the old file is still in place",
        ))
    }
}

impl State for FilePresent {
    fn resource(&self) -> String {
        format!("file {}", self.path.display())
    }

    fn check(&self, host: &dyn Host) -> Result<Check, DriverError> {
        let wanted = summary(&self.content, &self.attributes, self.is_secret);
        let found = host.metadata(&self.path)?;
        let Some(found) = found else {
            return Ok(Check::Drifted(vec![self.difference(
                None,
                wanted,
                Some(b""),
            )]));
        };
        if found.kind == FileKind::Directory {
            return Err(DriverError::permanent(
                "directory-in-the-way",
                format!(
                    "{} is a directory where a file should be",
                    self.path.display()
                ),
                format!("move it away: mv {0} {0}.old", self.path.display()),
            ));
        }
        let old = if found.kind == FileKind::File {
            host.read_file(&self.path)?
        } else {
            None
        };
        let same = old.as_ref() == Some(&self.content) && found.attributes == self.attributes;
        if same {
            return Ok(Check::InDesiredState);
        }
        let before = old
            .as_ref()
            .map(|old| summary(old, &found.attributes, self.is_secret));
        let before = before.or_else(|| Some("something other than a regular file".to_owned()));
        Ok(Check::Drifted(vec![self.difference(
            before,
            wanted,
            old.as_deref(),
        )]))
    }

    fn apply(&self, host: &dyn Host) -> Result<(), DriverError> {
        let unchanged = host.read_file(&self.path)?.as_ref() == Some(&self.content);
        let is_file = host
            .metadata(&self.path)?
            .is_some_and(|found| found.kind == FileKind::File);
        if unchanged && is_file {
            return host.set_attributes(&self.path, &self.attributes);
        }
        self.validate(host)?;
        host.write_file(&self.path, &self.content, &self.attributes)
    }
}

impl FilePresent {
    fn difference(&self, old: Option<String>, new: String, before: Option<&[u8]>) -> StateChange {
        let diff = before
            .filter(|_| !self.is_secret)
            .and_then(|before| unified(&self.path, before, &self.content));
        StateChange {
            resource: self.resource(),
            old,
            new: Some(new),
            diff,
        }
    }
}

/// No file, link or other thing but a directory at this path.
#[derive(Debug, Clone)]
pub struct FileAbsent {
    /// Where.
    pub path: PathBuf,
}

impl State for FileAbsent {
    fn resource(&self) -> String {
        format!("file {}", self.path.display())
    }

    fn check(&self, host: &dyn Host) -> Result<Check, DriverError> {
        check_absent(host, &self.path, self.resource())
    }

    fn apply(&self, host: &dyn Host) -> Result<(), DriverError> {
        host.remove_file(&self.path)
    }
}

/// SHA-256 of `content` in hexadecimal.
pub fn digest(content: &[u8]) -> String {
    hex::encode(Sha256::digest(content))
}

fn summary(content: &[u8], attributes: &Attributes, is_secret: bool) -> String {
    let content = if is_secret {
        "secret".to_owned()
    } else {
        format!("sha256:{}", &digest(content)[..16])
    };
    format!("{content} {attributes}")
}

/// A unified diff of text; `None` for what is not text, does not differ, or is too long for a record.
fn unified(path: &Path, old: &[u8], new: &[u8]) -> Option<String> {
    let (old, new) = (
        std::str::from_utf8(old).ok()?,
        std::str::from_utf8(new).ok()?,
    );
    let name = path.display().to_string();
    let diff = TextDiff::from_lines(old, new)
        .unified_diff()
        .header(&name, &name)
        .to_string();
    (!diff.is_empty() && diff.len() <= DIFF_BYTES_MAX).then_some(diff)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;
    use crate::sls::{Applied, converge};
    use std::time::Duration;

    #[test]
    fn a_changed_file_is_written_once_with_a_diff() {
        let host = FakeHost::alone("n1");
        let first = FilePresent::new("/etc/a", "one\n", Attributes::root(0o644));
        let second = FilePresent::new("/etc/a", "two\n", Attributes::root(0o644));
        assert!(matches!(
            converge(&first, &host).unwrap(),
            Applied::Changed(_)
        ));
        let changes = converge(&second, &host).unwrap().into_changes();
        assert!(changes[0].diff.as_ref().unwrap().contains("-one\n+two"));
        assert_eq!(converge(&second, &host).unwrap(), Applied::Unchanged);
    }

    #[test]
    fn a_secret_file_stands_in_no_change() {
        let host = FakeHost::alone("n1");
        let state = FilePresent::new("/etc/a", "hunter2\n", Attributes::root(0o600)).secret();
        let changes = converge(&state, &host).unwrap().into_changes();
        let text = serde_json::to_string(&changes).unwrap();
        assert!(
            !text.contains("hunter2") && !text.contains(&digest(b"hunter2\n")[..16]),
            "{text}"
        );
    }

    #[test]
    fn a_wrong_mode_alone_is_repaired() {
        let host = FakeHost::alone("n1");
        converge(
            &FilePresent::new("/etc/a", "x", Attributes::root(0o644)),
            &host,
        )
        .unwrap();
        let strict = FilePresent::new("/etc/a", "x", Attributes::root(0o600));
        assert!(matches!(
            converge(&strict, &host).unwrap(),
            Applied::Changed(_)
        ));
    }

    #[test]
    fn refused_content_never_reaches_the_path() {
        let host = FakeHost::alone("n1");
        let refuse = Command::probe(Duration::from_secs(1), ["false", "{}"]);
        let state = FilePresent::new("/etc/a", "bad", Attributes::root(0o644)).validated_by(refuse);
        assert_eq!(
            converge(&state, &host).unwrap_err().code(),
            "content-refused"
        );
        assert_eq!(
            host.list_dir(Path::new("/etc")).unwrap().unwrap(),
            ["systemd"]
        );
    }
}
