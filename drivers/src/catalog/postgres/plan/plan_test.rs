//! Goal: the plans say what the pages promise, step by step. Method: fake clusters give the observations; some are then
//! changed by hand to what cannot be had from a healthy cluster.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::catalog::postgres::{PostgresDriver, simulation};
use crate::conformance::{Deployment, wish};
use crate::driver::Driver;
use crate::host::Host;
use crate::host::fake::{FakeCluster, FakeHost};

struct Bench {
    cluster: FakeCluster,
    hosts: BTreeMap<String, FakeHost>,
}

impl Bench {
    fn new() -> Self {
        let nodes = ["n1", "n2", "n3"];
        let cluster = simulation::cluster(nodes);
        let hosts = nodes
            .iter()
            .map(|node| ((*node).to_owned(), cluster.host(node)))
            .collect();
        Self { cluster, hosts }
    }

    fn deployment(&self) -> Deployment<'_> {
        let hosts = self
            .hosts
            .iter()
            .map(|(node, host)| (node.clone(), host as &dyn Host))
            .collect();
        let machines = self.cluster.machines();
        let addresses = machines
            .iter()
            .map(|(node, machine)| (node.clone(), machine.address.clone()))
            .collect();
        Deployment::new(&PostgresDriver, "mid/shop", "u1", hosts, &addresses)
    }
}

fn three() -> Desired {
    wish(
        &["n1", "n2", "n3"],
        json!({"version": "15", "databases": ["shop"]}),
    )
}

fn with(params: Value) -> Desired {
    let mut all = json!({"version": "15"});
    all.as_object_mut()
        .unwrap()
        .extend(params.as_object().unwrap().clone());
    wish(&["n1", "n2", "n3"], all)
}

fn ids(plan: &Plan) -> Vec<&str> {
    plan.steps.iter().map(|step| step.id.as_str()).collect()
}

fn step_ids(deployment: &Deployment<'_>, desired: &Desired) -> Vec<String> {
    let plan = deployment
        .plan(desired)
        .unwrap_or_else(|error| panic!("{error}"));
    plan.steps.into_iter().map(|step| step.id).collect()
}

#[test]
fn a_fresh_cluster_is_made_in_this_order() {
    let bench = Bench::new();
    let plan = deployment_plan(&bench.deployment(), &three());
    assert_eq!(
        ids(&plan),
        [
            "n1/install",
            "n2/install",
            "n3/install",
            "n1/init",
            "n1/configure",
            "n1/start",
            "n1/replication-role",
            "n1/slots",
            "n2/base-backup",
            "n2/configure",
            "n2/start",
            "n2/await-streaming",
            "n3/base-backup",
            "n3/configure",
            "n3/start",
            "n3/await-streaming",
            "n1/synchronous",
            "n1/role-owner",
            "n1/database-shop",
        ]
    );
    let needs = |id: &str| {
        plan.steps
            .iter()
            .find(|step| step.id == id)
            .unwrap()
            .needs
            .clone()
    };
    assert_eq!(needs("n2/base-backup"), ["n1/slots", "n2/install"]);
    assert_eq!(
        needs("n3/base-backup"),
        ["n1/slots", "n3/install"],
        "base backups run side by side"
    );
    assert!(needs("n1/synchronous").contains(&"n2/await-streaming".to_owned()));
    assert_eq!(needs("n1/role-owner"), ["n1/synchronous"]);
    assert_eq!(plan.versions["postgresql-15"], simulation::PACKAGE_VERSION);
    let text = serde_json::to_string(&plan).unwrap();
    assert!(!text.to_lowercase().contains("password="), "{text}");
}

fn deployment_plan(deployment: &Deployment<'_>, desired: &Desired) -> Plan {
    deployment
        .plan(desired)
        .unwrap_or_else(|error| panic!("{error}"))
}

fn refused(deployment: &Deployment<'_>, desired: &Desired) -> Refusal {
    plan(&deployment.input(desired).unwrap()).expect_err("this wish cannot be reached")
}

#[test]
fn a_first_deployment_waits_until_every_member_is_there() {
    let bench = Bench::new();
    let mut deployment = bench.deployment();
    deployment.present.remove("n3");
    let refusal = refused(&deployment, &three());
    assert!(refusal.waits);
    assert_eq!(refusal.node.as_deref(), Some("n3"));
}

