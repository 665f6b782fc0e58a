//! A report for people.

use super::comparison::Comparison;
use super::name::Unit;
use super::report::{Measured, Report};
use super::spread::Spread;

/// Columns of a label, the longest included.
const LABEL: usize = 70;

/// All rows, what they come to, and which aims are reached.
pub fn table(report: &Report, comparisons: &[Comparison]) -> String {
    let mut lines = vec![line("", ["p50", "p25", "p75", "p99", "max"], "")];
    lines.extend(report.rows().iter().map(row));
    lines.push(String::new());
    lines.push(line("", ["median", "p25", "p75"], "      aim"));
    lines.extend(comparisons.iter().map(|of| comparison(of, report)));
    let builds = report.builds();
    if !builds.is_empty() {
        lines.push(String::new());
        lines.push(line("this build / the other", ["median", "p25", "p75"], ""));
    }
    for (name, by) in builds {
        lines.push(line(&name.label, quartiles(by, Unit::Times), "x"));
    }
    lines.join("\n") + "\n"
}

fn line<const N: usize>(label: &str, numbers: [impl AsRef<str>; N], after: &str) -> String {
    let mut line = format!("{label:<LABEL$}");
    for number in numbers {
        line += &format!(" {:>8}", number.as_ref());
    }
    format!("{line} {after}").trim_end().to_owned()
}

fn row(row: &Measured) -> String {
    let label = &row.name.label;
    let Some(spread) = Spread::of(&row.samples) else {
        let why = row.absent.as_deref().unwrap_or("no samples");
        return format!("{label:<LABEL$} not measured: {why}");
    };
    let unit = row.name.unit;
    let [p50, p25, p75] = quartiles(spread, unit);
    let [p99, max] = [spread.p99, spread.max].map(|value| unit.number(value));
    let mut numbers = [p50, p25, p75, p99, max];
    if spread.count == 1 {
        numbers[1..].fill(String::new());
    }
    line(label, numbers, unit.text())
}

fn comparison(of: &Comparison, report: &Report) -> String {
    let aim = of.aim.map(|aim| aim.text(of.unit)).unwrap_or_default();
    let Some(spread) = of.spread(report) else {
        return line(of.label, ["", "", "not measured"], "");
    };
    let reached = match of.is_reached(report) {
        Some(true) => "yes",
        Some(false) => "no",
        None => "",
    };
    let after = format!("{:<5} {aim:<7} {reached}", of.unit.text());
    line(of.label, quartiles(spread, of.unit), &after)
}

fn quartiles(spread: Spread, unit: Unit) -> [String; 3] {
    [spread.p50, spread.p25, spread.p75].map(|value| unit.number(value))
}
