//! Join tokens: base32 of `version | digest of the CA | secret | expiry`, one line of text.
//!
//! Invariants: the token pins the authority, so a joining node talks to this cluster or to nobody; the cluster stores
//! only the digest of the secret. Not here: whether a token was used (`state_machine/apply/members.rs`).

use data_encoding::{BASE32_NOPAD_NOCASE, Encoding};
use zeroize::Zeroize;

const VERSION: u8 = 1;
const CA_LEN: usize = 32;
const SECRET_LEN: usize = 16;
const LEN: usize = 1 + CA_LEN + SECRET_LEN + 8;
const TEXT: Encoding = BASE32_NOPAD_NOCASE;

/// A token as its holder has it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Digest of the authority's certificate.
    pub ca_digest: [u8; CA_LEN],
    /// Proves that its holder was given it.
    pub secret: [u8; SECRET_LEN],
    /// When it expires, seconds since 1970.
    pub expires_secs: i64,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token")
            .field("expires_secs", &self.expires_secs)
            .finish_non_exhaustive()
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

/// Why text is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not base32, or cut.
    #[error("the join token is incomplete or mistyped ({0} characters)")]
    Malformed(usize),
    /// Made by another version.
    #[error("the join token has version {0}, this vfsd knows {VERSION}; upgrade the older node")]
    Version(u8),
}

impl Token {
    /// A new token with a random secret.
    pub fn generate(ca_digest: [u8; CA_LEN], expires_secs: i64) -> Self {
        Self {
            ca_digest,
            secret: rand::random(),
            expires_secs,
        }
    }

    /// What the cluster remembers of it.
    pub fn digest(&self) -> [u8; 32] {
        digest_of(&self.secret)
    }

    /// The token as text.
    pub fn to_text(&self) -> String {
        let mut bytes = Vec::with_capacity(LEN);
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.ca_digest);
        bytes.extend_from_slice(&self.secret);
        bytes.extend_from_slice(&self.expires_secs.to_be_bytes());
        TEXT.encode(&bytes).to_lowercase()
    }

    /// Reads a token; spaces around it do not matter.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let malformed = TokenError::Malformed(text.len());
        let bytes = TEXT.decode(text.as_bytes()).map_err(|_| malformed)?;
        if let Some(&version) = bytes.first().filter(|&&version| version != VERSION) {
            return Err(TokenError::Version(version));
        }
        let bytes: [u8; LEN] = bytes.try_into().map_err(|_| malformed)?;
        let part = |from: usize, len: usize| &bytes[from..from + len];
        Ok(Self {
            ca_digest: part(1, CA_LEN).try_into().map_err(|_| malformed)?,
            secret: part(1 + CA_LEN, SECRET_LEN)
                .try_into()
                .map_err(|_| malformed)?,
            expires_secs: i64::from_be_bytes(
                part(1 + CA_LEN + SECRET_LEN, 8)
                    .try_into()
                    .map_err(|_| malformed)?,
            ),
        })
    }
}

/// What the cluster remembers of the token with this secret.
pub fn digest_of(secret: &[u8]) -> [u8; 32] {
    blake3::derive_key("contextos vfsd join token 1", secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_text_in_either_case() {
        let token = Token::generate([7; 32], 1_900_000_000);
        assert_eq!(Token::parse(&token.to_text()).unwrap(), token);
        assert_eq!(
            Token::parse(&format!(" {}\n", token.to_text().to_uppercase())).unwrap(),
            token
        );
    }

    #[test]
    fn cut_and_foreign_text_is_refused() {
        let text = Token::generate([7; 32], 1).to_text();
        assert!(matches!(
            Token::parse(&text[..40]),
            Err(TokenError::Malformed(40))
        ));
        assert!(Token::parse("not a token!").is_err());
        assert!(Token::parse("").is_err());
    }
}
