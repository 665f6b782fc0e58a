//! A program that is run because what it makes is not there.
//!
//! Invariant: what it makes is looked for before and after; a status of 0 alone proves nothing.

use std::path::PathBuf;

use super::{Check, State, change};
use crate::error::DriverError;
use crate::host::{Command, Host};

/// A program whose effect can be seen.
#[derive(Debug, Clone)]
pub struct CommandRun {
    /// What it brings about, in words: `initial migration`.
    pub name: String,
    /// The program.
    pub command: Command,
    /// How its effect is seen.
    pub probe: Probe,
}

/// How the effect of a program is seen.
#[derive(Debug, Clone)]
pub enum Probe {
    /// It is there when this program ends with status 0.
    Unless(Command),
    /// It is there when this path exists.
    Creates(PathBuf),
}

impl State for CommandRun {
    fn resource(&self) -> String {
        format!("command {}", self.name)
    }

    fn check(&self, host: &dyn Host) -> Result<Check, DriverError> {
        let holds = match &self.probe {
            Probe::Unless(probe) => host.run(probe)?.status == 0,
            Probe::Creates(path) => host.metadata(path)?.is_some(),
        };
        Ok(match holds {
            true => Check::InDesiredState,
            false => Check::Drifted(vec![change(self.resource(), None, Some("done".to_owned()))]),
        })
    }

    fn apply(&self, host: &dyn Host) -> Result<(), DriverError> {
        host.run_ok(&self.command).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;
    use crate::sls::{Applied, converge};
    use std::time::Duration;

    fn state(command: &str, unless: &str) -> CommandRun {
        let second = Duration::from_secs(1);
        CommandRun {
            name: "test".into(),
            command: Command::effect(second, [command]),
            probe: Probe::Unless(Command::probe(second, [unless])),
        }
    }

    #[test]
    fn it_runs_only_if_its_effect_is_not_seen_and_must_show_it() {
        let host = FakeHost::alone("n1");
        assert_eq!(
            converge(&state("false", "true"), &host).unwrap(),
            Applied::Unchanged
        );
        assert_eq!(
            converge(&state("true", "false"), &host).unwrap_err().code(),
            "not-converged"
        );
        assert_eq!(
            converge(&state("false", "false"), &host)
                .unwrap_err()
                .code(),
            "command-failed"
        );
    }
}
