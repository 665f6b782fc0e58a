//! Directories with an owner and a mode; and trees that are not there.

use std::path::{Path, PathBuf};

use super::{Check, State, change, check_absent};
use crate::error::DriverError;
use crate::host::{Attributes, FileKind, Host};

/// A directory; what lies in it is not its business. Missing parents are made, root's and readable by all.
#[derive(Debug, Clone)]
pub struct DirPresent {
    /// Where.
    pub path: PathBuf,
    /// Owner, group, mode.
    pub attributes: Attributes,
}

impl DirPresent {
    /// A directory at `path`.
    pub fn new(path: impl Into<PathBuf>, attributes: Attributes) -> Self {
        Self {
            path: path.into(),
            attributes,
        }
    }
}

impl State for DirPresent {
    fn resource(&self) -> String {
        format!("directory {}", self.path.display())
    }

    fn check(&self, host: &dyn Host) -> Result<Check, DriverError> {
        let wanted = self.attributes.to_string();
        match host.metadata(&self.path)? {
            None => Ok(Check::Drifted(vec![change(
                self.resource(),
                None,
                Some(wanted),
            )])),
            Some(found) if found.kind != FileKind::Directory => Err(DriverError::permanent(
                "file-in-the-way",
                format!("{} is not a directory", self.path.display()),
                format!("move it away: mv {0} {0}.old", self.path.display()),
            )),
            Some(found) if found.attributes == self.attributes => Ok(Check::InDesiredState),
            Some(found) => Ok(Check::Drifted(vec![change(
                self.resource(),
                Some(found.attributes.to_string()),
                Some(wanted),
            )])),
        }
    }

    fn apply(&self, host: &dyn Host) -> Result<(), DriverError> {
        make_parents(host, &self.path)?;
        host.make_dir(&self.path, &self.attributes)
    }
}

/// No directory at this path, and nothing below it.
#[derive(Debug, Clone)]
pub struct DirAbsent {
    /// Where.
    pub path: PathBuf,
}

impl State for DirAbsent {
    fn resource(&self) -> String {
        format!("directory {}", self.path.display())
    }

    fn check(&self, host: &dyn Host) -> Result<Check, DriverError> {
        check_absent(host, &self.path, self.resource())
    }

    fn apply(&self, host: &dyn Host) -> Result<(), DriverError> {
        host.remove_tree(&self.path)
    }
}

/// Makes the missing directories above `path`.
///
/// # Errors
/// As [`Host::make_dir`].
pub fn make_parents(host: &dyn Host, path: &Path) -> Result<(), DriverError> {
    let mut missing = Vec::new();
    for parent in path.ancestors().skip(1) {
        if host.metadata(parent)?.is_some() {
            break;
        }
        missing.push(parent);
    }
    missing
        .iter()
        .rev()
        .try_for_each(|parent| host.make_dir(parent, &Attributes::root(0o755)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;
    use crate::sls::{Applied, converge};

    #[test]
    fn missing_parents_are_made_and_the_tree_goes_at_once() {
        let host = FakeHost::alone("n1");
        let state = DirPresent::new("/var/lib/a/b", Attributes::root(0o700));
        assert!(matches!(
            converge(&state, &host).unwrap(),
            Applied::Changed(_)
        ));
        assert_eq!(converge(&state, &host).unwrap(), Applied::Unchanged);
        converge(
            &DirAbsent {
                path: "/var/lib/a".into(),
            },
            &host,
        )
        .unwrap();
        assert_eq!(host.metadata(Path::new("/var/lib/a/b")).unwrap(), None);
    }
}
