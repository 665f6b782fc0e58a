//! The name of a directory entry.

use std::borrow::Borrow;
use std::sync::Arc;

use super::fs_error::FsError;
use crate::limits::NAME_LEN_BYTES_MAX;

/// A valid file name: 1 to 255 bytes, neither `.` nor `..`, no `/` and no NUL. Cloning shares the bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<[u8]>);

impl Name {
    /// Checks and wraps `bytes`.
    ///
    /// # Errors
    /// [`FsError::NameTooLong`] above 255 bytes, [`FsError::Invalid`] for bytes that cannot be a name.
    pub fn new(bytes: &[u8]) -> Result<Self, FsError> {
        if bytes.len() > NAME_LEN_BYTES_MAX {
            return Err(FsError::NameTooLong);
        }
        if bytes.is_empty()
            || bytes == b"."
            || bytes == b".."
            || bytes.iter().any(|b| matches!(b, b'/' | 0))
        {
            return Err(FsError::Invalid);
        }
        Ok(Self(bytes.into()))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_255_bytes_is_accepted_and_one_of_256_is_refused() {
        assert!(Name::new(&[b'a'; 255]).is_ok());
        assert_eq!(Name::new(&[b'a'; 256]), Err(FsError::NameTooLong));
    }

    #[test]
    fn what_cannot_be_a_name_is_refused() {
        for bytes in [&b""[..], b".", b"..", b"a/b", b"a\0b"] {
            assert_eq!(Name::new(bytes), Err(FsError::Invalid), "{bytes:?}");
        }
        assert!(Name::new(b"...").is_ok());
        assert!(
            Name::new(&[0xff, 0xfe]).is_ok(),
            "names are bytes, not text"
        );
    }
}
