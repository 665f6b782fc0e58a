//! A machine in memory, alone or among others, that fails or "crashes" on demand at any call.
//!
//! Invariants: all machines of one [`FakeCluster`] share one lock, so a call is one indivisible event; nothing real is
//! touched. Programs of Debian are simulated to the degree that drivers need; a program without a simulation is an
//! error that names it, never a silent success.
//! Not here: what PostgreSQL does (`catalog/postgres/simulation.rs`).

mod machine;
mod packages;
mod services;
mod software;
mod users;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use machine::{Entry, Machine, Node};
pub use software::{FakePackage, UnitState};

use crate::error::DriverError;
use crate::fence::FenceGuard;
use crate::host::{Attributes, Command, FileKind, Host, Metadata, Output, User};

/// Machines by node name.
pub type Machines = BTreeMap<String, Machine>;

/// Software that a fake machine can run, beyond what every machine has.
pub trait FakeProgram: Send + Sync {
    /// Runs `command` on `node` if it is one of this software's programs. `interrupted` asks for what a kill in the
    /// middle leaves behind; the output is not looked at then.
    fn run(
        &self,
        machines: &mut Machines,
        node: &str,
        command: &Command,
        interrupted: bool,
    ) -> Option<Output>;

    /// The service manager starts, reloads or stops `unit`; the text of a refusal makes the action fail.
    ///
    /// # Errors
    /// What the software would write before it gives up.
    fn on_unit(
        &self,
        machines: &mut Machines,
        node: &str,
        unit: &str,
        action: UnitAction,
    ) -> Result<(), String>;
}

/// What the service manager does to a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnitAction {
    /// It was inactive.
    Start,
    /// It is active and reads its configuration again.
    Reload,
    /// It was active.
    Stop,
}

/// Several fake machines on one network.
#[derive(Clone)]
pub struct FakeCluster {
    shared: Arc<Shared>,
}

struct Shared {
    machines: Mutex<Machines>,
    programs: Vec<Box<dyn FakeProgram>>,
}

/// One fake machine.
#[derive(Clone)]
pub struct FakeHost {
    shared: Arc<Shared>,
    node: String,
}

/// Where in a call a simulated crash happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashPoint {
    /// Before its effect.
    Before,
    /// In the middle: for programs with a partial effect, else as `Before`.
    During,
    /// After its effect, before the caller hears of it.
    After,
}

/// Error code of a simulated crash.
pub const CRASH_CODE: &str = "simulated-crash";

