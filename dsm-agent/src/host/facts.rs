//! General facts of this node, for `/run/nodes/NODE.json`.

use std::collections::BTreeMap;
use std::path::Path;

use drivers::driver::NodeFacts;
use serde_json::Value;

use crate::mount::run_store::text;

/// Reads the facts; `members` is `/.vfs/members.json`.
pub fn node_facts(node: &str, members: &Value, labels: BTreeMap<String, String>) -> NodeFacts {
    let listed = members
        .get("members")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let address = listed
        .filter(|member| text(member, "name") == node)
        .map(|member| text(member, "address"))
        .map(|address| {
            address
                .rsplit_once(':')
                .map_or(address.clone(), |(host, _)| host.to_owned())
        })
        .next();
    NodeFacts {
        address: address.unwrap_or_default(),
        os: os_name(Path::new("/etc/os-release")),
        cpus: std::thread::available_parallelism()
            .map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX)),
        memory_mib: memory_mib(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default()),
        labels,
    }
}

fn os_name(release: &Path) -> String {
    let content = std::fs::read_to_string(release).unwrap_or_default();
    let value = |key: &str| {
        let line = content
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_default().trim_matches('"').to_owned()
    };
    format!("{} {}", value("ID"), value("VERSION_ID"))
        .trim()
        .to_owned()
}

fn memory_mib(meminfo: &str) -> u64 {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| {
        line.trim()
            .trim_end_matches(" kB")
            .trim()
            .parse::<u64>()
            .ok()
    });
    kib.unwrap_or(0) / 1024
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_address_comes_from_the_members_list_without_its_port() {
        let members = json!({"members": [{"name": "n1", "address": "10.77.0.1:7601"}]});
        assert_eq!(
            node_facts("n1", &members, BTreeMap::new()).address,
            "10.77.0.1"
        );
        assert_eq!(
            memory_mib("MemTotal:        2048000 kB\nMemFree: 1 kB\n"),
            2000
        );
    }
}
