//! How the outcome of some states decides whether another one runs: the truth table of the state graph.
//!
//! Invariant: [`gate`] is total and pure; `docs/DRIVERS.md` shows the same table, and a test goes through each cell.

/// What became of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It held already.
    Unchanged,
    /// It was changed and holds now.
    Changed,
    /// It had no reason to run (`onchanges`, `onfail`, `prereq`).
    NotNeeded,
    /// It could not be made to hold.
    Failed,
    /// It did not run because something that it requires does not hold.
    Blocked,
}

/// How a state depends on others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// They must hold before it runs.
    Require,
    /// As `Require`; and if one of them changed, it is told so (a reload).
    Watch,
    /// It runs only if they changed.
    OnChanges,
    /// It runs only if they do not hold (a clean-up, a fallback).
    OnFail,
    /// It runs before them, and only if they are about to change (a backup before a change). Their own outcome cannot
    /// be known yet, so their check stands for it: drifted counts as `Changed`, in the desired state as `Unchanged`,
    /// a check that fails as `Failed`.
    Prereq,
}

/// How many of the targets count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantity {
    /// Each of them.
    All,
    /// At least one.
    Any,
}

/// A dependency of one state on others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requisite {
    /// How.
    pub kind: Kind,
    /// How many.
    pub quantity: Quantity,
    /// On which states, by id; at least one.
    pub targets: Vec<String>,
}

impl Requisite {
    /// A requisite on all of `targets`.
    pub fn all<'a>(kind: Kind, targets: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            kind,
            quantity: Quantity::All,
            targets: targets.into_iter().map(str::to_owned).collect(),
        }
    }

    /// A requisite on any of `targets`.
    pub fn any<'a>(kind: Kind, targets: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            quantity: Quantity::Any,
            ..Self::all(kind, targets)
        }
    }
}

/// What a requisite says to its state. The order is that of strength: of several requisites the strongest word counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gate {
    /// Run.
    Open,
    /// Run, and be told that something watched has changed.
    Told,
    /// There is no reason to run.
    NotNeeded,
    /// It must not run.
    Blocked,
}

/// The word of one target.
pub fn gate(kind: Kind, target: Outcome) -> Gate {
    match (kind, target) {
        (Kind::Require, Outcome::Unchanged | Outcome::Changed | Outcome::NotNeeded) => Gate::Open,
        (Kind::Require, Outcome::Failed | Outcome::Blocked) => Gate::Blocked,
        (Kind::Watch, Outcome::Unchanged | Outcome::NotNeeded) => Gate::Open,
        (Kind::Watch, Outcome::Changed) => Gate::Told,
        (Kind::Watch, Outcome::Failed | Outcome::Blocked) => Gate::Blocked,
        (Kind::OnChanges | Kind::Prereq, Outcome::Changed) => Gate::Open,
        (Kind::OnChanges | Kind::Prereq, Outcome::Unchanged | Outcome::NotNeeded) => {
            Gate::NotNeeded
        }
        (Kind::OnChanges | Kind::Prereq, Outcome::Failed | Outcome::Blocked) => Gate::Blocked,
        (Kind::OnFail, Outcome::Failed | Outcome::Blocked) => Gate::Open,
        (Kind::OnFail, Outcome::Unchanged | Outcome::Changed | Outcome::NotNeeded) => {
            Gate::NotNeeded
        }
    }
}

/// The word of all targets of one requisite together.
pub fn gate_of_targets(kind: Kind, quantity: Quantity, targets: &[Outcome]) -> Gate {
    let words = targets.iter().map(|target| gate(kind, *target));
    match quantity {
        Quantity::All => words.max().unwrap_or(Gate::Open),
        Quantity::Any => {
            let words: Vec<Gate> = words.collect();
            let open = words
                .iter()
                .copied()
                .filter(|word| matches!(word, Gate::Open | Gate::Told))
                .max();
            open.or_else(|| words.iter().copied().min())
                .unwrap_or(Gate::Open)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Gate::{Blocked, NotNeeded, Open, Told};

    const OUTCOMES: [Outcome; 5] = [
        Outcome::Unchanged,
        Outcome::Changed,
        Outcome::NotNeeded,
        Outcome::Failed,
        Outcome::Blocked,
    ];

    /// The table of docs/DRIVERS.md, a row a kind, a column an outcome of the target.
    const TABLE: [(Kind, [Gate; 5]); 5] = [
        (Kind::Require, [Open, Open, Open, Blocked, Blocked]),
        (Kind::Watch, [Open, Told, Open, Blocked, Blocked]),
        (
            Kind::OnChanges,
            [NotNeeded, Open, NotNeeded, Blocked, Blocked],
        ),
        (Kind::OnFail, [NotNeeded, NotNeeded, NotNeeded, Open, Open]),
        (Kind::Prereq, [NotNeeded, Open, NotNeeded, Blocked, Blocked]),
    ];

    #[test]
    fn gate_answers_each_cell_of_the_table() {
        for (kind, row) in TABLE {
            for (outcome, expected) in OUTCOMES.into_iter().zip(row) {
                assert_eq!(
                    gate(kind, outcome),
                    expected,
                    "{kind:?} of a target that is {outcome:?}"
                );
            }
        }
    }

    #[test]
    fn gate_of_targets_answers_each_pair_of_outcomes() {
        for (kind, row) in TABLE {
            for (left, left_word) in OUTCOMES.into_iter().zip(row) {
                for (right, right_word) in OUTCOMES.into_iter().zip(row) {
                    let all = gate_of_targets(kind, Quantity::All, &[left, right]);
                    assert_eq!(
                        all,
                        left_word.max(right_word),
                        "all: {kind:?} {left:?} {right:?}"
                    );
                    let any = gate_of_targets(kind, Quantity::Any, &[left, right]);
                    let expected = match (left_word, right_word) {
                        (Told, Open | Told | NotNeeded | Blocked) | (_, Told) => Told,
                        (Open, _) | (_, Open) => Open,
                        (NotNeeded, _) | (_, NotNeeded) => NotNeeded,
                        (Blocked, Blocked) => Blocked,
                    };
                    assert_eq!(any, expected, "any: {kind:?} {left:?} {right:?}");
                }
            }
        }
    }
}