impl FakeCluster {
    /// Machines of these names, fresh Debian 12, with these programs.
    pub fn new<'a>(
        nodes: impl IntoIterator<Item = &'a str>,
        programs: Vec<Box<dyn FakeProgram>>,
    ) -> Self {
        let machines = nodes
            .into_iter()
            .map(|name| (name.to_owned(), Machine::default()))
            .collect();
        Self {
            shared: Arc::new(Shared {
                machines: Mutex::new(machines),
                programs,
            }),
        }
    }

    /// The machine called `node`.
    pub fn host(&self, node: &str) -> FakeHost {
        FakeHost {
            shared: Arc::clone(&self.shared),
            node: node.to_owned(),
        }
    }

    /// All machines, for looking at and for preparing them.
    pub fn machines(&self) -> MutexGuard<'_, Machines> {
        self.shared.lock()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Machines> {
        // A panic of a test while it held the lock leaves whole machines: each call is applied at its end.
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FakeHost {
    /// A machine alone.
    pub fn alone(node: &str) -> Self {
        FakeCluster::new([node], vec![]).host(node)
    }

    /// Makes the `call`th call from now (1 is the next) crash at `point`; every later call fails until
    /// [`FakeHost::recover`].
    pub fn crash_at(&self, call: u64, point: CrashPoint) {
        self.with(|machine| machine.crash_at = Some((machine.calls + call, point)));
    }

    /// Makes the `call`th call from now fail once, without effect.
    pub fn fail_at(&self, call: u64) {
        self.with(|machine| machine.fail_at = Some(machine.calls + call));
    }

    /// Ends a crash: the caller runs again, services run on.
    pub fn recover(&self) {
        self.with(|machine| {
            machine.crash_at = None;
            machine.crashed = false;
        });
    }

    /// Ends a crash by a power cut: services are down, what was written stays.
    pub fn power_cycle(&self) {
        self.recover();
        self.with(Machine::stop_all_units);
    }

    /// Calls so far.
    pub fn calls(&self) -> u64 {
        self.with(|machine| machine.calls)
    }

    /// The calls after the first `calls` that may have changed something, counted from there. A crash at a call that
    /// only reads is the same as one after the change before it.
    pub fn effects_since(&self, calls: u64) -> Vec<u64> {
        self.with(|machine| {
            let later = machine.effect_calls.iter().filter(|call| **call > calls);
            later.map(|call| call - calls).collect()
        })
    }

    /// Whether a planned crash has happened.
    pub fn has_crashed(&self) -> bool {
        self.with(|machine| machine.crashed)
    }

    /// Runs `action` on the machine.
    ///
    /// # Panics
    /// If the cluster has no machine of this name.
    pub fn with<T>(&self, action: impl FnOnce(&mut Machine) -> T) -> T {
        let mut machines = self.shared.lock();
        action(
            machines
                .get_mut(&self.node)
                .expect("a fake host is made for a machine of its cluster"),
        )
    }

    /// One call: counts it, lets it crash or fail if so planned, else performs it.
    fn call<T>(
        &self,
        what: &str,
        reads_only: bool,
        effect: impl FnOnce(&mut Machines, &str, bool) -> T,
    ) -> Result<T, DriverError> {
        let mut machines = self.shared.lock();
        let machine = machines
            .get_mut(&self.node)
            .expect("a fake host is made for a machine of its cluster");
        machine.calls += 1;
        if !reads_only {
            machine.effect_calls.push(machine.calls);
        }
        let crash = || {
            DriverError::retryable(
                CRASH_CODE,
                format!("simulated crash at {what} on {}", self.node),
            )
        };
        if machine.crashed {
            return Err(crash());
        }
        if machine.fail_at == Some(machine.calls) {
            machine.fail_at = None;
            return Err(DriverError::retryable(
                "simulated-failure",
                format!("simulated failure at {what}"),
            ));
        }
        let planned = machine
            .crash_at
            .filter(|(call, _)| *call == machine.calls)
            .map(|(_, point)| point);
        machine.crashed = planned.is_some();
        match planned {
            None => Ok(effect(&mut machines, &self.node, false)),
            Some(CrashPoint::Before) => Err(crash()),
            Some(CrashPoint::During) => {
                effect(&mut machines, &self.node, true);
                Err(crash())
            }
            Some(CrashPoint::After) => {
                effect(&mut machines, &self.node, false);
                Err(crash())
            }
        }
    }

    /// A reading call on this machine alone.
    fn look<T>(
        &self,
        what: &str,
        path: &Path,
        read: impl FnOnce(&Machine) -> T,
    ) -> Result<T, DriverError> {
        self.call(
            &format!("{what} {}", path.display()),
            true,
            |machines, node, _| read(&machines[node]),
        )
    }

    /// A changing call on this machine alone; interrupted, it does nothing.
    fn change(
        &self,
        what: &str,
        path: &Path,
        effect: impl FnOnce(&mut Machine) -> Result<(), String>,
    ) -> Result<(), DriverError> {
        let what = format!("{what} {}", path.display());
        let done = self.call(&what, false, |machines, node, interrupted| {
            match machines.get_mut(node) {
                Some(machine) if !interrupted => effect(machine),
                _ => Ok(()),
            }
        })?;
        done.map_err(|cause| {
            DriverError::retryable("host-io", format!("could not {what}: {cause}"))
        })
    }
}

impl Host for FakeHost {
    fn read_file(&self, path: &Path) -> Result<Option<Vec<u8>>, DriverError> {
        self.look("read", path, |machine| {
            machine.file(path).map(<[u8]>::to_vec)
        })
    }

    fn metadata(&self, path: &Path) -> Result<Option<Metadata>, DriverError> {
        self.look("stat", path, |machine| {
            machine.entries.get(path).map(|entry| Metadata {
                kind: match &entry.node {
                    Node::File(_) => FileKind::File,
                    Node::Directory => FileKind::Directory,
                    Node::Symlink(_) => FileKind::Symlink,
                },
                attributes: entry.attributes.clone(),
                size_bytes: if let Node::File(content) = &entry.node {
                    content.len() as u64
                } else {
                    0
                },
            })
        })
    }

    fn list_dir(&self, path: &Path) -> Result<Option<Vec<String>>, DriverError> {
        self.look("list", path, |machine| machine.list(path))
    }

    fn user(&self, name: &str) -> Result<Option<User>, DriverError> {
        self.look("look up user", Path::new(name), |machine| {
            machine.users.get(name).cloned()
        })
    }

    fn group_exists(&self, name: &str) -> Result<bool, DriverError> {
        self.look("look up group", Path::new(name), |machine| {
            machine.groups.contains(name)
        })
    }

    fn port_is_free(&self, port: u16) -> Result<bool, DriverError> {
        self.look("try port", Path::new(""), |machine| {
            !machine.ports.contains(&port)
        })
    }

    fn disk_free_bytes(&self, path: &Path) -> Result<u64, DriverError> {
        self.look("statvfs", path, |machine| machine.disk_free_bytes)
    }

    fn write_file(
        &self,
        path: &Path,
        content: &[u8],
        attributes: &Attributes,
    ) -> Result<(), DriverError> {
        self.change("write", path, |machine| {
            machine.put(
                path,
                Entry {
                    node: Node::File(content.to_vec()),
                    attributes: attributes.clone(),
                },
            )
        })
    }

    fn make_dir(&self, path: &Path, attributes: &Attributes) -> Result<(), DriverError> {
        self.change("make directory", path, |machine| {
            machine.put(
                path,
                Entry {
                    node: Node::Directory,
                    attributes: attributes.clone(),
                },
            )
        })
    }

    fn set_attributes(&self, path: &Path, attributes: &Attributes) -> Result<(), DriverError> {
        self.change("change owner or mode of", path, |machine| {
            machine.own(path, attributes)
        })
    }

    fn remove_file(&self, path: &Path) -> Result<(), DriverError> {
        self.change("remove", path, |machine| {
            machine.entries.remove(path);
            Ok(())
        })
    }

    fn remove_tree(&self, path: &Path) -> Result<(), DriverError> {
        self.change("remove directory", path, |machine| {
            machine.entries.retain(|entry, _| !entry.starts_with(path));
            Ok(())
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), DriverError> {
        self.change("rename", from, |machine| machine.rename(from, to))
    }

    fn symlink(&self, target: &Path, path: &Path) -> Result<(), DriverError> {
        self.change("link", path, |machine| {
            machine.put(
                path,
                Entry {
                    node: Node::Symlink(target.to_owned()),
                    attributes: Attributes::root(0o777),
                },
            )
        })
    }

    fn run_guarded(
        &self,
        command: &Command,
        guard: &dyn FenceGuard,
    ) -> Result<Output, DriverError> {
        guard.check()?;
        let shared = Arc::clone(&self.shared);
        let output = self.call(
            &format!("run {}", command.argv.join(" ")),
            command.reads_only,
            |machines, node, interrupted| {
                run_program(machines, node, &shared.programs, command, interrupted)
            },
        )?;
        output.ok_or_else(|| {
            DriverError::retryable(
                "command-not-run",
                format!(
                    "{} could not be started: there is no such program on this fake machine",
                    command.program()
                ),
            )
        })
    }

    /// Moves the machine's clock on instead of waiting.
    fn pause(&self, pause: Duration) {
        self.with(|machine| machine.uptime += pause);
    }
}

fn run_program(
    machines: &mut Machines,
    node: &str,
    programs: &[Box<dyn FakeProgram>],
    command: &Command,
    interrupted: bool,
) -> Option<Output> {
    for program in programs {
        if let Some(output) = program.run(machines, node, command, interrupted) {
            return Some(output);
        }
    }
    if command.program() == "systemctl" {
        // An interrupted client: the service manager does not hear of it.
        return Some(if interrupted {
            Output::default()
        } else {
            services::run(machines, node, programs, command)
        });
    }
    let machine = machines.get_mut(node)?;
    match command.program() {
        _ if interrupted && !packages::simulates(command) => Some(Output::default()),
        "true" => Some(Output::default()),
        "false" => Some(Output {
            status: 1,
            ..Output::default()
        }),
        _ if packages::simulates(command) => Some(packages::run(machine, command, interrupted)),
        _ => users::run(machine, command),
    }
}

impl Output {
    /// What a simulated program that succeeded has written.
    pub fn success(stdout: impl Into<Vec<u8>>) -> Self {
        Self {
            status: 0,
            stdout: stdout.into(),
            stderr: vec![],
        }
    }

    /// What a simulated program that failed has written.
    pub fn failure(status: i32, stderr: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            stdout: vec![],
            stderr: stderr.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(host: &FakeHost, name: &str) -> Result<(), DriverError> {
        host.write_file(Path::new(name), b"x", &Attributes::root(0o644))
    }

    #[test]
    fn crash_before_has_no_effect_and_crash_after_has_it() {
        for (point, written) in [(CrashPoint::Before, false), (CrashPoint::After, true)] {
            let host = FakeHost::alone("n1");
            host.crash_at(2, point);
            write(&host, "/etc/a").unwrap();
            assert_eq!(write(&host, "/etc/b").unwrap_err().code(), CRASH_CODE);
            assert_eq!(write(&host, "/etc/c").unwrap_err().code(), CRASH_CODE);
            host.recover();
            let names = host.list_dir(Path::new("/etc")).unwrap().unwrap();
            assert_eq!(names.contains(&"b".to_owned()), written);
            assert!(!names.contains(&"c".to_owned()));
        }
    }

    #[test]
    fn a_directory_is_needed_for_a_file_and_an_unknown_program_is_an_error() {
        let host = FakeHost::alone("n1");
        assert!(write(&host, "/nowhere/a").is_err());
        assert!(
            host.run(&Command::probe(Duration::from_secs(1), ["frobnicate"]))
                .is_err()
        );
    }
}
