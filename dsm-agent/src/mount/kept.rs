//! What was read from the tree, for as long as the tree itself says that nothing has moved since.
//!
//! Invariant: a value is given back only if the mark from before its reading is known, and is the mark of now. A tree
//! that tells no mark is read each time.
//! Not here: where marks come from (`shared_tree.rs`). What passes with time alone moves no mark: whether an own lock
//! still holds is asked each time.

/// A value and the mark that it was read under.
#[derive(Debug, Clone)]
pub struct Kept<M, T>(Option<(M, T)>);

impl<M, T> Default for Kept<M, T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<M: PartialEq, T> Kept<M, T> {
    /// The value, if it still holds under the mark of `now`.
    pub fn under(&self, now: Option<&M>) -> Option<&T> {
        let (mark, value) = self.0.as_ref()?;
        (now == Some(mark)).then_some(value)
    }

    /// Keeps what was read after the tree had told the mark `before`. What changed while it was read has moved that
    /// mark since, so the next look reads again.
    pub fn keep(&mut self, before: Option<M>, value: T) {
        self.0 = before.map(|before| (before, value));
    }

    /// Keeps nothing any more.
    pub fn forget(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_holds_until_the_mark_moves() {
        let mut kept = Kept::default();
        assert_eq!(kept.under(Some(&1)), None);
        kept.keep(Some(1), "a");
        assert_eq!(kept.under(Some(&1)), Some(&"a"));
        assert_eq!(kept.under(Some(&2)), None);
        kept.keep(Some(2), "b");
        assert_eq!(kept.under(Some(&1)), None, "the value is a newer one");
        kept.forget();
        assert_eq!(kept.under(Some(&2)), None);
    }

    #[test]
    fn without_a_mark_nothing_is_kept_and_nothing_holds() {
        let mut kept = Kept::default();
        kept.keep(Some(1), "a");
        assert_eq!(kept.under(None), None);
        kept.keep(None, "b");
        assert_eq!(kept.under(None), None);
        assert_eq!(kept.under(Some(&1)), None, "the older value is not told");
    }
}
