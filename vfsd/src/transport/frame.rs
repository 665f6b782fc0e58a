//! What travels on a connection: length-delimited frames of `version u8 | kind u8 | request id u64 | body`.
//!
//! Invariants: a frame is at most [`FRAME_BYTES_MAX`] long; an unknown version or kind ends the connection.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec::LengthDelimitedCodec;

use crate::limits::FRAME_BYTES_MAX;

/// Version of the frames and of what is in them.
pub const WIRE_VERSION: u8 = 2;
const HEADER_LEN: usize = 10;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// Asks; answered by one frame with the same id.
    Request,
    /// Answers.
    Reply,
    /// Answers that the request was not understood or not allowed; the body says why, as text.
    Refusal,
}

/// A decoded frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: FrameKind,
    /// Chosen by the asking side, unique on its connection.
    pub id: u64,
    /// The content.
    pub body: Bytes,
}

/// Why bytes are no frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Too short for a header.
    #[error("a frame of {0} bytes is shorter than its header")]
    Short(usize),
    /// Sent by another version.
    #[error(
        "the peer speaks frame version {0}, this node speaks {WIRE_VERSION}: install the same version of vfsd on both"
    )]
    Version(u8),
    /// No such kind.
    #[error("frame kind {0} is not known")]
    Kind(u8),
}

impl Frame {
    /// The frame as bytes, without the length that the codec adds.
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(HEADER_LEN + self.body.len());
        bytes.put_u8(WIRE_VERSION);
        bytes.put_u8(match self.kind {
            FrameKind::Request => 0,
            FrameKind::Reply => 1,
            FrameKind::Refusal => 2,
        });
        bytes.put_u64_le(self.id);
        bytes.extend_from_slice(&self.body);
        bytes.freeze()
    }

    /// Reads a frame; the body shares the bytes.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn decode(mut bytes: Bytes) -> Result<Self, FrameError> {
        if bytes.len() < HEADER_LEN {
            return Err(FrameError::Short(bytes.len()));
        }
        let version = bytes.get_u8();
        if version != WIRE_VERSION {
            return Err(FrameError::Version(version));
        }
        let kind = match bytes.get_u8() {
            0 => FrameKind::Request,
            1 => FrameKind::Reply,
            2 => FrameKind::Refusal,
            other => return Err(FrameError::Kind(other)),
        };
        let id = bytes.get_u64_le();
        Ok(Self {
            kind,
            id,
            body: bytes,
        })
    }
}

/// The codec of every connection.
pub fn codec() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder()
        .max_frame_length(FRAME_BYTES_MAX)
        .new_codec()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn another_version_is_refused() {
        let mut bytes = Frame {
            kind: FrameKind::Reply,
            id: 7,
            body: Bytes::new(),
        }
        .encode()
        .to_vec();
        bytes[0] = 9;
        let refused = Frame::decode(bytes.into()).unwrap_err();
        assert_eq!(refused, FrameError::Version(9));
        let text = format!("version 9, this node speaks {WIRE_VERSION}: install");
        assert!(refused.to_string().contains(&text), "{refused}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_frame_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(frame) = Frame::decode(Bytes::from(bytes.clone())) {
                prop_assert_eq!(frame.encode(), bytes);
            }
        }
    }
}
