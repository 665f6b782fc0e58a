//! The files that PostgreSQL and the service manager read: how they are made of values, and read back.
//!
//! Invariants: pure; the same values give the same bytes; [`parse`] gives back what [`render`] was given.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::layout::{Layout, OS_USER};
use super::parameters::NOT_BELOW_PRIMARY;
use super::params::{Checked, REPLICATION_ROLE};
use super::slots::slot_name;

/// Values by parameter name.
pub type Settings = BTreeMap<String, String>;

/// A standby that is away longer than this much write-ahead log is copied anew; without a bound it would fill the
/// disk of the primary.
const SLOT_WAL_MAX: &str = "4GB";

const HEAD: &str =
    "# Written by ContextOS (driver postgres). A change by hand is taken back: change the wish.\n";

/// What differs between the members' configurations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role<'a> {
    /// Accepts writes.
    Primary {
        /// `synchronous_standby_names`.
        synchronous: &'a str,
    },
    /// Follows the primary at this address.
    Standby {
        /// Address of the primary.
        primary: &'a str,
        /// The standby's node.
        node: &'a str,
    },
}

/// The values of a member's `postgresql.conf`.
pub fn settings(checked: &Checked, deployment: &str, layout: &Layout, role: &Role<'_>) -> Settings {
    let mut settings: Settings = NOT_BELOW_PRIMARY
        .map(|(name, value)| (name.to_owned(), value.to_string()))
        .into();
    let mut set = |name: &str, value: &str| settings.insert(name.to_owned(), value.to_owned());
    set("cluster_name", deployment);
    set("hot_standby", "on");
    set("listen_addresses", "*");
    set("max_replication_slots", "10");
    set("max_slot_wal_keep_size", SLOT_WAL_MAX);
    set("wal_level", "replica");
    for (name, value) in &checked.settings {
        set(name, value);
    }
    set("hba_file", &layout.hba().to_string_lossy());
    set("port", &layout.place.port.to_string());
    set(
        "unix_socket_directories",
        &layout.socket_dir().to_string_lossy(),
    );
    match role {
        Role::Primary { synchronous } => {
            set("synchronous_standby_names", synchronous);
        }
        Role::Standby { primary, node } => {
            let passfile = layout.passfile();
            let port = layout.place.port;
            let passfile = passfile.to_string_lossy();
            let conninfo = format!(
                "host={primary} port={port} user={REPLICATION_ROLE} application_name={node} passfile={passfile} \
                 connect_timeout=10"
            );
            set("primary_conninfo", &conninfo);
            set("primary_slot_name", &slot_name(node));
        }
    }
    settings
}

/// `ANY 1 ("n2", "n3")`; empty for no names.
pub fn synchronous_names<'a>(nodes: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<String> = nodes
        .into_iter()
        .map(|node| format!("\"{node}\""))
        .collect();
    if names.is_empty() {
        String::new()
    } else {
        format!("ANY 1 ({})", names.join(", "))
    }
}

/// The text of a `postgresql.conf`.
pub fn render(settings: &Settings) -> String {
    let line = |(name, value): (&String, &String)| {
        format!(
            "{name} = '{}'\n",
            value.replace('\\', "\\\\").replace('\'', "''")
        )
    };
    HEAD.to_owned() + &settings.iter().map(line).collect::<String>()
}

/// The values of a `postgresql.conf` that [`render`] made; `None` if it is not exactly what it would make.
pub fn parse(text: &str) -> Option<Settings> {
    let mut settings = Settings::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.split_once(" = '")?;
        let value = value
            .strip_suffix('\'')?
            .replace("''", "'")
            .replace("\\\\", "\\");
        settings.insert(name.to_owned(), value);
    }
    (render(&settings) == text).then_some(settings)
}

/// The text of a `pg_hba.conf`: members replicate, members and clients connect, all with passwords; the operating
/// system's user postgres connects by the socket.
pub fn hba(members: &[String], clients: &[String]) -> String {
    let mut lines = vec![
        format!("local all {OS_USER} peer"),
        "local all all scram-sha-256".to_owned(),
        "host all all 127.0.0.1/32 scram-sha-256".to_owned(),
        "host all all ::1/128 scram-sha-256".to_owned(),
    ];
    for address in members {
        let network = match address.parse::<IpAddr>() {
            Ok(IpAddr::V4(address)) => format!("{address}/32"),
            Ok(IpAddr::V6(address)) => format!("{address}/128"),
            // A host name; PostgreSQL resolves it in both directions.
            Err(_) => address.clone(),
        };
        lines.push(format!(
            "host replication {REPLICATION_ROLE} {network} scram-sha-256"
        ));
        lines.push(format!("host all all {network} scram-sha-256"));
    }
    lines.extend(
        clients
            .iter()
            .map(|network| format!("host all all {network} scram-sha-256")),
    );
    format!("{HEAD}{}\n", lines.join("\n"))
}

/// The text of the unit. It has no `[Install]` section: the agent starts the service when it knows the node's role.
pub fn unit(layout: &Layout) -> String {
    let postgres = layout.program("postgres");
    let (data, conf) = (layout.data().display(), layout.conf());
    let (conf, uid) = (conf.display(), layout.uid());
    format!(
        "# Written by ContextOS (driver postgres). Not enabled at boot: dsm-agent starts it.\n\
         [Unit]\n\
         Description=PostgreSQL of ContextOS deployment {uid}\n\
         Documentation=man:postgres(1)\n\
         After=network.target\n\
         \n\
         [Service]\n\
         Type=notify\n\
         User={OS_USER}\n\
         Group={OS_USER}\n\
         RuntimeDirectory=contextos-postgres-{uid}\n\
         RuntimeDirectoryMode=0755\n\
         ExecStart={postgres} -D {data} -c config_file={conf}\n\
         ExecReload=/bin/kill -HUP $MAINPID\n\
         KillMode=mixed\n\
         KillSignal=SIGINT\n\
         TimeoutStartSec=infinity\n\
         TimeoutStopSec=120\n\
         Restart=on-failure\n\
         RestartSec=1\n\
         OOMScoreAdjust=-900\n\
         Environment=PG_OOM_ADJUST_FILE=/proc/self/oom_score_adj\n\
         Environment=PG_OOM_ADJUST_VALUE=0\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_gives_back_what_render_was_given() {
        let settings = Settings::from([
            ("a".to_owned(), "it's".to_owned()),
            ("b".to_owned(), "back\\slash '".to_owned()),
            ("c".to_owned(), String::new()),
        ]);
        assert_eq!(parse(&render(&settings)).unwrap(), settings);
        assert_eq!(parse(&(render(&settings) + "d = '1' # by hand\n")), None);
    }

    #[test]
    fn names_of_synchronous_standbys() {
        assert_eq!(synchronous_names(["n2", "n-3"]), "ANY 1 (\"n2\", \"n-3\")");
        assert_eq!(synchronous_names([]), "");
    }
}
