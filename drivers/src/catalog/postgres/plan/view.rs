//! The cluster as the observations show it, and what makes a plan impossible.

use std::collections::BTreeMap;

use crate::catalog::postgres::conf::{self, Role, Settings};
use crate::catalog::postgres::facts::{Data, Facts};
use crate::catalog::postgres::layout::{Layout, Place, is_usable_uid};
use crate::catalog::postgres::params::{Checked, MAJOR, NAME, check};
use crate::catalog::postgres::plan::refusal;
use crate::driver::{FieldError, NodeName, PlanInput, Refusal, Wish};

/// A checked wish beside what is there.
pub struct View<'a> {
    /// All that the plan may depend on.
    pub input: &'a PlanInput,
    /// The wish.
    pub wish: &'a Wish,
    /// The wish, checked.
    pub checked: Checked,
    /// Facts of every node that has been observed.
    pub facts: BTreeMap<NodeName, Facts>,
    /// The node that is the primary, or becomes it; `None` while no one can tell.
    pub primary: Option<NodeName>,
}

impl<'a> View<'a> {
    /// Reads the observations.
    ///
    /// # Errors
    /// A wish that is not right, or an observation that cannot be read.
    pub fn new(input: &'a PlanInput, wish: &'a Wish) -> Result<Self, Refusal> {
        let checked = check(wish).map_err(first_fault)?;
        if !is_usable_uid(&input.uid) {
            let reason = format!(
                "the deployment's uid {:?} cannot be part of file names",
                input.uid
            );
            return Err(refusal(
                None,
                None,
                reason,
                "give the deployment another name".to_owned(),
            ));
        }
        let facts = read_facts(input)?;
        let mut view = Self {
            input,
            wish,
            checked,
            facts,
            primary: None,
        };
        view.primary = view.find_primary()?;
        Ok(view)
    }

    /// Facts of `node`; those of an empty machine if it was never observed.
    pub fn facts(&self, node: &str) -> Facts {
        self.facts.get(node).cloned().unwrap_or_default()
    }

    /// Facts of the primary.
    pub fn primary_facts(&self) -> Facts {
        self.primary
            .as_deref()
            .map(|node| self.facts(node))
            .unwrap_or_default()
    }

    /// The members that follow the primary, in the wish's order.
    pub fn standbys(&self) -> impl Iterator<Item = &NodeName> {
        self.wish
            .nodes
            .iter()
            .filter(|node| Some(*node) != self.primary.as_ref())
    }

    /// Nodes that are no members any more but still have something of the deployment.
    pub fn leavers(&self) -> impl Iterator<Item = (&NodeName, &Facts)> {
        self.facts.iter().filter(|(node, facts)| {
            let has_any = facts.has_anything() || facts.has_own_data();
            has_any && !self.wish.nodes.contains(node)
        })
    }

    /// Whether the agent of `node` is there.
    pub fn is_present(&self, node: &str) -> bool {
        self.input.present.contains(node)
    }

    /// Where the deployment lies on each node.
    pub fn place(&self) -> Place {
        self.checked.place(&self.input.uid)
    }

    /// Address of `node`.
    pub fn address<'b>(&'b self, node: &'b str) -> &'b str {
        self.input
            .facts
            .get(node)
            .map_or(node, |facts| facts.address.as_str())
    }

    /// The text of `pg_hba.conf`: the same on all members.
    pub fn hba(&self) -> String {
        let members: Vec<String> = self
            .wish
            .nodes
            .iter()
            .map(|node| self.address(node).to_owned())
            .collect();
        conf::hba(&members, &self.checked.params.clients)
    }

    /// The settings of `node` as the primary, with these synchronous standbys.
    pub fn primary_settings(&self, synchronous: &str) -> Settings {
        let layout = Layout::new(&self.input.uid, self.place());
        conf::settings(
            &self.checked,
            &self.wish.deployment,
            &layout,
            &Role::Primary { synchronous },
        )
    }

    /// The settings of `node` as a standby of `primary`.
    pub fn standby_settings(&self, node: &str, primary: &str) -> Settings {
        let layout = Layout::new(&self.input.uid, self.place());
        let role = Role::Standby {
            primary: self.address(primary),
            node,
        };
        conf::settings(&self.checked, &self.wish.deployment, &layout, &role)
    }

    /// Whether the data on `node` is another's that the wish adopts.
    pub fn is_adoptable(&self, facts: &Facts) -> bool {
        let Data::Foreign {
            system_identifier, ..
        } = &facts.data
        else {
            return false;
        };
        system_identifier.is_some() && *system_identifier == self.checked.params.adopt
    }

