//! Services that run with the configuration that lies on disk; and services that do not run.
//!
//! Invariant: a durable note holds the digest of the configuration that the service last started or reloaded with. A
//! reload is due when the digest on disk is another, so a crash between the write and the reload loses nothing, and a
//! second application finds nothing to do. The digest is taken before the reload: a change during it makes one more.

use std::path::PathBuf;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::unit::{self, SYSTEMCTL_TIMEOUT};
use super::{Check, State, change, directory};
use crate::driver::StateChange;
use crate::error::DriverError;
use crate::host::{Attributes, Command, Host};

/// Lines of a service's journal that are read after a failed start.
const JOURNAL_LINES: &str = "6";

/// What a service does when its configuration changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnChange {
    /// It reads it again without an interruption.
    Reload,
    /// It has to start anew.
    Restart,
}

/// A service that runs and has loaded its configuration.
#[derive(Debug, Clone)]
pub struct ServiceRunning {
    /// Its unit.
    pub unit: String,
    /// The files that it reads when it starts or reloads.
    pub config: Vec<PathBuf>,
    /// What to do when they changed.
    pub on_change: OnChange,
    /// Longest time until it says that it is ready.
    pub start_timeout: Duration,
}

/// A service that does not run.
#[derive(Debug, Clone)]
pub struct ServiceDead {
    /// Its unit.
    pub unit: String,
    /// Longest time until it has ended.
    pub stop_timeout: Duration,
}

/// Where the note about `unit` lies.
pub fn loaded_note_path(unit: &str) -> PathBuf {
    PathBuf::from("/var/lib/contextos/loaded").join(unit)
}

/// Digest of the contents of `config`, in hexadecimal; a missing file counts as such.
///
/// # Errors
/// As [`Host::read_file`].
pub fn config_digest(host: &dyn Host, config: &[PathBuf]) -> Result<String, DriverError> {
    let mut hash = Sha256::new();
    for path in config {
        let content = host.read_file(path)?;
        hash.update([u8::from(content.is_some())]);
        let content = content.unwrap_or_default();
        hash.update((content.len() as u64).to_le_bytes());
        hash.update(content);
    }
    Ok(hex::encode(hash.finalize()))
}

/// Whether `unit` has loaded what lies on disk now, by its note.
///
/// # Errors
/// As [`Host::read_file`].
pub fn has_loaded(host: &dyn Host, unit: &str, config: &[PathBuf]) -> Result<bool, DriverError> {
    let note = host.read_file(&loaded_note_path(unit))?;
    Ok(note.is_some_and(|note| {
        note == config_digest_line(host, config)
            .unwrap_or_default()
            .as_bytes()
    }))
}

fn config_digest_line(host: &dyn Host, config: &[PathBuf]) -> Result<String, DriverError> {
    Ok(config_digest(host, config)? + "\n")
}

impl ServiceRunning {
    /// Restarts it whether or not it runs, and notes what it has loaded.
    ///
    /// # Errors
    /// As [`State::apply`].
    pub fn restart(&self, host: &dyn Host) -> Result<StateChange, DriverError> {
        self.act(host, "restart")?;
        Ok(change(
            self.resource(),
            Some("running".to_owned()),
            Some("restarted".to_owned()),
        ))
    }

    fn act(&self, host: &dyn Host, verb: &str) -> Result<(), DriverError> {
        let digest = config_digest_line(host, &self.config)?;
        let output = host.run(&Command::effect(
            self.start_timeout,
            ["systemctl", verb, &self.unit],
        ))?;
        if output.status != 0 {
            let words = last_words_of(host, &self.unit).unwrap_or_else(|| output.last_words());
            let what = format!("systemctl {verb} {} ended with status", self.unit);
            let message = format!("{what} {}: {words}", output.status);
            return Err(DriverError::retryable("service-not-started", message));
        }
        let note = loaded_note_path(&self.unit);
        directory::make_parents(host, &note)?;
        host.write_file(&note, digest.as_bytes(), &Attributes::root(0o644))
    }
}

/// What the service itself wrote last: systemctl only says that it failed. `None` where there is no journal.
fn last_words_of(host: &dyn Host, unit: &str) -> Option<String> {
    let of_unit = format!("_SYSTEMD_UNIT={unit}");
    let argv = [
        "journalctl",
        "--no-pager",
        "--quiet",
        "-o",
        "cat",
        "-n",
        JOURNAL_LINES,
        &of_unit,
    ];
    let output = host.run(&Command::probe(SYSTEMCTL_TIMEOUT, argv)).ok()?;
    let words = output.last_words();
    (output.status == 0 && !words.is_empty()).then_some(words)
}

impl State for ServiceRunning {
    fn resource(&self) -> String {
        format!("service {}", self.unit)
    }

