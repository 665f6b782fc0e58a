//! Conformance suites of others on a mount: pjdfstest asks for POSIX, call by call; fsx writes one file at random and
//! knows what must be read.
//!
//! Both are installed by version (`ensure_tools` in scripts/lib/packages.sh). Not here: our own comparison with ext4
//! (`lockstep`).

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use system_tests::seed;
use system_tests::wait::wait_for;

use crate::lockstep::scratch::Scratch;
use crate::{Cluster, run};

/// What fails of pjdfstest on purpose, with its reason. What passes all the same is an error, too.
const FAILING: &[(&str, &str)] = &[("open::interact_2gb", "a file has at most 16 MiB: EFBIG")];
/// What pjdfstest leaves out, with its reason.
const SKIPPED: &[(&str, &str)] = &[(
    "link::link_count_max",
    "Linux tells no LINK_MAX of a filesystem in user space",
)];

const PJDFSTEST: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
stat_st_birthtime = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.01
allow_remount = REMOUNT
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#;

/// The kernel lets go of a removed file within this time.
const REMOUNT_MAX: Duration = Duration::from_secs(20);

/// A program of `target/tools`.
fn tool(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    // target/PROFILE/deps/TEST
    let target = test.ancestors().nth(3).unwrap();
    let path = target.join("tools/bin").join(name);
    assert!(
        path.exists(),
        "{} is missing: scripts/test.sh installs it",
        path.display()
    );
    path
}

#[test]
fn pjdfstest_fails_in_nothing_but_what_is_listed() {
    let (cluster, scratch) = (Cluster::start(), Scratch::new());
    run(&cluster, "mkdir $A/pjdfstest");
    let text = pjdfstest(&cluster, &scratch, false, &[]);
    let failed = with_result(&text, "FAILED");
    assert_eq!(failed, names(FAILING), "failed:\n{}", told(&text));
    let (remounted, skipped): (BTreeSet<&str>, _) = with_result(&text, "skipped")
        .into_iter()
        .partition(|name| name.contains("::erofs_"));
    assert_eq!(skipped, names(SKIPPED), "skipped:\n{}", told(&text));
    assert!(
        remounted.len() > 10,
        "those that remount the tree: {remounted:?}"
    );
    for name in remounted {
        let said = wait_for(name, REMOUNT_MAX, || {
            let name = format!("pjdfstest::tests::{name}");
            let text = pjdfstest(&cluster, &scratch, true, &["--exact", &name]);
            // The kernel refuses while it has a file that is removed and not let go of yet.
            Ok((!text.contains("mount point is busy")).then_some(text))
        });
        let text = said.unwrap();
        assert!(text.contains("0 failed, 0 skipped, 1 passed"), "{text}");
    }
    assert_eq!(
        run(&cluster, "ls -A $A/pjdfstest; ls -A $B/pjdfstest"),
        "",
        "left behind"
    );
}

/// mount(8) gives a remount to the helper of fuse3, where that is installed, which looks for a program to mount with.
const WITHOUT_HELPER: &str = r#"
    for helper in /sbin/mount.fuse /sbin/mount.fuse3; do
      if [ -f $helper ]; then mount --bind "$0" "$(readlink -f $helper)"; fi
    done
    exec "$@"
"#;

/// What pjdfstest says on the first node.
fn pjdfstest(cluster: &Cluster, scratch: &Scratch, remount: bool, which: &[&str]) -> String {
    let settings = cluster.folder.path().join("pjdfstest.toml");
    std::fs::write(
        &settings,
        PJDFSTEST.replace("REMOUNT", &remount.to_string()),
    )
    .unwrap();
    let helper = cluster.folder.path().join("mount-helper");
    std::fs::write(&helper, "#!/bin/sh\nexec mount -i \"$@\"\n").unwrap();
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new("timeout");
    command
        .args(["300", "unshare", "--mount", "sh", "-c", WITHOUT_HELPER])
        .arg(&helper)
        .arg(tool("pjdfstest"))
        .arg("-c")
        .arg(&settings)
        .arg("-p")
        .arg(cluster.path(1, "pjdfstest"))
        .arg("-s")
        .arg(scratch.path())
        .args(which)
        .env("RUST_BACKTRACE", "0");
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("Summary:"), "it ended early:\n{text}");
    text
}

fn names<'a>(list: &[(&'a str, &str)]) -> BTreeSet<&'a str> {
    list.iter().map(|(name, _)| *name).collect()
}

fn with_result<'a>(text: &'a str, result: &str) -> BTreeSet<&'a str> {
    let lines = text.lines().filter_map(|line| line.strip_suffix(result));
    lines.map(str::trim).collect()
}

/// What pjdfstest says of the tests that are not ok.
fn told(text: &str) -> String {
    let lines = text
        .lines()
        .filter(|line| !line.ends_with(" ok") && !line.is_empty());
    lines.collect::<Vec<_>>().join("\n")
}

/// All operations that fsx knows, across close and open, while the second node reads; in the end both nodes have the
/// same bytes, and so they are after a remount.
#[test]
fn fsx_reads_what_it_wrote_while_another_node_reads() {
    let first = seed::choose("fsx_reads_what_it_wrote_while_another_node_reads");
    let cluster = Cluster::start();
    for (number, (len_max, operation_max)) in
        [(262_144, 65_536), (20_000, 5_000), (4_194_304, 1_048_576)]
            .into_iter()
            .enumerate()
    {
        let seed = first + number as u64;
        let settings = format!(
            "flen = {len_max}\n[opsize]\nmax = {operation_max}\n[weights]\nclose_open = 3\nread = 10\nwrite = 10\n\
             mapread = 10\nmapwrite = 10\ninvalidate = 1\ntruncate = 5\nfsync = 1\nfdatasync = 1\n\
             posix_fallocate = 2\npunch_hole = 3\nsendfile = 3\nposix_fadvise = 1\ncopy_file_range = 3\n"
        );
        std::fs::write(cluster.folder.path().join("fsx.toml"), settings).unwrap();
        let script = r#"
            touch $A/fsx reading
            (while [ -e reading ]; do cat $B/fsx > /dev/null; done) & reader=$!
            FSX -f fsx.toml -N 1500 -S SEED -P . $A/fsx > log 2>&1 || { tail -n 30 log; exit 1; }
            rm reading; wait $reader
            sync $A/fsx; cmp $A/fsx $B/fsx; cp $A/fsx kept
            # After an unmount the tree is mounted anew within a second or so.
            umount -l $A; until cmp -s kept $A/fsx; do :; done; rm $A/fsx; [ ! -e $B/fsx ]
        "#;
        let script = script
            .replace("FSX", &tool("fsx").display().to_string())
            .replace("SEED", &seed.to_string());
        run(&cluster, &script);
    }
}
