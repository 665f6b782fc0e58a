//! PostgreSQL on fake machines, as far as the driver can tell the difference.
//!
//! What is kept as in the real server: one data directory with version, control file and role; a standby refuses to
//! start with less than its primary; parameters of class restart stay pending after a reload; a commit waits for a
//! synchronous standby; base backups need slot, password file and client authentication. Not kept: rows, sessions,
//! the log itself.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::conf::{self, Settings};
use super::facts::Server;
use super::layout::OS_USER;
use super::parameters::{ChangeClass, NOT_BELOW_PRIMARY, change_class};
use super::sql;
use crate::host::fake::{FakeCluster, FakePackage, FakeProgram, Machine, Machines, UnitAction};
use crate::host::{Attributes, Command, Output};

/// Version of the package that the fake repository offers first.
pub const PACKAGE_VERSION: &str = "15.18-0+deb12u1";

const PACKAGE: &str = "postgresql-15";

/// Fake machines with PostgreSQL 15 in their repositories, at addresses 10.0.0.1 and so on.
pub fn cluster<'a>(nodes: impl IntoIterator<Item = &'a str>) -> FakeCluster {
    let cluster = FakeCluster::new(nodes, vec![Box::new(Simulation)]);
    for (index, machine) in cluster.machines().values_mut().enumerate() {
        machine.address = format!("10.0.0.{}", index + 1);
        let package = FakePackage {
            available: vec![PACKAGE_VERSION.to_owned(), "15.17-0+deb12u1".to_owned()],
            makes_users: vec![(OS_USER.to_owned(), "/var/lib/postgresql".to_owned())],
            ..FakePackage::default()
        };
        machine.packages.insert(PACKAGE.to_owned(), package);
    }
    cluster
}

/// Makes the write-ahead log that `slot` keeps on `node` be gone.
pub fn lose_slot(cluster: &FakeCluster, node: &str, uid: &str, slot: &str) {
    let mut machines = cluster.machines();
    let Some(machine) = machines.get_mut(node) else {
        return;
    };
    let Some(server) = process(machine, uid) else {
        return;
    };
    let mut disk = disk(machine, &server.data);
    disk.slots.insert(slot.to_owned(), true);
    put_disk(machine, &server.data, &disk);
}

/// The programs and the server.
#[derive(Debug, Clone, Copy, Default)]
pub struct Simulation;

/// What lies in a data directory, besides the files that the driver looks at.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Disk {
    databases: BTreeSet<String>,
    roles: BTreeMap<String, Role>,
    slots: BTreeMap<String, bool>,
    control: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Role {
    verifier: String,
    is_member: bool,
}

/// A running server.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Process {
    data: PathBuf,
    conf: PathBuf,
    started_with: Settings,
    runs_with: Settings,
    loads: u32,
    version: String,
}

impl FakeProgram for Simulation {
    fn run(
        &self,
        machines: &mut Machines,
        node: &str,
        command: &Command,
        interrupted: bool,
    ) -> Option<Output> {
        let program = command
            .program()
            .strip_prefix("/usr/lib/postgresql/15/bin/")?
            .to_owned();
        let package = machines.get(node)?.packages.get(PACKAGE)?;
        package
            .installed
            .as_ref()
            .filter(|_| !package.half_configured)?;
        match program.as_str() {
            "initdb" => initdb(machines.get_mut(node)?, node, command, interrupted),
            "pg_basebackup" => base_backup(machines, node, command, interrupted),
            _ if interrupted => Some(Output::default()),
            "postgres" => check_configuration(machines.get(node)?, command),
            "pg_controldata" => control_data(machines, node, command),
            "psql" => psql(machines, node, command),
            _ => None,
        }
    }

