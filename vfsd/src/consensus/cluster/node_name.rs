//! What a node may be called and where it may listen.

use crate::consensus::cluster::change_steps::{Stop, refuse};

/// Names appear in paths, certificates and commands.
pub(in crate::consensus) fn check_name(name: &str) -> Result<(), Stop> {
    if is_valid_name(name) {
        return Ok(());
    }
    Err(refuse(
        format!("{name:?} cannot be a node's name"),
        NAME_HINT,
    ))
}

/// What a node may be called, for people.
pub const NAME_HINT: &str =
    "use 1 to 63 letters, digits, - and _, beginning with a letter or digit";

/// Whether a node may be called `name`.
pub fn is_valid_name(name: &str) -> bool {
    let is_inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (1..=63).contains(&name.len())
        && name.chars().all(is_inner)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}

pub(in crate::consensus) fn check_address(address: &str) -> Result<(), Stop> {
    match address.parse::<std::net::SocketAddr>() {
        Ok(parsed) if !parsed.ip().is_unspecified() && parsed.port() != 0 => Ok(()),
        _ => Err(refuse(
            format!("{address:?} is no address that the other members can reach"),
            "use --listen IP:PORT with the address of this machine",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_hurt_in_a_path_are_refused() {
        assert!(["n1", "db-3", "A_b"].into_iter().all(is_valid_name));
        assert!(
            ["", "-x", "a/b", "..", "ä", "a b", &"x".repeat(64)]
                .into_iter()
                .all(|name| !is_valid_name(name))
        );
    }
}
