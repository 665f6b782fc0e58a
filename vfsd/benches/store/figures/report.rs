//! What was measured: the samples of each row, and the medians of each turn.
//!
//! Invariant: numbers are related to each other within a turn only. Not here: how it is shown (`table.rs`, `json.rs`).

use std::collections::BTreeMap;

use super::name::Name;
use super::spread::Spread;

/// Samples of a row that were taken one behind the other.
pub struct Block {
    name: Name,
    samples: Vec<f64>,
}

impl Block {
    /// A block of `samples`.
    pub fn new(name: Name, samples: Vec<f64>) -> Self {
        Self { name, samples }
    }

    /// A block of one sample.
    pub fn one(name: Name, sample: f64) -> Self {
        Self::new(name, vec![sample])
    }
}

/// The medians of blocks that may be compared.
pub struct Turn(BTreeMap<String, f64>);

impl Turn {
    /// The median of the row's block, if it had one in this turn.
    pub fn get(&self, key: &str) -> Option<f64> {
        self.0.get(key).copied()
    }
}

/// A row's samples, or why there are none.
pub struct Measured {
    pub name: Name,
    pub samples: Vec<f64>,
    pub absent: Option<String>,
}

/// Rows in the order in which they came, and the turns.
#[derive(Default)]
pub struct Report {
    rows: Vec<Measured>,
    turns: Vec<Turn>,
}

impl Report {
    /// Adds blocks that were measured next to each other.
    pub fn turn(&mut self, blocks: Vec<Block>) {
        let mut medians = BTreeMap::new();
        for Block { name, samples } in blocks {
            if let Some(spread) = Spread::of(&samples) {
                medians.insert(name.key.clone(), spread.p50);
            }
            self.row(name).samples.extend(samples);
        }
        self.turns.push(Turn(medians));
    }

    /// Says why a row is not there.
    pub fn absent(&mut self, name: Name, why: &str) {
        self.row(name).absent = Some(why.to_owned());
    }

    /// All rows.
    pub fn rows(&self) -> &[Measured] {
        &self.rows
    }

    /// What `of` makes of each turn that has its rows.
    pub fn over_turns(&self, of: impl FnMut(&Turn) -> Option<f64>) -> Option<Spread> {
        Spread::of(&self.turns.iter().filter_map(of).collect::<Vec<f64>>())
    }

    /// Each row of this build that the other one has too, with this by the other.
    pub fn builds(&self) -> Vec<(&Name, Spread)> {
        let related = self.rows.iter().filter_map(|this| {
            let key = Name::other(&this.name.key);
            let other = self.rows.iter().find(|row| row.name.key == key)?;
            let mut samples = this.samples.iter().chain(&other.samples);
            // What may be less than nothing (an event before the close) has no ratio.
            if samples.any(|sample| *sample < 0.0) {
                return None;
            }
            let by = self.over_turns(|turn| ratio(turn.get(&this.name.key)?, turn.get(&key)?))?;
            Some((&this.name, by))
        });
        related.collect()
    }

    fn row(&mut self, name: Name) -> &mut Measured {
        let known = self.rows.iter().position(|row| row.name.key == name.key);
        let at = known.unwrap_or_else(|| {
            self.rows.push(Measured {
                name,
                samples: Vec::new(),
                absent: None,
            });
            self.rows.len() - 1
        });
        &mut self.rows[at]
    }
}

/// Two that are nothing are equal; something by nothing says nothing.
fn ratio(this: f64, other: f64) -> Option<f64> {
    match (this == other, other == 0.0) {
        (true, _) => Some(1.0),
        (false, true) => None,
        (false, false) => Some(this / other),
    }
}