    fn check(&self, host: &dyn Host) -> Result<Check, DriverError> {
        if !unit::status(host, &self.unit)?.is_active() {
            let words = |word: &str| Some(word.to_owned());
            return Ok(Check::Drifted(vec![change(
                self.resource(),
                words("stopped"),
                words("running"),
            )]));
        }
        if has_loaded(host, &self.unit, &self.config)? {
            return Ok(Check::InDesiredState);
        }
        let loaded = |which: &str| Some(format!("running with {which} configuration"));
        Ok(Check::Drifted(vec![change(
            self.resource(),
            loaded("an older"),
            loaded("the present"),
        )]))
    }

    fn apply(&self, host: &dyn Host) -> Result<(), DriverError> {
        let is_active = unit::status(host, &self.unit)?.is_active();
        match (is_active, self.on_change) {
            (false, _) => {
                // A start limit that was hit before is not this start's business; there may be none to reset.
                host.run(&Command::effect(
                    SYSTEMCTL_TIMEOUT,
                    ["systemctl", "reset-failed", &self.unit],
                ))?;
                self.act(host, "start")
            }
            (true, OnChange::Reload) => self.act(host, "reload"),
            (true, OnChange::Restart) => self.act(host, "restart"),
        }
    }

    fn on_watched_change(&self, host: &dyn Host) -> Result<Vec<StateChange>, DriverError> {
        self.act(
            host,
            if self.on_change == OnChange::Reload {
                "reload"
            } else {
                "restart"
            },
        )?;
        Ok(vec![change(
            self.resource(),
            Some("running".to_owned()),
            Some("reloaded".to_owned()),
        )])
    }
}

impl State for ServiceDead {
    fn resource(&self) -> String {
        format!("service {}", self.unit)
    }

    fn check(&self, host: &dyn Host) -> Result<Check, DriverError> {
        let status = unit::status(host, &self.unit)?;
        if !status.is_up() {
            return Ok(Check::InDesiredState);
        }
        Ok(Check::Drifted(vec![change(
            self.resource(),
            Some("running".to_owned()),
            Some("stopped".to_owned()),
        )]))
    }

    fn apply(&self, host: &dyn Host) -> Result<(), DriverError> {
        host.run_ok(&Command::effect(
            self.stop_timeout,
            ["systemctl", "stop", &self.unit],
        ))
        .map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::{CrashPoint, FakeHost};
    use crate::sls::unit::UnitPresent;
    use crate::sls::{Applied, converge};
    use std::path::Path;

    fn machine() -> (FakeHost, ServiceRunning) {
        let host = FakeHost::alone("n1");
        converge(
            &UnitPresent {
                name: "a.service".into(),
                text: "x".into(),
            },
            &host,
        )
        .unwrap();
        let state = ServiceRunning {
            unit: "a.service".into(),
            config: vec!["/etc/a.conf".into()],
            on_change: OnChange::Reload,
            start_timeout: Duration::from_secs(10),
        };
        (host, state)
    }

    fn configure(host: &FakeHost, text: &str) {
        host.write_file(
            Path::new("/etc/a.conf"),
            text.as_bytes(),
            &Attributes::root(0o644),
        )
        .unwrap();
    }

    #[test]
    fn a_change_of_the_configuration_reloads_once() {
        let (host, state) = machine();
        configure(&host, "one");
        converge(&state, &host).unwrap();
        configure(&host, "two");
        assert!(matches!(
            converge(&state, &host).unwrap(),
            Applied::Changed(_)
        ));
        assert_eq!(converge(&state, &host).unwrap(), Applied::Unchanged);
        let unit = host.with(|machine| machine.units["a.service"].clone());
        assert_eq!((unit.starts, unit.reloads), (1, 1));
    }

    #[test]
    fn a_crash_between_write_and_reload_loses_no_reload() {
        let (host, state) = machine();
        configure(&host, "one");
        converge(&state, &host).unwrap();
        for crash_at in 1.. {
            configure(&host, &format!("two {crash_at}"));
            let reloads = host.with(|machine| machine.units["a.service"].reloads);
            host.crash_at(crash_at, CrashPoint::Before);
            let done = converge(&state, &host).is_ok();
            host.recover();
            converge(&state, &host).unwrap();
            assert!(host.with(|machine| machine.units["a.service"].reloads) > reloads);
            if done {
                break;
            }
        }
    }

    #[test]
    fn a_dead_service_is_stopped_once() {
        let (host, state) = machine();
        converge(&state, &host).unwrap();
        let dead = ServiceDead {
            unit: "a.service".into(),
            stop_timeout: Duration::from_secs(10),
        };
        assert!(matches!(
            converge(&dead, &host).unwrap(),
            Applied::Changed(_)
        ));
        assert_eq!(converge(&dead, &host).unwrap(), Applied::Unchanged);
    }
}
