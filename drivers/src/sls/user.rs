//! System users and groups, through the system's own tools.
//!
//! Invariant: an existing user or group is left as it is; a different home or shell is an error that names it, because
//! changing somebody's login is not what a deployment was asked for.

use std::time::Duration;

use super::{Check, State, change};
use crate::error::DriverError;
use crate::host::{Command, Host};

/// useradd and groupadd wait for the passwd lock at most this long.
const ACCOUNT_TIMEOUT: Duration = Duration::from_secs(30);

/// A system group.
#[derive(Debug, Clone)]
pub struct GroupPresent {
    /// Its name.
    pub name: String,
}

impl State for GroupPresent {
    fn resource(&self) -> String {
        format!("group {}", self.name)
    }

    fn check(&self, host: &dyn Host) -> Result<Check, DriverError> {
        Ok(match host.group_exists(&self.name)? {
            true => Check::InDesiredState,
            false => Check::Drifted(vec![change(
                self.resource(),
                None,
                Some("present".to_owned()),
            )]),
        })
    }

    fn apply(&self, host: &dyn Host) -> Result<(), DriverError> {
        host.run_ok(&Command::effect(
            ACCOUNT_TIMEOUT,
            ["groupadd", "--system", &self.name],
        ))
        .map(drop)
    }
}

/// A system user without a password.
#[derive(Debug, Clone)]
pub struct UserPresent {
    /// Login name.
    pub name: String,
    /// Primary group; it exists.
    pub group: String,
    /// Home directory; not made.
    pub home: String,
    /// Login shell.
    pub shell: String,
}

impl State for UserPresent {
    fn resource(&self) -> String {
        format!("user {}", self.name)
    }

    fn check(&self, host: &dyn Host) -> Result<Check, DriverError> {
        let Some(found) = host.user(&self.name)? else {
            let wanted = format!(
                "group {} home {} shell {}",
                self.group, self.home, self.shell
            );
            return Ok(Check::Drifted(vec![change(
                self.resource(),
                None,
                Some(wanted),
            )]));
        };
        if (&found.group, &found.home, &found.shell) == (&self.group, &self.home, &self.shell) {
            return Ok(Check::InDesiredState);
        }
        Err(DriverError::permanent(
            "foreign-user",
            format!(
                "user {} exists with group {}, home {}, shell {}; wanted are {}, {}, {}",
                self.name, found.group, found.home, found.shell, self.group, self.home, self.shell
            ),
            format!(
                "if it is the same software's user, run: usermod -g {} -d {} -s {} {}",
                self.group, self.home, self.shell, self.name
            ),
        ))
    }

    fn apply(&self, host: &dyn Host) -> Result<(), DriverError> {
        let Self {
            name,
            group,
            home,
            shell,
        } = self;
        let argv = [
            "useradd",
            "--system",
            "--no-create-home",
            "--gid",
            group,
            "--home-dir",
            home,
            "--shell",
            shell,
            name,
        ];
        host.run_ok(&Command::effect(ACCOUNT_TIMEOUT, argv))
            .map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;
    use crate::sls::{Applied, converge};

    #[test]
    fn a_user_is_made_once_and_a_foreign_one_is_refused() {
        let host = FakeHost::alone("n1");
        let user = |home: &str| UserPresent {
            name: "db".into(),
            group: "db".into(),
            home: home.into(),
            shell: "/usr/sbin/nologin".into(),
        };
        converge(&GroupPresent { name: "db".into() }, &host).unwrap();
        assert!(matches!(
            converge(&user("/var/lib/db"), &host).unwrap(),
            Applied::Changed(_)
        ));
        assert_eq!(
            converge(&user("/var/lib/db"), &host).unwrap(),
            Applied::Unchanged
        );
        assert_eq!(
            converge(&user("/elsewhere"), &host).unwrap_err().code(),
            "foreign-user"
        );
    }
}
