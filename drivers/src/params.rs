//! Checks a wish's `params` against the JSON Schema of a driver, with a path, a reason and a hint for each fault.
//!
//! Invariants: pure; every fault is reported, in the order of the document; what passes here deserializes into the
//! driver's type (each type is `deny_unknown_fields`), and [`parse`] reports it if it does not.
//! Not here: JSON Schema as a whole, only what `schemars` makes of the drivers' types: type, properties,
//! additionalProperties, required, items, enum, const, anyOf, oneOf, minimum, maximum, minLength, maxLength, minItems.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::driver::FieldError;
use crate::nearest::nearest_name;

/// The JSON Schema of `T`, without references, so that a person can read it from top to bottom.
pub fn schema_of<T: JsonSchema>() -> Value {
    let settings =
        SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings
        .into_generator()
        .into_root_schema_for::<T>()
        .to_value()
}

/// Checks `params` against `schema` and turns it into `T`.
///
/// # Errors
/// All faults found, at least one.
pub fn parse<T: DeserializeOwned>(
    driver: &str,
    schema: &Value,
    params: &Value,
) -> Result<T, Vec<FieldError>> {
    let faults = check(driver, schema, params);
    if !faults.is_empty() {
        return Err(faults);
    }
    serde_json::from_value(params.clone()).map_err(|cause| {
        vec![FieldError {
            field: "params".to_owned(),
            reason: format!("are not what driver {driver} takes: {cause}"),
            hint: see_schema(driver),
        }]
    })
}

/// All faults of `params`, in the order of the document; empty when there is none.
pub fn check(driver: &str, schema: &Value, params: &Value) -> Vec<FieldError> {
    let mut checker = Checker {
        driver,
        faults: Vec::new(),
    };
    checker.value("params", schema, params);
    checker.faults
}

/// Where to read what a driver takes.
pub fn see_schema(driver: &str) -> String {
    format!("see: dsm-agent schema {driver}")
}

struct Checker<'a> {
    driver: &'a str,
    faults: Vec<FieldError>,
}

