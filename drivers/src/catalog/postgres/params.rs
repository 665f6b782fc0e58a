//! What a wish for PostgreSQL may say, and how it is checked.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::layout::{Place, default_data_directory};
use super::parameters::{self, NOT_BELOW_PRIMARY};
use super::slots::slot_name;
use crate::driver::{FieldError, Wish};
use crate::nearest::nearest_name;
use crate::params::{parse, schema_of, see_schema};

/// Name of the driver.
pub const NAME: &str = "postgres";

/// The major version whose parameters and programs this driver knows.
pub const MAJOR: u32 = 15;

/// Longest name of a role or database in PostgreSQL (NAMEDATALEN - 1).
const NAME_LEN_BYTES_MAX: usize = 63;

/// Role that owns the deployment's databases; also the key of its password.
pub const OWNER_ROLE: &str = "owner";

/// Role that standbys connect with.
pub const REPLICATION_ROLE: &str = "contextos_replication";

/// Key of the replication role's password.
pub const REPLICATION_KEY: &str = "replication";

/// The `params` of a wish. Besides these fields, each configuration parameter of PostgreSQL may stand here by its name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PostgresParams {
    /// Version: "15" for the repository's newest, or exactly "15.18".
    #[schemars(length(min = 1, max = 64))]
    pub version: String,
    /// Databases that exist, owned by role owner. None is ever dropped.
    #[serde(default)]
    pub databases: Vec<String>,
    /// Login roles that exist, members of role owner, with generated passwords (dsm-agent secret show NAME ROLE).
    #[serde(default)]
    pub users: Vec<String>,
    /// Configuration parameters of PostgreSQL by name.
    #[serde(default)]
    pub parameters: BTreeMap<String, Setting>,
    /// TCP port on every node.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// Data directory on every node, instead of one below /var/lib/contextos/postgres.
    #[serde(default)]
    pub data_directory: Option<String>,
    /// System identifier of an existing data directory that becomes this deployment's.
    #[serde(default)]
    pub adopt: Option<String>,
    /// True acknowledges writes before a standby has them: faster, and may lose the last rows with the primary.
    #[serde(default, rename = "async")]
    pub is_async: bool,
    /// Networks that may connect besides the members, for example "10.0.0.0/8".
    #[serde(default)]
    pub clients: Vec<String>,
}

/// A parameter's value as JSON has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Setting {
    /// on or off.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A number.
    Real(f64),
    /// A word, a text, or a number with its unit.
    Text(String),
}

fn default_port() -> u16 {
    5432
}

/// A checked wish.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// As written.
    pub params: PostgresParams,
    /// Configuration parameters as text, those of the wish only.
    pub settings: BTreeMap<String, String>,
}

impl Checked {
    /// Where the deployment lies on each of its nodes.
    pub fn place(&self, uid: &str) -> Place {
        let data_directory = self.params.data_directory.as_ref().map(PathBuf::from);
        Place {
            major: MAJOR,
            data_directory: data_directory.unwrap_or_else(|| default_data_directory(uid)),
            port: self.params.port,
        }
    }

    /// All roles that clients log in with: owner first, then the wish's users.
    pub fn roles(&self) -> Vec<String> {
        let wanted = !self.params.databases.is_empty() || !self.params.users.is_empty();
        let owner = wanted.then(|| OWNER_ROLE.to_owned());
        owner
            .into_iter()
            .chain(self.params.users.iter().cloned())
            .collect()
    }
}

/// Whether Debian version `version` of the server is what `wanted` ("15", "15.18", or all of it) asks for.
pub fn is_version(wanted: &str, version: &str) -> bool {
    let rest = version.strip_prefix(wanted);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '+', '~', '.']))
}

/// The JSON Schema of `params`, with each configuration parameter as a field of its own.
pub fn schema() -> &'static Value {
    static SCHEMA: LazyLock<Value> = LazyLock::new(make_schema);
    &SCHEMA
}

