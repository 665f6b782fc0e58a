//! Every driver of this build passes the conformance kit.

use drivers::catalog::file::FileDriver;
use drivers::catalog::postgres::{PostgresDriver, simulation};
use drivers::conformance::{Kit, wish};
use drivers::driver::Desired;
use drivers::host::fake::FakeCluster;
use serde_json::json;

fn removed(from: &Desired, purge: bool) -> Desired {
    let Desired::Running(wish) = from else {
        panic!("only what runs can be removed")
    };
    Desired::Removed {
        wish: wish.clone(),
        purge,
    }
}

#[test]
fn file_passes_the_kit() {
    let first = wish(
        &["n1", "n2"],
        json!({"path": "/etc/app/motd", "content": "hello\n"}),
    );
    let second = wish(
        &["n1"],
        json!({"path": "/etc/app/motd", "content": "bye\n", "mode": "0600"}),
    );
    let moved = wish(
        &["n1", "n2"],
        json!({"path": "/etc/other", "content": "bye\n"}),
    );
    let gone = removed(&moved, false);
    let cluster = FakeCluster::new(["n1", "n2"], vec![]);
    let kit = Kit {
        driver: &FileDriver,
        cluster,
        changes: vec![first, second, moved, gone],
    };
    let coverage = kit.run().unwrap_or_else(|error| panic!("{error}"));
    assert!(coverage.crashes > 30, "{coverage:?}");
}

#[test]
fn postgres_passes_the_kit_from_deployment_to_purge() {
    let nodes = ["n1", "n2", "n3"];
    let two = wish(&nodes[..2], json!({"version": "15"}));
    let three = wish(&nodes, json!({"version": "15", "databases": ["shop"]}));
    let kept = removed(&three, false);
    let gone = removed(&three, true);
    let kit = Kit {
        driver: &PostgresDriver,
        cluster: simulation::cluster(nodes),
        // What was kept is taken up again by the same deployment, in one plan.
        changes: vec![two, three.clone(), kept, three, gone],
    };
    let coverage = kit.run().unwrap_or_else(|error| panic!("{error}"));
    assert!(coverage.crashes > 200, "{coverage:?}");
}

#[test]
fn postgres_passes_the_kit_with_users() {
    let one = wish(&["n1"], json!({"version": "15", "users": ["app"]}));
    let kit = Kit {
        driver: &PostgresDriver,
        cluster: simulation::cluster(["n1"]),
        changes: vec![one],
    };
    kit.run().unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn postgres_passes_the_kit_through_parameter_changes() {
    let nodes = ["n1", "n2"];
    let with = |settings: serde_json::Value| {
        let mut params = json!({"version": "15"});
        params["parameters"] = settings;
        wish(&nodes, params)
    };
    let changes = vec![
        with(json!({})),
        with(json!({"max_connections": 300, "work_mem": "16MB"})),
        with(json!({"max_connections": 50, "work_mem": "16MB"})),
        with(json!({"max_connections": 60, "max_worker_processes": 4, "shared_buffers": "64MB"})),
    ];
    let kit = Kit {
        driver: &PostgresDriver,
        cluster: simulation::cluster(nodes),
        changes,
    };
    let coverage = kit.run().unwrap_or_else(|error| panic!("{error}"));
    assert!(coverage.crashes > 100, "{coverage:?}");
}
