//! Debian packages, through dpkg-query, apt-cache and apt-get.
//!
//! Invariants: what is installed is read from dpkg, never concluded from an exit status; an interrupted installation is
//! finished first; apt's own lock is waited for, so that several deployments of a node queue up. Nothing is downgraded
//! or removed.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Check, State, change};
use crate::driver::StateChange;
use crate::error::DriverError;
use crate::host::{Command, Host};

const QUERY_TIMEOUT: Duration = Duration::from_secs(30);
const UPDATE_TIMEOUT: Duration = Duration::from_secs(300);
const INSTALL_TIMEOUT: Duration = Duration::from_secs(900);

/// Seconds that apt-get waits for another package manager before it gives up; the step is tried again then.
const LOCK_WAIT_OPTION: &str = "DPkg::Lock::Timeout=120";

/// Code of the error that apt-get gives until `dpkg --configure -a` has run.
const INTERRUPTED: &str = "dpkg-interrupted";

/// Packages that are installed and configured, all in one transaction.
#[derive(Debug, Clone)]
pub struct PkgInstalled {
    /// Exact version by name; `None` leaves an installed version and else takes the repository's candidate.
    pub packages: BTreeMap<String, Option<String>>,
}

/// What dpkg says of one package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Debian version.
    pub version: String,
    /// False after an interrupted installation.
    pub is_configured: bool,
}

/// What the package lists say of one package.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// What apt would install, with pins honoured.
    pub candidate: Option<String>,
    /// Every version known, best first; the installed one may be among them without being in a repository.
    pub versions: Vec<String>,
}

/// What is installed of `names`, by name.
///
/// # Errors
/// As [`Host::run`].
pub fn installed(
    host: &dyn Host,
    names: &[&str],
) -> Result<BTreeMap<String, Installed>, DriverError> {
    let format = "-f=${Package}\\t${Version}\\t${db:Status-Status}\\n";
    let output = host.run(&Command::probe(
        QUERY_TIMEOUT,
        ["dpkg-query", "-W", format]
            .into_iter()
            .chain(names.iter().copied()),
    ))?;
    let text = output.text();
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let mut fields = line.split('\t');
        let (Some(name), Some(version), Some(status)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        if !version.is_empty() && !matches!(status, "not-installed" | "config-files") {
            let is_configured = status == "installed";
            found.insert(
                name.to_owned(),
                Installed {
                    version: version.to_owned(),
                    is_configured,
                },
            );
        }
    }
    Ok(found)
}

/// What the package lists say of `name`; empty if they do not know it.
///
/// # Errors
/// As [`Host::run_ok`].
pub fn policy(host: &dyn Host, name: &str) -> Result<Policy, DriverError> {
    let output = host.run_ok(&Command::probe(
        QUERY_TIMEOUT,
        ["apt-cache", "policy", name],
    ))?;
    Ok(parse_policy(&output.text()))
}

/// Names of packages that match a regular expression, sorted.
///
/// # Errors
/// As [`Host::run_ok`].
pub fn search_names(host: &dyn Host, pattern: &str) -> Result<Vec<String>, DriverError> {
    let output = host.run_ok(&Command::probe(
        QUERY_TIMEOUT,
        ["apt-cache", "search", "--names-only", pattern],
    ))?;
    let mut names: Vec<String> = output
        .text()
        .lines()
        .filter_map(|line| line.split(' ').next().map(str::to_owned))
        .collect();
    names.sort();
    Ok(names)
}

fn parse_policy(text: &str) -> Policy {
    let mut policy = Policy::default();
    for line in text.lines() {
        if let Some(candidate) = line.trim().strip_prefix("Candidate: ") {
            policy.candidate = (candidate != "(none)").then(|| candidate.to_owned());
        }
        // A version stands behind exactly five columns, a source of it behind eight.
        let version = line.strip_prefix(" *** ").or_else(|| {
            line.strip_prefix("     ")
                .filter(|rest| !rest.starts_with(' '))
        });
        if let Some(version) = version.and_then(|rest| rest.split_whitespace().next()) {
            policy.versions.push(version.to_owned());
        }
    }
    policy
}

