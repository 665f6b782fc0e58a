//! Where the tree is not ext4, on purpose: each difference with its reason, and nothing else differs.
//!
//! `probes.py` asks both; docs/SEMANTICS.md has the same list in words.

use std::collections::BTreeMap;

use crate::lockstep::scratch::Scratch;
use crate::{Cluster, run};

/// A probe, what ext4 answers, what the tree answers, and why.
type Difference = (&'static str, &'static str, &'static str, &'static str);

const DIFFERENCES: &[Difference] = &[
    (
        "fallocate_collapse_range",
        "ok, 15904",
        "ENOTSUP",
        "no range is cut out of a file or put in",
    ),
    (
        "fallocate_insert_range",
        "ok, 24096",
        "ENOTSUP",
        "no range is cut out of a file or put in",
    ),
    ("file_of_17_mib", "ok", "EFBIG", "a file has at most 16 MiB"),
    (
        "write_behind_16_mib",
        "ok",
        "EFBIG",
        "a file has at most 16 MiB",
    ),
    (
        "fallocate_to_17_mib",
        "ok, 17825792",
        "EFBIG",
        "a file has at most 16 MiB",
    ),
    (
        "open_tmpfile",
        "ok",
        "ENOTSUP",
        "a file without a name would be of one node only",
    ),
    (
        "open_direct_unaligned",
        "EINVAL",
        "100",
        "there are no blocks to keep to",
    ),
    (
        "links_of_one_file",
        "ok",
        "EMLINK",
        "a file has at most 1,000 names: each is an event of a change",
    ),
    (
        "rename_whiteout",
        "ok",
        "EINVAL",
        "the tree is no upper layer of an overlay",
    ),
    (
        "xattr_of_20000_bytes",
        "ENOSPC",
        "20000",
        "an inode has 64 KiB of them, ext4 one block",
    ),
    (
        "xattr_of_65536_bytes",
        "ENOSPC",
        "E2BIG",
        "an inode has 64 KiB of them, names included",
    ),
    (
        "acl_of_an_access",
        "ok",
        "ENOTSUP",
        "modes decide, there are no access control lists",
    ),
    (
        "ioctl_of_flags",
        "ok",
        "ENOTTY",
        "there are no file flags (chattr)",
    ),
    (
        "ioctl_of_immutable",
        "ok",
        "ENOTTY",
        "there are no file flags (chattr)",
    ),
    (
        "ioctl_of_extents",
        "EINVAL",
        "ENOTSUP",
        "there are no blocks to tell of (filefrag)",
    ),
    (
        "times_after_2446",
        "15032385535",
        "20000000000",
        "ext4 cannot store them",
    ),
    (
        "atime_of_a_read",
        "False",
        "True",
        "reading changes nothing (noatime)",
    ),
    (
        "set_user_id_program",
        "12",
        "0",
        "mounted nosuid: who may write the tree is root nowhere by that",
    ),
    ("device_of_the_tree", "ok", "EACCES", "mounted nodev"),
    (
        "size_of_a_directory_of_two",
        "4096",
        "2",
        "a directory's size is the number of its names",
    ),
    (
        "birth_time",
        "True",
        "False",
        "an inode's birth is not told",
    ),
];

#[test]
fn the_tree_differs_from_ext4_as_listed_and_in_nothing_else() {
    let (cluster, scratch) = (Cluster::start(), Scratch::new());
    let probes = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mount/probes.py");
    // One probe becomes another user, who must reach the folders.
    let ask = |folder: &str| {
        format!("mkdir {folder}; chmod 755 . {folder}/..; python3 {probes} {folder}")
    };
    let ext4 = run(
        &cluster,
        &ask(&scratch.path().join("probes").display().to_string()),
    );
    let tree = run(&cluster, &ask("$A/probes"));
    let tree: BTreeMap<&str, &str> = tree
        .lines()
        .filter_map(|line| line.split_once(' '))
        .collect();
    let mut wrong = Vec::new();
    for (probe, answer) in ext4.lines().filter_map(|line| line.split_once(' ')) {
        let listed = DIFFERENCES.iter().find(|(name, ..)| *name == probe);
        let (on_ext4, on_tree) =
            listed.map_or((answer, answer), |(_, ext4, tree, _)| (*ext4, *tree));
        let seen = tree.get(probe).copied().unwrap_or("no answer");
        if (answer, seen) != (on_ext4, on_tree) {
            wrong.push(format!(
                "{probe}: ext4 {answer}, tree {seen}; listed {on_ext4} and {on_tree}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{:#?}", wrong);
    let asked = |name| {
        ext4.lines()
            .any(|line| line.starts_with(&format!("{name} ")))
    };
    assert!(
        DIFFERENCES.iter().all(|(name, ..)| asked(name)),
        "a difference that nobody asks for"
    );
}
