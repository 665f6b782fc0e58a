//! A round of our own Raft, log and TLS, without a filesystem: three members in one process.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use vfsd::cli::setup::{self, NewMember};
use vfsd::config::NodeConfig;
use vfsd::consensus::node::{Node, NodeSettings};
use vfsd::consensus::wire::{ClusterChange, Request};
use vfsd::daemon::node_settings;
use vfsd::fs::proposer::{ChangeSink, Proposal};
use vfsd::state_machine::command::{Author, Command, Grant, JoinToken, SetXattr, XattrMode};
use vfsd::state_machine::ids::{InodeNo, LogIndex};
use vfsd::state_machine::log_time::WallTime;
use vfsd::state_machine::outcome::Applied;
use vfsd::storage::data_dir::DataDir;
use vfsd::transport::token::Token;

use crate::Plan;
use crate::samples::SAVE;

struct NoSink;

impl ChangeSink for NoSink {
    fn before_publication(&self, _: &[Applied]) {}
    fn applied(&self, _: &Applied) {}
    fn snapshot_installed(&self, _: LogIndex) {}
}

/// A member in this process.
struct Member {
    new: NewMember,
    node: Node,
}

async fn start(new: NewMember) -> anyhow::Result<Member> {
    let data = DataDir::open(&new.data_dir)?;
    let config = NodeConfig::load(&data.config_file())?;
    let runtime_dir = new.data_dir.join("run");
    std::fs::create_dir_all(&runtime_dir)?;
    let settings = node_settings(&data, &config, &runtime_dir, NodeSettings::SEGMENT_BYTES)?;
    let node = Node::start(settings, Arc::new(NoSink)).await?;
    Ok(Member { new, node })
}

fn new_member(name: &str, dir: &Path) -> anyhow::Result<NewMember> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    NewMember::new(name, &format!("127.0.0.1:{port}"), dir)
}

async fn three(dir: &Path) -> anyhow::Result<Vec<Member>> {
    let first = new_member("n1", &dir.join("n1"))?;
    setup::found_cluster(&first, "bench")?;
    let first = start(first).await?;
    let mut members = vec![first];
    for name in ["n2", "n3"] {
        let first = &members[0];
        let ca = vfsd::transport::identity::digest(first.node.core().authority.certificate());
        let expires = WallTime {
            secs: vfsd::clock::wall().secs + 3600,
            nanos: 0,
        };
        let token = Token::generate(ca, expires.secs);
        let remembered = JoinToken {
            digest: token.digest(),
            grant: Grant::Writer,
            expires,
            name: None,
        };
        change(&first.node, ClusterChange::TokenCreate(remembered)).await?;
        let joining = new_member(name, &dir.join(name))?;
        setup::join_cluster(&joining, &first.new.listen, &token).await?;
        let joined = start(joining).await?;
        change(&first.node, ClusterChange::Promote { name: name.into() }).await?;
        members.push(joined);
    }
    Ok(members)
}

async fn change(node: &Node, change: ClusterChange) -> anyhow::Result<()> {
    let until = Duration::from_secs(30);
    let reply = node
        .core()
        .ask_leader_until(until, || Request::Change(change.clone()))
        .await;
    reply.map(drop).map_err(|error| anyhow::anyhow!("{error}"))
}

/// Milliseconds of a committed and applied entry of 256 B, proposed at the leader.
pub fn measure(plan: &Plan) -> anyhow::Result<Vec<f64>> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let members = three(&plan.dir.join("raw")).await?;
        let proposer = members[0].node.proposer();
        let mut samples = Vec::with_capacity(plan.samples);
        for number in 0..plan.samples * 21 / 20 {
            let start = Instant::now();
            let value = SAVE.to_vec();
            let set = SetXattr {
                inode: InodeNo::ROOT,
                name: "user.bench".into(),
                value,
                mode: XattrMode::Any,
            };
            let command = Command::SetXattr(set);
            let proposal = Proposal {
                author: Author::default(),
                fence: None,
                command,
                bound_to: None,
            };
            let committed = proposer.propose(proposal).await.context("a raw round")?;
            committed.outcome.context("a raw round")?;
            if number >= plan.samples / 20 {
                samples.push(start.elapsed().as_secs_f64() * 1e3);
            }
        }
        for member in members {
            member.node.stop().await;
        }
        Ok(samples)
    })
}
