//! What a world does to a disk that no crash does: it puts an older copy in its place.

use std::time::Duration;

use rand::RngExt;
use tokio::time::{Instant, sleep};
use vfsd::consensus::cluster::pledges::Known;
use vfsd::limits::RULES_KNOWN;
use vfsd::storage::disk::fake::DiskCopy;

use super::network::Weather;
use super::trace;
use super::world::{CALM_MAX, World};

/// In this time the members have told each other what their disks hold, and have it on their own.
const TOLD_WITHIN: Duration = Duration::from_millis(2_500);

/// What is still to happen to one disk of a world.
pub struct Plan {
    copy_at: Instant,
    put_back_at: Instant,
    copied: Option<(usize, DiskCopy, Known)>,
}

impl World {
    /// In one of four worlds a disk is copied, and put back later.
    pub(super) fn plan_older_copy(&mut self) {
        // Members of an earlier build remember nothing.
        let is_remembered = self.network.rules_of_all() == RULES_KNOWN;
        if is_remembered && self.rng.random_bool(0.25) {
            let mut after = |range| Duration::from_millis(self.rng.random_range(range));
            let copy_at = Instant::now() + after(500..4_000);
            let put_back_at = copy_at + after(1_500..5_000);
            self.older_copy = Some(Plan {
                copy_at,
                put_back_at,
                copied: None,
            });
        }
    }

    /// Does what is due of the plan.
    pub(super) async fn follow_plan(&mut self) {
        let Some(mut plan) = self.older_copy.take() else {
            return;
        };
        let index = self.rng.random_range(0..self.members.len());
        match plan.copied {
            None if Instant::now() > plan.copy_at => {
                let copy = self.members[index].copy();
                plan.copied = copy.map(|(copy, held)| (index, copy, held));
                trace::line(&format!("the disk of n{} is copied", index + 1));
                self.older_copy = plan.copied.is_some().then_some(plan);
            }
            Some((index, copy, held)) if Instant::now() > plan.put_back_at => {
                self.put_back(index, &copy, &held).await;
            }
            _ => self.older_copy = Some(plan),
        }
    }

    /// Puts the copy back if all others have it on disk that the member has promised more since.
    async fn put_back(&mut self, index: usize, copy: &DiskCopy, held: &Known) {
        self.network.heal();
        self.network.set_weather(Weather::FAIR);
        self.wait(TOLD_WITHIN).await;
        if self.members[index].running.is_some() {
            self.crash(index).await;
        }
        let id = self.members[index].id;
        let others = self.members.iter().filter(|member| member.id != id);
        let is_known = others.map(|member| {
            let remembered = member.remembers(id);
            remembered.is_some_and(|known| known.forgotten_by(held).is_some())
        });
        if is_known.into_iter().all(|is_known| is_known) {
            self.members[index].put_back(copy);
            self.shared.checkers.lock().older_copies.put_back(id);
            *self.shared.done.lock().entry("put back").or_default() += 1;
        }
        self.start(index).await;
        self.start_clients(index);
    }

    /// Members that were found unfit go down for good, as their daemons do.
    pub(super) fn retire_unfit(&mut self) {
        for member in &mut self.members {
            let Some(running) = &mut member.running else {
                continue;
            };
            let core = running.node.core();
            if core.unfit.is_declared() {
                let why = core.why_apart().unwrap_or_default();
                let checkers = self.shared.checkers.lock();
                checkers.older_copies.found(member.id, &why);
                running.tasks.abort_all();
                member.is_out = true;
                member.crash(&self.network, super::member::Loss::Process);
            }
        }
    }

    /// A member on an older copy hears of it as soon as the others can be reached.
    pub(super) async fn wait_for_older_copies(&mut self) {
        let deadline = Instant::now() + CALM_MAX;
        let is_left = |world: &Self| {
            let checkers = world.shared.checkers.lock();
            let mut members = world.members.iter();
            members.any(|member| {
                member.running.is_some() && checkers.older_copies.is_put_back(member.id)
            })
        };
        while is_left(self) {
            assert!(
                Instant::now() < deadline,
                "a member on an older copy of its disk goes on"
            );
            sleep(Duration::from_millis(50)).await;
            self.look();
            self.retire_unfit();
        }
    }
}
