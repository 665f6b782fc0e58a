//! Locks are taken and given back in one order that every client could have seen, and a lock has one holder at a time,
//! by the clock on the wall.
//!
//! A lock is a register with an owner: free, or held under a fence. A try takes it while it is free, or finds that it
//! is taken; its holder gives it back; it is also free again at some time after its holder has relied on it for the
//! last time, because a session may end. Fences grow. What was not answered may have happened at any time since, or
//! never.
//! The search is that of `linearizable.rs`, over what is known to have happened; the rest it may do on the way.
//!
//! Fences are compared besides, as they are relied on: that goes on when a history has become too long for a search.

use std::collections::{BTreeMap, HashSet};

/// Steps of one lock's history: as many as a set of them has bits.
const STEPS_MAX: usize = 120;

/// What a step does, and when it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Does {
    /// Takes the free lock: the grant of this number, under its fence if that is known.
    Takes(usize, Option<u64>),
    /// Finds it taken.
    Meets,
    /// Makes it free while this grant holds it.
    Frees(usize),
}

/// A step of a history: between two moments, or from one on, if at all.
#[derive(Debug, Clone, Copy)]
struct Step {
    began: usize,
    ended: Option<usize>,
    does: Does,
}

/// Who holds a lock: a grant by its number, if anybody.
type Holder = Option<usize>;

#[derive(Debug, Default)]
struct History {
    moment: usize,
    steps: Vec<Step>,
    is_full: bool,
}

/// A try that has begun.
#[derive(Debug)]
pub struct Try {
    lock: String,
    /// Its step, and that of the end of what it was granted; nothing in a history that is full.
    step: Option<(usize, usize)>,
}

/// Histories by lock, and the newest fence under which each was said to be held.
#[derive(Debug, Default)]
pub struct Holders {
    newest: BTreeMap<String, (u64, String)>,
    histories: BTreeMap<String, History>,
}

impl Holders {
    /// A try to take `lock` begins.
    pub fn tries(&mut self, lock: &str) -> Try {
        let history = self.histories.entry(lock.to_owned()).or_default();
        // A try comes with an end of its session's and with a release.
        history.is_full |= history.steps.len() + 3 > STEPS_MAX;
        let step = (!history.is_full).then(|| {
            let step = history.steps.len();
            history.begins(Does::Takes(step, None));
            (step, history.begins(Does::Frees(step)))
        });
        let lock = lock.to_owned();
        Try { lock, step }
    }

    fn of(&mut self, tried: &Try) -> Option<(&mut History, usize, usize)> {
        let (step, end) = tried.step?;
        let history = self.histories.get_mut(&tried.lock)?;
        // What ends later has met steps that are not written down.
        (!history.is_full).then_some((history, step, end))
    }

    /// It took the lock.
    pub fn took(&mut self, tried: &Try) {
        if let Some((history, step, end)) = self.of(tried) {
            history.ends(step);
            history.steps[end].began = history.now();
        }
    }

    /// Under this fence.
    pub fn has_fence(&mut self, tried: &Try, fence: u64) {
        if let Some((history, step, _)) = self.of(tried) {
            history.steps[step].does = Does::Takes(step, Some(fence));
        }
    }

    /// It found the lock taken.
    pub fn met(&mut self, tried: &Try) {
        if let Some((history, step, _)) = self.of(tried) {
            history.steps[step].does = Does::Meets;
            history.ends(step);
        }
    }

    /// `who` relies now on `lock`, which it took under `fence`.
    pub fn relies(&mut self, tried: &Try, fence: u64, who: &str) {
        let lock = &tried.lock;
        if let Some((newest, holder)) = self.newest.get(lock) {
            assert!(
                fence > *newest || (fence == *newest && holder == who),
                "{who} relies on {lock} under fence {fence} after {holder} did under {newest}"
            );
        }
        self.newest.insert(lock.clone(), (fence, who.to_owned()));
        if let Some((history, _, end)) = self.of(tried) {
            history.steps[end].began = history.now();
        }
    }

    /// Its holder begins to give it back. Gives what to tell when that has worked.
    pub fn gives_back(&mut self, tried: &Try) -> Option<usize> {
        let (history, step, _) = self.of(tried)?;
        Some(history.begins(Does::Frees(step)))
    }

