//! A report for machines.

use serde_json::{Map, Value, json};

use super::comparison::{Aim, Comparison};
use super::report::{Measured, Report};
use super::spread::Spread;

/// One object: `rows` and `comparisons` by key, and `builds`, this build by the other.
pub fn json(report: &Report, comparisons: &[Comparison]) -> Value {
    let rows = report.rows().iter();
    let rows: Map<String, Value> = rows.map(|of| (of.name.key.clone(), row(of))).collect();
    let comparisons = comparisons.iter();
    let comparisons: Map<String, Value> = comparisons
        .map(|of| (of.key.to_owned(), comparison(of, report)))
        .collect();
    let builds: Map<String, Value> = report
        .builds()
        .into_iter()
        .map(|(name, by)| (name.key.clone(), quartiles(by)))
        .collect();
    json!({"rows": rows, "comparisons": comparisons, "builds": builds})
}

fn row(row: &Measured) -> Value {
    let unit = row.name.unit.text();
    match Spread::of(&row.samples) {
        None => json!({"unit": unit, "absent": row.absent}),
        Some(spread) => json!({
            "unit": unit,
            "count": spread.count,
            "p25": spread.p25,
            "p50": spread.p50,
            "p75": spread.p75,
            "p99": spread.p99,
            "max": spread.max,
        }),
    }
}

fn comparison(of: &Comparison, report: &Report) -> Value {
    let aim = of.aim.map(|aim| match aim {
        Aim::AtMost(bound) => json!({"at_most": bound}),
        Aim::Below(bound) => json!({"below": bound}),
        Aim::Above(bound) => json!({"above": bound}),
    });
    json!({
        "unit": of.unit.text(),
        "turns": of.spread(report).map(quartiles),
        "aim": aim,
        "reached": of.is_reached(report),
    })
}

fn quartiles(spread: Spread) -> Value {
    json!({"count": spread.count, "p25": spread.p25, "p50": spread.p50, "p75": spread.p75})
}
