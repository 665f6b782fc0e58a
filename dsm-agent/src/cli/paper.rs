//! `log` and `diff`: what generations did and how they differ.

use similar::TextDiff;

use super::{Complaint, Exit, Place, print_json};
use crate::clock;
use crate::engine::id::{DeploymentId, Generation};
use crate::engine::log::{Ev, LogLine};
use crate::engine::plan_text::{change_lines, reason_words, short};
use crate::engine::view::GenerationView;
use crate::status::columns;

/// The generation asked for, or the newest.
pub(crate) fn generation(
    place: &Place,
    id: &DeploymentId,
    number: Option<Generation>,
) -> Result<GenerationView, Complaint> {
    let numbers = place.store.generations(id)?;
    let number = match number {
        Some(number) if !numbers.contains(&number) => {
            let last = numbers.last().map_or(0, |last| last.0);
            return Err(Complaint::new(
                format!("{id} has no generation {number}"),
                format!("the newest is {last}"),
            ));
        }
        Some(number) => number,
        None => *numbers.last().ok_or_else(|| {
            Complaint::new(
                format!("{id} has no generation"),
                format!("see: dsm-agent explain {id}"),
            )
        })?,
    };
    Ok(place.store.generation(id, number)?)
}

/// All lines of all nodes, in the order of their times.
pub(crate) fn lines(generation: &GenerationView) -> Vec<(&str, &LogLine)> {
    let mut all: Vec<(&str, &LogLine)> = generation
        .logs
        .iter()
        .flat_map(|(node, log)| log.lines.iter().map(move |line| (node.as_str(), line)))
        .collect();
    all.sort_by(|left, right| {
        (&left.1.at, left.0, left.1.seq).cmp(&(&right.1.at, right.0, right.1.seq))
    });
    all
}

/// Shows the steps of a generation as they ran.
pub(crate) fn log(
    place: &Place,
    id: &DeploymentId,
    number: Option<Generation>,
) -> Result<Exit, Complaint> {
    let generation = generation(place, id, number)?;
    if place.json {
        let lines: Vec<_> = lines(&generation)
            .into_iter()
            .map(|(node, line)| serde_json::json!({ "node": node, "line": line }))
            .collect();
        print_json(&serde_json::json!({
            "intent": generation.intent, "result": generation.result, "lines": lines,
        }))?;
        return Ok(Exit::Done);
    }
    let intent = &generation.intent;
    anstream::println!(
        "{id}   generation {}   {}   plan {}   {}",
        intent.generation,
        reason_words(intent.reason),
        short(&generation.plan.digest),
        intent.at
    );
    anstream::print!("{}", columns(&rows(&generation)));
    match &generation.result {
        Some(result) => {
            anstream::println!("{:?}: {}   {}", result.outcome, result.reason, result.at)
        }
        None => anstream::println!("under way"),
    }
    Ok(Exit::Done)
}

/// A row a line; the planned steps of a node are one row.
fn rows(generation: &GenerationView) -> Vec<[String; 5]> {
    let lines = lines(generation);
    let is_planned = |line: &(&str, &LogLine)| line.1.entry.ev == Ev::Planned;
    let together =
        lines.chunk_by(|left, right| left.0 == right.0 && is_planned(left) && is_planned(right));
    together
        .map(|chunk| {
            let (node, line) = chunk[0];
            let about = match (is_planned(&chunk[0]), chunk.len()) {
                (true, 1) => "1 step".to_owned(),
                (true, count) => format!("{count} steps"),
                (false, _) => about(generation, line),
            };
            [
                line.at.clone(),
                node.to_owned(),
                word(line.entry.ev),
                about,
                details(line),
            ]
        })
        .collect()
}

fn word(ev: Ev) -> String {
    serde_json::to_value(ev)
        .ok()
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_default()
}

fn about(generation: &GenerationView, line: &LogLine) -> String {
    let Some(step) = &line.entry.step else {
        return line
            .entry
            .detail
            .get("rule")
            .map_or_else(String::new, |rule| format!("rule {rule}"));
    };
    let title = generation
        .plan
        .step(step)
        .map_or(step.as_str(), |step| step.title.as_str());
    match line.entry.attempt {
        0 | 1 => title.to_owned(),
        attempt => format!("{title} (attempt {attempt})"),
    }
}

fn details(line: &LogLine) -> String {
    let mut parts = Vec::new();
    if let Some(us) = line.entry.dur_us {
        parts.push(clock::words(us / 1_000));
    }
    match line.entry.changes.len() {
        0 => {}
        1 => parts.push("1 change".to_owned()),
        count => parts.push(format!("{count} changes")),
    }
    if let Some(err) = &line.entry.err {
        parts.push(format!("{}: {}", err.code, err.msg));
    }
    if let Some(note) = &line.entry.note {
        parts.push(match line.entry.ev {
            Ev::Waiting => format!("for {note}"),
            _ => note.clone(),
        });
    }
    parts.join("; ")
}

/// Shows what differs between two generations.
pub(crate) fn diff(
    place: &Place,
    id: &DeploymentId,
    from: Option<Generation>,
    to: Option<Generation>,
) -> Result<Exit, Complaint> {
    let numbers = place.store.generations(id)?;
    let newest = numbers.last().copied();
    let to = to.or(newest);
    let new = generation(place, id, to)?;
    let from = from.or(new.intent.supersedes);
    let old = match from {
        Some(from) => Some(generation(place, id, Some(from))?),
        None => None,
    };
    let before = old.as_ref().map(pretty).transpose()?.unwrap_or_default();
    let after = pretty(&new)?;
    let names = (
        old.as_ref().map_or("nothing".to_owned(), |old| {
            format!("generation {}", old.number())
        }),
        format!("generation {}", new.number()),
    );
    let text = TextDiff::from_lines(&before, &after);
    let unified = text.unified_diff().header(&names.0, &names.1).to_string();
    if place.json {
        print_json(&serde_json::json!({
            "from": old.as_ref().map(GenerationView::number), "to": new.number(),
            "spec": unified, "changes": new.plan.changes,
        }))?;
        return Ok(Exit::Done);
    }
    anstream::println!(
        "{id}   {} -> {}   {}",
        names.0,
        names.1,
        reason_words(new.intent.reason)
    );
    if unified.is_empty() {
        anstream::println!("  the wish is the same");
    } else {
        anstream::print!("{unified}");
    }
    anstream::print!("{}", change_lines(&new.plan.changes));
    Ok(Exit::Done)
}

fn pretty(generation: &GenerationView) -> Result<String, Complaint> {
    Ok(format!(
        "{}\n",
        serde_json::to_string_pretty(&generation.intent.spec)?
    ))
}