impl PkgInstalled {
    fn names(&self) -> Vec<&str> {
        self.packages.keys().map(String::as_str).collect()
    }

    /// The lists know every package in the version asked for.
    fn is_offered(&self, host: &dyn Host) -> Result<bool, DriverError> {
        for (name, version) in &self.packages {
            let policy = policy(host, name)?;
            let known = match version {
                Some(version) => policy.versions.contains(version),
                None => policy.candidate.is_some(),
            };
            if !known {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn not_offered(&self, host: &dyn Host) -> Result<DriverError, DriverError> {
        let mut known = Vec::new();
        for name in self.packages.keys() {
            let versions = policy(host, name)?.versions;
            known.push(format!(
                "{name}: {}",
                if versions.is_empty() {
                    "none".to_owned()
                } else {
                    versions.join(", ")
                }
            ));
        }
        Ok(DriverError::permanent(
            "no-such-version",
            format!("no repository of this node offers {}", self.words()),
            format!("versions that exist: {}", known.join("; ")),
        ))
    }

    fn words(&self) -> String {
        let word = |(name, version): (&String, &Option<String>)| match version {
            Some(version) => format!("{name}={version}"),
            None => name.clone(),
        };
        self.packages.iter().map(word).collect::<Vec<_>>().join(" ")
    }
}

impl State for PkgInstalled {
    fn resource(&self) -> String {
        format!("packages {}", self.names().join(" "))
    }

    fn check(&self, host: &dyn Host) -> Result<Check, DriverError> {
        let found = installed(host, &self.names())?;
        let mut changes: Vec<StateChange> = Vec::new();
        for (name, wanted) in &self.packages {
            let have = found.get(name);
            let right = have.is_some_and(|have| {
                have.is_configured && wanted.as_ref().is_none_or(|v| *v == have.version)
            });
            if !right {
                let old = have.map(|have| {
                    if have.is_configured {
                        have.version.clone()
                    } else {
                        format!("{} half installed", have.version)
                    }
                });
                let new = wanted.clone().unwrap_or_else(|| "candidate".to_owned());
                changes.push(change(format!("package {name}"), old, Some(new)));
            }
        }
        Ok(if changes.is_empty() {
            Check::InDesiredState
        } else {
            Check::Drifted(changes)
        })
    }

    fn apply(&self, host: &dyn Host) -> Result<(), DriverError> {
        if installed(host, &self.names())?
            .values()
            .any(|package| !package.is_configured)
        {
            finish_interrupted(host)?;
        }
        if self.check(host)? == Check::InDesiredState {
            return Ok(());
        }
        if !self.is_offered(host)? {
            run_apt(host, UPDATE_TIMEOUT, &["apt-get", "update", "-q"])?;
            if !self.is_offered(host)? {
                return Err(self.not_offered(host)?);
            }
        }
        let words = self.words();
        let options = [
            "apt-get",
            "install",
            "-q",
            "-y",
            "--no-install-recommends",
            "-o",
            LOCK_WAIT_OPTION,
        ];
        let keep_old_configuration = [
            "-o",
            "Dpkg::Options::=--force-confdef",
            "-o",
            "Dpkg::Options::=--force-confold",
        ];
        let argv: Vec<&str> = options
            .into_iter()
            .chain(keep_old_configuration)
            .chain(words.split(' '))
            .collect();
        match run_apt(host, INSTALL_TIMEOUT, &argv) {
            // It may have been a dependency, or a package of somebody else: nothing can be installed until then.
            Err(error) if error.code() == INTERRUPTED => {
                finish_interrupted(host)?;
                run_apt(host, INSTALL_TIMEOUT, &argv)
            }
            outcome => outcome,
        }
    }
}

fn finish_interrupted(host: &dyn Host) -> Result<(), DriverError> {
    run_apt(host, INSTALL_TIMEOUT, &["dpkg", "--configure", "-a"])
}

fn run_apt(host: &dyn Host, timeout: Duration, argv: &[&str]) -> Result<(), DriverError> {
    let command = Command::effect(timeout, argv.iter().copied())
        .with_env("DEBIAN_FRONTEND", "noninteractive")
        .with_env("NEEDRESTART_SUSPEND", "1");
    let output = host.run(&command)?;
    if output.status == 0 {
        return Ok(());
    }
    let words = output.last_words();
    let is_locked = words.contains("Could not get lock") || words.contains("frontend lock");
    let code = if is_locked {
        "apt-lock-held"
    } else if words.contains("dpkg was interrupted") {
        INTERRUPTED
    } else {
        "apt-failed"
    };
    Err(DriverError::retryable(
        code,
        format!(
            "{} ended with status {}: {words}",
            argv.join(" "),
            output.status
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::{CrashPoint, FakeHost, FakePackage};
    use crate::sls::{Applied, converge};

    fn machine() -> FakeHost {
        let host = FakeHost::alone("n1");
        let package = FakePackage {
            available: vec!["2.1".into(), "2.0".into()],
            ..FakePackage::default()
        };
        host.with(|machine| {
            machine.has_package_lists = false;
            machine.packages.insert("db".into(), package);
        });
        host
    }

    fn wanted(version: Option<&str>) -> PkgInstalled {
        PkgInstalled {
            packages: BTreeMap::from([("db".to_owned(), version.map(str::to_owned))]),
        }
    }

    #[test]
    fn the_exact_version_is_installed_after_the_lists_are_fetched() {
        let host = machine();
        assert!(matches!(
            converge(&wanted(Some("2.0")), &host).unwrap(),
            Applied::Changed(_)
        ));
        assert_eq!(installed(&host, &["db"]).unwrap()["db"].version, "2.0");
        assert_eq!(
            converge(&wanted(Some("2.0")), &host).unwrap(),
            Applied::Unchanged
        );
        assert_eq!(converge(&wanted(None), &host).unwrap(), Applied::Unchanged);
    }

    #[test]
    fn a_version_that_no_repository_has_names_those_that_exist() {
        let Err(DriverError::Permanent { code, hint, .. }) =
            converge(&wanted(Some("9")), &machine())
        else {
            panic!()
        };
        assert_eq!(
            (code, hint.as_str()),
            ("no-such-version", "versions that exist: db: 2.1, 2.0")
        );
    }

    #[test]
    fn an_interrupted_installation_is_finished_by_the_next_run() {
        let host = machine();
        host.with(|machine| machine.has_package_lists = true);
        let calls_before_install = 5;
        host.crash_at(calls_before_install, CrashPoint::During);
        assert!(converge(&wanted(None), &host).is_err());
        host.recover();
        assert!(
            !installed(&host, &["db"]).unwrap()["db"].is_configured,
            "the crash must hit apt-get install"
        );
        converge(&wanted(None), &host).unwrap();
        assert!(installed(&host, &["db"]).unwrap()["db"].is_configured);
    }

    #[test]
    fn an_interrupted_installation_of_another_package_is_finished_first() {
        let host = machine();
        let dependency = FakePackage {
            installed: Some("1".into()),
            half_configured: true,
            ..FakePackage::default()
        };
        host.with(|machine| machine.packages.insert("libdb".into(), dependency));
        converge(&wanted(None), &host).unwrap();
        let names = ["db", "libdb"];
        let found = installed(&host, &names).unwrap();
        assert!(names.iter().all(|name| found[*name].is_configured));
    }

    #[test]
    fn parse_policy_reads_what_debian_prints() {
        let text = "postgresql-15:\n  Installed: 15.18-0+deb12u1\n  Candidate: 15.20-0+deb12u1\n  Version table:\n     \
                    15.20-0+deb12u1 500\n        500 http://deb.debian.org/debian-security bookworm-security/main\n \
                    *** 15.18-0+deb12u1 500\n        100 /var/lib/dpkg/status\n";
        let policy = parse_policy(text);
        assert_eq!(policy.candidate.as_deref(), Some("15.20-0+deb12u1"));
        assert_eq!(policy.versions, ["15.20-0+deb12u1", "15.18-0+deb12u1"]);
    }
}
