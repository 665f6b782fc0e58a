//! A member that is a cluster of its own, for tests of parts that need all the others.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use crate::cli::setup::{NewMember, found_cluster};
use crate::config::NodeConfig;
use crate::consensus::node::Node;
use crate::daemon::node_settings;
use crate::storage::data_dir::DataDir;

const SEGMENT: u64 = 22 * 1024 * 1024;

/// Founds a cluster whose only member has its data in `root/data`.
pub fn found(root: &Path) -> DataDir {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = free.local_addr().unwrap().to_string();
    let member = NewMember::new("n1", &listen, &root.join("data")).unwrap();
    let member = NewMember {
        log_segment_bytes: SEGMENT,
        ..member
    };
    found_cluster(&member, "test").unwrap();
    DataDir::open(&member.data_dir).unwrap()
}

/// Starts the member that was founded in `root`.
pub async fn start(root: &Path, data: &DataDir) -> Node {
    let config = NodeConfig::load(&data.config_file()).unwrap();
    let settings = node_settings(data, &config, root, SEGMENT).unwrap();
    Node::start(settings, Arc::default()).await.unwrap()
}
