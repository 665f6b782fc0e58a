//! Real mounts of two nodes over one log in this process: what the kernel sees and what its watchers see.
//!
//! Needs root and /dev/fuse. Where these are missing the tests fail and say so: a skipped test would look like a pass.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod beside_ext4;
mod conformance;
mod differences;
mod events;
mod locks;
mod lockstep;
mod mappings;
mod meanwhile;
mod on_behalf;
mod other_process;
mod programs;
mod random_events;
mod reading;
mod shared_log;
mod shell;
mod sticky;
mod tree;
mod writing;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use shared_log::SharedLog;
use vfsd::fs::FileSystem;
use vfsd::fuse::mount::Mount;
use vfsd::state_machine::ids::NodeId;

/// Two mounted nodes. Dropping it unmounts both.
struct Cluster {
    log: Arc<SharedLog>,
    mounts: Vec<Option<Mount>>,
    folder: tempfile::TempDir,
    filesystems: Vec<Arc<FileSystem>>,
    _runtime: tokio::runtime::Runtime,
}

impl Cluster {
    fn start() -> Self {
        // RUST_LOG=debug shows what the replay does; a second test finds the subscriber in place.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_test_writer()
            .try_init();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let log = SharedLog::new();
        let mut filesystems = Vec::new();
        let mut mounts = Vec::new();
        for number in 1..=2u64 {
            let fs = log.add_node(number, runtime.handle());
            let point = folder.path().join(format!("n{number}"));
            let mount = Mount::start(fs.clone(), &point, NodeId(number));
            mounts.push(Some(mount.expect("mounting needs root and /dev/fuse")));
            filesystems.push(fs);
        }
        Self {
            log,
            mounts,
            folder,
            filesystems,
            _runtime: runtime,
        }
    }

    fn path(&self, node: u64, path: &str) -> PathBuf {
        self.folder.path().join(format!("n{node}")).join(path)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.mounts
            .iter_mut()
            .filter_map(Option::take)
            .for_each(Mount::stop);
    }
}

/// Waits for a condition; fails with what does not come.
fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::yield_now();
    }
}

/// Runs a shell script with `$A` and `$B` as the two mounts; panics with its output if it fails.
fn run(cluster: &Cluster, script: &str) -> String {
    let output = sh(cluster.folder.path(), cluster, script);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{script}\n-> {}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// As [`run`] for a script that maps a file with `MAP_SHARED`. A kernel before 6.6 refuses that by ENODEV for a file
/// whose reads bypass its cache; there the script must end in this refusal and in nothing else.
fn run_with_shared_mapping(cluster: &Cluster, script: &str) {
    if kernel_is_at_least(6, 6) {
        run(cluster, script);
        return;
    }
    let output = sh(cluster.folder.path(), cluster, script);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && stderr.contains("[Errno 19]"),
        "{script}\n-> {}\n{stderr}",
        output.status
    );
}

/// Whether the running kernel has this version or a later one.
fn kernel_is_at_least(major: u32, minor: u32) -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map(str::parse);
    let mut next = || numbers.next().unwrap().unwrap();
    (next(), next()) >= (major, minor)
}

fn sh(folder: &Path, cluster: &Cluster, script: &str) -> std::process::Output {
    // A script that waits in vain fails instead of waiting for ever.
    std::process::Command::new("timeout")
        .args(["120", "bash", "-euc", script])
        .current_dir(folder)
        .env("A", cluster.path(1, ""))
        .env("B", cluster.path(2, ""))
        .env(
            "PYTHONPATH",
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mount"),
        )
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap()
}
