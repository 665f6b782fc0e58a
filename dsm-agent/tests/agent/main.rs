//! One agent process on a plain directory that stands in for the tree, with the `file` driver and the real machine.
//!
//! Goal: the record, crash and resume at each step boundary, bad wishes, removal and adoption, and that an idle agent
//! writes nothing, all by the real binary.
#![allow(clippy::unwrap_used)] // A test may panic.

mod sandbox;

use std::time::Duration;

use sandbox::Sandbox;

#[test]
fn a_wish_becomes_a_file_and_the_record_tells_how() {
    let mut sandbox = Sandbox::new();
    sandbox.start(None);
    sandbox.wish("a", "one");
    sandbox.wait_phase("mid/a", "Active");
    assert_eq!(sandbox.content("a"), "one");
    assert_eq!(
        sandbox.evs("mid/a", 1),
        ["decision", "planned", "started", "succeeded"]
    );
    let audit = sandbox.command(&["audit", "mid/a"]);
    assert!(audit.contains("verified"), "{audit}");
    let explained = sandbox.command(&["explain", "mid/a"]);
    assert!(explained.contains("  author  uid "), "{explained}");
    let log = sandbox.command(&["log", "mid/a"]);
    assert!(log.contains("planned    1 step"), "{log}");
}

#[test]
fn a_changed_wish_is_a_new_generation_and_the_same_again_is_none() {
    let mut sandbox = Sandbox::new();
    sandbox.start(None);
    sandbox.wish("a", "one");
    sandbox.wait_phase("mid/a", "Active");
    sandbox.wish("a", "two");
    sandbox.wait("the new content", |sandbox| sandbox.content("a") == "two");
    sandbox.wait_phase("mid/a", "Active");
    sandbox.wish("a", "two");
    // A second deployment shows that the agent has looked since.
    sandbox.wish("b", "other");
    sandbox.wait_phase("mid/b", "Active");
    assert_eq!(sandbox.generations("mid/a"), 2);
}

#[test]
fn a_crash_at_each_boundary_is_resumed_from_the_record() {
    for (boundary, attempts) in [
        ("before-started", 1),
        ("after-started", 2),
        ("after-effect", 2),
        ("after-succeeded", 1),
    ] {
        let mut sandbox = Sandbox::new();
        sandbox.start(Some(&format!("*:{boundary}")));
        sandbox.wish("a", "one");
        sandbox.wait_death();
        sandbox.start(Some(&format!("*:{boundary}")));
        sandbox.wait_phase("mid/a", "Active");
        assert_eq!(sandbox.content("a"), "one");
        assert_eq!(sandbox.generations("mid/a"), 1, "{boundary}");
        let started = sandbox
            .evs("mid/a", 1)
            .iter()
            .filter(|ev| *ev == "started")
            .count();
        assert_eq!(started, attempts, "{boundary}");
        assert!(
            sandbox.command(&["audit"]).contains("verified"),
            "{boundary}"
        );
    }
}

#[test]
fn faulty_wishes_are_blocked_with_field_and_hint_and_change_nothing() {
    let mut sandbox = Sandbox::new();
    sandbox.start(None);
    sandbox.wish("a", "one");
    sandbox.wait_phase("mid/a", "Active");
    for (text, field) in [
        ("{\"driver\":\"file\",", "(document)"),
        (
            "{\"driver\":\"file\",\"driver\":\"file\",\"nodes\":[\"n1\"]}",
            "driver",
        ),
        ("{\"driver\":\"fiel\",\"nodes\":[\"n1\"]}", "driver"),
        (
            "{\"driver\":\"file\",\"nodes\":[\"n7\"],\"params\":{\"path\":\"/x\",\"content\":\"\"}}",
            "nodes[0]",
        ),
        (
            "{\"driver\":\"file\",\"nodes\":[\"n1\"],\"params\":{\"pth\":\"/x\"}}",
            "params.pth",
        ),
    ] {
        sandbox.write_wish("a", text);
        sandbox.wait(&format!("a complaint about {field}"), |sandbox| {
            let status = sandbox.status("mid/a");
            let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
            status["phase"] == "Blocked" && conditions.iter().any(|found| found["field"] == field)
        });
    }
    assert_eq!(sandbox.content("a"), "one");
    assert_eq!(sandbox.generations("mid/a"), 1);
    sandbox.wish("a", "healed");
    sandbox.wait("the healed content", |sandbox| {
        sandbox.content("a") == "healed"
    });
}

