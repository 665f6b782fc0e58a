//! Desired state: the meaning of a wish's fields.
//!
//! Invariants: an unknown key, a wrong type or a field of a later version is a fault with its path; nothing is ignored.
//! The digest covers driver, placement and parameters, never the policy.
//! Not here: bytes (`document.rs`), the drivers' own parameters (`Driver::check`).

use std::collections::BTreeSet;
use std::time::Duration;

use drivers::driver::{FieldError, NodeName, Wish};
use drivers::nearest::nearest_name;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::digest::canonical_digest;
use super::document::join;
use super::driver_port::DriverPort;
use super::id::DeploymentId;
use crate::limits::{DEADLINE_DEFAULT, MAX_UNAVAILABLE_MAX, NODES_MAX};

const KEYS: [&str; 4] = ["driver", "nodes", "params", "policy"];
const KEYS_LATER: [&str; 3] = ["replicas", "on", "after"];
const POLICY_KEYS: [&str; 6] = [
    "mode",
    "on_failure",
    "max_unavailable",
    "deadline",
    "paused",
    "on_delete",
];

/// What a wish asks for, apart from its policy. Part of every digest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// The driver's name.
    pub driver: String,
    /// The nodes in the order of the file.
    pub nodes: Vec<NodeName>,
    /// The object `params`.
    pub params: Value,
}

/// How a wish is to be carried out; a change of it alone makes no generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// How many nodes may be out of service at once in a rolling change.
    pub max_unavailable: u32,
    /// Longest time that one generation may take, in milliseconds.
    pub deadline_ms: u64,
    /// Nothing new starts while it is set.
    pub paused: bool,
    /// What becomes of the data when the wish is deleted.
    pub on_delete: OnDelete,
}

/// What becomes of data directories when a wish is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnDelete {
    /// They stay.
    Retain,
    /// They are deleted.
    Purge,
}

/// A whole wish.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Desired {
    /// What.
    pub spec: Spec,
    /// How.
    pub policy: Policy,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            max_unavailable: 1,
            deadline_ms: u64::try_from(DEADLINE_DEFAULT.as_millis()).unwrap_or(u64::MAX),
            paused: false,
            on_delete: OnDelete::Retain,
        }
    }
}

impl Policy {
    /// Longest time that one generation may take.
    pub fn deadline(&self) -> Duration {
        Duration::from_millis(self.deadline_ms)
    }
}

impl Spec {
    /// SHA-256 of the canonical JSON of driver, placement and parameters.
    pub fn digest(&self) -> String {
        canonical_digest(self)
    }

    /// The wish as drivers see it.
    pub fn wish(&self, deployment: &DeploymentId) -> Wish {
        Wish {
            deployment: deployment.to_string(),
            nodes: self.nodes.clone(),
            params: self.params.clone(),
        }
    }
}

impl Desired {
    /// Reads a decoded document.
    ///
    /// # Errors
    /// All faults of the general fields, in the order of the document's keys.
    pub fn from_document(document: &Value) -> Result<Self, Vec<FieldError>> {
        let Some(object) = document.as_object() else {
            return Err(vec![fault(
                "(document)",
                format!("is {} instead of an object", kind(document)),
                "write {\"driver\": ..., \"nodes\": [...], \"params\": {...}}",
            )]);
        };
        let mut faults = unknown_keys(object, "", &KEYS, &KEYS_LATER);
        let driver = driver_name(object, &mut faults);
        let nodes = node_names(object, &mut faults);
        let params = params(object, &mut faults);
        let policy = policy(object.get("policy"), &mut faults);
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Self {
            spec: Spec {
                driver,
                nodes,
                params,
            },
            policy,
        })
    }

    /// Checks what needs more than the document: the driver and its parameters, and that every node is a member.
    ///
    /// # Errors
    /// All faults found.
    pub fn check(
        &self,
        id: &DeploymentId,
        members: &BTreeSet<NodeName>,
        drivers: &dyn DriverPort,
    ) -> Result<(), Vec<FieldError>> {
        let mut faults = Vec::new();
        for (index, node) in self.spec.nodes.iter().enumerate() {
            if !members.contains(node) {
                faults.push(unknown_node(index, node, members));
            }
        }
        let checked = drivers.check(&self.spec.driver, &self.spec.wish(id));
        faults.extend(checked.err().unwrap_or_default());
        if faults.is_empty() {
            Ok(())
        } else {
            Err(faults)
        }
    }
}