    fn on_unit(
        &self,
        machines: &mut Machines,
        node: &str,
        unit: &str,
        action: UnitAction,
    ) -> Result<(), String> {
        let Some(uid) = unit
            .strip_prefix("contextos-postgres-")
            .and_then(|rest| rest.strip_suffix(".service"))
        else {
            return Ok(());
        };
        if action == UnitAction::Stop {
            replay(machines, node, uid);
        }
        let machine = machines.get_mut(node).ok_or("no such machine")?;
        match action {
            UnitAction::Start => start(machine, unit, uid),
            UnitAction::Reload => {
                let mut process = process(machine, uid).ok_or("it does not run")?;
                process.runs_with = settings(machine, &process.conf)?;
                process.loads += 1;
                put(machine, &process_path(uid), &process);
                Ok(())
            }
            UnitAction::Stop => {
                if let Some(process) = process(machine, uid) {
                    machine.entries.remove(&process.data.join("postmaster.pid"));
                    machine.ports.remove(&port(&process.started_with));
                }
                machine
                    .entries
                    .retain(|path, _| !path.starts_with(super::layout::socket_dir(uid)));
                Ok(())
            }
        }
    }
}

fn option<'a>(command: &'a Command, flag: &str) -> Option<&'a str> {
    let at = command.argv.iter().position(|word| word == flag)?;
    command.argv.get(at + 1).map(String::as_str)
}

fn owned(mode: u32) -> Attributes {
    Attributes::of(OS_USER, mode)
}

fn put(machine: &mut Machine, path: &Path, value: &impl Serialize) {
    machine.put_file(path, json!(value).to_string(), owned(0o600));
}

fn get<T: for<'de> Deserialize<'de>>(machine: &Machine, path: &Path) -> Option<T> {
    serde_json::from_slice(machine.file(path)?).ok()
}

fn disk(machine: &Machine, data: &Path) -> Disk {
    get(machine, &data.join("base/disk.json")).unwrap_or_default()
}

fn put_disk(machine: &mut Machine, data: &Path, disk: &Disk) {
    put(machine, &data.join("base/disk.json"), disk);
}

fn process_path(uid: &str) -> PathBuf {
    super::layout::socket_dir(uid).join("process.json")
}

fn process(machine: &Machine, uid: &str) -> Option<Process> {
    get(machine, &process_path(uid))
}

fn port(settings: &Settings) -> u16 {
    settings
        .get("port")
        .and_then(|port| port.parse().ok())
        .unwrap_or(5432)
}

fn settings(machine: &Machine, conf: &Path) -> Result<Settings, String> {
    let text = machine
        .file(conf)
        .ok_or("could not open the configuration file")?;
    conf::parse(&String::from_utf8_lossy(text))
        .ok_or_else(|| "configuration file contains errors".to_owned())
}

fn special(settings: &Settings) -> BTreeMap<String, u64> {
    let value = |(name, default): (&str, u64)| {
        let value = settings
            .get(name)
            .and_then(|text| text.parse().ok())
            .unwrap_or(default);
        (name.to_owned(), value)
    };
    NOT_BELOW_PRIMARY.map(value).into()
}

fn initdb(
    machine: &mut Machine,
    node: &str,
    command: &Command,
    interrupted: bool,
) -> Option<Output> {
    let data = PathBuf::from(option(command, "--pgdata")?);
    if machine
        .entries
        .keys()
        .any(|path| path.parent() == Some(&data))
    {
        return Some(Output::failure(
            1,
            "initdb: error: directory exists but is not empty",
        ));
    }
    machine.put_file(&data.join("PG_VERSION"), "15\n", owned(0o600));
    if interrupted {
        return Some(Output::default());
    }
    let identifier = node
        .bytes()
        .fold(7_000_000_000_000_000_000_u64, |sum, byte| {
            sum + u64::from(byte)
        });
    machine.put_file(
        &data.join("global/pg_control"),
        identifier.to_ne_bytes(),
        owned(0o600),
    );
    put_disk(machine, &data, &Disk::default());
    Some(Output::success("Success."))
}

