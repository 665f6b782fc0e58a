//! What people see of the deployment: roles, states, what is wrong, how to connect.

use std::collections::{BTreeMap, BTreeSet};

use super::params::OWNER_ROLE;
use super::plan::View;
use crate::driver::{Desired, Health, MemberHealth, NodeName, PlanInput, Verdict};

/// Bytes of write-ahead log behind which a standby is called lagging.
const LAG_BYTES_SHOWN_MIN: u64 = 1 << 20;

/// The status table, what is degraded, and the connection strings.
pub fn health(input: &PlanInput) -> Health {
    let Desired::Running(wish) = &input.desired else {
        return Health::default();
    };
    let Ok(view) = View::new(input, wish) else {
        return Health::default();
    };
    let members = wish.nodes.iter().map(|node| member(&view, node)).collect();
    Health {
        members,
        degraded: degraded(&view),
        outputs: outputs(&view),
    }
}

/// Whether `members` may be stopped together.
pub fn ok_to_stop(input: &PlanInput, members: &BTreeSet<NodeName>) -> Verdict {
    let Desired::Running(wish) = &input.desired else {
        return Verdict::Yes;
    };
    let view = match View::new(input, wish) {
        Ok(view) => view,
        Err(refusal) => return Verdict::No(refusal.reason),
    };
    let Some(primary) = &view.primary else {
        return Verdict::No("it is not known who the primary is".to_owned());
    };
    if members.contains(primary) {
        return Verdict::No(format!(
            "{primary} is the primary: no writes while it is stopped"
        ));
    }
    if synchronous_standbys(&view).is_empty() {
        return Verdict::Yes;
    }
    let streaming = view.primary_facts().server.unwrap_or_default().streaming;
    let left = view
        .standbys()
        .filter(|node| streaming.contains(*node) && !members.contains(*node))
        .count();
    if left == 0 {
        return Verdict::No(
            "commits wait for a synchronous standby, and none would be left".to_owned(),
        );
    }
    Verdict::Yes
}

/// Whether `member` may become primary without losing an acknowledged row.
pub fn ok_to_promote(input: &PlanInput, member: &NodeName) -> Verdict {
    let Desired::Running(wish) = &input.desired else {
        return Verdict::No("it is being removed".to_owned());
    };
    let view = match View::new(input, wish) {
        Ok(view) => view,
        Err(refusal) => return Verdict::No(refusal.reason),
    };
    if view.primary.as_ref() == Some(member) {
        return Verdict::No(format!("{member} is the primary"));
    }
    if !view.facts(member).is_standby() {
        return Verdict::No(format!("{member} has no copy of the data"));
    }
    let standbys = synchronous_standbys(&view);
    if standbys.len() == 1 && standbys.contains(member) {
        return Verdict::Yes;
    }
    Verdict::No(format!(
        "another standby than {member} may hold rows that it does not have"
    ))
}

fn member(view: &View<'_>, node: &NodeName) -> MemberHealth {
    let facts = view.facts(node);
    let is_primary = view.primary.as_ref() == Some(node) && facts.is_primary();
    let role = match (is_primary, facts.is_standby()) {
        (true, _) => "primary",
        (false, true) => "standby",
        (false, false) => "-",
    };
    let state = match (&facts.server, facts.is_running) {
        _ if !view.is_present(node) => "unknown",
        (Some(_), _) if is_primary => "accepting",
        (Some(server), _) if server.receiving => "streaming",
        (Some(_), _) => "not streaming",
        (None, true) => "starting",
        (None, false) if facts.has_own_data() => "stopped",
        (None, false) => "absent",
    };
    let note = if is_primary {
        String::new()
    } else {
        standby_note(view, node)
    };
    MemberHealth {
        node: node.clone(),
        role: role.to_owned(),
        state: state.to_owned(),
        note,
    }
}

/// `sync`, `lag 3 MB`: as the primary measures it.
fn standby_note(view: &View<'_>, node: &str) -> String {
    let measured = view.primary.as_ref().and_then(|primary| {
        view.input
            .observed
            .get(primary)?
            .measures
            .get("standbys")?
            .get(node)
    });
    let lag = measured.and_then(|standby| standby.get("lag_bytes")?.as_u64());
    let mut words = Vec::new();
    if synchronous_standbys(view).contains(node) {
        words.push("sync".to_owned());
    }
    match lag {
        Some(lag) if lag >= LAG_BYTES_SHOWN_MIN => words.push(format!("lag {} MB", lag >> 20)),
        Some(_) => words.push("lag 0".to_owned()),
        None => {}
    }
    words.join(", ")
}

fn degraded(view: &View<'_>) -> Vec<String> {
    let Some(primary) = &view.primary else {
        return vec![
            "the node that holds the primary's data is away: no writes until it is back".to_owned(),
        ];
    };
    let facts = view.primary_facts();
    let mut reasons = Vec::new();
    for node in view.wish.nodes.iter().filter(|node| !view.is_present(node)) {
        let means = if node == primary {
            "no writes until it is back (it is the primary)"
        } else {
            "its standby is away"
        };
        reasons.push(format!("{node} has no presence: {means}"));
    }
    if view.is_present(primary) && facts.has_own_data() && facts.server.is_none() {
        reasons.push(format!("the primary on {primary} takes no connections"));
    }
    for node in view.standbys().filter(|node| view.is_present(node)) {
        let standby = view.facts(node);
        if standby.has_own_data()
            && !standby
                .server
                .as_ref()
                .is_some_and(|server| server.receiving)
        {
            reasons.push(format!(
                "the standby on {node} does not stream from {primary}"
            ));
        }
    }
    let wants = view.wish.nodes.len() >= 3 && !view.checked.params.is_async;
    if wants && facts.has_own_data() && synchronous_standbys(view).is_empty() {
        reasons
            .push("no standby is synchronous yet: a row may be lost with the primary".to_owned());
    }
    reasons
}

/// The nodes that the primary's configuration names as synchronous.
fn synchronous_standbys(view: &View<'_>) -> BTreeSet<NodeName> {
    let settings = view.primary_facts().settings.unwrap_or_default();
    let names = settings
        .get("synchronous_standby_names")
        .cloned()
        .unwrap_or_default();
    view.standbys()
        .filter(|node| names.contains(&format!("\"{node}\"")))
        .cloned()
        .collect()
}

fn outputs(view: &View<'_>) -> BTreeMap<String, String> {
    let port = view.place().port;
    let hosts: Vec<String> = view
        .wish
        .nodes
        .iter()
        .map(|node| host(view.address(node), port))
        .collect();
    let databases = &view.checked.params.databases;
    let has_one = databases.len() == 1;
    let mut outputs: BTreeMap<String, String> = databases
        .iter()
        .map(|database| {
            let key = if has_one {
                "connect".to_owned()
            } else {
                format!("connect {database}")
            };
            let hosts = hosts.join(",");
            (
                key,
                format!(
                    "postgresql://{OWNER_ROLE}@{hosts}/{database}?target_session_attrs=read-write"
                ),
            )
        })
        .collect();
    if !databases.is_empty() {
        let show = format!(
            "dsm-agent secret show {} {OWNER_ROLE}",
            view.wish.deployment
        );
        outputs.insert(
            "password".to_owned(),
            format!("{show}   (on a node of the deployment, as root)"),
        );
    }
    if view.checked.params.is_async && view.wish.nodes.len() > 1 {
        outputs.insert(
            "durability".to_owned(),
            "async: may lose the last rows at failover".to_owned(),
        );
    }
    outputs
}

fn host(address: &str, port: u16) -> String {
    if address.contains(':') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
}
