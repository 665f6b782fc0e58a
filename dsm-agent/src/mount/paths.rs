//! Where things lie in the tree. The only file that knows the layout below `/run` and `/lk/dsm`.

use crate::engine::id::{DeploymentId, Generation};

/// Directories with wishes.
pub const WISH_ROOTS: [&str; 2] = ["mid", "ctx"];

/// The filesystem's own view of this node.
pub const STATUS: &str = ".vfs/status.json";

/// All members.
pub const MEMBERS: &str = ".vfs/members.json";

/// Directory of presence locks.
pub const AGENTS: &str = "lk/dsm/agents";

/// Directory of node records.
pub const NODES: &str = "run/nodes";

/// Presence of `node`.
pub fn presence(node: &str) -> String {
    format!("{AGENTS}/{node}")
}

/// General facts of `node`.
pub fn node_record(node: &str) -> String {
    format!("{NODES}/{node}.json")
}

/// What deployments have for themselves on `node`.
pub fn claims(node: &str) -> String {
    format!("{NODES}/{node}.claims.json")
}

/// Directory of a deployment's locks.
pub fn lock_dir(id: &DeploymentId) -> String {
    format!("lk/dsm/{id}")
}

/// A deployment's lock, by its name below [`lock_dir`].
pub fn lock(id: &DeploymentId, name: &str) -> String {
    format!("lk/dsm/{id}/{name}")
}

/// A deployment's record.
pub fn record(id: &DeploymentId) -> String {
    format!("run/{id}")
}

/// The planner's directory.
pub fn plans(id: &DeploymentId) -> String {
    format!("run/{id}/plans")
}

/// The last accepted wish.
pub fn wish_record(id: &DeploymentId) -> String {
    format!("run/{id}/plans/wish.json")
}

/// A generation.
pub fn generation(id: &DeploymentId, generation: Generation) -> String {
    format!("run/{id}/plans/{}", generation.directory())
}

/// Where a generation is put together.
pub fn generation_draft(id: &DeploymentId, generation: Generation) -> String {
    format!("run/{id}/plans/.{}.tmp", generation.directory())
}

/// A file of a generation.
pub fn generation_file(id: &DeploymentId, number: Generation, name: &str) -> String {
    format!("{}/{name}", generation(id, number))
}

/// Directory of a node's logs.
pub fn log_dir(id: &DeploymentId, node: &str) -> String {
    format!("run/{id}/log/{node}")
}

/// A node's log of a generation.
pub fn log(id: &DeploymentId, node: &str, generation: Generation) -> String {
    format!("run/{id}/log/{node}/{}.jsonl", generation.directory())
}

/// Directory of observations.
pub fn observed_dir(id: &DeploymentId) -> String {
    format!("run/{id}/observed")
}

/// A node's observation.
pub fn observed(id: &DeploymentId, node: &str) -> String {
    format!("run/{id}/observed/{node}.json")
}

/// Directory of requests.
pub fn requests(id: &DeploymentId) -> String {
    format!("run/{id}/requests")
}

/// Directory of notes on requests.
pub fn request_notes(id: &DeploymentId) -> String {
    format!("run/{id}/plans/requests")
}

/// Directory of sealed secrets.
pub fn secrets(id: &DeploymentId) -> String {
    format!("run/{id}/secrets")
}

/// A sealed secret.
pub fn secret(id: &DeploymentId, key: &str) -> String {
    format!("run/{id}/secrets/{key}")
}

/// Status for machines; `run/ID/status.json` links to it.
pub fn status_json(id: &DeploymentId) -> String {
    format!("run/{id}/plans/status.json")
}

/// Status for people.
pub fn status_text(id: &DeploymentId) -> String {
    format!("run/{id}/plans/status.txt")
}

/// What the deployment offers.
pub fn outputs(id: &DeploymentId) -> String {
    format!("run/{id}/plans/outputs")
}
