//! Notices replicas that differ. Now and then the leader names an applied index; every member answers with its lineage
//! there; where they differ, a majority of the voters decides.
//!
//! Invariants: a member that differs from a majority serves nothing any more and does not come back by itself; while no
//! lineage has a majority nobody writes; silence alone is no difference. Not here: what a lineage is
//! (`state_machine/lineage.rs`); how a node stops (`unfit.rs`, `daemon.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::consensus::core::Core;
use crate::consensus::wire::{Reply, Request};
use crate::limits::{LINEAGE_CHECK_EVERY, LINEAGE_TIMEOUT};
use crate::state_machine::ids::LogIndex;
use crate::state_machine::level::Level;
use crate::state_machine::lineage::Lineage;

/// What a comparison comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Nobody who answered differs.
    Agreed,
    /// A majority of the voters has this.
    Majority(Lineage),
    /// Some differ, and no lineage has a majority.
    Nobody,
}

fn judge(voters: &BTreeSet<u64>, answers: &BTreeMap<u64, Lineage>) -> Verdict {
    let distinct: BTreeSet<&Lineage> = answers.values().collect();
    if distinct.len() < 2 {
        return Verdict::Agreed;
    }
    let holders = |lineage: &Lineage| {
        let same = answers.iter().filter(|(_, other)| *other == lineage);
        same.filter(|(id, _)| voters.contains(id)).count()
    };
    let majority = distinct
        .into_iter()
        .find(|lineage| holders(lineage) * 2 > voters.len());
    majority.map_or(Verdict::Nobody, |lineage| Verdict::Majority(*lineage))
}

/// Runs until it is dropped; does nothing while this node does not lead.
pub async fn run(core: Arc<Core>) {
    let mut tick = tokio::time::interval(LINEAGE_CHECK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if core.view.leading_term().is_some() && core.view.state().level() >= Level::LINEAGES {
            compare(&core).await;
        }
    }
}

async fn compare(core: &Arc<Core>) {
    let state = core.view.state();
    let (index, own) = (state.applied().0, state.lineage());
    let metrics = core.view.metrics();
    let membership = metrics.membership_config.membership();
    let voters: BTreeSet<u64> = membership.voter_ids().collect();
    let others: Vec<(u64, String)> = membership
        .nodes()
        .filter(|(id, _)| **id != core.view.id)
        .map(|(id, node)| (*id, node.addr.clone()))
        .collect();
    let asked = others.iter().map(|(id, address)| async move {
        let request = Request::Lineage(LogIndex(index));
        let answer = core.link.ask(*id, address, request, LINEAGE_TIMEOUT).await;
        match answer {
            Ok(Reply::Lineage(Some(lineage))) => Some((*id, lineage)),
            _ => None,
        }
    });
    let answers = futures_util::future::join_all(asked).await;
    let mut answers: BTreeMap<u64, Lineage> = answers.into_iter().flatten().collect();
    answers.insert(core.view.id, own);
    let verdict = judge(&voters, &answers);
    let said = match verdict {
        Verdict::Agreed => Some(own),
        Verdict::Majority(lineage) => Some(lineage),
        Verdict::Nobody => None,
    };
    if verdict != Verdict::Agreed {
        tracing::error!(index, ?answers, "replicas differ");
    }
    let told = others.iter().map(|(id, address)| {
        let request = Request::LineageVerdict(LogIndex(index), said);
        core.link.ask(*id, address, request, LINEAGE_TIMEOUT)
    });
    futures_util::future::join_all(told).await;
    hear(core, index, said);
}

/// This node's lineage at `index`, as soon as it is applied here.
pub async fn answer(core: &Core, index: LogIndex) -> Option<Lineage> {
    let applied = tokio::time::timeout(LINEAGE_TIMEOUT / 2, core.view.wait_applied(index)).await;
    applied.ok()?;
    core.view.published.lineages.at(index.0)
}

/// What the leader's comparison came to.
pub fn hear(core: &Core, index: u64, said: Option<Lineage>) {
    let lineages = &core.view.published.lineages;
    let Some(own) = lineages.at(index) else {
        return;
    };
    match said {
        Some(said) if said == own => core.quorum.disagree(None),
        Some(_) => core.unfit.declare(format!(
            "the state of this node differs from that of the majority at entry {index}: it must not serve it. \
             Its data is kept; give it a new start with: vfsd rejoin"
        )),
        None => core.quorum.disagree(Some(format!(
            "the members' states differ at entry {index}, none has a majority: compare `vfsd digest` of all, keep one"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(answers: &[(u64, u8)]) -> Verdict {
        let answers = answers.iter().map(|&(id, lineage)| (id, [lineage; 32]));
        judge(&BTreeSet::from([1, 2, 3]), &answers.collect())
    }

    #[test]
    fn a_majority_of_the_voters_decides_and_silence_is_no_difference() {
        assert_eq!(verdict(&[(1, 7)]), Verdict::Agreed);
        assert_eq!(verdict(&[(1, 7), (2, 7), (3, 7)]), Verdict::Agreed);
        assert_eq!(
            verdict(&[(1, 7), (2, 8), (3, 8)]),
            Verdict::Majority([8; 32])
        );
        assert_eq!(verdict(&[(1, 7), (2, 8)]), Verdict::Nobody);
        assert_eq!(verdict(&[(1, 7), (2, 8), (3, 9)]), Verdict::Nobody);
        let learner_differs = [(1, 7), (2, 7), (9, 8)];
        assert_eq!(verdict(&learner_differs), Verdict::Majority([7; 32]));
    }
}
