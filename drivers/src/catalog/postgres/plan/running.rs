//! The steps to a running cluster: primary, standbys, rolling changes, roles and databases.
//!
//! Order of a rolling change: a raised parameter that a standby must not have less of goes to standbys first, a lowered
//! one to the primary first, both at once in three rounds; everything else to standbys first, the primary last. One
//! member restarts at a time, under lock `slot`.

use std::collections::{BTreeMap, BTreeSet};

use super::builder::{Builder, Link, Words};
use super::refusal;
use super::view::View;
use crate::catalog::postgres::args::{
    At, BaseBackup, Configure, Database, Init, Install, Remove, RemovedData, Restart, Role, Slots,
};
use crate::catalog::postgres::conf::{self, SLOT_PREFIX, Settings, slot_name, synchronous_names};
use crate::catalog::postgres::facts::{Data, Facts};
use crate::catalog::postgres::layout::{Layout, Place};
use crate::catalog::postgres::observe::package_name;
use crate::catalog::postgres::ops::Op;
use crate::catalog::postgres::parameters::{ChangeClass, NOT_BELOW_PRIMARY, change_class};
use crate::catalog::postgres::params::{MAJOR, OWNER_ROLE, REPLICATION_KEY, REPLICATION_ROLE};
use crate::driver::{Disruption, Plan, Refusal};
use crate::sls::file::digest;

/// Lock of the one node that may be primary.
const PRIMARY_LOCK: &str = "role/primary";

/// Lock of a member that restarts.
const RESTART_LOCK: &str = "slot";

/// With this many members an acknowledged row is on two of them, unless the wish says `async`.
const SYNCHRONOUS_MEMBERS_MIN: usize = 3;

/// The plan for a wish that nothing speaks against.
///
/// # Errors
/// A version that no repository offers.
pub fn plan(view: &View<'_>) -> Result<Plan, Refusal> {
    let mut planner = Planner {
        view,
        builder: Builder::new(view.input),
        installed: BTreeMap::new(),
        restarted: Link::holds(),
        place: view.place(),
        hba: view.hba(),
    };
    for node in &view.wish.nodes {
        let link = planner.install(node)?;
        planner.installed.insert(node.clone(), link);
    }
    match &view.primary {
        Some(primary) => planner.cluster(primary),
        None => planner.standbys_alone(),
    }
    Ok(planner.builder.finish())
}

struct Planner<'a> {
    view: &'a View<'a>,
    builder: Builder<'a>,
    installed: BTreeMap<String, Link>,
    /// The last restart so far: the next one waits for it.
    restarted: Link,
    place: Place,
    hba: String,
}

/// The special parameters whose values rise or fall, with the values that a member must have while both kinds change.
#[derive(Default)]
struct Special {
    raised: BTreeSet<String>,
    lowered: BTreeMap<String, u64>,
    highest: Settings,
}

