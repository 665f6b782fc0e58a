//! Documents in postcard that are read as a whole: a version byte before them, nothing behind them.

use serde::Deserialize;

/// Why bytes are not such a document.
pub(super) enum Refusal {
    /// Another version wrote it.
    Version(u8),
    /// It is cut, damaged, or goes on behind its end.
    Malformed(String),
}

/// Reads a document of `version`.
pub(super) fn decode<'a, T: Deserialize<'a>>(version: u8, bytes: &'a [u8]) -> Result<T, Refusal> {
    match bytes.split_first() {
        None => Err(Refusal::Malformed("it is empty".into())),
        Some((&found, _)) if found != version => Err(Refusal::Version(found)),
        Some((_, rest)) => decode_whole(rest).map_err(Refusal::Malformed),
    }
}

/// Reads a document without a version.
pub(super) fn decode_whole<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, String> {
    let (document, rest) = postcard::take_from_bytes(bytes).map_err(|error| error.to_string())?;
    if rest.is_empty() {
        Ok(document)
    } else {
        Err(format!("{} bytes follow it", rest.len()))
    }
}