#[test]
fn while_the_primary_is_away_nothing_is_promoted_and_health_says_so() {
    let bench = Bench::new();
    let mut deployment = bench.deployment();
    deployment.converge(&three()).unwrap();
    let last = deployment.input(&three()).unwrap();
    deployment.present.remove("n1");
    // The record still holds what n1 told last.
    let mut input = deployment.input(&three()).unwrap();
    input
        .observed
        .insert("n1".to_owned(), last.observed["n1"].clone());
    assert!(plan(&input).unwrap().steps.is_empty());
    let health = PostgresDriver.health(&input);
    assert!(
        health.degraded[0].contains("n1 has no presence: no writes until it is back"),
        "{health:?}"
    );
    // Nor when the record knows nothing of n1 at all.
    input.observed.remove("n1");
    assert!(plan(&input).unwrap().steps.is_empty());
    assert!(!PostgresDriver.health(&input).degraded.is_empty());
}

#[test]
fn standbys_alone_never_become_a_new_cluster() {
    let bench = Bench::new();
    let deployment = bench.deployment();
    deployment.converge(&three()).unwrap();
    let host = &bench.hosts["n1"];
    host.power_cycle();
    host.remove_tree(std::path::Path::new("/var/lib/contextos/postgres/u1"))
        .unwrap();
    let refusal = refused(&deployment, &three());
    assert!(refusal.reason.contains("n2, n3 hold copies"), "{refusal:?}");
}

#[test]
fn two_primaries_are_refused() {
    let bench = Bench::new();
    let deployment = bench.deployment();
    deployment.converge(&three()).unwrap();
    let signal = std::path::Path::new("/var/lib/contextos/postgres/u1/standby.signal");
    bench.hosts["n2"].remove_file(signal).unwrap();
    let refusal = refused(&deployment, &three());
    assert!(
        refusal
            .reason
            .starts_with("n1 and n2 each hold data of a primary"),
        "{refusal:?}"
    );
}

#[test]
fn foreign_data_is_refused_and_adopted_by_its_system_identifier() {
    let bench = Bench::new();
    let other = Deployment {
        uid: "old".to_owned(),
        ..bench.deployment()
    };
    let one = |params: Value| {
        let mut all = json!({"version": "15", "data_directory": "/data/pg"});
        all.as_object_mut()
            .unwrap()
            .extend(params.as_object().unwrap().clone());
        wish(&["n1"], all)
    };
    other.converge(&one(json!({}))).unwrap();
    let Desired::Running(old) = one(json!({})) else {
        unreachable!()
    };
    other
        .converge(&Desired::Removed {
            wish: old,
            purge: false,
        })
        .unwrap();

    let deployment = bench.deployment();
    let refusal = refused(&deployment, &one(json!({})));
    assert!(
        refusal
            .reason
            .contains("it belongs to the deployment with uid old"),
        "{refusal:?}"
    );
    let id = refusal.hint.split('"').nth(3).unwrap().to_owned();
    let adopting = one(json!({"adopt": id}));
    assert!(step_ids(&deployment, &adopting).contains(&"n1/adopt".to_owned()));
    deployment.converge(&adopting).unwrap();
    assert!(
        step_ids(&deployment, &one(json!({}))).is_empty(),
        "adopted data needs no adopt any more"
    );
}

#[test]
fn a_taken_port_and_a_version_that_nobody_offers_are_refused() {
    let bench = Bench::new();
    let deployment = bench.deployment();
    let refusal = refused(&deployment, &with(json!({"version": "15.99"})));
    assert_eq!(refusal.field.as_deref(), Some("params.version"));
    assert!(
        refusal.hint.contains("15.18-0+deb12u1, 15.17-0+deb12u1"),
        "{refusal:?}"
    );
    bench.hosts["n2"].with(|machine| machine.ports.insert(5432));
    let refusal = refused(&deployment, &three());
    assert_eq!(
        (refusal.field.as_deref(), refusal.node.as_deref()),
        (Some("params.port"), Some("n2"))
    );
}

#[test]
fn the_primary_stays_who_it_is_and_may_not_leave() {
    let bench = Bench::new();
    let deployment = bench.deployment();
    deployment.converge(&three()).unwrap();
    let turned = wish(
        &["n3", "n2", "n1"],
        json!({"version": "15", "databases": ["shop"]}),
    );
    assert!(
        !step_ids(&deployment, &turned)
            .iter()
            .any(|id| id.ends_with("/init"))
    );
    let without = wish(&["n2", "n3"], json!({"version": "15"}));
    assert!(
        refused(&deployment, &without)
            .reason
            .starts_with("n1 is the primary")
    );
}