fn make_schema() -> Value {
    let mut schema = schema_of::<PostgresParams>();
    if let Some(fields) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        for parameter in parameters::settable() {
            let types = json!(["boolean", "number", "string"]);
            let field = json!({ "description": parameter.description, "type": types });
            fields.entry(parameter.name).or_insert(field);
        }
    }
    schema
}

/// Checks a wish.
///
/// # Errors
/// All faults found, at least one.
pub fn check(wish: &Wish) -> Result<Checked, Vec<FieldError>> {
    let empty = Map::new();
    let given = wish.params.as_object().unwrap_or(&empty);
    let managed = |name: &String| parameters::managed(name).filter(|_| !is_own_field(name));
    let mut faults: Vec<FieldError> = given
        .keys()
        .filter_map(|name| {
            managed(name).map(|instead| managed_fault(&format!("params.{name}"), instead))
        })
        .collect();
    let (own, direct) = split(&wish.params, |name| managed(name).is_some());
    let params: PostgresParams = match parse(NAME, schema(), &own) {
        Ok(params) => params,
        Err(mut more) => {
            faults.append(&mut more);
            return Err(faults);
        }
    };
    let mut checker = Checker {
        faults,
        settings: BTreeMap::new(),
    };
    checker.version(&params.version);
    checker.names(
        "databases",
        &params.databases,
        &["postgres", "template0", "template1"],
    );
    checker.names(
        "users",
        &params.users,
        &["postgres", OWNER_ROLE, REPLICATION_ROLE, REPLICATION_KEY],
    );
    checker.settings(&params, &direct);
    checker.data_directory(params.data_directory.as_deref());
    checker.clients(&params.clients);
    if params
        .adopt
        .as_ref()
        .is_some_and(|id| id.parse::<u64>().is_err())
    {
        checker.fault(
            "adopt",
            "is not a system identifier",
            "write the number that the refusal names",
        );
    }
    checker.nodes(&wish.nodes);
    if checker.faults.is_empty() {
        return Ok(Checked {
            params,
            settings: checker.settings,
        });
    }
    Err(checker.faults)
}

fn is_own_field(name: &str) -> bool {
    ["port", "data_directory"].contains(&name)
}

/// The wish's own fields, and the configuration parameters that stand beside them.
fn split(params: &Value, is_dropped: impl Fn(&String) -> bool) -> (Value, Map<String, Value>) {
    let Some(fields) = params.as_object() else {
        return (params.clone(), Map::new());
    };
    let (mut own, mut direct) = (Map::new(), Map::new());
    for (name, value) in fields.iter().filter(|(name, _)| !is_dropped(name)) {
        let is_parameter = parameters::all().contains_key(name.as_str()) && !is_own_field(name);
        let target = if is_parameter { &mut direct } else { &mut own };
        target.insert(name.clone(), value.clone());
    }
    (Value::Object(own), direct)
}

fn managed_fault(field: &str, instead: &str) -> FieldError {
    let reason = "is set by the driver".to_owned();
    FieldError {
        field: field.to_owned(),
        reason,
        hint: format!("leave it out: {instead}"),
    }
}

struct Checker {
    faults: Vec<FieldError>,
    settings: BTreeMap<String, String>,
}

impl Checker {
    fn fault(&mut self, field: &str, reason: impl Into<String>, hint: impl Into<String>) {
        self.faults.push(FieldError {
            field: format!("params.{field}"),
            reason: reason.into(),
            hint: hint.into(),
        });
    }

    fn version(&mut self, version: &str) {
        let major: String = version.chars().take_while(char::is_ascii_digit).collect();
        if major != MAJOR.to_string()
            || !version[major.len()..].is_empty() && !version[major.len()..].starts_with('.')
        {
            let reason =
                format!("is {version}; this version of the driver knows PostgreSQL {MAJOR} only");
            self.fault("version", reason, format!("write \"{MAJOR}\""));
        }
    }

