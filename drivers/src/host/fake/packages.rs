//! dpkg-query, dpkg, apt-cache and apt-get, as far as package states need them.

use crate::host::{Command, Output, User};

use super::machine::Machine;
use super::software::FakePackage;

/// Whether `command` is one of these programs.
pub(super) fn simulates(command: &Command) -> bool {
    matches!(
        command.program(),
        "dpkg-query" | "dpkg" | "apt-cache" | "apt-get"
    )
}

pub(super) fn run(machine: &mut Machine, command: &Command, interrupted: bool) -> Output {
    let arguments: Vec<&str> = command.argv.iter().skip(1).map(String::as_str).collect();
    match (
        command.program(),
        arguments
            .iter()
            .find(|word| !word.starts_with('-') && !word.contains("::")),
    ) {
        ("dpkg-query", _) => query(machine, &arguments),
        ("dpkg", _) => configure_all(machine),
        ("apt-cache", Some(&"policy")) => policy(machine, &arguments),
        ("apt-cache", Some(&"search")) => search(machine),
        ("apt-get", Some(&"update")) => {
            machine.has_package_lists = true;
            Output::success("")
        }
        ("apt-get", Some(&"install")) => install(machine, &arguments, interrupted),
        _ => Output::failure(100, format!("this fake does not know {:?}", command.argv)),
    }
}

fn query(machine: &Machine, arguments: &[&str]) -> Output {
    let mut lines = String::new();
    let mut missing = String::new();
    for name in arguments.iter().filter(|word| !word.starts_with('-')) {
        match machine.packages.get(*name) {
            Some(FakePackage {
                installed: Some(version),
                half_configured,
                ..
            }) => {
                let status = if *half_configured {
                    "half-configured"
                } else {
                    "installed"
                };
                lines.push_str(&format!("{name}\t{version}\t{status}\n"));
            }
            _ => missing.push_str(&format!("dpkg-query: no packages found matching {name}\n")),
        }
    }
    Output {
        status: i32::from(!missing.is_empty()),
        stdout: lines.into(),
        stderr: missing.into(),
    }
}

fn configure_all(machine: &mut Machine) -> Output {
    let users: Vec<_> = machine
        .packages
        .values_mut()
        .filter(|package| package.half_configured)
        .flat_map(|package| {
            package.half_configured = false;
            package.makes_users.clone()
        })
        .collect();
    make_users(machine, users);
    Output::success("")
}

fn policy(machine: &Machine, arguments: &[&str]) -> Output {
    let mut text = String::new();
    for name in arguments
        .iter()
        .filter(|word| !word.starts_with('-') && **word != "policy")
    {
        let Some(package) = machine.packages.get(*name) else {
            continue;
        };
        let available: &[String] = if machine.has_package_lists {
            &package.available
        } else {
            &[]
        };
        let installed = package.installed.as_deref();
        let candidate = available.first().map(String::as_str).or(installed);
        let Some(candidate) = candidate else { continue };
        text.push_str(&format!(
            "{name}:\n  Installed: {}\n",
            installed.unwrap_or("(none)")
        ));
        text.push_str(&format!("  Candidate: {candidate}\n  Version table:\n"));
        for version in available {
            let mark = if Some(version.as_str()) == installed {
                " ***"
            } else {
                "    "
            };
            text.push_str(&format!(
                "{mark} {version} 500\n        500 http://deb.debian.org/debian bookworm/main\n"
            ));
        }
        if let Some(installed) =
            installed.filter(|version| !available.iter().any(|other| other == version))
        {
            text.push_str(&format!(
                " *** {installed} 100\n        100 /var/lib/dpkg/status\n"
            ));
        }
    }
    Output::success(text)
}

fn search(machine: &Machine) -> Output {
    let known = machine.packages.iter().filter(|(_, package)| {
        package.installed.is_some() || machine.has_package_lists && !package.available.is_empty()
    });
    Output::success(
        known
            .map(|(name, _)| format!("{name} - a fake package\n"))
            .collect::<String>(),
    )
}

fn install(machine: &mut Machine, arguments: &[&str], interrupted: bool) -> Output {
    if machine
        .packages
        .values()
        .any(|package| package.half_configured)
    {
        let words = "E: dpkg was interrupted, you must manually run 'dpkg --configure -a' to correct the problem.";
        return Output::failure(100, words);
    }
    let wanted = arguments
        .iter()
        .filter(|word| !word.starts_with('-') && !word.contains("::") && **word != "install");
    let mut users = Vec::new();
    for word in wanted {
        let (name, version) = word
            .split_once('=')
            .map_or((*word, None), |(name, version)| (name, Some(version)));
        let lists = machine.has_package_lists;
        let Some(package) = machine
            .packages
            .get_mut(name)
            .filter(|package| lists && !package.available.is_empty())
        else {
            return Output::failure(100, format!("E: Unable to locate package {name}"));
        };
        let version = version.unwrap_or(&package.available[0]).to_owned();
        if !package.available.contains(&version) {
            return Output::failure(
                100,
                format!("E: Version '{version}' for '{name}' was not found"),
            );
        }
        package.installed = Some(version);
        package.half_configured = interrupted;
        if !interrupted {
            users.extend(package.makes_users.clone());
        }
    }
    make_users(machine, users);
    Output::success("")
}

fn make_users(machine: &mut Machine, users: Vec<(String, String)>) {
    for (name, home) in users {
        machine.groups.insert(name.clone());
        let user = User {
            name: name.clone(),
            group: name.clone(),
            home,
            shell: "/bin/bash".to_owned(),
        };
        machine.users.insert(name, user);
    }
}
