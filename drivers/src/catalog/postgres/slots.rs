//! Names of the replication slots: one for each standby, told apart from slots of others by how it begins.

/// What the names of our slots begin with.
pub const SLOT_PREFIX: &str = "contextos_";

/// Name of the slot that keeps write-ahead log for `node`: slot names take lower-case letters, digits and `_` only.
pub fn slot_name(node: &str) -> String {
    let plain = |letter: char| {
        if letter.is_ascii_lowercase() || letter.is_ascii_digit() {
            letter
        } else {
            '_'
        }
    };
    format!(
        "{SLOT_PREFIX}{}",
        node.to_ascii_lowercase()
            .chars()
            .map(plain)
            .collect::<String>()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_slot_has_no_letter_that_postgres_refuses() {
        assert_eq!(slot_name("Node-2.local"), "contextos_node_2_local");
    }
}
