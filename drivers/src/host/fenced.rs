//! A host that asks the fence before each effect and while children run.
//!
//! Invariant: after the guard has said `Fenced`, no further effect passes. What only reads passes always.

use std::path::Path;
use std::time::Duration;

use crate::error::DriverError;
use crate::fence::FenceGuard;
use crate::host::pass_through::pass_reads_through;
use crate::host::{Attributes, Command, Host, Metadata, Output, User};

/// `inner`, usable only while `guard` holds.
pub struct FencedHost<'a> {
    inner: &'a dyn Host,
    guard: &'a dyn FenceGuard,
}

impl<'a> FencedHost<'a> {
    /// Wraps `inner`.
    pub fn new(inner: &'a dyn Host, guard: &'a dyn FenceGuard) -> Self {
        Self { inner, guard }
    }
}

impl Host for FencedHost<'_> {
    pass_reads_through!();

    fn write_file(
        &self,
        path: &Path,
        content: &[u8],
        attributes: &Attributes,
    ) -> Result<(), DriverError> {
        self.guard.check()?;
        self.inner.write_file(path, content, attributes)
    }

    fn make_dir(&self, path: &Path, attributes: &Attributes) -> Result<(), DriverError> {
        self.guard.check()?;
        self.inner.make_dir(path, attributes)
    }

    fn set_attributes(&self, path: &Path, attributes: &Attributes) -> Result<(), DriverError> {
        self.guard.check()?;
        self.inner.set_attributes(path, attributes)
    }

    fn remove_file(&self, path: &Path) -> Result<(), DriverError> {
        self.guard.check()?;
        self.inner.remove_file(path)
    }

    fn remove_tree(&self, path: &Path) -> Result<(), DriverError> {
        self.guard.check()?;
        self.inner.remove_tree(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), DriverError> {
        self.guard.check()?;
        self.inner.rename(from, to)
    }

    fn symlink(&self, target: &Path, path: &Path) -> Result<(), DriverError> {
        self.guard.check()?;
        self.inner.symlink(target, path)
    }

    fn run_guarded(
        &self,
        command: &Command,
        outer: &dyn FenceGuard,
    ) -> Result<Output, DriverError> {
        let both = Both {
            first: self.guard,
            second: outer,
        };
        if !command.reads_only {
            both.check()?;
        }
        self.inner.run_guarded(command, &both)
    }
}

/// Two guards that must both hold.
struct Both<'a> {
    first: &'a dyn FenceGuard,
    second: &'a dyn FenceGuard,
}

impl FenceGuard for Both<'_> {
    fn check(&self) -> Result<(), DriverError> {
        self.first.check()?;
        self.second.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;

    struct Lost;

    impl FenceGuard for Lost {
        fn check(&self) -> Result<(), DriverError> {
            let reason = "the test took it".to_owned();
            Err(DriverError::Fenced { fence: 3, reason })
        }
    }

    #[test]
    fn without_the_fence_reading_goes_on_and_no_effect_passes() {
        let inner = FakeHost::alone("n1");
        let host = FencedHost::new(&inner, &Lost);
        let (path, attributes) = (Path::new("/etc/a"), Attributes::root(0o644));
        assert_eq!(host.read_file(path).unwrap(), None);
        let second = Duration::from_secs(1);
        let refused = [
            host.write_file(path, b"", &attributes),
            host.make_dir(path, &attributes),
            host.set_attributes(Path::new("/etc"), &attributes),
            host.remove_file(path),
            host.remove_tree(path),
            host.rename(path, Path::new("/etc/b")),
            host.symlink(path, Path::new("/etc/b")),
            host.run(&Command::effect(second, ["true"])).map(drop),
        ];
        for result in refused {
            assert!(matches!(result, Err(DriverError::Fenced { fence: 3, .. })));
        }
        assert_eq!(inner.calls(), 1, "only the read reached the machine");
    }
}
