//! Wish documents: JSON, CBOR and MessagePack bytes to one checked value.
//!
//! Invariants: the three formats share one reader and one set of rules; a duplicate key is refused in each; a value
//! that JSON cannot hold exactly (bytes, tags, NaN, keys that are no text, integers beyond 2^53) is refused with its
//! path.
//! Not here: what the fields mean (`desired.rs`).

use std::fmt;

use drivers::driver::FieldError;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::limits::{EXACT_INTEGER_MAX, WISH_BYTES_MAX, WISH_DEPTH_MAX, WISH_VALUES_MAX};

/// How a wish file is encoded; its name's ending says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// `.json`, RFC 8259.
    Json,
    /// `.cbor`, RFC 8949.
    Cbor,
    /// `.msgpack`.
    MessagePack,
}

impl Format {
    /// All formats with the ending of their files.
    pub const ENDINGS: [(&'static str, Format); 3] = [
        (".json", Format::Json),
        (".cbor", Format::Cbor),
        (".msgpack", Format::MessagePack),
    ];

    /// The format of a file name and the name without its ending.
    pub fn split(file_name: &str) -> Option<(&str, Format)> {
        Self::ENDINGS
            .iter()
            .find_map(|(ending, format)| file_name.strip_suffix(ending).map(|stem| (stem, *format)))
    }

    /// Name for people.
    pub fn name(self) -> &'static str {
        match self {
            Format::Json => "JSON",
            Format::Cbor => "CBOR",
            Format::MessagePack => "MessagePack",
        }
    }
}

/// Decodes `bytes` into a value that JSON holds exactly.
///
/// # Errors
/// The first fault found, with the path of its field (`(document)` when the bytes are no document at all).
pub fn decode(format: Format, bytes: &[u8]) -> Result<Value, FieldError> {
    if bytes.len() > WISH_BYTES_MAX {
        return Err(document_fault(
            format!(
                "the file has {} bytes, more than {WISH_BYTES_MAX}",
                bytes.len()
            ),
            "keep data out of the wish",
        ));
    }
    let raw = match format {
        Format::Json => decode_json(bytes),
        Format::Cbor => decode_cbor(bytes),
        Format::MessagePack => decode_message_pack(bytes),
    }?;
    let mut budget = WISH_VALUES_MAX;
    checked(raw, "", 0, &mut budget)
}

fn decode_json(bytes: &[u8]) -> Result<Raw, FieldError> {
    serde_json::from_slice(bytes).map_err(|error| {
        document_fault(
            format!("is not valid JSON: {error}"),
            "look at that line and column; comments and trailing commas are not JSON",
        )
    })
}

fn decode_cbor(bytes: &[u8]) -> Result<Raw, FieldError> {
    let mut rest = bytes;
    let raw = ciborium::de::from_reader_with_recursion_limit(&mut rest, WISH_DEPTH_MAX * 2)
        .map_err(|error| {
            let reason = match error {
                ciborium::de::Error::Io(_) => "ends in the middle of a value".to_owned(),
                ciborium::de::Error::Syntax(at) => format!("is broken at byte {at}"),
                ciborium::de::Error::Semantic(_, why) => why,
                ciborium::de::Error::RecursionLimitExceeded => "is nested too deep".to_owned(),
            };
            document_fault(format!("is not valid CBOR: {reason}"), "write it again")
        })?;
    refuse_trailing("CBOR", rest.len())?;
    Ok(raw)
}

fn decode_message_pack(bytes: &[u8]) -> Result<Raw, FieldError> {
    let mut reader = rmp_serde::Deserializer::new(std::io::Cursor::new(bytes));
    reader.set_max_depth(WISH_DEPTH_MAX * 2);
    let raw = Raw::deserialize(&mut reader).map_err(|error| {
        document_fault(
            format!("is not valid MessagePack: {error}"),
            "write it again",
        )
    })?;
    let consumed = usize::try_from(reader.position()).unwrap_or(usize::MAX);
    refuse_trailing("MessagePack", bytes.len().saturating_sub(consumed))?;
    Ok(raw)
}

