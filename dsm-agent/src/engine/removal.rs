//! Removal: absence is dangerous.
//!
//! Invariants: absence alone never removes anything. The tree must be the real one and have a quorum, before and after
//! a grace; a wish that came under a new name is adopted, not removed; many at once wait for a person.

use super::action::{Action, TimerKey};
use super::event::AbsenceVerdict;
use super::machine::Absence;
use super::pass::Pass;
use super::record::{Removal, RequestKind, Trouble, WishRecord};
use super::status::Situation;
use super::view::WishFile;
use crate::limits::{LOCK_RETRY, REMOVE_GRACE};

impl Pass<'_> {
    /// What follows from the wish being absent; `None` when nothing does, or when the removal runs already.
    pub(super) fn consider_absence(&mut self, record: &WishRecord) -> Option<Situation> {
        if let Some(removal) = &record.removal {
            return removal
                .successor
                .clone()
                .map(|successor| Situation::Gone(Some(successor)));
        }
        if self.view.wish != WishFile::Absent {
            return None;
        }
        if let Some((successor, adopted)) = self.view.successor.clone() {
            self.machine.absence = Absence::None;
            if !adopted {
                // Its record is not watched from here.
                let key = TimerKey::Removal(self.view.id.clone());
                self.machine.take_over(&key);
                self.set_timer(key, LOCK_RETRY);
                let reason =
                    format!("the wish is now called {successor}, which has not adopted it yet");
                self.faults
                    .push(Trouble::waits(reason, "nothing; it takes over what runs"));
                return None;
            }
            self.remove(record, Some(successor.clone()));
            return Some(Situation::Gone(Some(successor)));
        }
        self.count_down(record)
    }

    fn count_down(&mut self, record: &WishRecord) -> Option<Situation> {
        let key = TimerKey::Removal(self.view.id.clone());
        match self.machine.absence.clone() {
            Absence::None => {
                self.machine.timers.remove(&key);
                self.machine.absence = Absence::Checking;
                self.actions
                    .push(Action::CheckAbsence(self.view.id.clone()));
            }
            Absence::Checking | Absence::CheckingAgain => {}
            Absence::Counting(since) => {
                if since.is_empty() {
                    self.machine.absence = Absence::Counting(self.view.now.clone());
                }
                if self.machine.take_over(&key) {
                    self.machine.absence = Absence::CheckingAgain;
                    self.actions
                        .push(Action::CheckAbsence(self.view.id.clone()));
                } else {
                    self.set_timer(key, REMOVE_GRACE);
                }
            }
            Absence::Confirmed => {
                self.remove(record, None);
                return Some(Situation::Removing(Vec::new()));
            }
            Absence::HeldBack(verdict) => return self.held_back(&verdict),
        }
        self.faults.push(self.countdown_note());
        None
    }

    fn countdown_note(&self) -> Trouble {
        let since = match &self.machine.absence {
            Absence::Counting(since) if !since.is_empty() => format!(" since {since}"),
            _ => String::new(),
        };
        let grace = REMOVE_GRACE.as_secs();
        Trouble::waits(
            format!("the wish file is gone{since}; the deployment is removed {grace} s after that"),
            "write the file again to keep the deployment",
        )
    }

    fn held_back(&mut self, verdict: &AbsenceVerdict) -> Option<Situation> {
        match verdict {
            AbsenceVerdict::Absent { missing, total } => {
                let approved = self
                    .view
                    .requests
                    .values()
                    .any(|request| request.kind == RequestKind::Approve);
                if approved {
                    self.machine.absence = Absence::Confirmed;
                    self.actions.push(Action::Read(self.view.id.clone()));
                    return None;
                }
                let key = TimerKey::Removal(self.view.id.clone());
                if self.machine.take_over(&key) {
                    self.machine.absence = Absence::CheckingAgain;
                    self.actions
                        .push(Action::CheckAbsence(self.view.id.clone()));
                } else {
                    self.set_timer(key, REMOVE_GRACE);
                }
                let reason = format!(
                    "{} of {total} wishes vanished at once; that may be a mistake, so nothing is removed",
                    missing.len()
                );
                let hint = format!("write them again, or: dsm-agent approve {}", self.view.id);
                Some(Situation::Blocked(vec![Trouble::blocks(reason, &hint)]))
            }
            AbsenceVerdict::Unsafe(why) => {
                let key = TimerKey::Removal(self.view.id.clone());
                if self.machine.take_over(&key) {
                    self.machine.absence = Absence::None;
                    self.actions.push(Action::Read(self.view.id.clone()));
                } else {
                    self.set_timer(key, LOCK_RETRY);
                }
                let reason =
                    format!("the wish is not to be seen, but nothing follows from it: {why}");
                self.faults
                    .push(Trouble::waits(reason, "nothing; what runs goes on running"));
                None
            }
            AbsenceVerdict::Present => None,
        }
    }

    fn remove(&mut self, record: &WishRecord, successor: Option<super::id::DeploymentId>) {
        let mut record = record.clone();
        record.removal = Some(Removal {
            on_delete: record.policy.on_delete,
            successor,
        });
        // A removal is a change of the wish: observations have to answer to it.
        self.machine.absence = Absence::None;
        self.actions.push(Action::WriteWish {
            deployment: self.view.id.clone(),
            record,
        });
    }
}
