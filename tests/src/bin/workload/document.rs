//! The documents that savers write and readers check.
//!
//! Invariant: a document tells its number twice and its length once, so that a mixture of two is never a document.

use anyhow::{Context, Result, bail};

/// The text of the document with this number: JSON whose length depends on the number.
pub fn text(number: u64) -> String {
    let fill = char::from(b'a' + (number % 26) as u8);
    let padding = fill
        .to_string()
        .repeat(usize::try_from(number * 37 % 3000).unwrap_or(0));
    format!("{{\"number\":{number},\"padding\":\"{padding}\",\"again\":{number}}}\n")
}

/// The number of a document.
///
/// # Errors
/// If `bytes` is not exactly one document.
pub fn number(bytes: &[u8]) -> Result<u64> {
    if bytes.is_empty() {
        bail!("an empty document");
    }
    let value: serde_json::Value = serde_json::from_slice(bytes).context("a torn document")?;
    let number = value["number"]
        .as_u64()
        .context("a document without a number")?;
    if text(number).as_bytes() != bytes {
        bail!("document {number} is mixed with another");
    }
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_has_its_number() {
        assert_eq!(number(text(100).as_bytes()).unwrap(), 100);
    }

    #[test]
    fn empty_torn_and_mixed_documents_are_refused() {
        let (one, two) = (text(1000), text(1001));
        let mixed = [&two.as_bytes()[..500], &one.as_bytes()[500..]].concat();
        for wrong in [&b""[..], &one.as_bytes()[..500], &mixed] {
            assert!(number(wrong).is_err());
        }
    }
}
