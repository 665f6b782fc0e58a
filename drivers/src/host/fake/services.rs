//! systemctl, as far as unit and service states need it.

use std::path::PathBuf;

use crate::host::{Command, Output};

use super::machine::Machine;
use super::software::UnitState;
use super::{FakeProgram, Machines, UnitAction};

pub(super) fn run(
    machines: &mut Machines,
    node: &str,
    programs: &[Box<dyn FakeProgram>],
    command: &Command,
) -> Output {
    let mut words = command
        .argv
        .iter()
        .skip(1)
        .map(String::as_str)
        .filter(|word| !word.starts_with('-'));
    let (verb, unit) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default().to_owned(),
    );
    let Some(machine) = machines.get_mut(node) else {
        return Output::failure(1, "no such machine");
    };
    if verb == "daemon-reload" {
        return daemon_reload(machine);
    }
    if let Some(text) = machine
        .file(&unit_path(&unit))
        .map(<[u8]>::to_vec)
        .filter(|_| verb != "show")
    {
        // A unit that was never asked for is read when it is first needed.
        machine
            .units
            .entry(unit.clone())
            .or_insert_with(|| UnitState {
                loaded: text,
                ..UnitState::default()
            });
    }
    let state = machine.units.get(&unit).cloned();
    match (verb, state) {
        ("show", state) => show(machine, &unit, state),
        ("reset-failed", _) | ("stop" | "disable", None) => Output::success(""),
        (_, None) => Output::failure(5, format!("Unit {unit} not found.")),
        ("start", Some(state)) if state.active => Output::success(""),
        ("start", Some(_)) => act(machines, node, programs, &unit, &[UnitAction::Start]),
        ("restart", Some(state)) if state.active => act(
            machines,
            node,
            programs,
            &unit,
            &[UnitAction::Stop, UnitAction::Start],
        ),
        ("restart", Some(_)) => act(machines, node, programs, &unit, &[UnitAction::Start]),
        ("reload", Some(state)) if state.active => {
            act(machines, node, programs, &unit, &[UnitAction::Reload])
        }
        ("reload", Some(_)) => Output::failure(1, format!("{unit} is not active, cannot reload.")),
        ("stop", Some(state)) if state.active => {
            act(machines, node, programs, &unit, &[UnitAction::Stop])
        }
        ("stop" | "disable", Some(_)) => Output::success(""),
        _ => Output::failure(1, format!("this fake does not know systemctl {verb}")),
    }
}

fn act(
    machines: &mut Machines,
    node: &str,
    programs: &[Box<dyn FakeProgram>],
    unit: &str,
    actions: &[UnitAction],
) -> Output {
    for action in actions {
        for program in programs {
            if let Err(complaint) = program.on_unit(machines, node, unit, *action) {
                return Output::failure(1, complaint);
            }
        }
        let state = machines
            .get_mut(node)
            .and_then(|machine| machine.units.get_mut(unit));
        let Some(state) = state else {
            return Output::failure(1, "the unit went away");
        };
        match action {
            UnitAction::Start => {
                state.active = true;
                state.starts += 1;
            }
            UnitAction::Reload => state.reloads += 1,
            UnitAction::Stop => state.active = false,
        }
    }
    Output::success("")
}

fn unit_path(unit: &str) -> PathBuf {
    PathBuf::from("/etc/systemd/system").join(unit)
}

fn daemon_reload(machine: &mut Machine) -> Output {
    let units = PathBuf::from("/etc/systemd/system");
    for name in machine.list(&units).unwrap_or_default() {
        if let Some(text) = machine.file(&units.join(&name)).map(<[u8]>::to_vec) {
            machine.units.entry(name).or_default().loaded = text;
        }
    }
    let gone = |name: &String, state: &UnitState| {
        state.active || machine.entries.contains_key(&unit_path(name))
    };
    let mut units = std::mem::take(&mut machine.units);
    units.retain(|name, state| gone(name, state));
    machine.units = units;
    Output::success("")
}

fn show(machine: &Machine, unit: &str, state: Option<UnitState>) -> Output {
    let on_disk = machine.file(&unit_path(unit));
    let load = if state.is_some() || on_disk.is_some() {
        "loaded"
    } else {
        "not-found"
    };
    let stale = state
        .as_ref()
        .is_some_and(|state| on_disk != Some(&state.loaded));
    let active = state.is_some_and(|state| state.active);
    Output::success(format!(
        "LoadState={load}\nActiveState={}\nSubState={}\nUnitFileState=static\nNeedDaemonReload={}\n",
        if active { "active" } else { "inactive" },
        if active { "running" } else { "dead" },
        if stale { "yes" } else { "no" },
    ))
}
