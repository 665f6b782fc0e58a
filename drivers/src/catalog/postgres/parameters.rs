//! PostgreSQL's configuration parameters: what they take, and what a change of each costs.
//!
//! The table is what PostgreSQL 15 tells of itself in `pg_settings` (`parameters_15.tsv`).
//! Invariant: a value that passes [`Parameter::parse`] is accepted by the server, except for rules between parameters,
//! which the server's own check finds before the file is put in place.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::Value;

use crate::nearest::nearest_name;

/// One parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// What a change needs.
    pub change: ChangeClass,
    /// What it takes.
    pub kind: Kind,
    /// What it is for.
    pub description: &'static str,
}

/// What a change of a parameter needs to take effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeClass {
    /// The configuration is read again; sessions go on.
    Reload,
    /// The server restarts.
    Restart,
}

/// What a parameter takes.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// on, off.
    Bool,
    /// A whole number or, with a unit, an amount.
    Integer(Range),
    /// A number or, with a unit, an amount.
    Real(Range),
    /// One of these words.
    Enum(Vec<&'static str>),
    /// Any text.
    Text,
}

/// Bounds in the parameter's own unit.
#[derive(Debug, Clone, PartialEq)]
pub struct Range {
    /// `kB`, `8kB`, `ms`...; `None` for a bare number.
    pub unit: Option<&'static str>,
    /// Least value.
    pub min: f64,
    /// Greatest value.
    pub max: f64,
}

/// The parameters of which a standby must never have less than its primary, and their defaults: raised on standbys
/// first, lowered on the primary first.
pub const NOT_BELOW_PRIMARY: [(&str, u64); 5] = [
    ("max_connections", 100),
    ("max_locks_per_transaction", 64),
    ("max_prepared_transactions", 0),
    ("max_wal_senders", 10),
    ("max_worker_processes", 8),
];

/// Parameters that the driver sets itself, and what to write instead.
const MANAGED: [(&str, &str); 18] = [
    ("cluster_name", "it is the deployment's name"),
    ("config_file", "it is the driver's"),
    ("data_directory", "write params.data_directory"),
    (
        "external_pid_file",
        "the service manager follows the process",
    ),
    ("hba_file", "write params.clients"),
    ("hot_standby", "standbys always serve reads"),
    ("ident_file", "it is the driver's"),
    ("port", "write params.port"),
    ("primary_conninfo", "it follows from nodes"),
    ("primary_slot_name", "it follows from nodes"),
    ("promote_trigger_file", "the driver decides who is primary"),
    ("recovery_target", "restoring is not in this version"),
    ("recovery_target_lsn", "restoring is not in this version"),
    ("recovery_target_name", "restoring is not in this version"),
    ("recovery_target_time", "restoring is not in this version"),
    ("recovery_target_xid", "restoring is not in this version"),
    ("synchronous_standby_names", "write params.async"),
    (
        "unix_socket_directories",
        "it is /run/contextos-postgres-UID",
    ),
];

static PARAMETERS: LazyLock<BTreeMap<&'static str, Parameter>> = LazyLock::new(|| {
    let lines = include_str!("parameters_15.tsv")
        .lines()
        .filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            parse_line(line).expect("the table is part of the build and a test reads all of it")
        })
        .collect()
});

fn parse_line(line: &'static str) -> Option<(&'static str, Parameter)> {
    let fields: Vec<&'static str> = line.split('\t').collect();
    let [name, context, kind, unit, min, max, allowed, description] = fields[..] else {
        return None;
    };
    let range = || {
        let unit = (unit != "-").then_some(unit);
        Some(Range {
            unit,
            min: min.parse().ok()?,
            max: max.parse().ok()?,
        })
    };
    let kind = match kind {
        "bool" => Kind::Bool,
        "integer" => Kind::Integer(range()?),
        "real" => Kind::Real(range()?),
        "enum" => Kind::Enum(allowed.split(',').collect()),
        "string" => Kind::Text,
        _ => return None,
    };
    let change = if context == "postmaster" {
        ChangeClass::Restart
    } else {
        ChangeClass::Reload
    };
    Some((
        name,
        Parameter {
            name,
            change,
            kind,
            description,
        },
    ))
}

/// All parameters of the server, by name.
pub fn all() -> &'static BTreeMap<&'static str, Parameter> {
    &PARAMETERS
}

/// The parameters that a wish may set.
pub fn settable() -> impl Iterator<Item = &'static Parameter> {
    all()
        .values()
        .filter(|parameter| managed(parameter.name).is_none())
}

/// What to do instead of setting a parameter that the driver sets itself.
pub fn managed(name: &str) -> Option<&'static str> {
    MANAGED
        .iter()
        .find(|(managed, _)| *managed == name)
        .map(|(_, instead)| *instead)
}

/// What a change of `name` needs; a name that the table does not hold (an extension's) is reloaded.
pub fn change_class(name: &str) -> ChangeClass {
    all()
        .get(name)
        .map_or(ChangeClass::Reload, |parameter| parameter.change)
}

impl Parameter {
    /// The text of `value` for the configuration file.
    ///
    /// # Errors
    /// What is wrong with it, and what is allowed.
    pub fn parse(&self, value: &Value) -> Result<String, (String, String)> {
        let text = match value {
            Value::Bool(value) => if *value { "on" } else { "off" }.to_owned(),
            Value::Number(number) => number.to_string(),
            Value::String(text) => text.clone(),
            other => {
                return Err((
                    format!("is {other}, not a value"),
                    "write a number, a word or a boolean".to_owned(),
                ));
            }
        };
        if text.chars().any(char::is_control) {
            return Err((
                "holds a control character".to_owned(),
                "write it in one line".to_owned(),
            ));
        }
        match &self.kind {
            Kind::Bool => parse_bool(&text),
            Kind::Integer(range) | Kind::Real(range) => parse_amount(&text, range),
            Kind::Enum(allowed) => parse_word(&text, allowed),
            Kind::Text => Ok(()),
        }?;
        Ok(text)
    }
}

