//! `status` and `explain`: what became of the wishes.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use super::author::author_words;
use super::{Complaint, Exit, Place, print_json};
use crate::clock;
use crate::engine::id::DeploymentId;
use crate::engine::record::{Phase, Status};
use crate::engine::view::WishFile;
use crate::mount::paths;
use crate::mount::wish_index::WishIndex;
use crate::status::{columns, text_with, trouble_lines};

/// How often `--watch` looks; people see no difference below it.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);

/// All deployments that have a record.
pub(crate) fn recorded(place: &Place) -> Result<Vec<DeploymentId>, Complaint> {
    let index = WishIndex::scan(place.store.tree().as_ref())?;
    Ok(index.records.into_iter().collect())
}

/// Says so when this node sees no majority: what it shows may be old then.
fn warn_without_quorum(place: &Place) -> Exit {
    let status = place.store.json_any(paths::STATUS).ok().flatten();
    let quorum = status
        .as_ref()
        .and_then(|status| status.get("quorum")?.as_bool());
    if quorum != Some(false) {
        return Exit::Done;
    }
    let missing = status
        .as_ref()
        .and_then(|status| status.get("missing")?.as_array().cloned());
    let names: Vec<String> = missing
        .into_iter()
        .flatten()
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect();
    anstream::eprintln!(
        "warning: this node sees no majority ({} missing); what it shows may be old",
        names.join(", ")
    );
    Exit::Degraded
}

/// One line a deployment.
pub(crate) fn all(place: &Place) -> Result<Exit, Complaint> {
    let quorum = warn_without_quorum(place);
    let index = WishIndex::scan(place.store.tree().as_ref())?;
    let mut statuses = Vec::new();
    for id in index.all() {
        statuses.push(current(place, &id)?);
    }
    let worst = statuses
        .iter()
        .map(|status| exit_of(status.phase))
        .max()
        .unwrap_or(Exit::Done)
        .max(quorum);
    if place.json {
        print_json(&statuses)?;
        return Ok(worst);
    }
    if statuses.is_empty() {
        anstream::println!(
            "no deployments; write one to {}/mid/NAME.json",
            place.root.display()
        );
        return Ok(Exit::Done);
    }
    let mut rows =
        vec![["DEPLOYMENT", "PHASE", "GEN", "STEPS", "SINCE", "NEXT"].map(str::to_owned)];
    for status in &statuses {
        let next = match status.conditions.first() {
            Some(trouble) => trouble.reason.clone(),
            None => status.next_action.clone(),
        };
        rows.push([
            status.deployment.to_string(),
            status.phase.word().to_owned(),
            status.generation.to_string(),
            format!("{}/{}", status.steps_done, status.steps_total),
            clock::ago(&status.since),
            next,
        ]);
    }
    anstream::print!("{}", columns(&rows));
    Ok(worst)
}

/// One deployment, once or until it is done.
pub(crate) fn one(place: &Place, id: &DeploymentId, watch: bool) -> Result<Exit, Complaint> {
    let quorum = warn_without_quorum(place);
    let mut shown = String::new();
    let mut lines = 0;
    // A dumb terminal, and one without colours, gets no escape sequences: there nothing can be overwritten either.
    let stdout = std::io::stdout();
    let terminal = stdout.is_terminal()
        && anstream::AutoStream::choice(&stdout) != anstream::ColorChoice::Never;
    loop {
        let began = Instant::now();
        let status = current(place, id)?;
        let text = if place.json {
            format!("{}\n", serde_json::to_string(&status)?)
        } else {
            text_with(&status, &when(&status))
        };
        // In a pipe nothing is overwritten, so a time that runs on is no news there.
        let news = if terminal || place.json {
            text.clone()
        } else {
            text_with(&status, "")
        };
        if news != shown {
            if terminal && lines > 0 && !place.json {
                // Back to the first line and clear what follows.
                anstream::print!("\x1b[{lines}A\x1b[J");
            }
            anstream::print!("{text}");
            lines = text.lines().count();
            shown = news;
        }
        let ended = matches!(
            status.phase,
            Phase::Active | Phase::Blocked | Phase::Failed | Phase::Removed
        );
        if !watch || ended {
            return Ok(exit_of(status.phase).max(quorum));
        }
        std::thread::sleep(WATCH_INTERVAL.saturating_sub(began.elapsed()));
    }
}

