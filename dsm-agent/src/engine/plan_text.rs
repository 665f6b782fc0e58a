//! `plan.txt`: a plan as a person reads it, like a good diff.

use drivers::driver::{ChangeLine, Disruption};

use super::record::{Intent, PlanRecord, Reason};

/// The whole text of `plan.txt`.
pub fn plan_text(intent: &Intent, plan: &PlanRecord) -> String {
    let before = match intent.supersedes {
        Some(before) => format!("{before} -> {}", intent.generation),
        None => intent.generation.to_string(),
    };
    let mut text = format!(
        "{}   generation {before}   {}   {}\n",
        intent.deployment,
        reason_words(intent.reason),
        summary(plan)
    );
    text.push_str(&change_lines(&plan.changes));
    if !plan.steps.is_empty() {
        text.push_str("\nsteps\n");
        text.push_str(&step_lines(plan));
    }
    for (package, version) in &plan.versions {
        text.push_str(&format!("package {package} {version}\n"));
    }
    text.push_str(&format!(
        "plan {}   base {}\n",
        short(&plan.digest),
        short(&plan.base)
    ));
    text
}

/// The first eight digits of a digest.
pub fn short(digest: &str) -> &str {
    digest.get(..8).unwrap_or(digest)
}

/// Why a generation exists, in words.
pub fn reason_words(reason: Reason) -> &'static str {
    match reason {
        Reason::Spec => "the wish changed",
        Reason::Retry => "tried again on request",
        Reason::Drift => "something changed by itself",
        Reason::MemberLost => "a member was lost",
        Reason::MemberJoined => "a member came back",
        Reason::Resume => "an observation differs from what was reached",
        Reason::Adopted => "the wish came under a new name",
        Reason::Remove => "the wish was deleted",
        Reason::Undo => "a failure is taken back",
    }
}

/// How many changes there are and what is noticed of them.
pub fn summary(plan: &PlanRecord) -> String {
    let count = plan.changes.len();
    let mut text = match count {
        0 => "no change".to_owned(),
        1 => "1 change".to_owned(),
        _ => format!("{count} changes"),
    };
    let disrupted: Vec<&str> = plan
        .steps
        .iter()
        .filter(|planned| planned.step.disruption >= Disruption::Restart)
        .map(|planned| planned.step.node.as_str())
        .fold(Vec::new(), |mut nodes, node| {
            if !nodes.contains(&node) {
                nodes.push(node);
            }
            nodes
        });
    let worst = plan
        .steps
        .iter()
        .map(|planned| planned.step.disruption)
        .max();
    if let Some(worst) = worst
        && !disrupted.is_empty()
    {
        text.push_str(&format!(
            ", {} on {}",
            disruption_word(worst),
            disrupted.join(", then ")
        ));
    }
    text
}

/// The changes, aligned.
pub fn change_lines(changes: &[ChangeLine]) -> String {
    let width = |of: fn(&ChangeLine) -> usize| changes.iter().map(of).max().unwrap_or(0);
    let subject = width(|change| change.subject.chars().count());
    let detail = width(|change| change.detail.chars().count());
    let word = width(|change| disruption_word(change.disruption).len());
    let mut text = String::new();
    for change in changes {
        let line = format!(
            "  {} {:subject$}   {:detail$}   {:word$}   {}",
            change.sign,
            change.subject,
            change.detail,
            disruption_word(change.disruption),
            change.reason
        );
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn step_lines(plan: &PlanRecord) -> String {
    let steps = || plan.steps.iter().map(|planned| &planned.step);
    let node = steps().map(|step| step.node.len()).max().unwrap_or(0);
    let title = steps()
        .map(|step| step.title.chars().count())
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for (index, step) in steps().enumerate() {
        let needs: Vec<String> = step
            .needs
            .iter()
            .filter_map(|need| steps().position(|other| &other.id == need))
            .map(|place| (place + 1).to_string())
            .collect();
        let mut notes = Vec::new();
        if !needs.is_empty() {
            notes.push(format!("after {}", needs.join(", ")));
        }
        if let Some(lock) = &step.lock {
            notes.push(format!("lock {lock}"));
        }
        if step.disruption > Disruption::None {
            notes.push(disruption_word(step.disruption).to_owned());
        }
        let line = format!(
            "  {:>3}  {:node$}  {:title$}  {}",
            index + 1,
            step.node,
            step.title,
            notes.join("; ")
        );
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// What is noticed, in one word; empty when nothing is.
pub fn disruption_word(disruption: Disruption) -> &'static str {
    match disruption {
        Disruption::None => "",
        Disruption::Reload => "reload",
        Disruption::Restart => "restart",
        Disruption::Switchover => "switchover",
        Disruption::Stop => "stop",
        Disruption::DataMove => "data moves",
    }
}
