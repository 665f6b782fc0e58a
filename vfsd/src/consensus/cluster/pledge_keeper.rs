//! Asks the other members at the start whether this one has forgotten something, and tells them now and then what its
//! disk holds.
//!
//! Invariants: nothing is voted for, acknowledged or proposed before a majority has compared; one member that remembers
//! more is enough to end this one; the file with what is remembered is whole, and at most [`PLEDGE_TELL_BEATS`]
//! behind. Not here: what is compared (`pledges.rs`); who is refused meanwhile (`request_handler.rs`,
//! `leader_link.rs`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::time::Instant;

use crate::consensus::cluster::peers::Purpose;
use crate::consensus::cluster::peers_file::{self, Addresses};
use crate::consensus::cluster::pledges::Known;
use crate::consensus::core::Core;
use crate::consensus::permissions;
use crate::consensus::standing::peer_of;
use crate::consensus::wire::{Greeting, Reply, Request};
use crate::limits::{HEARTBEAT_INTERVAL, PLEDGE_REPEAT_EVERY, PLEDGE_TELL_BEATS, PLEDGE_TIMEOUT};
use crate::state_machine::ids::NodeId;
use crate::state_machine::level::Level;
use crate::storage::atomic_file;
use crate::storage::disk::{self, Disk};
use crate::storage::record::Pledge;
use crate::storage::start_count::StartCount;
use crate::trouble::Trouble;

/// What is remembered on disk; nothing if the file is not there. One that makes no sense remembers nothing: that may
/// hide an older copy of another member, and ends none that is whole.
pub fn load(disk: &dyn Disk, path: &Path) -> BTreeMap<u64, Known> {
    let Ok(text) = disk.read(path) else {
        return BTreeMap::new();
    };
    serde_json::from_slice(&text).unwrap_or_else(|error| {
        tracing::warn!(file = %path.display(), %error, "cannot read what was remembered of the others");
        BTreeMap::new()
    })
}

/// See the module.
pub struct PledgeKeeper {
    core: Arc<Core>,
    disk: Arc<dyn Disk>,
    file: PathBuf,
    start: StartCount,
    /// Members as they were told when this one joined: its own log may not name any yet.
    invited_by: Addresses,
    told: BTreeMap<u64, (Known, Instant)>,
    saved: BTreeMap<u64, Known>,
    trouble: Trouble,
}

impl PledgeKeeper {
    /// Keeps `file` on `disk`; this start is `start`, and `peers` the file with the addresses of the members.
    pub fn new(
        core: Arc<Core>,
        disk: Arc<dyn Disk>,
        file: PathBuf,
        start: StartCount,
        peers: &Path,
    ) -> Self {
        let invited_by = peers_file::load(&*disk, peers);
        Self {
            core,
            disk,
            file,
            start,
            invited_by,
            told: BTreeMap::new(),
            saved: BTreeMap::new(),
            trouble: Trouble::default(),
        }
    }

    /// Runs until it is dropped.
    pub async fn run(mut self) {
        self.begin().await;
        let mut beats = self.core.beat.every(PLEDGE_TELL_BEATS);
        loop {
            self.save().await;
            self.tell().await;
            beats.next().await;
        }
    }

    /// Asks all until enough have compared, then takes part.
    async fn begin(&self) {
        let mut trouble = Trouble::default();
        loop {
            let asked = self.others().into_iter().map(|(id, address)| async move {
                if greet(&self.core, id, &address).await.is_some() {
                    self.core.pledges.agreed_by(id);
                }
            });
            futures_util::future::join_all(asked).await;
            if self.core.unfit.is_declared() {
                return;
            }
            if self.is_enough() {
                match self.note_start().await {
                    Ok(()) => return,
                    Err(error) if trouble.is_new(&error) => {
                        tracing::error!(%error, "this start cannot be counted: this node does not take part");
                    }
                    Err(_) => {}
                }
            }
            tokio::time::sleep(HEARTBEAT_INTERVAL).await;
        }
    }

    async fn note_start(&self) -> std::io::Result<()> {
        let start = self.start.clone();
        disk::run_blocking(&*self.disk, move || start.note()).await??;
        self.core.pledges.take_part(self.start.this());
        self.core.decide_elections();
        Ok(())
    }

    /// As many as make a majority of the voters, with this member. Which ones does not matter: the voters of today may
    /// be others than those that this member knows of.
    fn is_enough(&self) -> bool {
        let (agreed, needed) = self.core.agreement();
        agreed >= needed
    }

    fn others(&self) -> Addresses {
        let metrics = self.core.view.metrics();
        let membership = metrics.membership_config.membership();
        let known = membership.nodes();
        let mut others: Addresses = known.map(|(id, node)| (*id, node.addr.clone())).collect();
        if others.is_empty() {
            others.clone_from(&self.invited_by);
        }
        others.retain(|(id, _)| *id != self.core.view.id);
        others
    }

