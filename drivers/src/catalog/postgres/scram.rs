//! SCRAM-SHA-256 verifiers as PostgreSQL keeps them (RFC 5802, RFC 7677).
//!
//! A password is never sent to the server when a role is made, only its verifier: it can appear in no statement log.
//! Invariant: [`is_verifier_of`] is true for every verifier that [`verifier`] has made of the same password.
//! Not here: SASLprep; generated passwords are ASCII.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

/// PostgreSQL's own number of rounds.
const ITERATIONS: u32 = 4096;

/// Bytes of salt, as PostgreSQL takes.
pub const SALT_LEN_BYTES: usize = 16;

/// The verifier of `password`, for `ALTER ROLE ... PASSWORD`.
pub fn verifier(password: &str, salt: &[u8]) -> String {
    encode(password, salt, ITERATIONS)
}

/// Whether `verifier` (column `rolpassword`) was made of `password`. False for other kinds of verifiers.
pub fn is_verifier_of(verifier: &str, password: &str) -> bool {
    let parts = || {
        let (iterations, rest) = verifier.strip_prefix("SCRAM-SHA-256$")?.split_once(':')?;
        let (salt, _) = rest.split_once('$')?;
        Some((iterations.parse().ok()?, STANDARD.decode(salt).ok()?))
    };
    parts().is_some_and(|(iterations, salt)| encode(password, &salt, iterations) == verifier)
}

fn encode(password: &str, salt: &[u8], iterations: u32) -> String {
    let salted = salted_password(password.as_bytes(), salt, iterations);
    let stored_key = Sha256::digest(Hmac::new(&salted).sign(&[b"Client Key"]));
    let server_key = Hmac::new(&salted).sign(&[b"Server Key"]);
    let [salt, stored_key, server_key] =
        [salt, &stored_key, &server_key].map(|bytes| STANDARD.encode(bytes));
    format!("SCRAM-SHA-256${iterations}:{salt}${stored_key}:{server_key}")
}

/// PBKDF2 with one block, the function Hi() of RFC 5802.
fn salted_password(password: &[u8], salt: &[u8], iterations: u32) -> [u8; 32] {
    let key = Hmac::new(password);
    let mut block = key.sign(&[salt, &1_u32.to_be_bytes()]);
    let mut salted = block;
    for _ in 1..iterations {
        block = key.sign(&[&block]);
        salted
            .iter_mut()
            .zip(block)
            .for_each(|(byte, other)| *byte ^= other);
    }
    salted
}

/// HMAC-SHA-256 (RFC 2104), with the key absorbed once for many messages.
struct Hmac {
    inner: Sha256,
    outer: Sha256,
}

impl Hmac {
    fn new(key: &[u8]) -> Self {
        let mut padded = [0_u8; 64];
        if key.len() > padded.len() {
            padded[..32].copy_from_slice(&Sha256::digest(key));
        } else {
            padded[..key.len()].copy_from_slice(key);
        }
        let absorb = |mask: u8| Sha256::new().chain_update(padded.map(|byte| byte ^ mask));
        Self {
            inner: absorb(0x36),
            outer: absorb(0x5c),
        }
    }

    fn sign(&self, message: &[&[u8]]) -> [u8; 32] {
        let mut inner = self.inner.clone();
        message.iter().for_each(|part| inner.update(part));
        self.outer
            .clone()
            .chain_update(inner.finalize())
            .finalize()
            .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7677, section 3: user, password "pencil", and the server signature over its example exchange.
    #[test]
    fn verifier_gives_the_server_signature_of_the_rfc() {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let text = verifier("pencil", &salt);
        let server_key = STANDARD.decode(text.rsplit(':').next().unwrap()).unwrap();
        let exchange = "n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                        s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let signature = STANDARD.encode(Hmac::new(&server_key).sign(&[exchange.as_bytes()]));
        assert_eq!(signature, "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    #[test]
    fn is_verifier_of_tells_passwords_apart() {
        let text = verifier("right", &[7; SALT_LEN_BYTES]);
        assert!(is_verifier_of(&text, "right"));
        assert!(!is_verifier_of(&text, "wrong"));
        assert!(!is_verifier_of("md5abc", "right"));
    }
}