#[test]
fn parameters_roll_in_the_order_that_postgresql_demands() {
    let bench = Bench::new();
    let deployment = bench.deployment();
    deployment.converge(&with(json!({}))).unwrap();
    let restarts = |desired: &Desired| -> Vec<String> {
        step_ids(&deployment, desired)
            .into_iter()
            .filter(|id| id.contains("restart"))
            .collect()
    };
    let raised = with(json!({"max_connections": 300}));
    assert_eq!(
        restarts(&raised),
        ["n2/restart", "n3/restart", "n1/restart"]
    );
    let lowered = with(json!({"max_connections": 50}));
    assert_eq!(
        restarts(&lowered),
        ["n1/restart", "n2/restart", "n3/restart"]
    );
    let both = with(json!({"max_connections": 50, "max_worker_processes": 16}));
    let all = [
        "n2/restart",
        "n3/restart",
        "n1/restart",
        "n2/restart-again",
        "n3/restart-again",
    ];
    assert_eq!(restarts(&both), all);
    let plain = with(json!({"shared_buffers": "64MB"}));
    assert_eq!(restarts(&plain), ["n2/restart", "n3/restart", "n1/restart"]);
    assert!(restarts(&with(json!({"work_mem": "16MB"}))).is_empty());
    for desired in [raised, both, lowered] {
        deployment
            .converge(&desired)
            .unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn a_lowered_parameter_waits_for_a_primary_that_is_away() {
    let bench = Bench::new();
    let mut deployment = bench.deployment();
    deployment.converge(&with(json!({}))).unwrap();
    let last = deployment.input(&three()).unwrap();
    deployment.present.remove("n1");
    let mut input = deployment
        .input(&with(json!({"max_connections": 50})))
        .unwrap();
    input
        .observed
        .insert("n1".to_owned(), last.observed["n1"].clone());
    assert!(plan(&input).unwrap().steps.is_empty());
}

#[test]
fn a_standby_whose_log_is_gone_is_copied_anew() {
    let bench = Bench::new();
    let deployment = bench.deployment();
    deployment.converge(&three()).unwrap();
    simulation::lose_slot(&bench.cluster, "n1", "u1", "contextos_n2");
    let ids = step_ids(&deployment, &three());
    let expected = [
        "n2/discard",
        "n1/slots",
        "n2/base-backup",
        "n2/configure",
        "n2/start",
        "n2/await-streaming",
    ];
    assert_eq!(ids, expected);
    deployment
        .converge(&three())
        .unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn async_and_two_members_name_no_synchronous_standby() {
    let bench = Bench::new();
    let deployment = bench.deployment();
    let ids = step_ids(&deployment, &with(json!({"async": true})));
    assert!(!ids.contains(&"n1/synchronous".to_owned()));
    let two = wish(&["n1", "n2"], json!({"version": "15"}));
    assert!(!step_ids(&deployment, &two).contains(&"n1/synchronous".to_owned()));
}

#[test]
fn after_a_power_cut_services_start_in_their_roles() {
    let bench = Bench::new();
    let deployment = bench.deployment();
    deployment.converge(&three()).unwrap();
    bench.hosts.values().for_each(FakeHost::power_cycle);
    let ids = step_ids(&deployment, &three());
    for start in ["n1/start", "n2/start", "n3/start"] {
        assert!(ids.contains(&start.to_owned()), "{ids:?}");
    }
    deployment
        .converge(&three())
        .unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn a_file_changed_by_hand_is_taken_back() {
    let bench = Bench::new();
    let deployment = bench.deployment();
    deployment.converge(&three()).unwrap();
    let conf = std::path::Path::new("/etc/contextos/postgres/u1/postgresql.conf");
    let host = &bench.hosts["n2"];
    let attributes = host.metadata(conf).unwrap().unwrap().attributes;
    host.write_file(conf, b"work_mem = '1MB' # mine\n", &attributes)
        .unwrap();
    let plan = deployment_plan(&deployment, &three());
    assert_eq!(plan.changes[0].subject, "n2 configuration");
    assert!(ids(&plan).contains(&"n2/configure"));
    deployment
        .converge(&three())
        .unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn a_value_that_no_server_starts_with_stops_at_the_first_standby_and_a_later_wish_heals_it() {
    let bench = Bench::new();
    let deployment = bench.deployment();
    deployment.converge(&three()).unwrap();
    let mut bad = three();
    let Desired::Running(wish) = &mut bad else {
        unreachable!()
    };
    wish.params["shared_preload_libraries"] = json!("no_such_library");
    let error = deployment.converge(&bad).unwrap_err().to_string();
    assert!(error.starts_with("n2/restart: "), "{error}");
    assert!(error.contains("could not access file"), "{error}");
    let unit = "contextos-postgres-u1.service";
    let starts = |node: &str| bench.hosts[node].with(|machine| machine.units[unit].starts);
    assert_eq!(
        (starts("n1"), starts("n3")),
        (1, 1),
        "primary and the other standby run on"
    );
    deployment
        .converge(&three())
        .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((starts("n1"), starts("n3")), (1, 1));
    assert!(bench.hosts["n2"].with(|machine| machine.units[unit].active));
}
