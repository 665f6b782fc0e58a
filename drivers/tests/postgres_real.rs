//! The postgres driver on real PostgreSQL servers.
//!
//! Goal: what the simulation assumes of PostgreSQL, systemd's protocol and psql holds. Method: each node is a set of
//! namespaces with its own network, `/run`, `/etc/contextos`, `/var/lib/contextos` and unit directory; this test
//! program runs itself in there to observe and to apply, as the agent does on its machine. Needs root and Debian's
//! postgresql-15; without them it says so and passes. With `CONTEXTOS_DRIVER_NODES` (`name=pid=address`, separated by
//! commas) it uses running nodes with systemd instead; their data is purged at the end.

mod real {
    pub mod call;
    pub mod nodes;
}

use drivers::catalog::postgres::PostgresDriver;
use drivers::conformance::{Deployment, KitError};
use drivers::driver::{Desired, Secrets, Wish};
use drivers::host::Host;
use drivers::host::linux::LinuxHost;
use serde_json::{Value, json};

use real::call::InNode;
use real::nodes::Nodes;

/// The part of this program that runs inside a node; without a call it has nothing to do.
#[test]
fn answer_a_call_inside_a_node() {
    real::call::answer();
}

fn running(nodes: &[&String], params: Value) -> Desired {
    let nodes = nodes.iter().map(|node| (*node).clone()).collect();
    Desired::Running(Wish {
        deployment: "mid/real".to_owned(),
        nodes,
        params,
    })
}

fn converge(deployment: &Deployment<'_>, desired: &Desired) -> Vec<String> {
    let steps = deployment
        .converge(desired)
        .unwrap_or_else(|error| match error {
            KitError::Failed { step, error } => panic!("{step}: {error}"),
            other => panic!("{other}"),
        });
    steps.into_iter().map(|step| step.id).collect()
}

#[test]
fn a_cluster_is_deployed_changed_grown_shrunk_and_removed() {
    let nodes = match Nodes::start(3) {
        Ok(nodes) => nodes,
        Err(reason) => return println!("SKIPPED: {reason}"),
    };
    let driver = InNode {
        driver: PostgresDriver,
        nodes: &nodes,
    };
    let addresses = nodes.addresses();
    let hosts = addresses.keys();
    let hosts = hosts.map(|node| (node.clone(), &LinuxHost as &dyn Host));
    let deployment = Deployment::new(&driver, "mid/real", "real-1", hosts.collect(), &addresses);
    let names: Vec<&String> = addresses.keys().collect();
    deploy(&nodes, &deployment, &names);
    change_parameters(&nodes, &deployment, &names);
    let params = grow(&nodes, &deployment, &names);
    start_again(&nodes, &deployment, &names, &params);
    shrink_and_remove(&nodes, &deployment, &names, &params);
}

/// A cluster of two, with a table in its database; then nothing is left to do.
fn deploy(nodes: &Nodes, deployment: &Deployment<'_>, names: &[&String]) {
    let two = running(&names[..2], json!({"version": "15", "databases": ["shop"]}));
    let steps = converge(deployment, &two);
    assert!(steps.contains(&format!("{}/init", names[0])), "{steps:?}");
    let table = "CREATE TABLE orders (id int); INSERT INTO orders VALUES (1)";
    nodes.sql(names[0], "shop", table);
    nodes.await_sql(names[1], "shop", "SELECT count(*) FROM orders", "1");
    assert!(converge(deployment, &two).is_empty());
}

/// Raised: standby first. Lowered: primary first.
fn change_parameters(nodes: &Nodes, deployment: &Deployment<'_>, names: &[&String]) {
    let restarts = |params: Value| -> Vec<String> {
        let steps = converge(deployment, &running(&names[..2], params));
        steps
            .into_iter()
            .filter(|id| id.ends_with("/restart"))
            .collect()
    };
    let (primary, standby) = (
        format!("{}/restart", names[0]),
        format!("{}/restart", names[1]),
    );
    let mut params = json!({"version": "15", "databases": ["shop"]});
    params["max_connections"] = json!(150);
    params["work_mem"] = json!("8MB");
    assert_eq!(restarts(params.clone()), [standby.clone(), primary.clone()]);
    nodes.await_sql(names[0], "postgres", "SHOW max_connections", "150");
    nodes.await_sql(names[1], "postgres", "SHOW work_mem", "8MB");
    params["max_connections"] = json!(60);
    assert_eq!(restarts(params), [primary, standby]);
    nodes.await_sql(names[1], "postgres", "SHOW max_connections", "60");
}

/// Grown to three: synchronous; and a role that can log in over the network with its password.
fn grow(nodes: &Nodes, deployment: &Deployment<'_>, names: &[&String]) -> Value {
    let params =
        json!({"version": "15", "databases": ["shop"], "users": ["app"], "max_connections": 60});
    converge(deployment, &running(names, params.clone()));
    let synchronous = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'quorum'";
    nodes.await_sql(names[0], "postgres", synchronous, "2");
    nodes.await_sql(names[2], "shop", "SELECT count(*) FROM orders", "1");
    let password = deployment
        .secrets
        .reveal("app")
        .expect("the role step has made it");
    let address = &deployment.facts[names[0]].address;
    nodes.login(names[2], address, "app", password.expose());
    params
}

/// All servers stop, as when the machines do: they are started in their roles.
fn start_again(nodes: &Nodes, deployment: &Deployment<'_>, names: &[&String], params: &Value) {
    nodes.stop_servers("real-1");
    let steps = converge(deployment, &running(names, params.clone()));
    let starts = |node: &&String| steps.contains(&format!("{node}/start"));
    assert!(names.iter().all(starts), "{steps:?}");
    nodes.sql(names[0], "shop", "INSERT INTO orders VALUES (2)");
}

/// Shrunk to one: no slot is left, and commits wait for nobody. Then it goes, and its data with it.
fn shrink_and_remove(
    nodes: &Nodes,
    deployment: &Deployment<'_>,
    names: &[&String],
    params: &Value,
) {
    let one = running(&names[..1], params.clone());
    converge(deployment, &one);
    nodes.sql(names[0], "shop", "INSERT INTO orders VALUES (3)");
    nodes.await_sql(
        names[0],
        "postgres",
        "SELECT count(*) FROM pg_replication_slots",
        "0",
    );
    let health = deployment
        .driver
        .health(&deployment.input(&one).expect("nodes answer"));
    assert!(health.degraded.is_empty(), "{health:?}");
    let Desired::Running(wish) = one else {
        unreachable!("it was made as Running")
    };
    converge(deployment, &Desired::Removed { wish, purge: true });
}