fn unknown_node(index: usize, node: &str, members: &BTreeSet<NodeName>) -> FieldError {
    let known = members
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    let hint = match nearest_name(node, members.iter().map(String::as_str)) {
        Some(near) => format!("write {near} (nearest name); members are {known}"),
        None => format!("members are {known}; add one with: vfsd join"),
    };
    fault(
        &format!("nodes[{index}]"),
        format!("{node} is not a member of this cluster"),
        &hint,
    )
}

fn unknown_keys(
    object: &Map<String, Value>,
    path: &str,
    known: &[&str],
    later: &[&str],
) -> Vec<FieldError> {
    let mut faults = Vec::new();
    for key in object.keys() {
        if known.contains(&key.as_str()) {
            continue;
        }
        let field = join(path, key);
        if later.contains(&key.as_str()) {
            faults.push(fault(
                &field,
                format!("{key} is not in this version"),
                "leave it out",
            ));
            continue;
        }
        let hint = match nearest_name(key, known.iter().copied()) {
            Some(near) => format!("write {near} (nearest name)"),
            None => format!("known fields: {}", known.join(", ")),
        };
        faults.push(fault(
            &field,
            format!("{key} is not a field of a wish"),
            &hint,
        ));
    }
    faults
}

fn driver_name(object: &Map<String, Value>, faults: &mut Vec<FieldError>) -> String {
    match object.get("driver") {
        Some(Value::String(name)) if !name.is_empty() => return name.clone(),
        Some(other) => faults.push(wrong_type("driver", other, "a driver's name")),
        None => faults.push(missing("driver", "see: dsm-agent drivers")),
    }
    String::new()
}

fn node_names(object: &Map<String, Value>, faults: &mut Vec<FieldError>) -> Vec<NodeName> {
    let list = match object.get("nodes") {
        Some(Value::Array(list)) => list,
        Some(other) => {
            faults.push(wrong_type("nodes", other, "a list of node names"));
            return Vec::new();
        }
        None => {
            faults.push(missing("nodes", "write \"nodes\": [\"n1\"]"));
            return Vec::new();
        }
    };
    if list.is_empty() || list.len() > NODES_MAX {
        let reason = format!("has {} names; 1 to {NODES_MAX} are possible", list.len());
        faults.push(fault(
            "nodes",
            reason,
            "delete the file to remove the deployment",
        ));
    }
    let mut names: Vec<NodeName> = Vec::new();
    for (index, item) in list.iter().enumerate() {
        let path = format!("nodes[{index}]");
        match item {
            Value::String(name) if names.contains(name) => {
                faults.push(fault(
                    &path,
                    format!("{name} stands there twice"),
                    "name it once",
                ));
            }
            Value::String(name) if !name.is_empty() && !name.contains('/') => {
                names.push(name.clone());
            }
            other => faults.push(wrong_type(&path, other, "a node's name")),
        }
    }
    names
}

fn params(object: &Map<String, Value>, faults: &mut Vec<FieldError>) -> Value {
    match object.get("params") {
        None => Value::Object(Map::new()),
        Some(Value::Object(map)) => Value::Object(map.clone()),
        Some(other) => {
            faults.push(wrong_type("params", other, "an object"));
            Value::Null
        }
    }
}

fn policy(value: Option<&Value>, faults: &mut Vec<FieldError>) -> Policy {
    let mut policy = Policy::default();
    let object = match value {
        None => return policy,
        Some(Value::Object(object)) => object,
        Some(other) => {
            faults.push(wrong_type("policy", other, "an object"));
            return policy;
        }
    };
    faults.extend(unknown_keys(object, "policy", &POLICY_KEYS, &["approve"]));
    for (key, only, later) in [("mode", "apply", "plan"), ("on_failure", "stop", "undo")] {
        if let Some(value) = object.get(key) {
            only_word(&format!("policy.{key}"), value, only, later, faults);
        }
    }
    if let Some(value) = object.get("max_unavailable") {
        match value.as_u64() {
            Some(count @ 1..=MAX_UNAVAILABLE_MAX) => policy.max_unavailable = count as u32,
            _ => faults.push(wrong_type(
                "policy.max_unavailable",
                value,
                "a number from 1 to 39",
            )),
        }
    }
    if let Some(value) = object.get("deadline") {
        match value.as_str().and_then(parse_duration) {
            Some(deadline) => policy.deadline_ms = deadline,
            None => {
                faults.push(wrong_type(
                    "policy.deadline",
                    value,
                    "a duration such as \"10m\"",
                ));
            }
        }
    }
    match object.get("paused") {
        None => {}
        Some(Value::Bool(paused)) => policy.paused = *paused,
        Some(other) => faults.push(wrong_type("policy.paused", other, "true or false")),
    }
    match object.get("on_delete").map(|value| (value, value.as_str())) {
        None => {}
        Some((_, Some("retain"))) => policy.on_delete = OnDelete::Retain,
        Some((_, Some("purge"))) => policy.on_delete = OnDelete::Purge,
        Some((other, _)) => {
            faults.push(wrong_type(
                "policy.on_delete",
                other,
                "\"retain\" or \"purge\"",
            ));
        }
    }
    policy
}