fn start(machine: &mut Machine, unit: &str, uid: &str) -> Result<(), String> {
    let (data, conf) = exec_start(machine, unit)?;
    if !machine.exists(&data.join("global/pg_control")) {
        return Err(format!(
            "{} is no database cluster directory",
            data.display()
        ));
    }
    let started_with = settings(machine, &conf)?;
    // A library that does not exist is found out by a start only.
    if started_with.contains_key("shared_preload_libraries") {
        return Err("FATAL: could not access file: No such file or directory".to_owned());
    }
    let mut disk = disk(machine, &data);
    let values = special(&started_with);
    if machine.exists(&data.join("standby.signal")) {
        if let Some((name, _)) = values
            .iter()
            .find(|(name, value)| disk.control.get(*name) > Some(*value))
        {
            return Err(format!(
                "recovery aborted because of insufficient parameter settings: {name}"
            ));
        }
    } else {
        disk.control = values;
    }
    if !machine.ports.insert(port(&started_with)) {
        return Err("could not bind: Address already in use".to_owned());
    }
    put_disk(machine, &data, &disk);
    let pid_file = format!(
        "4711\n{}\n0\n{}\n/run\n*\n0\nready\n",
        data.display(),
        port(&started_with)
    );
    machine.put_file(&data.join("postmaster.pid"), pid_file, owned(0o600));
    let installed = machine
        .packages
        .get(PACKAGE)
        .and_then(|package| package.installed.clone())
        .unwrap_or_default();
    let number = installed.split('-').next().unwrap_or_default().to_owned();
    let version = format!("{number} (Debian {installed})");
    let runs_with = started_with.clone();
    put(
        machine,
        &process_path(uid),
        &Process {
            data,
            conf,
            started_with,
            runs_with,
            loads: 1,
            version,
        },
    );
    Ok(())
}

/// Data directory and configuration file of a unit's command line.
fn exec_start(machine: &Machine, unit: &str) -> Result<(PathBuf, PathBuf), String> {
    let text = machine
        .units
        .get(unit)
        .map(|state| state.loaded.clone())
        .unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart="))
        .ok_or("no ExecStart")?;
    let words: Vec<&str> = line.split(' ').collect();
    let [_, "-D", data, "-c", conf] = words[..] else {
        return Err("ExecStart is not as expected".to_owned());
    };
    let conf = conf.trim_start_matches("config_file=");
    Ok((PathBuf::from(data), PathBuf::from(conf)))
}

/// The node and the server that a connection string leads to.
fn peer(machines: &Machines, uid: &str, conninfo: &str) -> Option<(String, Process)> {
    let host = conninfo
        .split(' ')
        .find_map(|word| word.strip_prefix("host="))?;
    let (node, machine) = machines
        .iter()
        .find(|(_, machine)| machine.address == host)?;
    Some((node.clone(), process(machine, uid)?))
}

/// The uid is in the name of the only directory of a server under /run, or in the path of the password file.
fn uid_of_passfile(path: &str) -> Option<&str> {
    path.strip_prefix("/etc/contextos/postgres/")?
        .split('/')
        .next()
}

fn base_backup(
    machines: &mut Machines,
    node: &str,
    command: &Command,
    interrupted: bool,
) -> Option<Output> {
    let target = PathBuf::from(option(command, "--pgdata")?);
    let passfile = command
        .env
        .iter()
        .find(|(name, _)| name == "PGPASSFILE")
        .map(|(_, path)| path.clone())?;
    let uid = uid_of_passfile(&passfile)?.to_owned();
    let Some((from, server)) = peer(machines, &uid, option(command, "--dbname")?) else {
        return Some(Output::failure(
            1,
            "pg_basebackup: error: connection refused",
        ));
    };
    let me = machines.get(node)?;
    let source = machines.get(&from)?;
    let hba = server.conf.with_file_name("pg_hba.conf");
    let admits = format!("{}/32", me.address);
    if !String::from_utf8_lossy(source.file(&hba).unwrap_or_default()).contains(&admits) {
        return Some(Output::failure(
            1,
            format!(
                "FATAL: no pg_hba.conf entry for replication from {}",
                me.address
            ),
        ));
    }
    if me.file(Path::new(&passfile)).is_none_or(<[u8]>::is_empty) {
        return Some(Output::failure(1, "fe_sendauth: no password supplied"));
    }
    if !disk(source, &server.data)
        .slots
        .contains_key(option(command, "--slot")?)
    {
        return Some(Output::failure(1, "ERROR: replication slot does not exist"));
    }
    let mut copied: Vec<(PathBuf, Vec<u8>)> = Vec::new();
    for path in source
        .entries
        .keys()
        .filter(|path| path.starts_with(&server.data) && !path.ends_with("postmaster.pid"))
    {
        if let (Some(content), Ok(below)) = (source.file(path), path.strip_prefix(&server.data)) {
            copied.push((target.join(below), content.to_vec()));
        }
    }
    if interrupted {
        copied.retain(|(path, _)| path.ends_with("PG_VERSION"));
    }
    let me = machines.get_mut(node)?;
    for (path, content) in copied {
        me.put_file(&path, content, owned(0o600));
    }
    Some(Output::success(""))
}