impl Planner<'_> {
    fn cluster(&mut self, primary: &str) {
        let facts = self.view.facts(primary);
        let special = self.special(&facts);
        let synchronous = self.interim_synchronous(&facts);
        let settings = self.view.primary_settings(&synchronous);
        let restarts = self.restarts(primary, &facts, &settings);
        let is_last = restarts && (special.lowered.is_empty() || !special.raised.is_empty());

        let data = self.primary_data(primary, &facts);
        let first = if is_last {
            // What admits new members comes first; what needs the restart comes last.
            let mut admitting = facts.settings.clone().unwrap_or_else(|| settings.clone());
            admitting.insert("synchronous_standby_names".to_owned(), synchronous.clone());
            self.configure(primary, "admit", &admitting, &facts, &[&data])
        } else {
            self.configure(primary, "configure", &settings, &facts, &[&data])
        };
        let started = self.run(
            primary,
            &facts,
            restarts && !is_last,
            &first,
            false,
            BTreeMap::new(),
        );
        if restarts && !is_last && started == Link::Deferred {
            // The primary has to come down first, and it is away.
            self.restarted = Link::Deferred;
        }
        let admitted = self.admit(primary, &facts, &started);

        let mut awaited = Vec::new();
        let mut followed = Vec::new();
        for node in self.view.standbys().cloned().collect::<Vec<_>>() {
            let (running, streaming) =
                self.standby(&node, primary, &admitted, &special, !is_last && restarts);
            followed.push(running.or_without());
            awaited.extend(streaming);
        }
        let mut ready = started;
        if is_last {
            let mut needs: Vec<&Link> = followed.iter().collect();
            needs.extend([&admitted, &ready]);
            let written = self.configure(primary, "configure", &settings, &facts, &needs);
            ready = self.restart(primary, &written, false, BTreeMap::new());
            if !special.lowered.is_empty() {
                self.lower_standbys(primary, &special, &ready);
            }
        }
        let synced = self.synchronous(primary, &synchronous, &ready, &awaited);
        self.roles_and_databases(primary, &facts, &synced);
        self.leavers(primary, &facts, &ready);
    }

    /// The primary's node is unknown while members are away: standbys serve reads, nothing else happens.
    fn standbys_alone(&mut self) {
        for node in &self.view.wish.nodes {
            let facts = self.view.facts(node);
            if facts.is_standby() && facts.settings.is_some() && facts.unit_digest.is_some() {
                self.start(node, &facts, &Link::holds());
            }
        }
    }

    /// The package, in the version that the wish asks for.
    fn install(&mut self, node: &str) -> Result<Link, Refusal> {
        let package = self.view.facts(node).package;
        let wanted = &self.view.checked.params.version;
        let major = MAJOR.to_string();
        let matches = |version: &str| {
            *wanted == major
                || version == wanted
                || version
                    .strip_prefix(wanted.as_str())
                    .is_some_and(|rest| rest.starts_with(['-', '+', '~', '.']))
        };
        if package.installed.as_deref().is_some_and(matches) || !self.view.is_present(node) {
            return Ok(Link::holds());
        }
        let candidate = package.candidate.iter().find(|version| matches(version));
        let version = candidate
            .or_else(|| package.versions.iter().find(|version| matches(version)))
            .cloned();
        // Without package lists on the node the step fetches them and decides, or names what exists.
        let has_lists = package
            .versions
            .iter()
            .any(|version| Some(version) != package.installed.as_ref());
        if version.is_none()
            && (has_lists || !package.majors.is_empty() && !package.majors.contains(&MAJOR))
        {
            let known = if package.versions.is_empty() {
                package
                    .majors
                    .iter()
                    .map(u32::to_string)
                    .collect::<Vec<_>>()
                    .join(", ")
            } else {
                package.versions.join(", ")
            };
            let reason = format!("no repository of {node} offers PostgreSQL {wanted}");
            return Err(refusal(
                Some(node),
                Some("params.version"),
                reason,
                format!("versions that exist: {known}"),
            ));
        }
        let name = package_name(MAJOR);
        let detail = match (&package.installed, &version) {
            (Some(old), Some(new)) => format!("{old} -> {new}"),
            (_, Some(new)) => new.clone(),
            (_, None) => "the repository's newest".to_owned(),
        };
        if let Some(version) = &version {
            self.builder.version(&name, version);
        }
        self.builder.change(
            '+',
            &format!("{node} {name}"),
            &detail,
            Disruption::None,
            "the wish's version",
        );
        let args = Install {
            major: MAJOR,
            version,
        };
        let words = Words::new("install PostgreSQL", "the wish's version is not installed");
        Ok(self
            .builder
            .step(node, (Op::Install, "install"), &words, &args, &[]))
    }

    fn primary_data(&mut self, primary: &str, facts: &Facts) -> Link {
        let installed = self.installed(primary);
        match &facts.data {
            Data::Ours { .. } => installed,
            Data::Foreign { .. } => self.adopt(primary, facts, &installed),
            Data::Absent => {
                self.builder.change(
                    '+',
                    primary,
                    "primary",
                    Disruption::None,
                    "first of nodes, and no node has data",
                );
                let words = Words::new("initialise the data directory", "no member has data")
                    .locked(PRIMARY_LOCK);
                let args = Init {
                    place: self.place.clone(),
                    system_identifier: None,
                };
                self.builder
                    .step(primary, (Op::Init, "init"), &words, &args, &[&installed])
            }
        }
    }

    fn adopt(&mut self, node: &str, facts: &Facts, installed: &Link) -> Link {
        let Data::Foreign {
            system_identifier, ..
        } = &facts.data
        else {
            return installed.clone();
        };
        let directory = self.place.data_directory.display().to_string();
        self.builder.change(
            '+',
            node,
            &format!("adopts {directory}"),
            Disruption::None,
            "params.adopt",
        );
        let words = Words::new(
            "adopt the data directory",
            "params.adopt names its system identifier",
        );
        let args = Init {
            place: self.place.clone(),
            system_identifier: system_identifier.clone(),
        };
        self.builder
            .step(node, (Op::Adopt, "adopt"), &words, &args, &[installed])
    }

    /// Files as they should be on `node`; no step if they are.
    fn configure(
        &mut self,
        node: &str,
        name: &str,
        settings: &Settings,
        facts: &Facts,
        needs: &[&Link],
    ) -> Link {
        let is_standby = settings.contains_key("primary_conninfo");
        let unit = conf::unit(&Layout::new(&self.view.input.uid, self.place.clone()));
        let same_files = facts.settings.as_ref() == Some(settings)
            && facts.hba_digest == Some(digest(self.hba.as_bytes()))
            && facts.unit_digest == Some(digest(unit.as_bytes()))
            && facts.note.is_some();
        let is_loaded = !facts.is_running || facts.has_loaded;
        if same_files && is_loaded && (facts.has_passfile || !is_standby) && facts.has_own_data() {
            return Link::all(needs);
        }
        self.tell_settings(settings, facts.settings.as_ref());
        self.configure_after(node, name, settings, needs)
    }

    fn configure_after(
        &mut self,
        node: &str,
        name: &str,
        settings: &Settings,
        needs: &[&Link],
    ) -> Link {
        let is_standby = settings.contains_key("primary_conninfo");
        let args = Configure {
            place: self.place.clone(),
            settings: settings.clone(),
            hba: self.hba.clone(),
            is_standby,
        };
        let title = if name == "synchronous" {
            "wait for a standby at each commit"
        } else {
            "write the configuration"
        };
        let words = Words::new(title, "the files differ from the wish");
        self.builder
            .step(node, (Op::Configure, name), &words, &args, needs)
    }

    /// One line for each parameter of the wish that changes.
    fn tell_settings(&mut self, new: &Settings, old: Option<&Settings>) {
        let Some(old) = old else { return };
        let names: BTreeSet<&String> = new.keys().chain(old.keys()).collect();
        for name in names
            .into_iter()
            .filter(|name| !name.starts_with("primary_") && *name != "synchronous_standby_names")
        {
            let (before, after) = (old.get(name), new.get(name));
            if before == after {
                continue;
            }
            let word = |value: Option<&String>| value.map_or("default".to_owned(), Clone::clone);
            let (disruption, reason) = match (change_class(name), special_move(name, before, after))
            {
                (ChangeClass::Reload, _) => (Disruption::Reload, "PostgreSQL reads it again"),
                (ChangeClass::Restart, Some(true)) => (
                    Disruption::Restart,
                    "raised: standbys first (PostgreSQL refuses a standby below its primary)",
                ),
                (ChangeClass::Restart, Some(false)) => {
                    (Disruption::Restart, "lowered: primary first")
                }
                (ChangeClass::Restart, None) => (
                    Disruption::Restart,
                    "one member at a time, the primary last",
                ),
            };
            self.builder.change(
                '~',
                name,
                &format!("{} -> {}", word(before), word(after)),
                disruption,
                reason,
            );
        }
    }

    /// Starts what is stopped, restarts what has to.
    fn run(
        &mut self,
        node: &str,
        facts: &Facts,
        restarts: bool,
        written: &Link,
        awaits_streaming: bool,
        control_at_most: BTreeMap<String, u64>,
    ) -> Link {
        if restarts {
            return self.restart(node, written, awaits_streaming, control_at_most);
        }
        self.start(node, facts, written)
    }

    fn start(&mut self, node: &str, facts: &Facts, written: &Link) -> Link {
        if facts.is_running && facts.server.is_some() && facts.has_own_data() {
            return written.clone();
        }
        let is_primary = self.view.primary.as_deref() == Some(node);
        let title = if is_primary {
            "start the primary"
        } else {
            "start the standby"
        };
        let words = Words::new(title, "it takes no connections");
        let words = if is_primary {
            words.locked(PRIMARY_LOCK)
        } else {
            words
        };
        if facts.has_own_data() && !facts.is_running {
            self.builder.change(
                '~',
                node,
                "stopped -> running",
                Disruption::None,
                "services start when their role is known",
            );
        }
        let args = At {
            place: self.place.clone(),
        };
        self.builder
            .step(node, (Op::Start, "start"), &words, &args, &[written])
    }

    fn restart(
        &mut self,
        node: &str,
        written: &Link,
        awaits: bool,
        control_at_most: BTreeMap<String, u64>,
    ) -> Link {
        let words =
            Words::new("restart the server", "a changed parameter needs it").locked(RESTART_LOCK);
        let args = Restart {
            place: self.place.clone(),
            awaits_streaming: awaits,
            control_at_most,
        };
        let name = if self.builder.has(&format!("{node}/restart")) {
            "restart-again"
        } else {
            "restart"
        };
        let before = self.restarted.clone();
        let link = self.builder.step(
            node,
            (Op::Restart, name),
            &words,
            &args,
            &[written, &before],
        );
        if link != Link::Deferred {
            self.restarted = link.clone();
        }
        link
    }

    /// Role and slots that standbys need on the primary.
    fn admit(&mut self, primary: &str, facts: &Facts, started: &Link) -> Link {
        let standbys: Vec<String> = self.view.standbys().cloned().collect();
        let server = facts.server.clone().unwrap_or_default();
        let at = At {
            place: self.place.clone(),
        };
        let mut role = started.clone();
        let has_role = server.roles.contains(REPLICATION_ROLE);
        if !standbys.is_empty() && (!has_role || !self.view.input.secrets.contains(REPLICATION_KEY))
        {
            let words = Words::new("make the replication role", "standbys log in with it");
            role = self.builder.step(
                primary,
                (Op::ReplicationRole, "replication-role"),
                &words,
                &at,
                &[started],
            );
        }
        let anew: Vec<&String> = standbys
            .iter()
            .filter(|node| self.must_copy_anew(node, facts))
            .collect();
        let lost: Vec<String> = anew
            .iter()
            .map(|node| slot_name(node))
            .filter(|slot| server.slots.contains_key(slot))
            .collect();
        let missing = |slot: &String| !server.slots.contains_key(slot) || lost.contains(slot);
        let create: Vec<String> = standbys
            .iter()
            .map(|node| slot_name(node))
            .filter(missing)
            .collect();
        if create.is_empty() {
            return role;
        }
        let discarded: Vec<Link> = anew.iter().map(|node| self.discard(node)).collect();
        let mut needs: Vec<&Link> = discarded.iter().collect();
        needs.push(&role);
        let words = Words::new(
            "make replication slots",
            "they keep write-ahead log for standbys",
        );
        let args = Slots {
            place: self.place.clone(),
            drop: lost,
            create,
        };
        self.builder
            .step(primary, (Op::Slots, "slots"), &words, &args, &needs)
    }

    /// The log that a standby still needs is gone, or nothing kept it while the standby was out.
    fn must_copy_anew(&self, node: &str, primary: &Facts) -> bool {
        let facts = self.view.facts(node);
        let Some(server) = primary
            .server
            .as_ref()
            .filter(|_| facts.is_standby() && self.view.is_present(node))
        else {
            return false;
        };
        let receives = facts.server.as_ref().is_some_and(|server| server.receiving);
        match server.slots.get(&slot_name(node)) {
            Some(lost) => *lost,
            None => !receives,
        }
    }

    fn discard(&mut self, node: &str) -> Link {
        let reason = "the write-ahead log that it needs is gone";
        self.builder.change(
            '~',
            node,
            "copied anew from the primary",
            Disruption::DataMove,
            reason,
        );
        let args = At {
            place: self.place.clone(),
        };
        self.builder.step(
            node,
            (Op::Discard, "discard"),
            &Words::new("set the data aside", reason),
            &args,
            &[],
        )
    }

    /// One standby. Gives the step after which it runs, and the one after which it streams, if it joins.
    fn standby(
        &mut self,
        node: &str,
        primary: &str,
        admitted: &Link,
        special: &Special,
        primary_restarted: bool,
    ) -> (Link, Option<Link>) {
        let facts = self.view.facts(node);
        let mut settings = self.view.standby_settings(node, primary);
        if !special.raised.is_empty() {
            settings.extend(special.highest.clone());
        }
        let installed = self.installed(node);
        let anew = self.must_copy_anew(node, &self.view.facts(primary));
        if facts.has_own_data() && !anew {
            let restarts = self.restarts(node, &facts, &settings);
            let before = self.restarted.clone();
            let mut needs = vec![&installed];
            if !facts.has_passfile || primary_restarted {
                needs.push(admitted);
            }
            if restarts {
                needs.push(&before);
            }
            let written = self.configure(node, "configure", &settings, &facts, &needs);
            let lowered = self.control_at_most(&facts, &settings);
            let awaits = self.view.is_present(primary);
            return (
                self.run(node, &facts, restarts, &written, awaits, lowered),
                None,
            );
        }
        let data = match &facts.data {
            Data::Foreign { .. } => self.adopt(node, &facts, &installed),
            Data::Absent | Data::Ours { .. } => {
                self.base_backup(node, primary, &[&installed, admitted])
            }
        };
        let blank = Facts {
            data: Data::Absent,
            is_running: false,
            server: None,
            ..facts
        };
        let written = self.configure(node, "configure", &settings, &blank, &[&data, admitted]);
        let started = self.start(node, &blank, &written);
        let words = Words::new(
            "wait until it streams",
            "it has joined when it follows the primary",
        );
        let args = At {
            place: self.place.clone(),
        };
        let streaming = self.builder.step(
            node,
            (Op::AwaitStreaming, "await-streaming"),
            &words,
            &args,
            &[&started],
        );
        (started, Some(streaming))
    }

    fn base_backup(&mut self, node: &str, primary: &str, needs: &[&Link]) -> Link {
        let detail = format!("joins, base backup from {primary}");
        self.builder.change(
            '+',
            node,
            &detail,
            Disruption::DataMove,
            "it is in nodes and has no data",
        );
        let title = format!("base backup from {primary}");
        let args = BaseBackup {
            place: self.place.clone(),
            primary: self.view.address(primary).to_owned(),
            slot: slot_name(node),
        };
        let words = Words::new(&title, "it has no data");
        self.builder
            .step(node, (Op::BaseBackup, "base-backup"), &words, &args, needs)
    }

    /// The third round, when some of the special parameters rise and others fall.
    fn lower_standbys(&mut self, primary: &str, special: &Special, ready: &Link) {
        for node in self.view.standbys().cloned().collect::<Vec<_>>() {
            let settings = self.view.standby_settings(&node, primary);
            let before = self.restarted.clone();
            let written = self.configure_after(&node, "lower", &settings, &[ready, &before]);
            self.restart(&node, &written, true, special.lowered.clone());
        }
    }

    /// The synchronous standbys that the primary may name before any step of this plan has made a new one stream.
    fn interim_synchronous(&self, primary: &Facts) -> String {
        let now = primary
            .settings
            .as_ref()
            .and_then(|settings| settings.get("synchronous_standby_names"));
        let now = now.cloned().unwrap_or_default();
        if now.is_empty() || self.synchronous_members().is_empty() {
            return String::new();
        }
        let copied =
            |node: &&str| self.view.facts(node).is_standby() && !self.must_copy_anew(node, primary);
        synchronous_names(self.synchronous_members().into_iter().filter(copied))
    }

    fn synchronous_members(&self) -> Vec<&str> {
        if self.view.checked.params.is_async || self.view.wish.nodes.len() < SYNCHRONOUS_MEMBERS_MIN
        {
            return Vec::new();
        }
        self.view.standbys().map(String::as_str).collect()
    }

    /// Names all standbys as synchronous, once one streams.
    fn synchronous(
        &mut self,
        primary: &str,
        interim: &str,
        ready: &Link,
        awaited: &[Link],
    ) -> Link {
        let streaming = self
            .view
            .primary_facts()
            .server
            .unwrap_or_default()
            .streaming;
        let awaited: Vec<Link> = awaited
            .iter()
            .filter(|link| **link != Link::Deferred)
            .cloned()
            .collect();
        let names = self.synchronous_members();
        let one_streams = !awaited.is_empty() || names.iter().any(|name| streaming.contains(*name));
        let members = synchronous_names(names);
        let mut needs: Vec<&Link> = awaited.iter().collect();
        needs.push(ready);
        if members == interim || !one_streams {
            return Link::all(&needs);
        }
        let settings = self.view.primary_settings(&members);
        let reason = "an acknowledged row is on two members";
        self.builder.change(
            '~',
            "synchronous_standby_names",
            &members,
            Disruption::Reload,
            reason,
        );
        self.configure_after(primary, "synchronous", &settings, &needs)
    }

    fn roles_and_databases(&mut self, primary: &str, facts: &Facts, ready: &Link) {
        let server = facts.server.clone().unwrap_or_default();
        let mut owner = ready.clone();
        for role in self.view.checked.roles() {
            let is_owner = role == OWNER_ROLE;
            let is_there = server.roles.contains(&role)
                && (is_owner || server.owners.contains(&role))
                && self.view.input.secrets.contains(&role);
            if is_there {
                continue;
            }
            if self.is_known_absent(facts) {
                let subject = format!("role {role}");
                self.builder.change(
                    '+',
                    &subject,
                    "generated password",
                    Disruption::None,
                    "the wish's users",
                );
            }
            let title = format!("make role {role}");
            let args = Role {
                place: self.place.clone(),
                role: role.clone(),
            };
            let words = Words::new(&title, "the wish's users");
            let link = self.builder.step(
                primary,
                (Op::Role, &format!("role-{role}")),
                &words,
                &args,
                &[&owner],
            );
            if is_owner {
                owner = link;
            }
        }
        for database in &self.view.checked.params.databases {
            if server.databases.contains(database) {
                continue;
            }
            if self.is_known_absent(facts) {
                let subject = format!("database {database}");
                self.builder.change(
                    '+',
                    &subject,
                    "of role owner",
                    Disruption::None,
                    "the wish's databases",
                );
            }
            let title = format!("create database {database}");
            let args = Database {
                place: self.place.clone(),
                database: database.clone(),
            };
            let words = Words::new(&title, "the wish's databases");
            self.builder.step(
                primary,
                (Op::Database, &format!("database-{database}")),
                &words,
                &args,
                &[&owner],
            );
        }
    }

    /// Whether what the observation of the primary does not name is known not to be there. A server that does not answer
    /// tells nothing; the steps look first, then.
    fn is_known_absent(&self, primary: &Facts) -> bool {
        primary.server.is_some() || primary.data == Data::Absent
    }

    /// Nodes that are not in the wish any more, and slots that no member uses.
    fn leavers(&mut self, primary: &str, facts: &Facts, ready: &Link) {
        let mut left = Vec::new();
        for (node, _) in self.view.leavers() {
            let reason = "it is not in nodes any more";
            self.builder.change(
                '-',
                node,
                "leaves, its copy of the data is set aside",
                Disruption::None,
                reason,
            );
            let args = Remove {
                place: self.place.clone(),
                data: RemovedData::SetAside,
            };
            let words = Words::new("leave the cluster", reason);
            left.push(
                self.builder
                    .step(node, (Op::Remove, "remove"), &words, &args, &[ready])
                    .or_without(),
            );
        }
        let used: BTreeSet<String> = self.view.standbys().map(|node| slot_name(node)).collect();
        let slots = facts.server.clone().unwrap_or_default().slots;
        let unused: Vec<String> = slots
            .into_keys()
            .filter(|slot| slot.starts_with(SLOT_PREFIX) && !used.contains(slot))
            .collect();
        if unused.is_empty() {
            return;
        }
        let words = Words::new(
            "drop replication slots",
            "no member uses them; they would fill the disk",
        );
        let args = Slots {
            place: self.place.clone(),
            drop: unused,
            create: Vec::new(),
        };
        let mut needs: Vec<&Link> = left.iter().collect();
        needs.push(ready);
        self.builder
            .step(primary, (Op::Slots, "drop-slots"), &words, &args, &needs);
    }

    fn installed(&self, node: &str) -> Link {
        self.installed.get(node).cloned().unwrap_or(Link::holds())
    }

    /// Whether a running member has to restart for `new`.
    fn restarts(&self, node: &str, facts: &Facts, new: &Settings) -> bool {
        let Some(old) = facts
            .settings
            .as_ref()
            .filter(|_| facts.is_running && facts.has_own_data())
        else {
            return false;
        };
        let names: BTreeSet<&String> = new.keys().chain(old.keys()).collect();
        let changed = |name: &&&String| old.get(**name) != new.get(**name);
        let by_settings = names
            .iter()
            .filter(changed)
            .any(|name| change_class(name) == ChangeClass::Restart);
        let pending = facts
            .server
            .as_ref()
            .is_some_and(|server| !server.pending_restart.is_empty());
        // Files that were written and not loaded may hide a restart; the step asks the server before it restarts it.
        by_settings
            || pending
            || !facts.has_loaded
            || facts.runs_old_binaries()
            || self.installed(node) != Link::holds()
    }

    /// Compares with what the primary runs with, not with its file: a file may have been written without a restart.
    fn special(&self, primary: &Facts) -> Special {
        let mut special = Special::default();
        let Some(server) = &primary.server else {
            return special;
        };
        let new = self.view.primary_settings("");
        for (name, default) in NOT_BELOW_PRIMARY {
            let before = server.special.get(name).copied().unwrap_or(default);
            let after = special_value(&new, name, default);
            special
                .highest
                .insert(name.to_owned(), before.max(after).to_string());
            if before < after {
                special.raised.insert(name.to_owned());
            } else if before > after {
                special.lowered.insert(name.to_owned(), after);
            }
        }
        special
    }

    /// The values that a standby's control file must have come down to before it restarts with `settings`.
    fn control_at_most(&self, facts: &Facts, settings: &Settings) -> BTreeMap<String, u64> {
        let Some(server) = &facts.server else {
            return BTreeMap::new();
        };
        let falls = |(name, default): (&str, u64)| {
            let after = special_value(settings, name, default);
            let before = server.special.get(name).copied().unwrap_or(default);
            (before > after).then(|| (name.to_owned(), after))
        };
        NOT_BELOW_PRIMARY.into_iter().filter_map(falls).collect()
    }
}

fn special_value(settings: &Settings, name: &str, default: u64) -> u64 {
    settings
        .get(name)
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

/// Whether a special parameter rises (`true`) or falls; `None` for others.
fn special_move(name: &str, before: Option<&String>, after: Option<&String>) -> Option<bool> {
    let (_, default) = NOT_BELOW_PRIMARY
        .iter()
        .find(|(special, _)| *special == name)?;
    let value = |text: Option<&String>| text.and_then(|text| text.parse().ok()).unwrap_or(*default);
    let (before, after): (u64, u64) = (value(before), value(after));
    Some(before < after)
}