fn refuse_trailing(name: &str, left: usize) -> Result<(), FieldError> {
    if left == 0 {
        return Ok(());
    }
    Err(document_fault(
        format!("is not valid {name}: {left} bytes follow the document"),
        "write exactly one document to the file",
    ))
}

fn document_fault(reason: String, hint: &str) -> FieldError {
    FieldError {
        field: "(document)".to_owned(),
        reason,
        hint: hint.to_owned(),
    }
}

/// A value as it stands in the bytes: duplicate keys and foreign kinds are still there, so that they can be named.
enum Raw {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    Bytes,
    List(Vec<Raw>),
    Map(Vec<(Raw, Raw)>),
}

fn checked(raw: Raw, path: &str, depth: usize, budget: &mut usize) -> Result<Value, FieldError> {
    if depth > WISH_DEPTH_MAX {
        return Err(fault(
            path,
            format!("is nested deeper than {WISH_DEPTH_MAX}"),
            "flatten it",
        ));
    }
    if *budget == 0 {
        let reason = format!("the document has more than {WISH_VALUES_MAX} values");
        return Err(fault(path, reason, "keep data out of the wish"));
    }
    *budget -= 1;
    match raw {
        Raw::Null => Ok(Value::Null),
        Raw::Bool(value) => Ok(Value::Bool(value)),
        Raw::Integer(value) => checked_integer(value, path),
        Raw::Float(value) => checked_float(value, path),
        Raw::Text(value) => Ok(Value::String(value)),
        Raw::Bytes => Err(fault(
            path,
            "is a byte string, which JSON cannot hold".into(),
            "write it as text",
        )),
        Raw::List(items) => items
            .into_iter()
            .enumerate()
            .map(|(index, item)| checked(item, &format!("{path}[{index}]"), depth + 1, budget))
            .collect::<Result<Vec<_>, _>>()
            .map(Value::Array),
        Raw::Map(entries) => checked_map(entries, path, depth, budget),
    }
}

fn checked_map(
    entries: Vec<(Raw, Raw)>,
    path: &str,
    depth: usize,
    budget: &mut usize,
) -> Result<Value, FieldError> {
    let mut map = Map::new();
    for (key, value) in entries {
        let Raw::Text(key) = key else {
            let reason = "has a key that is no text, which JSON cannot hold".to_owned();
            return Err(fault(path, reason, "use text keys"));
        };
        let inner = join(path, &key);
        if map.contains_key(&key) {
            let reason = "stands there twice (duplicate key)".to_owned();
            return Err(fault(&inner, reason, "keep one of the two"));
        }
        let value = checked(value, &inner, depth + 1, budget)?;
        map.insert(key, value);
    }
    Ok(Value::Object(map))
}

fn checked_integer(value: i128, path: &str) -> Result<Value, FieldError> {
    let number = if value.unsigned_abs() > u128::from(EXACT_INTEGER_MAX) {
        None
    } else {
        Number::from_i128(value)
    };
    number.map(Value::Number).ok_or_else(|| {
        let reason =
            format!("{value} is beyond 2^53, so not every reader of JSON holds it exactly");
        fault(path, reason, "write it as text")
    })
}

fn checked_float(value: f64, path: &str) -> Result<Value, FieldError> {
    if value.is_finite() && value.fract() == 0.0 && value.abs() <= EXACT_INTEGER_MAX as f64 {
        // 3.0 and 3 are one number in RFC 8785; one form keeps digests and type checks equal.
        return Ok(Value::Number(Number::from(value as i64)));
    }
    let exact = value.is_finite() && value.fract() != 0.0;
    let number = if exact { Number::from_f64(value) } else { None };
    number.map(Value::Number).ok_or_else(|| {
        let reason = format!("{value} is a number that JSON cannot hold exactly");
        fault(path, reason, "write it as text")
    })
}

fn fault(path: &str, reason: String, hint: &str) -> FieldError {
    let field = if path.is_empty() { "(document)" } else { path };
    FieldError {
        field: field.to_owned(),
        reason,
        hint: hint.to_owned(),
    }
}

