//! Unit files of the service manager.
//!
//! Invariants: the service manager has read the file that lies on disk (`NeedDaemonReload=no`); a unit of ours has no
//! `[Install]` section, so it never starts with the machine.

use std::path::PathBuf;
use std::time::Duration;

use super::file::{FileAbsent, FilePresent};
use super::{Check, State, change};
use crate::error::DriverError;
use crate::host::{Attributes, Command, Host};

/// Longest time for a call to systemctl that waits for no service.
pub(super) const SYSTEMCTL_TIMEOUT: Duration = Duration::from_secs(30);

/// A unit file that the service manager has read.
#[derive(Debug, Clone)]
pub struct UnitPresent {
    /// `contextos-postgres-7f3a.service`.
    pub name: String,
    /// The whole file.
    pub text: String,
}

/// No such unit file.
#[derive(Debug, Clone)]
pub struct UnitAbsent {
    /// `contextos-postgres-7f3a.service`.
    pub name: String,
}

/// What the service manager says of a unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitStatus {
    /// It knows a file for it.
    pub is_loaded: bool,
    /// `active`, `activating`, `inactive`, `failed`...
    pub active: String,
    /// The file changed since it was read.
    pub needs_daemon_reload: bool,
}

impl UnitStatus {
    /// Whether the service runs and has said that it is ready.
    pub fn is_active(&self) -> bool {
        matches!(self.active.as_str(), "active" | "reloading")
    }

    /// Whether any process of the service may be there: it runs, or is on its way up or down.
    pub fn is_up(&self) -> bool {
        !matches!(self.active.as_str(), "inactive" | "failed" | "")
    }
}

/// Where unit files of administrators and of ours lie.
pub fn unit_path(name: &str) -> PathBuf {
    PathBuf::from("/etc/systemd/system").join(name)
}

/// Asks the service manager about a unit.
///
/// # Errors
/// As [`Host::run_ok`].
pub fn status(host: &dyn Host, name: &str) -> Result<UnitStatus, DriverError> {
    let properties = "--property=LoadState,ActiveState,NeedDaemonReload";
    let output = host.run_ok(&Command::probe(
        SYSTEMCTL_TIMEOUT,
        ["systemctl", "show", properties, name],
    ))?;
    let text = output.text();
    let value = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .unwrap_or_default()
            .to_owned()
    };
    Ok(UnitStatus {
        is_loaded: value("LoadState") == "loaded",
        active: value("ActiveState"),
        needs_daemon_reload: value("NeedDaemonReload") == "yes",
    })
}

fn daemon_reload(host: &dyn Host) -> Result<(), DriverError> {
    host.run_ok(&Command::effect(
        SYSTEMCTL_TIMEOUT,
        ["systemctl", "daemon-reload"],
    ))
    .map(drop)
}

impl UnitPresent {
    fn file(&self) -> FilePresent {
        FilePresent::new(
            unit_path(&self.name),
            self.text.as_bytes(),
            Attributes::root(0o644),
        )
    }
}

impl State for UnitPresent {
    fn resource(&self) -> String {
        format!("unit {}", self.name)
    }

    fn check(&self, host: &dyn Host) -> Result<Check, DriverError> {
        if let Check::Drifted(changes) = self.file().check(host)? {
            return Ok(Check::Drifted(changes));
        }
        Ok(match status(host, &self.name)?.needs_daemon_reload {
            false => Check::InDesiredState,
            true => {
                let read = |what: &str| Some(format!("{what} read by the service manager"));
                Check::Drifted(vec![change(
                    self.resource(),
                    read("old file"),
                    read("file"),
                )])
            }
        })
    }

    fn apply(&self, host: &dyn Host) -> Result<(), DriverError> {
        self.file().apply(host)?;
        daemon_reload(host)
    }
}

impl State for UnitAbsent {
    fn resource(&self) -> String {
        format!("unit {}", self.name)
    }

    fn check(&self, host: &dyn Host) -> Result<Check, DriverError> {
        let file = FileAbsent {
            path: unit_path(&self.name),
        };
        if let Check::Drifted(changes) = file.check(host)? {
            return Ok(Check::Drifted(changes));
        }
        Ok(match status(host, &self.name)?.is_loaded {
            false => Check::InDesiredState,
            true => Check::Drifted(vec![change(
                self.resource(),
                Some("known to the service manager".into()),
                None,
            )]),
        })
    }

    fn apply(&self, host: &dyn Host) -> Result<(), DriverError> {
        host.remove_file(&unit_path(&self.name))?;
        // A unit that failed stays known until its failure is forgotten; there may be none to forget.
        host.run(&Command::effect(
            SYSTEMCTL_TIMEOUT,
            ["systemctl", "reset-failed", &self.name],
        ))?;
        daemon_reload(host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::{CrashPoint, FakeHost};
    use crate::sls::{Applied, converge};

    fn unit(text: &str) -> UnitPresent {
        UnitPresent {
            name: "a.service".into(),
            text: text.into(),
        }
    }

    #[test]
    fn a_crash_between_file_and_daemon_reload_is_made_good() {
        let host = FakeHost::alone("n1");
        converge(&unit("one"), &host).unwrap();
        let calls = host.calls();
        converge(&unit("one"), &host).unwrap();
        let calls_of_a_check = host.calls() - calls;
        // The last call of an application is the daemon-reload; the check after it follows.
        let mut crash_at = calls_of_a_check;
        loop {
            crash_at += 1;
            host.crash_at(crash_at, CrashPoint::Before);
            let result = converge(&unit(&format!("two {crash_at}")), &host);
            host.recover();
            if result.is_ok() {
                break;
            }
            converge(&unit(&format!("two {crash_at}")), &host).unwrap();
            assert!(!status(&host, "a.service").unwrap().needs_daemon_reload);
        }
    }

    #[test]
    fn an_absent_unit_is_unknown_to_the_service_manager() {
        let host = FakeHost::alone("n1");
        converge(&unit("one"), &host).unwrap();
        let absent = UnitAbsent {
            name: "a.service".into(),
        };
        assert!(matches!(
            converge(&absent, &host).unwrap(),
            Applied::Changed(_)
        ));
        assert_eq!(converge(&absent, &host).unwrap(), Applied::Unchanged);
        assert!(!status(&host, "a.service").unwrap().is_loaded);
    }
}
