//! What fails again and again is told once. A full disk may last for days, and a line in the journal for each try would
//! bury everything else.
//!
//! Not here: when it is tried again.

use std::fmt::Display;

/// The failure of something that is tried until it works.
#[derive(Debug, Default)]
pub struct Trouble(Option<String>);

impl Trouble {
    /// Whether `failure` is another one than the time before.
    pub fn is_new(&mut self, failure: impl Display) -> bool {
        let failure = Some(failure.to_string());
        if self.0 == failure {
            return false;
        }
        self.0 = failure;
        true
    }

    /// Whether it does not work.
    pub fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// It worked: the next failure is new.
    pub fn end(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_when_it_begins_and_when_it_is_another() {
        let mut trouble = Trouble::default();
        let failures = ["full", "full", "broken", "full"];
        let told = failures.map(|failure| trouble.is_new(failure));
        assert_eq!(told, [true, false, true, true]);
        assert!(trouble.is_there());
        trouble.end();
        assert!(!trouble.is_there());
        assert!(trouble.is_new("full"));
    }
}