    fn names(&mut self, field: &str, names: &[String], reserved: &[&str]) {
        let mut seen = BTreeSet::new();
        for (index, name) in names.iter().enumerate() {
            let field = format!("{field}[{index}]");
            let starts_well =
                name.starts_with(|letter: char| letter.is_ascii_lowercase() || letter == '_');
            let is_plain = |byte: u8| {
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte)
            };
            if !starts_well || name.len() > NAME_LEN_BYTES_MAX || !name.bytes().all(is_plain) {
                let hint = "write lower-case letters, digits, _ and -, at most 63, a letter first";
                self.fault(
                    &field,
                    format!("is {name:?}, which is no name that needs no quotes"),
                    hint,
                );
            } else if reserved.contains(&name.as_str()) || name.starts_with("pg_") {
                self.fault(
                    &field,
                    format!("is {name}, which is reserved"),
                    "write another name",
                );
            } else if !seen.insert(name) {
                self.fault(
                    &field,
                    format!("is {name}, which stands there already"),
                    "write each name once",
                );
            }
        }
    }

    fn settings(&mut self, params: &PostgresParams, direct: &Map<String, Value>) {
        for (name, setting) in &params.parameters {
            let field = format!("parameters.{name}");
            if direct.contains_key(name) {
                self.fault(
                    &field,
                    "stands in params, too",
                    format!("write it once, as params.{name}"),
                );
                continue;
            }
            self.setting(&field, name, &json!(setting));
        }
        for (name, value) in direct {
            self.setting(name, name, value);
        }
    }

    fn setting(&mut self, field: &str, name: &str, value: &Value) {
        if let Some(instead) = parameters::managed(name) {
            self.faults
                .push(managed_fault(&format!("params.{field}"), instead));
            return;
        }
        let Some(parameter) = parameters::all().get(name) else {
            let is_extension = name
                .split_once('.')
                .is_some_and(|(left, right)| !left.is_empty() && !right.is_empty());
            if is_extension
                && let Some(text) = value
                    .as_str()
                    .map(str::to_owned)
                    .or_else(|| Some(value.to_string()))
            {
                self.settings.insert(name.to_owned(), text);
                return;
            }
            let hint =
                match nearest_name(name, parameters::settable().map(|parameter| parameter.name)) {
                    Some(near) => format!("write {near} (nearest name), or {}", see_schema(NAME)),
                    None => see_schema(NAME),
                };
            return self.fault(
                field,
                format!("is not a parameter of PostgreSQL {MAJOR}"),
                hint,
            );
        };
        match parameter.parse(value) {
            Err((reason, hint)) => self.fault(field, reason, hint),
            Ok(text) if name == "wal_level" && text == "minimal" => {
                self.fault(
                    field,
                    format!("is {text}, which allows no standby"),
                    "write replica or logical",
                );
            }
            Ok(text)
                if NOT_BELOW_PRIMARY
                    .iter()
                    .any(|(special, _)| *special == name)
                    && text.parse::<u64>().is_err() =>
            {
                self.fault(
                    field,
                    format!("is {text}, not a plain number"),
                    "write a whole number",
                );
            }
            Ok(text) => {
                self.settings.insert(name.to_owned(), text);
            }
        }
    }

    fn data_directory(&mut self, directory: Option<&str>) {
        let Some(directory) = directory else { return };
        let path = Path::new(directory);
        let plain =
            path.is_absolute() && path.components().count() >= 3 && !directory.ends_with('/');
        let normal = path.components().all(|part| part.as_os_str() != "..");
        if !plain
            || !normal
            || directory
                .chars()
                .any(|letter| letter.is_control() || letter.is_whitespace() || letter == '%')
        {
            let hint = "write a folder below a mount point or system folder, as in /data/postgres, without spaces";
            self.fault(
                "data_directory",
                format!("is {directory:?}, which cannot be used"),
                hint,
            );
        }
    }

    fn clients(&mut self, clients: &[String]) {
        for (index, network) in clients.iter().enumerate() {
            let parts = network.split_once('/').and_then(|(address, bits)| {
                Some((address.parse::<IpAddr>().ok()?, bits.parse::<u8>().ok()?))
            });
            let right = parts
                .is_some_and(|(address, bits)| bits <= if address.is_ipv4() { 32 } else { 128 });
            if !right {
                let hint = "write address and bits, as in 10.0.0.0/8";
                self.fault(
                    &format!("clients[{index}]"),
                    format!("is {network}, not a network"),
                    hint,
                );
            }
        }
    }

    fn nodes(&mut self, nodes: &[String]) {
        let mut slots = BTreeSet::new();
        let twin = nodes.iter().find(|node| !slots.insert(slot_name(node)));
        let fault = |reason: String, hint: &str| FieldError {
            field: "nodes".to_owned(),
            reason,
            hint: hint.to_owned(),
        };
        if nodes.is_empty() {
            self.faults
                .push(fault("is empty".to_owned(), "name at least one node"));
        }
        if let Some(twin) = twin {
            let reason = format!("names {twin} and another node whose slot has the same name");
            let hint = "slot names hold letters and digits only: name nodes apart by those";
            self.faults.push(fault(reason, hint));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(params: Value) -> Wish {
        Wish {
            deployment: "mid/shop".into(),
            nodes: vec!["n1".into(), "n2".into()],
            params,
        }
    }

    fn fault(params: Value) -> (String, String, String) {
        let fault = check(&wish(params)).unwrap_err().remove(0);
        (fault.field, fault.reason, fault.hint)
    }

    #[test]
    fn a_parameter_may_stand_beside_or_below() {
        let beside = json!({"version": "15", "databases": ["shop"], "max_connections": 300});
        let below = json!({"version": "15", "databases": ["shop"], "parameters": {"max_connections": "300"}});
        for params in [beside, below] {
            let checked = check(&wish(params)).unwrap();
            assert_eq!(
                checked.settings,
                BTreeMap::from([("max_connections".to_owned(), "300".to_owned())])
            );
        }
    }

    #[test]
    fn a_version_stands_for_all_that_begin_with_it() {
        let debian = "15.18-0+deb12u1";
        assert!(
            is_version("15", debian) && is_version("15.18", debian) && is_version(debian, debian)
        );
        assert!(
            !is_version("15.1", debian) && !is_version("1", debian) && !is_version("16", debian)
        );
    }

    #[test]
    fn a_mistyped_parameter_is_refused_with_the_nearest_name() {
        let (field, reason, hint) = fault(json!({"version": "15", "max_conections": 300}));
        assert_eq!(field, "params.max_conections");
        assert_eq!(reason, "is not a parameter of driver postgres");
        assert!(
            hint.starts_with("write max_connections (nearest name)"),
            "{hint}"
        );
        let (field, _, hint) = fault(json!({"version": "15", "parameters": {"work_men": "4MB"}}));
        assert_eq!(field, "params.parameters.work_men");
        assert!(hint.starts_with("write work_mem"), "{hint}");
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_field() {
        let with = |name: &str, value: Value| {
            let mut params = json!({"version": "15"});
            params[name] = value;
            fault(params).0
        };
        assert_eq!(with("version", json!("16")), "params.version");
        assert_eq!(with("version", json!(15)), "params.version");
        assert_eq!(with("version", json!("15x")), "params.version");
        assert_eq!(
            with("databases", json!(["postgres"])),
            "params.databases[0]"
        );
        assert_eq!(with("databases", json!(["a", "a"])), "params.databases[1]");
        assert_eq!(with("users", json!(["Robert'); --"])), "params.users[0]");
        assert_eq!(with("max_connections", json!(0)), "params.max_connections");
        assert_eq!(
            with("synchronous_standby_names", json!("*")),
            "params.synchronous_standby_names"
        );
        assert_eq!(with("wal_level", json!("minimal")), "params.wal_level");
        assert_eq!(with("port", json!(0)), "params.port");
        assert_eq!(
            with("data_directory", json!("data")),
            "params.data_directory"
        );
        assert_eq!(with("clients", json!(["10.0.0.0/99"])), "params.clients[0]");
        assert_eq!(with("adopt", json!("yes")), "params.adopt");
        assert_eq!(fault(json!({})).0, "params.version");
    }
}