fn only_word(path: &str, value: &Value, only: &str, later: &str, faults: &mut Vec<FieldError>) {
    match value.as_str() {
        Some(word) if word == only => {}
        Some(word) if word == later => {
            let reason = format!("\"{later}\" is not in this version");
            faults.push(fault(
                path,
                reason,
                &format!("write \"{only}\" or leave it out"),
            ));
        }
        _ => faults.push(wrong_type(path, value, &format!("\"{only}\""))),
    }
}

/// Milliseconds of `90s`, `10m`, `2h`, `500ms`.
pub fn parse_duration(text: &str) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let (digits, unit) = text.split_at(split);
    let count: u64 = digits.parse().ok()?;
    let factor = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    count.checked_mul(factor).filter(|ms| *ms > 0)
}

fn missing(field: &str, hint: &str) -> FieldError {
    fault(field, "is missing".to_owned(), hint)
}

fn wrong_type(field: &str, found: &Value, wanted: &str) -> FieldError {
    let reason = format!("is {} instead of {wanted}", kind(found));
    fault(field, reason, &format!("write {wanted}"))
}

fn fault(field: &str, reason: String, hint: &str) -> FieldError {
    FieldError {
        field: field.to_owned(),
        reason,
        hint: hint.to_owned(),
    }
}

/// A value in words, short enough for one line: `the number 3`, `a list`.
pub fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => format!("{value}"),
        Value::Number(value) => format!("the number {value}"),
        Value::String(value) if value.chars().count() <= 40 => format!("the text {value:?}"),
        Value::String(_) => "a text".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn faults(document: Value) -> Vec<(String, String)> {
        Desired::from_document(&document)
            .unwrap_err()
            .into_iter()
            .map(|fault| (fault.field, fault.reason))
            .collect()
    }

    #[test]
    fn the_whole_form_is_read() {
        let desired = Desired::from_document(&json!({
            "driver": "postgres", "nodes": ["n1", "n2"], "params": {"version": "15"},
            "policy": {"mode": "apply", "on_failure": "stop", "max_unavailable": 2, "deadline": "90s",
                       "paused": true, "on_delete": "purge"}
        }))
        .unwrap();
        assert_eq!(desired.spec.nodes, ["n1", "n2"]);
        assert_eq!(desired.policy.deadline(), Duration::from_secs(90));
        assert_eq!(desired.policy.on_delete, OnDelete::Purge);
        assert!(desired.policy.paused);
    }

    #[test]
    fn policy_is_outside_the_digest_and_the_order_of_nodes_inside() {
        let one = json!({"driver": "file", "nodes": ["n1", "n2"], "params": {}});
        let two = json!({"driver": "file", "nodes": ["n1", "n2"], "policy": {"deadline": "1h"}});
        let three = json!({"driver": "file", "nodes": ["n2", "n1"]});
        let digest = |d: &Value| Desired::from_document(d).unwrap().spec.digest();
        assert_eq!(digest(&one), digest(&two));
        assert_ne!(digest(&one), digest(&three));
    }

    #[test]
    fn fields_of_later_versions_are_refused_by_name() {
        for (document, field) in [
            (
                json!({"driver": "x", "nodes": ["n1"], "after": []}),
                "after",
            ),
            (
                json!({"driver": "x", "nodes": ["n1"], "replicas": 3}),
                "replicas",
            ),
            (
                json!({"driver": "x", "nodes": ["n1"], "policy": {"mode": "plan"}}),
                "policy.mode",
            ),
            (
                json!({"driver": "x", "nodes": ["n1"], "policy": {"on_failure": "undo"}}),
                "policy.on_failure",
            ),
            (
                json!({"driver": "x", "nodes": ["n1"], "policy": {"approve": "7f"}}),
                "policy.approve",
            ),
        ] {
            let found = faults(document);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0].0, field);
            assert!(found[0].1.contains("not in this version"), "{found:?}");
        }
    }

    #[test]
    fn every_fault_of_a_document_is_named() {
        let found = faults(
            json!({"drivr": "x", "nodes": ["n1", 3, "n1"], "params": [], "policy": {"paused": 1}}),
        );
        let fields: Vec<_> = found.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "drivr",
                "driver",
                "nodes[1]",
                "nodes[2]",
                "params",
                "policy.paused"
            ]
        );
    }
}