fn parse_bool(text: &str) -> Result<(), (String, String)> {
    const WORDS: [&str; 8] = ["on", "off", "true", "false", "yes", "no", "1", "0"];
    if WORDS.contains(&text.to_ascii_lowercase().as_str()) {
        return Ok(());
    }
    Err((
        format!("is {text}, not a boolean"),
        "write true or false".to_owned(),
    ))
}

fn parse_word(text: &str, allowed: &[&'static str]) -> Result<(), (String, String)> {
    // Enumerations over booleans ("huge_pages", "wal_compression") take the synonyms of on and off, too.
    const SYNONYMS: [(&str, &str); 6] = [
        ("true", "on"),
        ("yes", "on"),
        ("1", "on"),
        ("false", "off"),
        ("no", "off"),
        ("0", "off"),
    ];
    let word = text.to_ascii_lowercase();
    let word = SYNONYMS
        .iter()
        .find(|(synonym, _)| *synonym == word)
        .map_or(word.as_str(), |(_, word)| word);
    if allowed.contains(&word) {
        return Ok(());
    }
    let hint = match nearest_name(word, allowed.iter().copied()) {
        Some(near) => format!("write {near} (nearest), or one of: {}", allowed.join(", ")),
        None => format!("write one of: {}", allowed.join(", ")),
    };
    Err((format!("is {text}, which it does not take"), hint))
}

fn parse_amount(text: &str, range: &Range) -> Result<(), (String, String)> {
    let split = text
        .find(|letter: char| letter.is_ascii_alphabetic())
        .unwrap_or(text.len());
    let (number, unit) = (text[..split].trim(), text[split..].trim());
    let example = range.unit.map_or("a number".to_owned(), |unit| {
        format!("a number, or one with a unit as in 10{unit}")
    });
    let Ok(number) = number.parse::<f64>() else {
        return Err((
            format!("is {text}, not a number"),
            format!("write {example}"),
        ));
    };
    let factor = match (unit, range.unit) {
        ("", _) => Some(1.0),
        (unit, Some(base)) => unit_size(unit)
            .zip(unit_size(base))
            .filter(|(left, right)| left.1 == right.1)
            .map(|(l, r)| l.0 / r.0),
        (_, None) => None,
    };
    let Some(factor) = factor else {
        return Err((
            format!("is {text}, whose unit it does not take"),
            format!("write {example}"),
        ));
    };
    let value = number * factor;
    if value < range.min || value > range.max {
        let unit = range
            .unit
            .map_or(String::new(), |unit| format!(" (in {unit})"));
        return Err((
            format!("is {text}, allowed is {} to {}{unit}", range.min, range.max),
            "write a value within".to_owned(),
        ));
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dimension {
    Bytes,
    Time,
}

/// Size of a unit in bytes or microseconds.
fn unit_size(unit: &str) -> Option<(f64, Dimension)> {
    use Dimension::{Bytes, Time};
    Some(match unit {
        "B" => (1.0, Bytes),
        "kB" => (1024.0, Bytes),
        "8kB" => (8192.0, Bytes),
        "MB" => (1024.0 * 1024.0, Bytes),
        "GB" => (1024.0 * 1024.0 * 1024.0, Bytes),
        "TB" => (1024.0 * 1024.0 * 1024.0 * 1024.0, Bytes),
        "us" => (1.0, Time),
        "ms" => (1e3, Time),
        "s" => (1e6, Time),
        "min" => (60e6, Time),
        "h" => (3600e6, Time),
        "d" => (86400e6, Time),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_whole_table_is_read() {
        assert!(all().len() > 300);
        for (name, _) in NOT_BELOW_PRIMARY {
            assert_eq!(change_class(name), ChangeClass::Restart, "{name}");
        }
        assert_eq!(change_class("work_mem"), ChangeClass::Reload);
    }

    #[test]
    fn every_managed_name_is_a_parameter() {
        for (name, _) in MANAGED {
            assert!(all().contains_key(name), "{name}");
        }
    }

    #[test]
    fn values_are_checked_against_type_range_and_unit() {
        let parse = |name: &str, value: Value| all()[name].parse(&value);
        for (name, value, text) in [
            ("max_connections", json!(300), "300"),
            ("work_mem", json!("16MB"), "16MB"),
            ("shared_buffers", json!("1GB"), "1GB"),
            ("statement_timeout", json!("5min"), "5min"),
            ("fsync", json!(true), "on"),
            ("wal_level", json!("logical"), "logical"),
            ("random_page_cost", json!(1.1), "1.1"),
            ("search_path", json!("a, b"), "a, b"),
        ] {
            assert_eq!(parse(name, value).unwrap(), text);
        }
        for (name, value) in [
            ("max_connections", json!(0)),
            ("max_connections", json!("many")),
            ("work_mem", json!("16 minutes")),
            ("work_mem", json!("1s")),
            ("statement_timeout", json!("5MB")),
            ("fsync", json!("perhaps")),
            ("wal_level", json!("logicall")),
            ("search_path", json!(["a"])),
            ("search_path", json!("a\nb")),
        ] {
            assert!(parse(name, value.clone()).is_err(), "{name} = {value}");
        }
    }
}
