//! Who a wish is of, in words.
//!
//! Invariant: a number is looked up only on the author's own node; elsewhere the same number may be somebody else.

use nix::unistd::{Uid, User};

/// `uid 0`, or where the record also names the author's node, and it is `node`: `root (uid 0) on n1 with bash`.
pub(crate) fn author_words(author: &str, node: &str) -> String {
    let named = author.strip_prefix("uid ").and_then(|rest| {
        let (uid, place) = rest.split_once(" on ")?;
        let home = place.split(" with ").next()?;
        let number = Uid::from_raw(uid.parse().ok().filter(|_| home == node)?);
        let user = User::from_uid(number).ok()??;
        Some(format!("{} (uid {uid}) on {place}", user.name))
    });
    named.unwrap_or_else(|| author.to_owned())
}

#[cfg(test)]
mod tests {
    use super::author_words;

    #[test]
    fn a_name_is_looked_up_on_the_authors_own_node_only() {
        let full = "uid 0 on n1 with bash";
        assert_eq!(author_words(full, "n1"), "root (uid 0) on n1 with bash");
        assert_eq!(author_words("uid 0 on n1", "n1"), "root (uid 0) on n1");
        for (author, node) in [
            (full, "n2"),
            ("uid 0", "n1"),
            ("uid 4294967294 on n1 with bash", "n1"),
            ("uid x on n1", "n1"),
            ("", "n1"),
        ] {
            assert_eq!(author_words(author, node), author);
        }
    }
}
