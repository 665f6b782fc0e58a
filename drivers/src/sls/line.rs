//! One line of a file that others write too.
//!
//! Invariant: every other line stays as it is. A whole file of ours is [`super::file::FilePresent`]'s business.

use std::path::PathBuf;

use super::file::FilePresent;
use super::{Check, State};
use crate::error::DriverError;
use crate::host::{Attributes, Host};

/// A file in which this line stands.
#[derive(Debug, Clone)]
pub struct LinePresent {
    /// The file; made if absent.
    pub path: PathBuf,
    /// The line, without its end.
    pub line: String,
    /// Lines that begin with this are replaced by it (the first) or go (the rest); else it is added at the end.
    pub replaces_prefix: Option<String>,
    /// Owner, group and mode of a file that is made anew.
    pub attributes: Attributes,
}

impl LinePresent {
    fn wanted(&self, host: &dyn Host) -> Result<FilePresent, DriverError> {
        let old = host.read_file(&self.path)?;
        let attributes = host
            .metadata(&self.path)?
            .map_or(self.attributes.clone(), |found| found.attributes);
        let text = String::from_utf8_lossy(old.as_deref().unwrap_or_default()).into_owned();
        let mut lines: Vec<&str> = Vec::new();
        let mut stands = false;
        for line in text.lines() {
            let ours = line == self.line
                || self
                    .replaces_prefix
                    .as_ref()
                    .is_some_and(|prefix| line.starts_with(prefix));
            match (ours, stands) {
                (false, _) => lines.push(line),
                (true, false) => lines.push(&self.line),
                (true, true) => {}
            }
            stands |= ours;
        }
        if !stands {
            lines.push(&self.line);
        }
        Ok(FilePresent::new(
            &self.path,
            lines.join("\n") + "\n",
            attributes,
        ))
    }
}

impl State for LinePresent {
    fn resource(&self) -> String {
        format!("line {:?} of {}", self.line, self.path.display())
    }

    fn check(&self, host: &dyn Host) -> Result<Check, DriverError> {
        self.wanted(host)?.check(host)
    }

    fn apply(&self, host: &dyn Host) -> Result<(), DriverError> {
        self.wanted(host)?.apply(host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;
    use crate::sls::{Applied, converge};
    use std::path::Path;

    #[test]
    fn the_line_replaces_its_prefix_and_others_stay() {
        let host = FakeHost::alone("n1");
        let path = Path::new("/etc/a.conf");
        host.write_file(
            path,
            b"# head\nport = 1\nuser = x\n",
            &Attributes::root(0o640),
        )
        .unwrap();
        let state = LinePresent {
            path: path.to_owned(),
            line: "port = 2".to_owned(),
            replaces_prefix: Some("port =".to_owned()),
            attributes: Attributes::root(0o644),
        };
        assert!(matches!(
            converge(&state, &host).unwrap(),
            Applied::Changed(_)
        ));
        assert_eq!(
            host.read_file(path).unwrap().unwrap(),
            b"# head\nport = 2\nuser = x\n"
        );
        assert_eq!(host.metadata(path).unwrap().unwrap().attributes.mode, 0o640);
        assert_eq!(converge(&state, &host).unwrap(), Applied::Unchanged);
    }
}
