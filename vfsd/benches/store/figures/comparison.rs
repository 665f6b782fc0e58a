//! Numbers that are made of rows, and what they shall be.

use super::name::Unit;
use super::report::{Report, Turn};
use super::spread::Spread;

/// What a number shall be.
#[derive(Debug, Clone, Copy)]
pub enum Aim {
    AtMost(f64),
    Below(f64),
    Above(f64),
}

impl Aim {
    /// Whether `value` is what it shall be.
    pub fn is_reached(self, value: f64) -> bool {
        match self {
            Self::AtMost(bound) => value <= bound,
            Self::Below(bound) => value < bound,
            Self::Above(bound) => value > bound,
        }
    }

    /// For people, without the unit.
    pub fn text(self, unit: Unit) -> String {
        let (word, bound) = match self {
            Self::AtMost(bound) => ("<=", bound),
            Self::Below(bound) => ("<", bound),
            Self::Above(bound) => (">", bound),
        };
        format!("{word} {}", unit.number(bound))
    }
}

/// A number that each turn gives which has the rows for it. What counts is the median of the turns.
pub struct Comparison {
    pub key: &'static str,
    pub label: &'static str,
    pub unit: Unit,
    pub of: fn(&Turn) -> Option<f64>,
    pub aim: Option<Aim>,
}

impl Comparison {
    /// `None` if no turn has its rows.
    pub fn spread(&self, report: &Report) -> Option<Spread> {
        report.over_turns(self.of)
    }

    /// Whether the aim is reached, if there is one and it was measured.
    pub fn is_reached(&self, report: &Report) -> Option<bool> {
        Some(self.aim?.is_reached(self.spread(report)?.p50))
    }
}
