//! The main job on real nodes: one file becomes a replicated PostgreSQL, is changed, grows, and survives power cuts.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use system_tests::cluster::Node;
use system_tests::crash::{BOUNDARIES, KINDS, arm, strike};
use system_tests::deployment::Deployment;
use system_tests::limits;
use system_tests::mounted::{Mounted, wait_for_tree};
use system_tests::postgres::{primary, sql, wait_for_rows, write_row};
use system_tests::seed;
use system_tests::wait::wait_until;

const NAME: &str = "mid/shop-db";
const DATABASE: &str = "shop";

/// A change of a running deployment: no package, no copy of data.
const CHANGE_MAX: Duration = Duration::from_secs(120);

/// Crashes in one pass. Each costs a restart of the agent or of a node.
const CRASHES: u64 = 3;

fn wish(nodes: &[&str], parameters: Value) -> Value {
    let params = json!({"version": "15", "databases": [DATABASE], "parameters": parameters});
    json!({"driver": "postgres", "nodes": nodes, "params": params})
}

#[test]
fn a_file_becomes_a_replicated_database_that_changes_and_grows() -> Result<()> {
    let mounted = Mounted::boot_with_agents(3)?;
    let [n1, n2, n3] = mounted.three()?;
    let deployment = Deployment::new(NAME);
    deployment.wish(n2, &wish(&["n1", "n2"], json!({})))?;
    deployment.wait_for(n2, "Active", 1, limits::DEPLOYMENT_MAX)?;
    write_row(n1, DATABASE, 1)?;
    wait_for_rows(n2, DATABASE, 1)?;
    // The same content again: no generation, no write to the record.
    let generation = deployment.generation(n2)?;
    deployment.wish(n3, &wish(&["n1", "n2"], json!({})))?;
    // Grow, and change a parameter that needs a restart and one that needs a reload.
    let parameters = json!({"max_connections": 150, "work_mem": "8MB"});
    deployment.wish(n3, &wish(&["n1", "n2", "n3"], parameters))?;
    deployment.wait_for(n2, "Active", generation + 1, limits::DEPLOYMENT_MAX)?;
    for node in [n1, n2, n3] {
        assert_eq!(
            sql(node, DATABASE, "SHOW max_connections")?,
            "150",
            "{}",
            node.name()
        );
        assert_eq!(
            sql(node, DATABASE, "SHOW work_mem")?,
            "8MB",
            "{}",
            node.name()
        );
        wait_for_rows(node, DATABASE, 1)?;
    }
    assert_eq!(primary(mounted.nodes(), DATABASE)?.name(), "n1");
    the_loss_of_the_primary_is_told_and_heals(&mounted, deployment)?;
    a_lost_tree_stops_no_service(&mounted)
}

/// A power cut of the primary: no second one appears, the reason is told, and it is Active again when it is back.
fn the_loss_of_the_primary_is_told_and_heals(
    mounted: &Mounted,
    deployment: Deployment<'_>,
) -> Result<()> {
    let [n1, n2, n3] = mounted.three()?;
    write_row(n1, DATABASE, 2)?;
    let generation = deployment.generation(n2)?;
    n1.power_cut()?;
    deployment.wait_for(n2, "Degraded", generation, CHANGE_MAX)?;
    for node in [n2, n3] {
        assert_eq!(
            sql(node, DATABASE, "SELECT pg_is_in_recovery()")?,
            "t",
            "{} became primary",
            node.name()
        );
    }
    n1.boot()?;
    deployment.wait_for(n2, "Active", generation, CHANGE_MAX)?;
    for node in [n1, n2, n3] {
        wait_for_rows(node, DATABASE, 2)?;
    }
    assert_eq!(primary(mounted.nodes(), DATABASE)?.name(), "n1");
    Ok(())
}

/// An unmounted tree and a stopped vfsd stop steps, never services.
fn a_lost_tree_stops_no_service(mounted: &Mounted) -> Result<()> {
    let [n1, n2, n3] = mounted.three()?;
    let before = postmasters(&[n1, n2, n3])?;
    n2.sh("umount -l /vfs")?;
    n3.sh("systemctl stop vfsd")?;
    write_row(n1, DATABASE, 3)?;
    wait_for_rows(n3, DATABASE, 3)?;
    n3.sh("systemctl start vfsd dsm-agent")?;
    wait_for_tree(n2)?;
    assert_eq!(
        postmasters(&[n1, n2, n3])?,
        before,
        "a server was restarted"
    );
    Ok(())
}

fn postmasters(nodes: &[&Node]) -> Result<Vec<String>> {
    nodes
        .iter()
        .map(|node| sql(node, DATABASE, "SELECT pg_postmaster_start_time()"))
        .collect()
}

