//! Large contents by digest: one form of bytes for each, the same on every node.
//!
//! Invariant: equal contents have equal bytes, hence one digest; `b3sum` of the bytes is the digest.
//! Not here: where the bytes are kept (`consensus/raft/blob_store.rs`).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::content::Content;
use super::versioned;

/// Contents above this size are kept by digest.
pub const BLOB_BYTES_MIN: u64 = 64 * 1024;

/// BLAKE3 of a content's bytes in the form of [`encode`]. Shown as 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BlobDigest([u8; 32]);

impl BlobDigest {
    /// The digest of encoded bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(blake3::hash(bytes).into())
    }

    /// Reads what `Display` writes.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut digest = [0; 32];
        hex::decode_to_slice(text, &mut digest).ok()?;
        Some(Self(digest))
    }
}

impl fmt::Display for BlobDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// Size and chunks of a content, in order.
#[derive(Serialize, Deserialize)]
pub(super) struct ContentImage {
    size: u64,
    chunks: Vec<(u32, Vec<u8>)>,
}

impl ContentImage {
    pub(super) fn of(content: &Content) -> Self {
        let chunks = content
            .chunks()
            .map(|(number, bytes)| (number, bytes.to_vec()))
            .collect();
        Self {
            size: content.size(),
            chunks,
        }
    }

    pub(super) fn into_content(self) -> Result<Content, String> {
        Content::from_chunks(self.size, self.chunks)
            .ok_or_else(|| "a content has impossible pieces".into())
    }
}

/// The bytes of a content.
pub fn encode(content: &Content) -> Vec<u8> {
    postcard::to_stdvec(&ContentImage::of(content))
        .expect("plain data encodes into a growing buffer")
}

/// Reads what [`encode`] wrote.
///
/// # Errors
/// If the bytes are not those of `digest`, or not a content.
pub fn decode(digest: BlobDigest, bytes: &[u8]) -> Result<Content, String> {
    if BlobDigest::of(bytes) != digest {
        return Err(format!("content {digest} does not have its digest"));
    }
    let image: ContentImage =
        versioned::decode_whole(bytes).map_err(|reason| format!("content {digest}: {reason}"))?;
    image.into_content()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state_machine::command::ContentOp;

    #[test]
    fn a_content_comes_back_and_a_changed_one_is_refused() {
        let mut content = Content::default();
        let write = ContentOp::Write {
            offset: 70_000,
            data: b"far out".to_vec(),
        };
        content.apply_op(&write).unwrap();
        let bytes = encode(&content);
        let digest = BlobDigest::of(&bytes);
        assert_eq!(decode(digest, &bytes).unwrap(), content);
        assert_eq!(BlobDigest::from_hex(&digest.to_string()), Some(digest));
        for byte in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[byte] ^= 1;
            assert!(decode(digest, &changed).is_err(), "byte {byte}");
        }
        assert!(decode(digest, &bytes[1..]).is_err());
        assert_eq!(BlobDigest::from_hex("12"), None);
    }
}
