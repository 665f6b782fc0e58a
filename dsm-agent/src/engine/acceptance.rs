//! What people ask for: the wish file becomes the accepted wish, and requests get their answers.
//!
//! Invariants: a faulty save changes nothing but the status; the record names the save before anything follows from it.
//! Not here: what follows from an absent file (`removal.rs`).

use super::action::Action;
use super::desired::Desired;
use super::machine::Absence;
use super::pass::Pass;
use super::record::{FORMAT, Outcome, RequestKind, RequestNote, Trouble, WishRecord};
use super::status::Situation;
use super::view::{WishDocument, WishFile};

impl Pass<'_> {
    /// Takes over what the wish file says, or notes its faults.
    pub(super) fn accept_wish(&mut self, fence: u64) {
        match &self.view.wish {
            WishFile::Absent => {}
            WishFile::Emptied => self.faults.push(Trouble::blocks(
                "the wish file is empty: that is no wish, and no deletion either".to_owned(),
                "write the wish again, or delete the file to remove the deployment",
            )),
            WishFile::Refused(troubles) => self.faults.extend(troubles.iter().cloned()),
            WishFile::Present(document) => {
                let checked = document.desired.clone().and_then(|desired| {
                    desired
                        .check(&self.view.id, &self.cluster.members, self.drivers)
                        .map(|()| desired)
                });
                match checked {
                    Err(faults) => self.faults.extend(faults.into_iter().map(Trouble::from)),
                    Ok(desired) => self.accept(document, desired, fence),
                }
            }
        }
        if !matches!(self.view.wish, WishFile::Absent) {
            self.machine.absence = Absence::None;
        }
    }

    fn accept(&mut self, document: &WishDocument, desired: Desired, fence: u64) {
        // What lives on under another name keeps its uid there: the same name again is a new deployment.
        let moved_on = self.view.record.as_ref().filter(|record| {
            record
                .removal
                .as_ref()
                .is_some_and(|removal| removal.successor.is_some())
        });
        let before = self.view.record.as_ref().filter(|_| moved_on.is_none());
        let digest = desired.spec.digest();
        if let Some(before) = before
            && before.spec.driver != desired.spec.driver
        {
            let reason = format!("the driver of {} cannot change", self.view.id);
            let hint = format!(
                "it is {}; delete the file, then write the other",
                before.spec.driver
            );
            self.faults.push(Trouble {
                field: Some("driver".to_owned()),
                ..Trouble::blocks(reason, &hint)
            });
            return;
        }
        let adoptable = self.view.adoptable.as_ref().filter(|_| before.is_none());
        let same = before.filter(|before| before.digest == digest && before.removal.is_none());
        let uid = match (before, adoptable) {
            (Some(before), _) => before.uid.clone(),
            (None, Some(old)) => old.record.uid.clone(),
            (None, None) if moved_on.is_some() => {
                let uid = new_uid(&self.cluster.cluster, fence);
                format!("{uid}r{}", document.revision)
            }
            (None, None) => match &self.view.remembered_uid {
                Some(uid) => uid.clone(),
                None => new_uid(&self.cluster.cluster, fence),
            },
        };
        let record = WishRecord {
            format: FORMAT,
            revision: document.revision,
            since_revision: same.map_or(document.revision, |before| before.since_revision),
            inode: document.inode,
            digest,
            spec: desired.spec,
            policy: desired.policy,
            uid,
            paused: before.is_some_and(|before| before.paused),
            adopted_from: match before {
                Some(before) => before.adopted_from.clone(),
                None => adoptable.map(|old| old.id.clone()),
            },
            removal: None,
        };
        if before == Some(&record) {
            return;
        }
        if let Some(old) = adoptable {
            self.actions.push(Action::CopySecrets {
                from: old.id.clone(),
                to: self.view.id.clone(),
            });
        }
        let deployment = self.view.id.clone();
        self.actions.push(Action::WriteWish { deployment, record });
    }

    pub(super) fn consider_requests(&mut self, record: &WishRecord) -> Option<Situation> {
        for (id, request) in &self.view.requests {
            let generation = self.view.generation.as_ref();
            let failed = generation.is_some_and(|generation| {
                generation
                    .result
                    .as_ref()
                    .is_some_and(|result| result.outcome != Outcome::Done)
            });
            let outcome = match request.kind {
                RequestKind::Pause | RequestKind::Resume => {
                    let paused = request.kind == RequestKind::Pause;
                    if record.paused != paused {
                        let record = WishRecord {
                            paused,
                            ..record.clone()
                        };
                        let deployment = self.view.id.clone();
                        self.actions.push(Action::WriteWish { deployment, record });
                    }
                    if paused { "paused" } else { "resumed" }.to_owned()
                }
                RequestKind::Abandon => match generation.filter(|found| found.is_open()) {
                    Some(found) => {
                        let reason = format!("given up by {}", request.by);
                        self.finish(found, Outcome::Abandoned, reason, "");
                        format!("generation {} abandoned", found.number())
                    }
                    None => "no generation was open".to_owned(),
                },
                RequestKind::Retry => match generation {
                    Some(found) if found.intent.request.as_ref() == Some(id) => {
                        format!("generation {} made", found.number())
                    }
                    _ if failed => continue,
                    _ => "nothing had failed".to_owned(),
                },
                RequestKind::Approve => match self.view.wish {
                    WishFile::Absent if record.removal.is_none() => continue,
                    WishFile::Absent => "removal approved".to_owned(),
                    _ => "there was nothing to approve: the wish is there".to_owned(),
                },
            };
            self.note_request(id, outcome);
        }
        (!self.actions.is_empty()).then_some(Situation::Planning(Vec::new()))
    }

    fn note_request(&mut self, id: &str, outcome: String) {
        self.actions.push(Action::NoteRequest {
            deployment: self.view.id.clone(),
            request: id.to_owned(),
            note: RequestNote {
                format: FORMAT,
                outcome,
                at: self.view.now.clone(),
            },
        });
    }

    pub(super) fn retry_request(&self) -> Option<String> {
        let mut requests = self.view.requests.iter();
        requests
            .find(|(_, request)| request.kind == RequestKind::Retry)
            .map(|(id, _)| id.clone())
    }
}

fn new_uid(cluster: &str, fence: u64) -> String {
    let plain: String = cluster
        .chars()
        .filter(|c| c.is_ascii_alphanumeric())
        .take(12)
        .collect::<String>()
        .to_ascii_lowercase();
    format!("{}-{fence}", if plain.is_empty() { "c" } else { &plain })
}