impl Checker<'_> {
    fn value(&mut self, path: &str, schema: &Value, value: &Value) {
        if let Some(choices) = schema
            .get("anyOf")
            .or_else(|| schema.get("oneOf"))
            .and_then(Value::as_array)
        {
            return self.one_of(path, choices, value);
        }
        if let Some(types) = schema.get("type")
            && !is_of_type(types, value)
        {
            return self.fault(
                path,
                format!("is {}, not {}", kind(value), type_names(types)),
            );
        }
        if let Some(allowed) = schema.get("enum").and_then(Value::as_array)
            && !allowed.contains(value)
        {
            return self.not_among(path, allowed, value);
        }
        match value {
            Value::Object(fields) => self.object(path, schema, fields),
            Value::Array(items) => self.array(path, schema, items),
            Value::String(text) => {
                self.length(path, schema, text.chars().count() as u64, "characters")
            }
            Value::Number(_) => self.range(path, schema, value),
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn object(&mut self, path: &str, schema: &Value, fields: &Map<String, Value>) {
        let none = Map::new();
        let known = schema
            .get("properties")
            .and_then(Value::as_object)
            .unwrap_or(&none);
        for (name, value) in fields {
            let field = format!("{path}.{name}");
            match (known.get(name), schema.get("additionalProperties")) {
                (Some(schema), _) => self.value(&field, schema, value),
                (None, Some(Value::Bool(false))) => self.unknown(&field, name, known),
                (None, Some(schema @ Value::Object(_))) => self.value(&field, schema, value),
                (None, _) => {}
            }
        }
        for name in schema
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
        {
            if !fields.contains_key(name) {
                self.fault(&format!("{path}.{name}"), "is missing".to_owned());
            }
        }
    }

    fn array(&mut self, path: &str, schema: &Value, items: &[Value]) {
        let least = schema.get("minItems").and_then(Value::as_u64).unwrap_or(0);
        if (items.len() as u64) < least {
            self.fault(
                path,
                format!("has {} entries, the least is {least}", items.len()),
            );
        }
        if let Some(schema) = schema.get("items") {
            for (index, item) in items.iter().enumerate() {
                self.value(&format!("{path}[{index}]"), schema, item);
            }
        }
    }

    fn length(&mut self, path: &str, schema: &Value, len: u64, unit: &str) {
        let bound = |name| schema.get(name).and_then(Value::as_u64);
        if bound("minLength").is_some_and(|least| len < least) {
            self.fault(path, format!("has {len} {unit}, which is too short"));
        }
        if let Some(most) = bound("maxLength").filter(|most| len > *most) {
            self.fault(path, format!("has {len} {unit}, the most is {most}"));
        }
    }

    fn range(&mut self, path: &str, schema: &Value, value: &Value) {
        let number = |value: &Value| {
            value
                .as_i64()
                .map(i128::from)
                .or(value.as_u64().map(i128::from))
        };
        let bound = |name| schema.get(name).and_then(number);
        let Some(found) = number(value) else { return };
        let (least, most) = (bound("minimum"), bound("maximum"));
        if least.is_some_and(|least| found < least) || most.is_some_and(|most| found > most) {
            let word = |bound: Option<i128>| {
                bound.map_or_else(|| "any".to_owned(), |bound| bound.to_string())
            };
            self.fault(
                path,
                format!("is {found}, allowed is {} to {}", word(least), word(most)),
            );
        }
    }

    /// One of several schemas must hold; the faults shown are those of the choice that fails least.
    fn one_of(&mut self, path: &str, choices: &[Value], value: &Value) {
        let constants: Vec<Value> = choices
            .iter()
            .filter_map(|choice| choice.get("const").cloned())
            .collect();
        if constants.len() == choices.len() {
            if !constants.contains(value) {
                self.not_among(path, &constants, value);
            }
            return;
        }
        let mut least: Option<Vec<FieldError>> = None;
        for choice in choices {
            let mut checker = Checker {
                driver: self.driver,
                faults: Vec::new(),
            };
            checker.value(path, choice, value);
            let deeper =
                |faults: &[FieldError]| faults.iter().filter(|fault| fault.field == path).count();
            let better = |old: &Vec<FieldError>| {
                (deeper(&checker.faults), checker.faults.len()) < (deeper(old), old.len())
            };
            if least.as_ref().is_none_or(better) {
                least = Some(checker.faults);
            }
        }
        self.faults.extend(least.unwrap_or_default());
    }

    fn unknown(&mut self, field: &str, name: &str, known: &Map<String, Value>) {
        let hint = match nearest_name(name, known.keys().map(String::as_str)) {
            Some(near) => format!(
                "write {near} (nearest name), or {}",
                see_schema(self.driver)
            ),
            None => see_schema(self.driver),
        };
        let reason = format!("is not a parameter of driver {}", self.driver);
        self.faults.push(FieldError {
            field: field.to_owned(),
            reason,
            hint,
        });
    }

    fn not_among(&mut self, path: &str, allowed: &[Value], value: &Value) {
        let words: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
        let near = value
            .as_str()
            .and_then(|text| nearest_name(text, words.iter().copied()));
        let hint = match near {
            Some(near) => format!("write {near} (nearest), or one of: {}", words.join(", ")),
            None => format!("write one of: {}", words.join(", ")),
        };
        self.faults.push(FieldError {
            field: path.to_owned(),
            reason: format!("{value} is not allowed here"),
            hint,
        });
    }

    fn fault(&mut self, path: &str, reason: String) {
        self.faults.push(FieldError {
            field: path.to_owned(),
            reason,
            hint: see_schema(self.driver),
        });
    }
}

fn is_of_type(types: &Value, value: &Value) -> bool {
    let is = |name: &str| match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => true,
    };
    match types {
        Value::String(name) => is(name),
        Value::Array(names) => names.iter().filter_map(Value::as_str).any(is),
        _ => true,
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn type_names(types: &Value) -> String {
    match types {
        Value::String(name) => name.clone(),
        Value::Array(names) => names
            .iter()
            .filter_map(Value::as_str)
            .collect::<Vec<_>>()
            .join(" or "),
        _ => "something else".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::json;

    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Sample {
        version: String,
        #[serde(default)]
        #[schemars(range(min = 1, max = 65535))]
        port: Option<u16>,
        #[serde(default)]
        names: Vec<String>,
        #[serde(default)]
        mode: Mode,
    }

    #[derive(Debug, Default, Deserialize, JsonSchema)]
    #[serde(rename_all = "kebab-case")]
    enum Mode {
        #[default]
        Fast,
        Careful,
    }

    fn faults(params: Value) -> Vec<(String, String, String)> {
        match parse::<Sample>("sample", &schema_of::<Sample>(), &params) {
            Ok(_) => vec![],
            Err(faults) => faults
                .into_iter()
                .map(|fault| (fault.field, fault.reason, fault.hint))
                .collect(),
        }
    }

    #[test]
    fn a_right_document_passes() {
        assert!(
            faults(json!({"version": "1", "port": 80, "names": ["a"], "mode": "careful"}))
                .is_empty()
        );
    }

    #[test]
    fn an_unknown_name_gets_the_nearest_one() {
        let found = faults(json!({"version": "1", "prot": 80}));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, "params.prot");
        assert_eq!(found[0].1, "is not a parameter of driver sample");
        assert!(found[0].2.starts_with("write port (nearest name)"));
    }

    #[test]
    fn every_fault_is_reported_with_its_path() {
        let found = faults(json!({"port": 70000, "names": [1], "mode": "carefull"}));
        let fields: Vec<&str> = found.iter().map(|fault| fault.0.as_str()).collect();
        assert_eq!(
            fields,
            [
                "params.mode",
                "params.names[0]",
                "params.port",
                "params.version"
            ]
        );
        assert!(found[0].2.contains("careful"), "{found:?}");
        assert_eq!(found[1].1, "is a number, not string");
        assert_eq!(found[3].1, "is missing");
    }
}