/// A standby that streams has replayed what its primary has, the primary's special parameters among it.
fn replay(machines: &mut Machines, node: &str, uid: &str) {
    let followed = machines.get(node).and_then(|machine| {
        let standby = process(machine, uid)?;
        let (primary, server) = peer(machines, uid, standby.runs_with.get("primary_conninfo")?)?;
        let streams = streaming(machines, &primary, uid, &server).contains(node);
        streams.then(|| {
            (
                standby.data,
                disk(&machines[&primary], &server.data).control,
            )
        })
    });
    if let (Some((data, control)), Some(machine)) = (followed, machines.get_mut(node)) {
        let mut disk = disk(machine, &data);
        disk.control = control;
        put_disk(machine, &data, &disk);
    }
}

fn check_configuration(machine: &Machine, command: &Command) -> Option<Output> {
    let conf = command
        .argv
        .iter()
        .find_map(|word| word.strip_prefix("config_file="))?;
    Some(match settings(machine, Path::new(conf)) {
        Ok(settings) if settings.values().all(|value| value != "invalid") => Output::success("100"),
        Ok(_) => Output::failure(1, "FATAL: configuration file contains errors"),
        Err(complaint) => Output::failure(1, complaint),
    })
}

fn control_data(machines: &mut Machines, node: &str, command: &Command) -> Option<Output> {
    let data = PathBuf::from(option(command, "-D")?);
    let uid = get::<Value>(machines.get(node)?, &data.join(super::layout::MARKER))?["uid"]
        .as_str()?
        .to_owned();
    replay(machines, node, &uid);
    let lines = disk(machines.get(node)?, &data).control;
    let lines = lines
        .into_iter()
        .map(|(name, value)| format!("{name} setting:   {value}\n"));
    Some(Output::success(lines.collect::<String>()))
}

fn psql(machines: &mut Machines, node: &str, command: &Command) -> Option<Output> {
    let directory = option(command, "-h")?;
    let uid = directory
        .strip_prefix("/run/contextos-postgres-")?
        .to_owned();
    let input = String::from_utf8_lossy(command.stdin.as_deref()?).into_owned();
    let asked: u16 = option(command, "-p")?.parse().ok()?;
    let server =
        process(machines.get(node)?, &uid).filter(|server| port(&server.started_with) == asked);
    let Some(server) = server else {
        return Some(Output::failure(2, "psql: error: connection refused"));
    };
    let variables: BTreeMap<&str, &str> = input
        .lines()
        .filter_map(|line| {
            line.strip_prefix("\\set ")?
                .strip_suffix('\'')?
                .split_once(" '")
        })
        .collect();
    let script = input
        .lines()
        .position(|line| line.starts_with("-- contextos"))?;
    let script: String = input
        .lines()
        .skip(script)
        .map(|line| format!("{line}\n"))
        .collect();
    if script == sql::OBSERVE.text {
        return Some(Output::success(
            observe(machines, node, &uid, &server).to_string(),
        ));
    }
    if script == sql::CONF_LOAD_TIME.text {
        return Some(Output::success(json!(server.loads).to_string()));
    }
    let is_stuck =
        script == sql::CREATE_DATABASE.text && commit_hangs(machines, node, &uid, &server);
    if is_stuck {
        return Some(Output::failure(
            3,
            "canceling the wait for synchronous replication",
        ));
    }
    let is_standby = machines
        .get(node)?
        .exists(&server.data.join("standby.signal"));
    let machine = machines.get_mut(node)?;
    let mut disk = disk(machine, &server.data);
    let answer = execute(&script, &variables, &mut disk)?;
    if is_standby && script != sql::ROLE.text {
        return Some(Output::failure(
            3,
            "ERROR: cannot execute in a read-only transaction",
        ));
    }
    put_disk(machine, &server.data, &disk);
    Some(answer)
}

