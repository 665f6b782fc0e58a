//! `vfsd status`: one line that says how it is, a table of the members, one line of numbers.

use std::process::ExitCode;

use comfy_table::{Table, presets};

use super::{OutputArgs, ask};
use crate::admin::protocol::{AdminRequest, MemberReport, StatusReport};
use crate::consensus::cluster::membership::tolerance;

/// Exit code when there is no quorum.
const DEGRADED: u8 = 3;

pub(super) fn show(output: &OutputArgs) -> anyhow::Result<ExitCode> {
    let value = ask(output, &AdminRequest::Status)?;
    let report: StatusReport = serde_json::from_value(value.clone())?;
    if output.json {
        anstream::println!("{value}");
    } else {
        anstream::println!("{}", text(&report));
    }
    Ok(if report.quorum {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(DEGRADED)
    })
}

/// The report for people.
fn text(report: &StatusReport) -> String {
    let mut lines = vec![headline(report)];
    if !report.quorum {
        lines.push(format!(
            "NO QUORUM since {}: {}. Reads are served as of {}; writes are refused (EROFS).",
            span(report.quorum_age_secs),
            report.why,
            report.quorum_since
        ));
    } else if report.stale {
        lines.push("maybe stale: this node has not caught up since it started".into());
    }
    lines.push(member_table(&report.members, Some(report)));
    lines.push(format!(
        "  log {}   tree {} files, {}   locks {}",
        bytes(report.log_bytes),
        grouped(report.tree_inodes),
        bytes(report.tree_bytes),
        report.locks
    ));
    if report.level < report.level_known {
        lines.push(format!(
            "  rules of level {}, this build knows {}: a member is away or runs an earlier build",
            report.level, report.level_known
        ));
    }
    lines.join("\n")
}

fn headline(report: &StatusReport) -> String {
    let applied = if report.applied == report.committed {
        format!("applied {} = committed", grouped(report.applied))
    } else {
        format!(
            "applied {} of {}",
            grouped(report.applied),
            grouped(report.committed)
        )
    };
    let leader = report.leader.as_deref().unwrap_or("none");
    let voters = match report.voters {
        1 => "1 voter".into(),
        voters => format!("{voters} voters"),
    };
    format!(
        "cluster {}   {} {}   leader {leader}   term {}   {applied}   {voters}, {}",
        report.cluster,
        report.node,
        report.role,
        report.term,
        tolerance(report.voters)
    )
}

/// The members, one a line.
pub(super) fn member_table(members: &[MemberReport], report: Option<&StatusReport>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["MEMBER", "ROLE", "STATE", "BEHIND", "ROUND TRIP", "ADDRESS"]);
    for member in members {
        let is_own = report.is_some_and(|report| report.id == member.id);
        let behind = member.behind.map_or_else(|| "-".into(), grouped);
        let round_trip = match member.round_trip_ms {
            _ if is_own => "(this node)".into(),
            Some(ms) => format!("{ms:.1} ms"),
            None => "-".into(),
        };
        let cells = [
            &member.name,
            &member.role,
            &member.state,
            &behind,
            &round_trip,
            &member.address,
        ];
        table.add_row(cells);
    }
    let text = table.to_string();
    let lines: Vec<_> = text
        .lines()
        .map(|line| format!("  {}", line.trim()))
        .collect();
    lines.join("\n")
}

/// `18 204`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let head = digits.len() % 3;
    let mut groups: Vec<&str> = Vec::new();
    if head > 0 {
        groups.push(&digits[..head]);
    }
    let tail = &digits[head..];
    groups.extend((0..tail.len() / 3).map(|group| &tail[group * 3..group * 3 + 3]));
    groups.join(" ")
}

fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["B", "kB", "MB", "GB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if value < 10.0 && unit > 0 {
        format!("{value:.1} {}", UNITS[unit])
    } else {
        format!("{value:.0} {}", UNITS[unit])
    }
}

/// `41 s`, `3 min`, `2 h`.
fn span(secs: i64) -> String {
    match secs {
        i64::MIN..120 => format!("{secs} s"),
        120..7_200 => format!("{} min", secs / 60),
        _ => format!("{} h", secs / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state_machine::command::Grant;

    fn member(id: u64, name: &str, state: &str) -> MemberReport {
        MemberReport {
            id,
            name: name.into(),
            role: "voter".into(),
            state: state.into(),
            behind: (state == "following").then_some(0),
            round_trip_ms: (state == "following").then_some(0.31),
            address: format!("10.9.0.{id}:7601"),
            grant: Grant::Writer,
            age_public: "age1x".into(),
        }
    }

    fn report() -> StatusReport {
        StatusReport {
            cluster: "5f0c-shop".into(),
            node: "n3".into(),
            id: 3,
            role: "follower".into(),
            leader: Some("n1".into()),
            term: 4,
            applied: 18_204,
            committed: 18_204,
            quorum: true,
            quorum_since: "2026-11-24T14:02:11.000Z".into(),
            quorum_age_secs: 41,
            missing: vec![],
            why: String::new(),
            stale: false,
            voters: 3,
            members: vec![
                member(1, "n1", "leader"),
                member(2, "n2", "following"),
                member(3, "n3", "following"),
            ],
            log_bytes: 12_000_000,
            tree_inodes: 1_402,
            tree_bytes: 3_100_000,
            locks: 7,
            session: Some(9),
            level: 1,
            level_known: 1,
        }
    }

    #[test]
    fn rules_that_wait_for_a_member_are_named() {
        let said = text(&StatusReport {
            level: 0,
            ..report()
        });
        let line =
            "  rules of level 0, this build knows 1: a member is away or runs an earlier build";
        assert_eq!(said, format!("{}\n{line}", text(&report())));
    }

    #[test]
    fn the_text_says_how_it_is_in_one_line() {
        let expected = "\
cluster 5f0c-shop   n3 follower   leader n1   term 4   applied 18 204 = committed   3 voters, tolerates 1 failure
  MEMBER  ROLE   STATE      BEHIND  ROUND TRIP   ADDRESS
  n1      voter  leader     -       -            10.9.0.1:7601
  n2      voter  following  0       0.3 ms       10.9.0.2:7601
  n3      voter  following  0       (this node)  10.9.0.3:7601
  log 12 MB   tree 1 402 files, 3.1 MB   locks 7";
        assert_eq!(text(&report()), expected);
    }

    #[test]
    fn without_a_majority_it_says_so_and_why() {
        let why = "n1, n2 do not answer (connection refused)".into();
        let text = text(&StatusReport {
            quorum: false,
            why,
            ..report()
        });
        let second = text.lines().nth(1).unwrap();
        assert_eq!(
            second,
            "NO QUORUM since 41 s: n1, n2 do not answer (connection refused). Reads are served as of \
             2026-11-24T14:02:11.000Z; writes are refused (EROFS)."
        );
    }
}