#[test]
fn an_emptied_wish_and_an_editors_file_stop_nothing() {
    let mut sandbox = Sandbox::new();
    sandbox.start(None);
    sandbox.wish("a", "one");
    sandbox.wait_phase("mid/a", "Active");
    sandbox.write_wish("a", "");
    sandbox.write_file("mid/.b.json.swp", "x");
    sandbox.write_file("mid/c.json~", "x");
    sandbox.wait_phase("mid/a", "Blocked");
    assert_eq!(sandbox.content("a"), "one");
    let all = sandbox.command(&["status", "--json"]);
    assert!(!all.contains("mid/b") && !all.contains("mid/c"), "{all}");
}

#[test]
fn a_deleted_wish_is_removed_after_the_grace_and_a_renamed_one_is_adopted() {
    let mut sandbox = Sandbox::new();
    sandbox.start(None);
    sandbox.wish("a", "one");
    sandbox.wait_phase("mid/a", "Active");
    sandbox.rename("mid/a.json", "mid/b.json");
    sandbox.wait_phase("mid/b", "Active");
    sandbox.wait_phase("mid/a", "Removed");
    assert_eq!(
        sandbox.evs("mid/b", 1),
        ["decision"],
        "nothing that runs is touched"
    );
    sandbox.remove("mid/b.json");
    sandbox.wait_phase("mid/b", "Removed");
    assert!(!sandbox.target("a").exists());
}

#[test]
fn two_files_of_one_deployment_and_two_claims_of_one_path_are_blocked() {
    let mut sandbox = Sandbox::new();
    sandbox.start(None);
    sandbox.wish("a", "one");
    sandbox.wait_phase("mid/a", "Active");
    let wish = sandbox.wish_text("a", "two");
    sandbox.write_file("mid/copy.json", &wish);
    sandbox.wait_phase("mid/copy", "Blocked");
    assert_eq!(sandbox.content("a"), "one");
    sandbox.write_file("mid/a.cbor", "x");
    sandbox.wait_phase("mid/a", "Blocked");
    assert_eq!(sandbox.content("a"), "one");
}

#[test]
fn a_pause_holds_a_change_back_until_it_ends() {
    let mut sandbox = Sandbox::new();
    sandbox.start(None);
    sandbox.wish("a", "one");
    sandbox.wait_phase("mid/a", "Active");
    assert!(sandbox.command(&["pause", "mid/a"]).contains("paused"));
    sandbox.wish("a", "two");
    sandbox.wait_phase("mid/a", "Blocked");
    assert_eq!(sandbox.content("a"), "one");
    assert!(sandbox.command(&["resume", "mid/a"]).contains("resumed"));
    sandbox.wait("the content", |sandbox| sandbox.content("a") == "two");
}

#[test]
fn an_idle_agent_writes_nothing() {
    let mut sandbox = Sandbox::new();
    sandbox.start(None);
    sandbox.wish("a", "one");
    sandbox.wait_phase("mid/a", "Active");
    let before = sandbox.stamps();
    // Three heartbeats, and a second deployment elsewhere that makes the agent look around.
    sandbox.wish("b", "two");
    sandbox.wait_phase("mid/b", "Active");
    sandbox.wait_time(Duration::from_secs(3));
    let after = sandbox.stamps();
    for (path, stamp) in before {
        let own = path.contains("/mid/a/");
        assert!(
            !own || after.get(&path) == Some(&stamp),
            "{path} was written"
        );
    }
}

#[test]
fn a_lost_record_is_observed_and_planned_again_and_nothing_is_redone() {
    let mut sandbox = Sandbox::new();
    sandbox.start(None);
    sandbox.wish("a", "one");
    sandbox.wait_phase("mid/a", "Active");
    let uid = sandbox.uids();
    sandbox.kill();
    sandbox.remove_tree("run/mid/a");
    sandbox.start(None);
    sandbox.wait_phase("mid/a", "Active");
    assert_eq!(sandbox.uids(), uid);
    assert_eq!(sandbox.evs("mid/a", 1), ["decision"]);
}

#[test]
fn secrets_are_sealed_and_opened_by_the_node_alone() {
    let mut sandbox = Sandbox::new();
    sandbox.start(None);
    sandbox.wish("a", "one");
    sandbox.wait_phase("mid/a", "Active");
    sandbox.command_with_input(&["secret", "set", "mid/a", "owner"], "correct horse\n");
    assert_eq!(
        sandbox.command(&["secret", "show", "mid/a", "owner"]),
        "correct horse\n"
    );
    let everything = sandbox.all_record_bytes();
    assert!(
        !everything
            .windows(13)
            .any(|window| window == b"correct horse")
    );
}
