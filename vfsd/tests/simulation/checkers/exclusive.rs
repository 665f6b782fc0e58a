//! An exclusive create has one winner.

use std::collections::BTreeMap;

/// Who made each name.
#[derive(Debug, Default)]
pub struct Winners(BTreeMap<String, String>);

impl Winners {
    /// `who` was told that it has made `name`.
    pub fn won(&mut self, name: &str, who: &str) {
        let before = self.0.insert(name.to_owned(), who.to_owned());
        assert_eq!(before, None, "{who} made {name}, which was made before");
    }

    /// Names that must be there.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}