/// Another node and a parameter arrive while the first deployment is under way, and fifty saves while that one is.
#[test]
fn a_wish_that_changes_in_mid_flight_ends_in_the_last() -> Result<()> {
    let mounted = Mounted::boot_with_agents(3)?;
    let [n1, n2, n3] = mounted.three()?;
    let deployment = Deployment::new(NAME);
    deployment.wish(n2, &wish(&["n1", "n2"], json!({})))?;
    deployment.wait_for(n2, "Converging", 1, CHANGE_MAX)?;
    let all = ["n1", "n2", "n3"];
    deployment.wish(n3, &wish(&all, json!({"max_connections": 150})))?;
    deployment.wait_for(n3, "Converging", 2, CHANGE_MAX)?;
    let last = wish(&all, json!({"max_connections": 160, "work_mem": "50MB"}));
    let text = last.to_string().replace("50MB", "${i}MB");
    let saves = format!("for i in $(seq 50); do cat > /vfs/{NAME}.json <<END\n{text}\nEND\ndone");
    n1.sh(&saves)?;
    // Servers restart meanwhile, and an earlier save may be Active for a moment.
    wait_until("the last save everywhere", limits::DEPLOYMENT_MAX, || {
        Ok([n1, n2, n3].iter().all(|node| {
            let shows = |name: &str, value: &str| {
                sql(node, DATABASE, &format!("SHOW {name}")).is_ok_and(|shown| shown == value)
            };
            shows("work_mem", "50MB") && shows("max_connections", "160")
        }))
    })?;
    deployment.wait_for(n1, "Active", 3, CHANGE_MAX)?;
    assert_eq!(primary(mounted.nodes(), DATABASE)?.name(), "n1");
    n2.sh("dsm-agent audit mid/shop-db").map(drop)
}

/// Refused before anything is installed: a version that no repository has, and data that is not ours.
#[test]
fn what_cannot_be_is_refused_with_its_reason() -> Result<()> {
    let mounted = Mounted::boot_with_agents(3)?;
    let [n1, n2, n3] = mounted.three()?;
    let deployment = Deployment::new(NAME);
    deployment.wish(
        n2,
        &json!({"driver": "postgres", "nodes": ["n1"], "params": {"version": "15.99"}}),
    )?;
    deployment.wait_for_words(n3, &["Blocked", "15.99"], CHANGE_MAX)?;
    n1.sh("mkdir -p /data/theirs && echo 15 > /data/theirs/PG_VERSION")?;
    let params = json!({"version": "15", "data_directory": "/data/theirs"});
    deployment.wish(
        n2,
        &json!({"driver": "postgres", "nodes": ["n1"], "params": params}),
    )?;
    deployment.wait_for_words(n3, &["Blocked", "/data/theirs"], CHANGE_MAX)?;
    let explained = n3.run(&["dsm-agent", "explain", NAME])?.stdout_text();
    assert!(explained.contains("/data/theirs"), "{explained}");
    assert_eq!(
        n1.sh("ls -A /data/theirs")?,
        "PG_VERSION\n",
        "their data was touched"
    );
    let installed = n1.run(&["test", "-e", "/usr/lib/postgresql/15/bin/postgres"])?;
    assert!(
        !installed.status.success(),
        "something was installed for a refused wish"
    );
    Ok(())
}

#[test]
fn a_pass_of_crashes_ends_active() -> Result<()> {
    let seed = seed::choose("a_pass_of_crashes_ends_active");
    let mounted = Mounted::boot_with_agents(3)?;
    let nodes = mounted.three()?;
    let [n1, n2, n3] = nodes;
    let deployment = Deployment::new(NAME);
    let crash = |number: u64| {
        let digits = (seed / 36_u64.pow((number % 4) as u32)) as usize;
        (
            nodes[digits % 3],
            BOUNDARIES[digits / 3 % 4],
            KINDS[digits / 12 % 3],
        )
    };
    arm(crash(0).0, &[("*", crash(0).1)])?;
    deployment.wish(n2, &wish(&["n1", "n2", "n3"], json!({})))?;
    for number in 0..CRASHES {
        let (node, boundary, kind) = crash(number);
        if number > 0 {
            arm(node, &[("*", boundary)])?;
        }
        strike(node, kind, deployment, 1)?;
    }
    deployment.wait_for(n2, "Active", 1, limits::DEPLOYMENT_MAX)?;
    assert_eq!(primary(mounted.nodes(), DATABASE)?.name(), "n1");
    write_row(n1, DATABASE, 1)?;
    for node in [n1, n2, n3] {
        wait_for_rows(node, DATABASE, 1)?;
    }
    n1.sh(&format!("dsm-agent audit {NAME}")).map(drop)
}