/// `path.key`, with keys that are no plain words in quotes.
pub fn join(path: &str, key: &str) -> String {
    let plain = !key.is_empty()
        && key
            .chars()
            .all(|c| c.is_alphanumeric() || c == '_' || c == '-');
    match (path.is_empty(), plain) {
        (true, true) => key.to_owned(),
        (false, true) => format!("{path}.{key}"),
        (_, false) => format!("{path}[{key:?}]"),
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON can hold")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Integer(i128::from(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Integer(i128::from(value)))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Raw, E> {
        Ok(Raw::Integer(value))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Raw, E> {
        Ok(Raw::Integer(i128::try_from(value).unwrap_or(i128::MAX)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Raw, E> {
        Ok(Raw::Bytes)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Raw::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn field(format: Format, bytes: &[u8]) -> String {
        decode(format, bytes).unwrap_err().field
    }

    #[test]
    fn the_same_document_in_three_formats_gives_the_same_value() {
        let value =
            json!({"driver": "file", "nodes": ["n1"], "params": {"a": 1, "b": [true, null, 1.5]}});
        let mut cbor = Vec::new();
        ciborium::into_writer(&value, &mut cbor).unwrap();
        let pack = rmp_serde::to_vec_named(&value).unwrap();
        assert_eq!(
            decode(Format::Json, value.to_string().as_bytes()).unwrap(),
            value
        );
        assert_eq!(decode(Format::Cbor, &cbor).unwrap(), value);
        assert_eq!(decode(Format::MessagePack, &pack).unwrap(), value);
    }

    #[test]
    fn duplicate_keys_are_refused_in_each_format_with_their_path() {
        let json = br#"{"params":{"x":[{"k":1,"k":2}]}}"#;
        assert_eq!(field(Format::Json, json), "params.x[0].k");
        // {"p": {"k": 1, "k": 2}}
        let cbor = [0xa1, 0x61, b'p', 0xa2, 0x61, b'k', 1, 0x61, b'k', 2];
        assert_eq!(field(Format::Cbor, &cbor), "p.k");
        let pack = [0x81, 0xa1, b'p', 0x82, 0xa1, b'k', 1, 0xa1, b'k', 2];
        assert_eq!(field(Format::MessagePack, &pack), "p.k");
    }

    #[test]
    fn half_a_document_and_trailing_bytes_are_refused() {
        assert_eq!(field(Format::Cbor, &[0xa2, 0x61, b'k', 1]), "(document)");
        assert_eq!(field(Format::Cbor, &[0xa0, 0xa0]), "(document)");
        assert_eq!(field(Format::MessagePack, &[0x80, 0x80]), "(document)");
        assert_eq!(field(Format::MessagePack, &[0x81, 0xa1]), "(document)");
        assert_eq!(field(Format::Json, br#"{"a":1"#), "(document)");
        assert_eq!(field(Format::Json, br#"{} {}"#), "(document)");
    }

    #[test]
    fn values_that_json_cannot_hold_are_refused() {
        // A byte string, a tag, a key that is a number, NaN.
        assert_eq!(field(Format::Cbor, &[0xa1, 0x61, b'a', 0x41, 0x00]), "a");
        assert_eq!(
            field(Format::Cbor, &[0xa1, 0x61, b'a', 0xc1, 0x00]),
            "(document)"
        );
        assert_eq!(field(Format::Cbor, &[0xa1, 0x01, 0x00]), "(document)");
        assert_eq!(
            field(Format::Cbor, &[0xa1, 0x61, b'a', 0xf9, 0x7e, 0x00]),
            "a"
        );
        assert_eq!(
            field(Format::MessagePack, &[0x81, 0xa1, b'a', 0xc4, 0x01, 0x00]),
            "a"
        );
        assert_eq!(field(Format::Json, br#"{"a":18446744073709551615}"#), "a");
        assert_eq!(field(Format::Json, br#"{"a":1e300}"#), "a");
    }

    #[test]
    fn deep_nesting_is_refused_and_does_not_exhaust_the_stack() {
        let deep = "[".repeat(100) + &"]".repeat(100);
        assert!(decode(Format::Json, deep.as_bytes()).is_err());
        let deep = vec![0x81; 100_000];
        assert!(decode(Format::Cbor, &deep).is_err());
        let deep = vec![0x91; 100_000];
        assert!(decode(Format::MessagePack, &deep).is_err());
    }
}
