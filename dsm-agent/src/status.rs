//! The status as a table for people: `status.txt`, `dsm-agent status`, `dsm-agent explain`.
//!
//! Invariants: the text depends on the status alone, so an unchanged status is an unchanged file.

use crate::engine::record::{NodeStatus, Phase, Status, Trouble};

/// The whole text, with the time in the head as it stands in the record.
pub fn text(status: &Status) -> String {
    let when = if status.since.is_empty() {
        String::new()
    } else {
        format!("since {}", status.since)
    };
    text_with(status, &when)
}

/// The whole text with `when` at the end of its first line.
pub fn text_with(status: &Status, when: &str) -> String {
    let mut text = head(status, when);
    match status.phase {
        Phase::Active | Phase::Degraded => text.push_str(&member_table(status)),
        Phase::Removed => {}
        _ => text.push_str(&work_lines(status)),
    }
    for (name, value) in &status.outputs {
        text.push_str(&format!("  {name}  {value}\n"));
    }
    for trouble in &status.conditions {
        text.push_str(&trouble_lines(status, trouble));
    }
    if status.conditions.is_empty() && !matches!(status.phase, Phase::Active | Phase::Converging) {
        text.push_str(&format!("  next  {}\n", status.next_action));
    }
    text
}

fn head(status: &Status, when: &str) -> String {
    let mut head = format!("{}   {}", status.deployment, status.phase.word());
    if status.generation.0 > 0 {
        head.push_str(&format!("   generation {}", status.generation));
    }
    if status.steps_total > 0 {
        head.push_str(&format!(
            "   {} of {} steps",
            status.steps_done, status.steps_total
        ));
    }
    if !when.is_empty() {
        head.push_str("   ");
        head.push_str(when);
    }
    head.push('\n');
    head
}

fn member_table(status: &Status) -> String {
    let mut rows = vec![["NODE", "ROLE", "STATE", "NOTE"].map(str::to_owned)];
    for node in &status.nodes {
        rows.push(match &node.member {
            Some(member) if node.present => [
                node.node.clone(),
                dash(&member.role),
                dash(&member.state),
                member.note.clone(),
            ],
            Some(member) => [
                node.node.clone(),
                dash(&member.role),
                "away".to_owned(),
                member.note.clone(),
            ],
            None => {
                let state = if node.present { "here" } else { "away" };
                [
                    node.node.clone(),
                    "-".to_owned(),
                    state.to_owned(),
                    String::new(),
                ]
            }
        });
    }
    columns(&rows)
}

fn work_lines(status: &Status) -> String {
    let mut running = Vec::new();
    let mut waiting = Vec::new();
    for node in &status.nodes {
        for (title, note) in &node.running {
            let note = if note.is_empty() { "running" } else { note };
            running.push([
                node.node.clone(),
                role(node),
                title.clone(),
                note.to_owned(),
            ]);
        }
        if let Some((title, why)) = &node.failed {
            running.push([
                node.node.clone(),
                role(node),
                title.clone(),
                format!("failed: {why}"),
            ]);
        }
        for (title, on) in &node.waiting {
            let what = format!("{} {title}", node.node);
            waiting.push([
                "waiting".to_owned(),
                what,
                format!("on {on}"),
                String::new(),
            ]);
        }
    }
    columns(&running) + &columns(&waiting)
}

fn role(node: &NodeStatus) -> String {
    node.member
        .as_ref()
        .map_or_else(|| "-".to_owned(), |member| dash(&member.role))
}

fn dash(text: &str) -> String {
    if text.is_empty() {
        "-".to_owned()
    } else {
        text.to_owned()
    }
}

/// What, where, do: each trouble in at most four lines.
pub fn trouble_lines(status: &Status, trouble: &Trouble) -> String {
    let mut text = String::new();
    let what = match &trouble.field {
        Some(field) => format!("{field} {}", trouble.reason),
        None => trouble.reason.clone(),
    };
    text.push_str(&format!("  what    {what}\n"));
    match (&trouble.field, &trouble.node) {
        (Some(field), _) => {
            text.push_str(&format!(
                "  where   the wish of {}, field {field}\n",
                status.deployment
            ));
        }
        (None, Some(node)) => text.push_str(&format!("  where   node {node}\n")),
        (None, None) => {}
    }
    if !trouble.hint.is_empty() {
        text.push_str(&format!("  do      {}\n", trouble.hint));
    }
    text
}

/// Rows in aligned columns, two blanks in front and between.
pub fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::from(" ");
        for (width, cell) in widths.iter().zip(row) {
            line.push_str(&format!(" {cell:width$} ", width = *width));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::id::{DeploymentId, Generation};
    use drivers::driver::MemberHealth;

    fn status(phase: Phase) -> Status {
        let node = |name: &str, role: &str| NodeStatus {
            node: name.to_owned(),
            present: true,
            member: Some(MemberHealth {
                node: name.to_owned(),
                role: role.to_owned(),
                state: "accepting".to_owned(),
                note: String::new(),
            }),
            done: 1,
            total: 2,
            running: vec![("create database shop".to_owned(), String::new())],
            waiting: Vec::new(),
            failed: None,
        };
        Status {
            format: 1,
            deployment: DeploymentId::parse("mid/shop-db").unwrap(),
            phase,
            since: String::new(),
            generation: Generation(1),
            revision: 1,
            steps_done: 2,
            steps_total: 4,
            nodes: vec![node("n1", "primary"), node("n2", "standby")],
            waiting_on: Vec::new(),
            last_error: None,
            next_action: "nothing".to_owned(),
            conditions: Vec::new(),
            outputs: [("connect".to_owned(), "postgresql://n1".to_owned())].into(),
            planned_at: None,
            ended_at: None,
        }
    }

    #[test]
    fn an_active_deployment_shows_its_members_in_columns() {
        assert_eq!(
            text(&status(Phase::Active)),
            "mid/shop-db   Active   generation 1   2 of 4 steps\n\
             \x20 NODE  ROLE     STATE      NOTE\n\
             \x20 n1    primary  accepting\n\
             \x20 n2    standby  accepting\n\
             \x20 connect  postgresql://n1\n"
        );
    }

    #[test]
    fn a_trouble_says_what_where_and_what_to_do() {
        let mut blocked = status(Phase::Blocked);
        blocked.nodes.clear();
        blocked.outputs.clear();
        blocked.conditions = vec![Trouble {
            field: Some("params.max_conections".to_owned()),
            ..Trouble::blocks(
                "is not a parameter of driver postgres".to_owned(),
                "write max_connections",
            )
        }];
        assert_eq!(
            text(&blocked),
            "mid/shop-db   Blocked   generation 1   2 of 4 steps\n\
             \x20 what    params.max_conections is not a parameter of driver postgres\n\
             \x20 where   the wish of mid/shop-db, field params.max_conections\n\
             \x20 do      write max_connections\n"
        );
    }
}