    /// Tells whoever has not heard the newest; learners do not tell each other.
    async fn tell(&mut self) {
        let own = self.core.own_known();
        let mut others = self.others();
        if !self.core.view.is_voter(self.core.view.id) {
            others.retain(|(id, _)| self.core.view.is_voter(*id));
        }
        let is_due = |id: &u64| {
            let told = self.told.get(id);
            told.is_none_or(|(known, at)| *known != own || at.elapsed() > PLEDGE_REPEAT_EVERY)
        };
        let told = others
            .iter()
            .filter(|(id, _)| is_due(id))
            .map(|(id, address)| async {
                let heard = greet(&self.core, *id, address).await;
                heard.map(|known| (*id, known))
            });
        let told = futures_util::future::join_all(told).await;
        let now = Instant::now();
        for (id, known) in told.into_iter().flatten() {
            self.told.insert(id, (known, now));
        }
    }

    /// Makes what is remembered durable, if it is more than before.
    async fn save(&mut self) {
        let state = self.core.view.state();
        let metrics = self.core.view.metrics();
        let membership = metrics.membership_config.membership();
        let is_member =
            |id: u64| membership.get_node(&id).is_some() || state.member(NodeId(id)).is_some();
        let known = self.core.pledges.all(is_member);
        if known == self.saved {
            return;
        }
        let (disk, file) = (Arc::clone(&self.disk), self.file.clone());
        let text = serde_json::to_vec(&known).unwrap_or_default();
        let written = disk::run_blocking(&*self.disk, move || {
            atomic_file::write_on(&*disk, &file, &text, 0o600)
        });
        match written.await {
            Ok(Ok(())) => {
                self.saved = known;
                self.trouble.end();
            }
            Ok(Err(error)) if self.trouble.is_new(&error) => {
                tracing::warn!(%error, "cannot keep what the others have said");
            }
            Ok(Err(_)) => {}
            Err(error) => tracing::debug!(%error, "stopping"),
        }
    }
}

/// Tells `node` what this member's disk holds, and hears what `node` remembers of it. Gives what was told, if it was
/// heard; a member of a build that keeps no pledges has nothing to say, and that is heard, too.
async fn greet(core: &Core, node: u64, address: &str) -> Option<Known> {
    let channel = core.link.peers.channel(node, address, Purpose::Control);
    let own = core.own_known();
    let rules = channel.reach(PLEDGE_TIMEOUT).await.ok()?;
    if Level(rules) < Level::PLEDGES {
        return Some(own);
    }
    let request = Request::Greet(core.greeting(node));
    let reply = core.link.ask(node, address, request, PLEDGE_TIMEOUT).await;
    let Ok(Reply::Greeted(greeting)) = reply else {
        return None;
    };
    hear(core, node, greeting);
    Some(own)
}

/// `node` greets this member, and is greeted.
pub fn answer(core: &Core, node: u64, greeting: Greeting) -> Reply {
    hear(core, node, greeting);
    core.pledges.agreed_by(node);
    Reply::Greeted(core.greeting(node))
}

fn hear(core: &Core, node: u64, greeting: Greeting) {
    core.pledges.remember(node, greeting.own);
    let Some(remembered) = greeting.yours else {
        return;
    };
    if !permissions::may_end_others(&peer_of(core, node)) {
        return;
    }
    let Some(forgotten) = remembered.forgotten_by(&core.now_known()) else {
        return;
    };
    core.pledges.take_no_part();
    core.decide_elections();
    core.unfit.declare(format!(
        "node {node} remembers more of this member than is on its disk: {forgotten}. The data directory is an older \
         copy of itself, or lies on a disk that forgets what it was told to keep; this member must not vote with it. \
         Its data is kept; give it a new start with: vfsd rejoin"
    ));
}

impl Core {
    /// What others may count on.
    pub fn own_known(&self) -> Known {
        Known {
            starts: self.pledges.starts(),
            pledge: self.log.pledge(),
        }
    }

    /// What there is here, to be compared with what others remember.
    fn now_known(&self) -> Known {
        Known {
            starts: self.pledges.starts(),
            pledge: Pledge {
                vote: self.log.vote(),
                last: self.log.bounds().last,
            },
        }
    }

    fn greeting(&self, node: u64) -> Greeting {
        Greeting {
            own: self.own_known(),
            yours: self.pledges.of(node),
        }
    }

    /// How many members have agreed that this one is what it was, itself counted, and how many must.
    pub fn agreement(&self) -> (usize, usize) {
        let metrics = self.view.metrics();
        let voters = metrics.membership_config.voter_ids();
        let (mut count, mut is_own) = (0, 0);
        for voter in voters {
            count += 1;
            is_own |= usize::from(voter == self.view.id);
        }
        (self.pledges.agreed() + is_own, count / 2 + 1)
    }

    /// Why this member takes no part yet, or no more; nothing if it does.
    pub fn why_apart(&self) -> Option<String> {
        if self.pledges.takes_part() {
            return None;
        }
        if self.unfit.is_declared() {
            return Some("this node has forgotten what it had promised; run: vfsd rejoin".into());
        }
        let (agreed, needed) = self.agreement();
        Some(format!(
            "this node has just started and asks whether its disk is the one that the others know: \
             {agreed} of {needed} agree"
        ))
    }
}
