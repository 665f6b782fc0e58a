//! A round of our own Raft, log and TLS, without a filesystem: three members, a process each as in a real cluster.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::Runtime;
use vfsd::cli::setup::{self, NewMember};
use vfsd::config::NodeConfig;
use vfsd::consensus::node::{Node, NodeSettings};
use vfsd::consensus::wire::{ClusterChange, Request};
use vfsd::daemon::node_settings;
use vfsd::fs::feed::ChangeFeed;
use vfsd::fs::proposer::{Proposal, Proposer};
use vfsd::limits::RUNTIME_WORKERS;
use vfsd::state_machine::command::{Author, Command, Grant, JoinToken, SetXattr, XattrMode};
use vfsd::state_machine::ids::InodeNo;
use vfsd::state_machine::log_time::WallTime;
use vfsd::storage::data_dir::DataDir;
use vfsd::transport::token::Token;

use super::daemon::free_port;
use super::processes::Process;
use crate::calls::SAVE;

/// The leader in this process, and the other two members as child processes.
pub struct RawRound {
    runtime: Runtime,
    leader: Node,
    _others: Vec<Process>,
}

impl Drop for RawRound {
    fn drop(&mut self) {
        self.runtime.block_on(self.leader.stop());
    }
}

impl RawRound {
    /// Forms the cluster, with its data in `dir`.
    pub fn start(dir: &Path) -> anyhow::Result<Self> {
        let runtime = runtime()?;
        let (leader, others) = runtime.block_on(three(dir))?;
        Ok(Self {
            runtime,
            leader,
            _others: others,
        })
    }

    /// What commits and applies an entry of 256 B, proposed at the leader.
    pub fn call(&self) -> impl FnMut(usize) -> anyhow::Result<()> + '_ {
        let proposer = self.leader.proposer();
        move |_| self.runtime.block_on(round(&*proposer))
    }
}

async fn start(data_dir: &Path) -> anyhow::Result<Node> {
    let data = DataDir::open(data_dir)?;
    let config = NodeConfig::load(&data.config_file())?;
    let runtime_dir = data_dir.join("run");
    std::fs::create_dir_all(&runtime_dir)?;
    let settings = node_settings(&data, &config, &runtime_dir, NodeSettings::SEGMENT_BYTES)?;
    Node::start(settings, Arc::new(ChangeFeed::default())).await
}

/// What a child process does: runs the member in `data_dir` until it is killed.
pub fn run_member(data_dir: &Path) -> anyhow::Result<()> {
    runtime()?.block_on(async {
        let _node = start(data_dir).await?;
        std::future::pending().await
    })
}

fn runtime() -> anyhow::Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_WORKERS)
        .enable_all()
        .build()?)
}

fn new_member(name: &str, dir: &Path) -> anyhow::Result<NewMember> {
    NewMember::new(name, &format!("127.0.0.1:{}", free_port()?), dir)
}

async fn three(dir: &Path) -> anyhow::Result<(Node, Vec<Process>)> {
    let first = new_member("n1", &dir.join("n1"))?;
    setup::found_cluster(&first, "bench")?;
    let leader = start(&first.data_dir).await?;
    let mut others = Vec::new();
    for name in ["n2", "n3"] {
        let ca = leader.core().authority.digest();
        let secs = vfsd::clock::wall().secs + 3600;
        let token = Token::generate(ca, secs);
        let remembered = JoinToken {
            digest: token.digest(),
            grant: Grant::Writer,
            expires: WallTime { secs, nanos: 0 },
            name: None,
        };
        change(&leader, ClusterChange::TokenCreate(remembered)).await?;
        let joining = new_member(name, &dir.join(name))?;
        setup::join_cluster(&joining, &first.listen, &token).await?;
        let mut member = std::process::Command::new(std::env::current_exe()?);
        member.arg("--raw-member").arg(&joining.data_dir);
        others.push(Process::spawn(&mut member)?);
        change(&leader, ClusterChange::Promote { name: name.into() }).await?;
    }
    Ok((leader, others))
}

async fn change(node: &Node, change: ClusterChange) -> anyhow::Result<()> {
    let until = Duration::from_secs(30);
    let reply = node
        .core()
        .link
        .ask_leader_until(until, || Request::Change(change.clone()))
        .await;
    reply.map(drop).map_err(|error| anyhow::anyhow!("{error}"))
}

async fn round(proposer: &dyn Proposer) -> anyhow::Result<()> {
    let set = SetXattr {
        inode: InodeNo::ROOT,
        name: "user.bench".into(),
        value: SAVE.to_vec(),
        mode: XattrMode::Any,
    };
    let proposal = Proposal {
        author: Author::default(),
        fence: None,
        command: Command::SetXattr(set),
        bound_to: None,
    };
    let committed = proposer.propose(proposal).await.context("a raw round")?;
    committed.outcome.context("a raw round")?;
    Ok(())
}