fn when(status: &Status) -> String {
    let took = match (&status.planned_at, &status.ended_at) {
        (Some(from), Some(to)) if status.phase == Phase::Active => clock::between_ms(from, to),
        (Some(from), None) => clock::between_ms(from, &clock::now()),
        _ => None,
    };
    took.map_or_else(|| clock::ago(&status.since), clock::words)
}

/// The recorded status, or what is known if the agents have not answered the saved wish yet.
pub(crate) fn current(place: &Place, id: &DeploymentId) -> Result<Status, Complaint> {
    let recorded: Option<Status> = place.store.json(&paths::status_json(id))?;
    let wish = place.store.wish_file(id)?;
    let WishFile::Present(document) = &wish else {
        return recorded.ok_or_else(|| {
            Complaint::new(
                format!("there is no deployment {id}"),
                format!(
                    "write {}/{id}.json, or see: dsm-agent status",
                    place.root.display()
                ),
            )
        });
    };
    match recorded {
        Some(status) if status.revision == document.revision => Ok(status),
        before => Ok(pending(id, before)),
    }
}

fn pending(id: &DeploymentId, before: Option<Status>) -> Status {
    let mut status = before.unwrap_or_else(|| Status::pending(id.clone()));
    status.phase = Phase::Pending;
    status.conditions.clear();
    status.next_action =
        "an agent takes up the saved wish (is dsm-agent running on its nodes?)".to_owned();
    status
}

/// The exit code that a phase stands for.
pub(crate) fn exit_of(phase: Phase) -> Exit {
    match phase {
        Phase::Failed | Phase::Blocked => Exit::Refused,
        Phase::Degraded => Exit::Degraded,
        _ => Exit::Done,
    }
}

/// What it waits for and what to do, in sentences.
pub(crate) fn explain(place: &Place, id: &DeploymentId) -> Result<Exit, Complaint> {
    let quorum = warn_without_quorum(place);
    let status = current(place, id)?;
    if place.json {
        print_json(&status)?;
        return Ok(exit_of(status.phase).max(quorum));
    }
    let since = match status.since.is_empty() {
        true => String::new(),
        false => format!(" since {} ({})", status.since, clock::ago(&status.since)),
    };
    anstream::println!(
        "{id} is {}{since}{}.",
        status.phase.word(),
        whose_turn(&status)
    );
    if let WishFile::Present(document) = place.store.wish_file(id)? {
        let author = author_words(&document.author, &place.node().unwrap_or_default());
        anstream::println!("  author  {author}");
    }
    for trouble in &status.conditions {
        anstream::print!("{}", trouble_lines(&status, trouble));
    }
    for node in &status.nodes {
        for (title, note) in &node.running {
            anstream::println!("  runs    {}: {title} {note}", node.node);
        }
        for (title, on) in &node.waiting {
            anstream::println!("  waits   {}: {title}, on {on}", node.node);
        }
        if let Some((title, why)) = &node.failed {
            anstream::println!("  failed  {}: {title}: {why}", node.node);
        }
    }
    if status.conditions.is_empty() && !status.next_action.is_empty() {
        anstream::println!("  next    {}", status.next_action);
    }
    if status.phase == Phase::Blocked && status.generation.0 > 0 {
        anstream::println!(
            "Nothing was changed for it. Generation {} is what there is.",
            status.generation
        );
    } else if status.phase == Phase::Blocked {
        anstream::println!("Nothing was changed on any node.");
    }
    Ok(exit_of(status.phase))
}

fn whose_turn(status: &Status) -> String {
    match status.phase {
        Phase::Blocked | Phase::Failed => " and needs you".to_owned(),
        Phase::Degraded | Phase::Waiting => {
            let node = status
                .conditions
                .iter()
                .find_map(|trouble| trouble.node.clone());
            node.map_or_else(
                || " and waits".to_owned(),
                |node| format!(" and waits for node {node}"),
            )
        }
        _ => String::new(),
    }
}
