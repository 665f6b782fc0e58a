//! What a host that wraps another hands on unchanged: all that reads, and waiting.
//!
//! Invariant: nothing here has an effect on the machine; a call of [`Host`](super::Host) that has one is written out by
//! each wrapper, so that none passes by omission.

/// The reading calls of [`Host`](super::Host), for a wrapper with a field `inner`.
macro_rules! pass_reads_through {
    () => {
        fn read_file(&self, path: &Path) -> Result<Option<Vec<u8>>, DriverError> {
            self.inner.read_file(path)
        }

        fn metadata(&self, path: &Path) -> Result<Option<Metadata>, DriverError> {
            self.inner.metadata(path)
        }

        fn list_dir(&self, path: &Path) -> Result<Option<Vec<String>>, DriverError> {
            self.inner.list_dir(path)
        }

        fn user(&self, name: &str) -> Result<Option<User>, DriverError> {
            self.inner.user(name)
        }

        fn group_exists(&self, name: &str) -> Result<bool, DriverError> {
            self.inner.group_exists(name)
        }

        fn port_is_free(&self, port: u16) -> Result<bool, DriverError> {
            self.inner.port_is_free(port)
        }

        fn disk_free_bytes(&self, path: &Path) -> Result<u64, DriverError> {
            self.inner.disk_free_bytes(path)
        }

        fn pause(&self, pause: Duration) {
            self.inner.pause(pause);
        }
    };
}

pub(super) use pass_reads_through;
