//! useradd and groupadd.

use crate::host::{Command, Output, User};

use super::machine::Machine;

pub(super) fn run(machine: &mut Machine, command: &Command) -> Option<Output> {
    let name = command.argv.last()?.clone();
    let option = |flag: &str| {
        let at = command.argv.iter().position(|word| word == flag)?;
        command.argv.get(at + 1).cloned()
    };
    match command.program() {
        "groupadd" => Some(match machine.groups.insert(name.clone()) {
            true => Output::success(""),
            false => Output::failure(9, format!("groupadd: group '{name}' already exists")),
        }),
        "useradd" if machine.users.contains_key(&name) => Some(Output::failure(
            9,
            format!("useradd: user '{name}' already exists"),
        )),
        "useradd" => {
            let group = option("--gid").unwrap_or_else(|| name.clone());
            machine.groups.insert(group.clone());
            let home = option("--home-dir").unwrap_or_else(|| format!("/home/{name}"));
            let shell = option("--shell").unwrap_or_else(|| "/bin/sh".to_owned());
            machine.users.insert(
                name.clone(),
                User {
                    name,
                    group,
                    home,
                    shell,
                },
            );
            Some(Output::success(""))
        }
        _ => None,
    }
}