    /// The one node whose data is a primary's; else, if no one has data and all are there, the first of the wish.
    fn find_primary(&self) -> Result<Option<NodeName>, Refusal> {
        let adopted = |facts: &Facts| {
            self.is_adoptable(facts)
                && matches!(
                    facts.data,
                    Data::Foreign {
                        is_standby: false,
                        ..
                    }
                )
        };
        let primaries: Vec<&NodeName> = self
            .facts
            .iter()
            .filter(|(node, facts)| {
                facts.is_primary() || self.wish.nodes.contains(node) && adopted(facts)
            })
            .map(|(node, _)| node)
            .collect();
        match primaries[..] {
            [one] => return Ok(Some(one.clone())),
            [] => {}
            _ => {
                let names = primaries
                    .iter()
                    .map(|name| name.as_str())
                    .collect::<Vec<_>>()
                    .join(" and ");
                let reason = format!(
                    "{names} each hold data of a primary; nothing is done while both could take writes"
                );
                let hint = "decide which one is right, and remove the deployment from the other"
                    .to_owned();
                return Err(refusal(None, Some("nodes"), reason, hint));
            }
        }
        let has_data = self
            .wish
            .nodes
            .iter()
            .any(|node| self.facts(node).data != Data::Absent);
        if has_data {
            Ok(None)
        } else {
            Ok(self.wish.nodes.first().cloned())
        }
    }
}

/// What makes a plan impossible, or lets it wait.
///
/// # Errors
/// The first fault found, in the order of the wish.
pub fn refuse(view: &View<'_>) -> Result<(), Refusal> {
    for node in &view.wish.nodes {
        refuse_unknown(view, node)?;
        refuse_data(view, node, &view.facts(node))?;
        refuse_moves(view, node, &view.facts(node))?;
    }
    refuse_unknown_adoption(view)?;
    refuse_start_without_all(view)?;
    refuse_primary_that_leaves(view)
}

fn refuse_unknown(view: &View<'_>, node: &str) -> Result<(), Refusal> {
    let is_fresh = view.facts.values().all(|facts| facts.data == Data::Absent);
    let is_observed = view.facts.contains_key(node);
    if is_observed && view.input.facts.contains_key(node) || !view.is_present(node) && !is_fresh {
        return Ok(());
    }
    Err(Refusal {
        waits: true,
        ..refusal(
            Some(node),
            None,
            format!("{node} has not told yet what is on it"),
            format!("start dsm-agent on {node}; see there: systemctl status dsm-agent"),
        )
    })
}

fn refuse_data(view: &View<'_>, node: &str, facts: &Facts) -> Result<(), Refusal> {
    let directory = view.place().data_directory.display().to_string();
    match &facts.data {
        Data::Absent => Ok(()),
        Data::Foreign { .. } if view.is_adoptable(facts) => Ok(()),
        Data::Foreign {
            why,
            system_identifier,
            version,
            ..
        } => {
            let hint = match (system_identifier, version) {
                (Some(id), Some(version)) if *version == MAJOR.to_string() => {
                    format!(
                        "to make it this deployment's, write \"adopt\": \"{id}\" in params; or another data_directory"
                    )
                }
                _ => "write another data_directory in params".to_owned(),
            };
            let reason = format!("{directory} on {node} is not this deployment's: {why}");
            Err(refusal(
                Some(node),
                Some("params.data_directory"),
                reason,
                hint,
            ))
        }
        Data::Ours { version, .. } if *version != MAJOR.to_string() => {
            let reason = format!("{directory} on {node} holds data of PostgreSQL {version}");
            let hint =
                "major upgrades are not in this version: dump it, load it into a new deployment"
                    .to_owned();
            Err(refusal(Some(node), Some("params.version"), reason, hint))
        }
        Data::Ours {
            system_identifier, ..
        } => {
            let primary = view.primary_facts();
            match primary.system_identifier() {
                Some(id) if id != system_identifier => {
                    let reason = format!(
                        "{directory} on {node} is of system {system_identifier}, the primary's is {id}"
                    );
                    let hint = format!("move it away on {node}: mv {directory} {directory}.old");
                    Err(refusal(Some(node), None, reason, hint))
                }
                _ => Ok(()),
            }
        }
    }
}

