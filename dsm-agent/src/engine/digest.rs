//! Digests of records: SHA-256 (hex) over RFC 8785 canonical JSON, which any auditor can recompute.

use serde::Serialize;
use sha2::{Digest, Sha256};

/// SHA-256 of `bytes`, in hex.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// SHA-256 of the canonical JSON of `value`, in hex.
///
/// # Panics
/// If `value` has map keys that are no text: records never do.
pub fn canonical_digest<T: Serialize>(value: &T) -> String {
    let bytes = serde_json_canonicalizer::to_vec(value)
        .expect("records have text keys and finite numbers only");
    sha256_hex(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_digest_ignores_the_order_of_keys_and_knows_a_published_value() {
        let left = json!({"b": 1, "a": [1, 2]});
        let right: serde_json::Value = serde_json::from_str(r#"{"a":[1,2],"b":1}"#).unwrap();
        assert_eq!(canonical_digest(&left), canonical_digest(&right));
        assert_eq!(
            sha256_hex(b""),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }
}
