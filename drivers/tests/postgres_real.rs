//! The postgres driver on real PostgreSQL servers.
//!
//! Goal: what the simulation assumes of PostgreSQL, systemd's protocol and psql holds. Method: each node is a set of
//! namespaces with its own network, `/run`, `/etc/contextos`, `/var/lib/contextos` and unit directory; this test program
//! runs itself in there to observe and to apply, as the agent does on its machine.
//! Needs root and Debian's postgresql-15; without them it says so and passes. With `CONTEXTOS_DRIVER_NODES` (`name=pid=address`,
//! separated by commas) it uses running nodes with systemd instead; their data is purged at the end.

mod real {
    pub mod call;
    pub mod nodes;
}

use std::collections::BTreeMap;

use drivers::catalog::postgres::PostgresDriver;
use drivers::conformance::{Deployment, KitError};
use drivers::driver::{Desired, Driver, Wish};
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
    let names: Vec<&String> = addresses.keys().collect();
    let hosts: BTreeMap<String, &dyn Host> = addresses
        .keys()
        .map(|node| (node.clone(), &LinuxHost as &dyn Host))
        .collect();
    let deployment = Deployment::new(&driver, "mid/real", "real-1", hosts, &addresses);

    // A cluster of two, with a table in its database.
    let two = running(&names[..2], json!({"version": "15", "databases": ["shop"]}));
    let steps = converge(&deployment, &two);
    assert!(steps.contains(&format!("{}/init", names[0])), "{steps:?}");
    nodes.sql(
        names[0],
        "shop",
        "CREATE TABLE orders (id int); INSERT INTO orders VALUES (1)",
    );
    nodes.await_sql(names[1], "shop", "SELECT count(*) FROM orders", "1");
    assert!(converge(&deployment, &two).is_empty());

    // A reload and a restart: standby first.
    let params =
        json!({"version": "15", "databases": ["shop"], "max_connections": 150, "work_mem": "8MB"});
    let changed = running(&names[..2], params.clone());
    let steps = converge(&deployment, &changed);
    let restarts: Vec<&String> = steps.iter().filter(|id| id.ends_with("/restart")).collect();
    assert_eq!(
        restarts,
        [
            &format!("{}/restart", names[1]),
            &format!("{}/restart", names[0])
        ]
    );
    nodes.await_sql(names[0], "postgres", "SHOW max_connections", "150");
    nodes.await_sql(names[1], "postgres", "SHOW work_mem", "8MB");

    // Lowered: primary first.
    let lowered = running(
        &names[..2],
        json!({"version": "15", "databases": ["shop"], "max_connections": 60}),
    );
    let steps = converge(&deployment, &lowered);
    let restarts: Vec<&String> = steps.iter().filter(|id| id.ends_with("/restart")).collect();
    assert_eq!(
        restarts,
        [
            &format!("{}/restart", names[0]),
            &format!("{}/restart", names[1])
        ]
    );
    nodes.await_sql(names[1], "postgres", "SHOW max_connections", "60");

    // Grown to three: synchronous; and a role that can log in over the network with its password.
    let params =
        json!({"version": "15", "databases": ["shop"], "users": ["app"], "max_connections": 60});
    let three = running(&names, params.clone());
    converge(&deployment, &three);
    nodes.await_sql(
        names[0],
        "postgres",
        "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'quorum'",
        "2",
    );
    nodes.await_sql(names[2], "shop", "SELECT count(*) FROM orders", "1");
    let password = deployment_secret(&deployment, "app");
    nodes.login(names[2], &addresses[names[0]], "app", &password);

    // All servers stop, as after a start of the machines: they are started in their roles.
    nodes.stop_servers("real-1");
    let steps = converge(&deployment, &three);
    assert!(
        names
            .iter()
            .all(|node| steps.contains(&format!("{node}/start"))),
        "{steps:?}"
    );
    nodes.sql(names[0], "shop", "INSERT INTO orders VALUES (2)");

    // Shrunk to one: no slot is left, and commits wait for nobody.
    let one = running(&names[..1], params.clone());
    converge(&deployment, &one);
    nodes.sql(names[0], "shop", "INSERT INTO orders VALUES (3)");
    nodes.await_sql(
        names[0],
        "postgres",
        "SELECT count(*) FROM pg_replication_slots",
        "0",
    );

    let health = driver.health(&deployment.input(&one).expect("nodes answer"));
    assert!(health.degraded.is_empty(), "{health:?}");
    let Desired::Running(wish) = one else {
        unreachable!("it was made as Running")
    };
    converge(
        &deployment,
        &Desired::Removed {
            wish: wish.clone(),
            purge: false,
        },
    );
    converge(&deployment, &Desired::Removed { wish, purge: true });
}

fn deployment_secret(deployment: &Deployment<'_>, key: &str) -> String {
    use drivers::driver::Secrets;
    deployment
        .secrets
        .reveal(key)
        .expect("the role step has made it")
        .expose()
        .to_owned()
}