fn refuse_moves(view: &View<'_>, node: &str, facts: &Facts) -> Result<(), Refusal> {
    let place = view.place();
    if let Some(note) = facts
        .note
        .as_ref()
        .filter(|note| note.data_directory != place.data_directory)
    {
        let (old, new) = (
            note.data_directory.display(),
            place.data_directory.display(),
        );
        let reason =
            format!("the data lies in {old} on {node}; moving it to {new} is not in this version");
        let hint = format!("write \"data_directory\": \"{old}\" in params");
        return Err(refusal(
            Some(node),
            Some("params.data_directory"),
            reason,
            hint,
        ));
    }
    let old_port = facts
        .settings
        .as_ref()
        .and_then(|settings| settings.get("port"));
    if let Some(old) = old_port.filter(|old| **old != place.port.to_string()) {
        let reason = format!(
            "the deployment listens on port {old}; a change to {} is not in this version",
            place.port
        );
        return Err(refusal(
            Some(node),
            Some("params.port"),
            reason,
            format!("write \"port\": {old} in params"),
        ));
    }
    if facts.port_is_taken && !facts.is_running {
        let port = place.port;
        let reason = format!("port {port} on {node} is taken by something else");
        let hint =
            format!("see on {node}: ss -ltnp sport = :{port}; or write another \"port\" in params");
        return Err(refusal(Some(node), Some("params.port"), reason, hint));
    }
    Ok(())
}

fn refuse_unknown_adoption(view: &View<'_>) -> Result<(), Refusal> {
    let Some(wanted) = &view.checked.params.adopt else {
        return Ok(());
    };
    let known =
        |facts: &Facts| facts.system_identifier() == Some(wanted) || view.is_adoptable(facts);
    if view.facts.values().any(known) {
        return Ok(());
    }
    let directory = view.place().data_directory.display().to_string();
    let reason = format!("no node has data of system {wanted} in {directory}");
    let hint = "write the data_directory that holds it, or leave adopt out".to_owned();
    Err(refusal(None, Some("params.adopt"), reason, hint))
}

/// Without a primary nothing is initialised unless every member is there and none has data.
fn refuse_start_without_all(view: &View<'_>) -> Result<(), Refusal> {
    if view.primary.is_some() {
        let is_fresh = view.facts.values().all(|facts| facts.data == Data::Absent);
        let away = view.wish.nodes.iter().find(|node| !view.is_present(node));
        return match away.filter(|_| is_fresh) {
            Some(node) => Err(Refusal {
                waits: true,
                ..refusal(
                    Some(node),
                    None,
                    format!("{node} is away; a first deployment waits until every member is there"),
                    format!("start dsm-agent on {node}, or take {node} out of nodes"),
                )
            }),
            None => Ok(()),
        };
    }
    if view.wish.nodes.iter().any(|node| !view.is_present(node)) {
        return Ok(());
    }
    let holders = view
        .standbys()
        .filter(|node| view.facts(node).data != Data::Absent);
    let holders = holders.map(String::as_str).collect::<Vec<_>>().join(", ");
    let reason = format!("no node holds data of a primary; {holders} hold copies of it");
    let hint =
        "bring the primary's data directory back; promoting a standby is not in this version"
            .to_owned();
    Err(refusal(None, Some("nodes"), reason, hint))
}

fn refuse_primary_that_leaves(view: &View<'_>) -> Result<(), Refusal> {
    match &view.primary {
        Some(primary) if !view.wish.nodes.contains(primary) => {
            let reason = format!(
                "{primary} is the primary and is not in nodes; moving the primary is not in this version"
            );
            Err(refusal(
                Some(primary),
                Some("nodes"),
                reason,
                format!("keep {primary} in nodes"),
            ))
        }
        Some(_) | None => Ok(()),
    }
}

/// The facts of each observation.
///
/// # Errors
/// An observation of another version of the driver.
pub fn read_facts(input: &PlanInput) -> Result<BTreeMap<NodeName, Facts>, Refusal> {
    let read = |(node, observation): (&NodeName, &crate::driver::Observation)| {
        let facts = serde_json::from_value(observation.facts.clone()).map_err(|cause| Refusal {
            waits: true,
            ..refusal(
                Some(node),
                None,
                format!("the observation of {node} cannot be read by driver {NAME}: {cause}"),
                format!("run the same version of dsm-agent on {node}"),
            )
        })?;
        Ok((node.clone(), facts))
    };
    input.observed.iter().map(read).collect()
}

fn first_fault(faults: Vec<FieldError>) -> Refusal {
    let fault = faults
        .into_iter()
        .next()
        .expect("check() reports at least one fault");
    refusal(None, Some(&fault.field), fault.reason, fault.hint)
}