fn execute(script: &str, variables: &BTreeMap<&str, &str>, disk: &mut Disk) -> Option<Output> {
    let variable = |name: &str| variables.get(name).map(|value| (*value).to_owned());
    let done = |changed: bool, complaint: &str| match changed {
        true => Output::success(""),
        false => Output::failure(3, format!("ERROR: {complaint}")),
    };
    Some(if script == sql::ROLE.text {
        let role = disk.roles.get(&variable("role")?);
        Output::success(json!(role).to_string())
    } else if script == sql::CREATE_ROLE.text {
        let role = Role {
            verifier: variable("verifier")?,
            is_member: false,
        };
        done(
            disk.roles.insert(variable("role")?, role).is_none(),
            "role already exists",
        )
    } else if script == sql::ALTER_ROLE.text {
        let role = disk.roles.get_mut(&variable("role")?)?;
        role.verifier = variable("verifier")?;
        done(true, "")
    } else if script == sql::GRANT_OWNER.text {
        disk.roles.get_mut(&variable("role")?)?.is_member = true;
        done(true, "")
    } else if script == sql::CREATE_DATABASE.text {
        let owner_exists = disk.roles.contains_key(&variable("owner")?);
        done(
            owner_exists && disk.databases.insert(variable("database")?),
            "database exists or owner does not",
        )
    } else if script == sql::CREATE_SLOT.text {
        done(
            disk.slots.insert(variable("slot")?, false).is_none(),
            "replication slot already exists",
        )
    } else if script == sql::DROP_SLOT.text {
        done(
            disk.slots.remove(&variable("slot")?).is_some(),
            "replication slot does not exist",
        )
    } else {
        return None;
    })
}

fn commit_hangs(machines: &Machines, node: &str, uid: &str, server: &Process) -> bool {
    let names = server
        .runs_with
        .get("synchronous_standby_names")
        .cloned()
        .unwrap_or_default();
    let streaming = streaming(machines, node, uid, server);
    !names.is_empty()
        && !streaming
            .iter()
            .any(|standby| names.contains(&format!("\"{standby}\"")))
}

/// Names of standbys that stream from `node`.
fn streaming(machines: &Machines, node: &str, uid: &str, server: &Process) -> BTreeSet<String> {
    let Some(machine) = machines.get(node) else {
        return BTreeSet::new();
    };
    let slots = disk(machine, &server.data).slots;
    let follows = |other: &Machine| {
        let standby = process(other, uid)?;
        let conninfo = standby.runs_with.get("primary_conninfo")?;
        let (leads_to, _) = peer(machines, uid, conninfo)?;
        let has_slot = slots.get(standby.runs_with.get("primary_slot_name")?) == Some(&false);
        let name = conninfo
            .split(' ')
            .find_map(|word| word.strip_prefix("application_name="))?;
        (leads_to == node && has_slot && other.exists(&standby.data.join("standby.signal")))
            .then(|| name.to_owned())
    };
    machines.values().filter_map(follows).collect()
}

fn observe(machines: &Machines, node: &str, uid: &str, server: &Process) -> Value {
    let Some(machine) = machines.get(node) else {
        return Value::Null;
    };
    let disk = disk(machine, &server.data);
    let in_recovery = machine.exists(&server.data.join("standby.signal"));
    let pending = |name: &&String| {
        change_class(name) == ChangeClass::Restart
            && server.started_with.get(*name) != server.runs_with.get(*name)
    };
    let names: BTreeSet<&String> = server
        .started_with
        .keys()
        .chain(server.runs_with.keys())
        .collect();
    let receiving = server
        .runs_with
        .get("primary_conninfo")
        .and_then(|conninfo| {
            let (primary, leader) = peer(machines, uid, conninfo)?;
            Some(streaming(machines, &primary, uid, &leader).contains(node))
        });
    let answer = Server {
        in_recovery,
        server_version: server.version.clone(),
        pending_restart: names.into_iter().filter(pending).cloned().collect(),
        special: special(&server.started_with),
        databases: disk.databases,
        roles: disk.roles.keys().cloned().collect(),
        owners: disk
            .roles
            .iter()
            .filter(|(_, role)| role.is_member)
            .map(|(name, _)| name.clone())
            .collect(),
        slots: disk.slots,
        streaming: if in_recovery {
            BTreeSet::new()
        } else {
            streaming(machines, node, uid, server)
        },
        receiving: in_recovery && receiving.unwrap_or(false),
    };
    let mut answer = json!(answer);
    answer["measures"] = json!({ "size_bytes": 7_500_000, "standbys": {} });
    answer
}
