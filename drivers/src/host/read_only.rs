//! A host that refuses every effect: what observation and dry runs are given.
//!
//! Invariant: a refused call is an error, never ignored, so a driver that would change something while it observes
//! is found out at once.

use std::path::Path;
use std::time::Duration;

use crate::error::DriverError;
use crate::fence::FenceGuard;
use crate::host::pass_through::pass_reads_through;
use crate::host::{Attributes, Command, Host, Metadata, Output, User};

/// `inner`, for reading only.
pub struct ReadOnlyHost<'a> {
    inner: &'a dyn Host,
}

impl<'a> ReadOnlyHost<'a> {
    /// Wraps `inner`.
    pub fn new(inner: &'a dyn Host) -> Self {
        Self { inner }
    }
}

fn refused(what: &str, on: &str) -> DriverError {
    DriverError::permanent(
        "effect-while-reading",
        format!("the driver tried to {what} {on} while it may only read"),
        "this is a fault of the driver: report it with this message",
    )
}

impl Host for ReadOnlyHost<'_> {
    pass_reads_through!();

    fn write_file(&self, path: &Path, _: &[u8], _: &Attributes) -> Result<(), DriverError> {
        Err(refused("write", &path.display().to_string()))
    }

    fn make_dir(&self, path: &Path, _: &Attributes) -> Result<(), DriverError> {
        Err(refused("make", &path.display().to_string()))
    }

    fn set_attributes(&self, path: &Path, _: &Attributes) -> Result<(), DriverError> {
        Err(refused(
            "change owner or mode of",
            &path.display().to_string(),
        ))
    }

    fn remove_file(&self, path: &Path) -> Result<(), DriverError> {
        Err(refused("remove", &path.display().to_string()))
    }

    fn remove_tree(&self, path: &Path) -> Result<(), DriverError> {
        Err(refused("remove", &path.display().to_string()))
    }

    fn rename(&self, from: &Path, _: &Path) -> Result<(), DriverError> {
        Err(refused("rename", &from.display().to_string()))
    }

    fn symlink(&self, _: &Path, path: &Path) -> Result<(), DriverError> {
        Err(refused("link", &path.display().to_string()))
    }

    fn run_guarded(
        &self,
        command: &Command,
        guard: &dyn FenceGuard,
    ) -> Result<Output, DriverError> {
        if command.reads_only {
            self.inner.run_guarded(command, guard)
        } else {
            Err(refused("run", command.program()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;

    #[test]
    fn every_effect_is_an_error_and_probes_run() {
        let inner = FakeHost::alone("n1");
        let host = ReadOnlyHost::new(&inner);
        let (path, attributes) = (Path::new("/etc/a"), Attributes::root(0o644));
        let second = Duration::from_secs(1);
        let refused = [
            host.write_file(path, b"", &attributes),
            host.make_dir(path, &attributes),
            host.set_attributes(path, &attributes),
            host.remove_file(path),
            host.remove_tree(path),
            host.rename(path, path),
            host.symlink(path, path),
            host.run(&Command::effect(second, ["true"])).map(drop),
        ];
        for result in refused {
            assert_eq!(result.unwrap_err().code(), "effect-while-reading");
        }
        assert_eq!(inner.calls(), 0);
        assert_eq!(
            host.run(&Command::probe(second, ["true"])).unwrap().status,
            0
        );
    }
}