    /// That has worked.
    pub fn gave_back(&mut self, tried: &Try, giving: Option<usize>) {
        if let Some((history, _, _)) = self.of(tried)
            && let Some(giving) = giving
        {
            history.ends(giving);
        }
    }

    /// Checks all of them.
    pub fn check(&self) {
        for (lock, history) in &self.histories {
            assert!(history.is_linearizable(), "{lock}: {:#?}", history.steps);
        }
    }
}

impl History {
    fn now(&mut self) -> usize {
        self.moment += 1;
        self.moment
    }

    fn begins(&mut self, does: Does) -> usize {
        let began = self.now();
        self.steps.push(Step {
            began,
            ended: None,
            does,
        });
        self.steps.len() - 1
    }

    fn ends(&mut self, step: usize) {
        self.steps[step].ended = Some(self.now());
    }

    fn is_linearizable(&self) -> bool {
        let bit = |at: usize| 1_u128 << at;
        let known = self.steps.iter().enumerate();
        let known = known.filter(|(_, step)| step.ended.is_some());
        let known = known.fold(0, |known, (at, _)| known | bit(at));
        let mut seen = HashSet::new();
        // What was done so far, as a set; who holds the lock then; the newest fence.
        let mut open: Vec<(u128, Holder, u64)> = vec![(0, None, 0)];
        while let Some((done, holder, fence)) = open.pop() {
            if done & known == known {
                return true;
            }
            if !seen.insert((done, holder, fence)) {
                continue;
            }
            let left = || {
                let steps = self.steps.iter().enumerate();
                steps.filter(|(at, _)| done & bit(*at) == 0)
            };
            // None can be next that began after another one, still to be done, had ended.
            let first_end = left().filter_map(|(_, step)| step.ended).min();
            for (at, step) in left() {
                if first_end.is_some_and(|end| step.began > end) {
                    continue;
                }
                let after = match step.does {
                    Does::Takes(grant, under) if holder.is_none() => {
                        let is_newer = under.is_none_or(|under| under > fence);
                        is_newer.then_some((Some(grant), under.unwrap_or(fence)))
                    }
                    Does::Meets => holder.is_some().then_some((holder, fence)),
                    Does::Frees(grant) => (holder == Some(grant)).then_some((None, fence)),
                    Does::Takes(..) => None,
                };
                if let Some((holder, fence)) = after {
                    open.push((done | bit(at), holder, fence));
                }
            }
        }
        false
    }
}

#[cfg(test)]
fn taken(locks: &mut Holders, fence: u64) -> Try {
    let tried = locks.tries("k");
    locks.took(&tried);
    locks.has_fence(&tried, fence);
    tried
}

#[test]
fn a_lock_that_is_granted_while_its_holder_relies_on_it_is_found() {
    let mut locks = Holders::default();
    let first = taken(&mut locks, 7);
    // Granted before the last look of the one who has it already, told after it.
    let second = locks.tries("k");
    locks.took(&second);
    locks.relies(&first, 7, "first");
    assert!(!locks.histories["k"].is_linearizable());
}

#[test]
fn a_lock_that_is_free_and_met_is_found() {
    let mut locks = Holders::default();
    let first = taken(&mut locks, 7);
    let giving = locks.gives_back(&first);
    locks.gave_back(&first, giving);
    assert!(locks.histories["k"].is_linearizable());
    let second = locks.tries("k");
    locks.met(&second);
    assert!(!locks.histories["k"].is_linearizable());
}

#[test]
fn a_grant_under_an_older_fence_is_found() {
    let mut locks = Holders::default();
    for fence in [7, 6] {
        let tried = taken(&mut locks, fence);
        let giving = locks.gives_back(&tried);
        locks.gave_back(&tried, giving);
    }
    assert!(!locks.histories["k"].is_linearizable());
}

#[test]
fn a_try_that_was_not_answered_may_have_taken_the_lock_and_lost_it_again() {
    let mut locks = Holders::default();
    drop(locks.tries("k"));
    let met = locks.tries("k");
    locks.met(&met);
    let first = taken(&mut locks, 7);
    locks.relies(&first, 7, "first");
    let second = taken(&mut locks, 9);
    locks.relies(&second, 9, "second");
    assert!(locks.histories["k"].is_linearizable());
}
