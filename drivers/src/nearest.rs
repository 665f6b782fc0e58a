//! The nearest known name to a mistyped one, for hints.
//!
//! Not here: fixing the name. A hint is shown to a person, never acted on.

use crate::limits::NAME_LEN_COMPARED_MAX;

/// The candidate that differs least from `name`, if it differs by at most a third of its letters (and by at least two
/// letters' worth of slack for short names). Ties go to the first candidate in order.
pub fn nearest_name<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    if name.chars().count() > NAME_LEN_COMPARED_MAX {
        return None;
    }
    let slack = (name.chars().count() / 3).max(2);
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        let distance = edit_distance(name, candidate);
        if distance <= slack
            && distance < candidate.chars().count()
            && best.is_none_or(|(least, _)| distance < least)
        {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// Optimal string alignment distance: insertions, deletions, replacements and swaps of neighbours.
fn edit_distance(left: &str, right: &str) -> usize {
    let (left, right): (Vec<char>, Vec<char>) = (left.chars().collect(), right.chars().collect());
    let width = right.len() + 1;
    let mut rows = vec![0; (left.len() + 1) * width];
    for i in 0..=left.len() {
        for j in 0..width {
            rows[i * width + j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced =
                    rows[(i - 1) * width + j - 1] + usize::from(left[i - 1] != right[j - 1]);
                let mut least = replaced
                    .min(rows[(i - 1) * width + j] + 1)
                    .min(rows[i * width + j - 1] + 1);
                if i > 1 && j > 1 && left[i - 1] == right[j - 2] && left[i - 2] == right[j - 1] {
                    least = least.min(rows[(i - 2) * width + j - 2] + 1);
                }
                least
            };
        }
    }
    rows[left.len() * width + right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_name_finds_a_missing_letter_and_a_swap() {
        let known = ["max_connections", "max_wal_size", "port"];
        assert_eq!(
            nearest_name("max_conections", known),
            Some("max_connections")
        );
        assert_eq!(nearest_name("prot", known), Some("port"));
    }

    #[test]
    fn nearest_name_is_silent_when_nothing_is_near() {
        assert_eq!(nearest_name("colour", ["max_connections", "port"]), None);
        assert_eq!(nearest_name("ab", ["cd"]), None);
    }
}
