//! Performs the engine's actions on the tree.
//!
//! Invariants: the performer decides nothing; a log line is written only after its own log was read again and the
//! transition table allows it; `started` is committed before a step is handed on; derived files are written only when
//! their content changed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use super::paths;
use super::run_store::{RecordError, RunStore, error_text};
use super::shared_tree::{LockAttempt, SharedTree, TreeError};
use super::wish_index::WishIndex;
use crate::engine::action::{Action, PLANNER_LOCK, StartStep};
use crate::engine::event::{AbsenceVerdict, Event};
use crate::engine::id::{DeploymentId, Generation};
use crate::engine::log::{Entry, Ev, IllegalTransition};
use crate::engine::plan_text::plan_text;
use crate::engine::record::{Claims, Intent, PlanRecord, RequestKind, Status};
use crate::engine::view::{ClusterView, WishFile};
use crate::failpoint::{Boundary, Failpoint};
use crate::limits::{ERROR_TEXT_BYTES_MAX, LINE_BYTES_MAX, LOG_LINES_MAX};
use crate::status;

/// See the head of this file.
pub struct Performer {
    store: Arc<RunStore>,
    node: String,
    failpoint: Arc<Failpoint>,
    /// An append failed: whether it is in the log shows only after a barrier.
    is_doubtful: AtomicBool,
}

/// What became of an action.
#[derive(Debug, PartialEq)]
pub enum Performed {
    /// It is done.
    Done,
    /// It is done, and the engine must hear of it.
    Event(Box<Event>),
    /// It is not for the tree: timers, drivers, another read.
    Handed(Box<Action>),
}

/// Why an action was not performed.
#[derive(Debug, thiserror::Error)]
pub enum PerformError {
    /// The tree refused.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A record is in the way.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The transition table forbids the line.
    #[error("the log was not written: {0}")]
    Transition(#[from] IllegalTransition),
    /// The log is as long as it may be.
    #[error("the log of generation {generation} has {LOG_LINES_MAX} lines, which is the most")]
    LogFull {
        /// Whose.
        generation: Generation,
    },
    /// A generation with that number is there already: another planner was faster.
    #[error("generation {generation} of {deployment} exists already")]
    GenerationExists {
        /// Whose.
        deployment: DeploymentId,
        /// Which.
        generation: Generation,
    },
}

impl Performer {
    /// The performer of `node`.
    pub fn new(store: Arc<RunStore>, node: String, failpoint: Arc<Failpoint>) -> Self {
        Self {
            store,
            node,
            failpoint,
            is_doubtful: AtomicBool::new(false),
        }
    }

    /// The record.
    pub fn store(&self) -> &Arc<RunStore> {
        &self.store
    }

    fn tree(&self) -> &dyn SharedTree {
        self.store.tree().as_ref()
    }

    /// Performs one action; `cluster` is what the engine was told last.
    ///
    /// # Errors
    /// [`PerformError`]: then none of the answer's further actions may be performed.
    pub fn perform(
        &self,
        action: Action,
        cluster: &ClusterView,
        now: &str,
    ) -> Result<Performed, PerformError> {
        match action {
            Action::Read(_)
            | Action::Observe { .. }
            | Action::CancelStep { .. }
            | Action::SetTimer { .. }
            | Action::WriteStatus(_) => return Ok(Performed::Handed(Box::new(action))),
            Action::TryLock { deployment, lock } => return self.try_lock(deployment, lock),
            Action::ReleaseLock { deployment, lock } => {
                self.tree().release(&paths::lock(&deployment, &lock))?;
            }
            Action::WriteWish { deployment, record } => {
                self.ensure_plans(&deployment)?;
                self.write_json(&paths::wish_record(&deployment), &record)?;
            }
            Action::CopySecrets { from, to } => self.copy_secrets(&from, &to)?,
            Action::NoteRequest {
                deployment,
                request,
                note,
            } => {
                let path = format!("{}/{request}.json", paths::request_notes(&deployment));
                self.write_json(&path, &note)?;
            }
            Action::WriteGeneration { intent, plan } => {
                self.write_generation(&intent, &plan, cluster, now)?
            }
            Action::WriteResult { deployment, result } => {
                let path = paths::generation_file(&deployment, result.generation, "result.json");
                self.write_json(&path, &result)?;
            }
            Action::Append {
                deployment,
                generation,
                entry,
            } => self.append_outcome(&deployment, generation, entry, cluster, now)?,
            Action::Note {
                deployment,
                generation,
                entries,
            } => self.append_all(&deployment, generation, entries, cluster, now)?,
            Action::StartStep(start) => {
                self.append_started(&start, cluster, now)?;
                return Ok(Performed::Handed(Box::new(Action::StartStep(start))));
            }
            Action::WriteObserved {
                deployment,
                observed,
            } => {
                self.write_json(&paths::observed(&deployment, &self.node), &observed)?;
            }
            Action::WriteClaims(claims) => return self.write_claims(claims, cluster),
            Action::WriteOutputs {
                deployment,
                outputs,
            } => self.write_outputs(&deployment, &outputs)?,
            Action::CheckAbsence(deployment) => {
                let verdict = self.check_absence(&deployment)?;
                return Ok(Performed::Event(Box::new(Event::AbsenceChecked {
                    deployment,
                    verdict,
                })));
            }
        }
        Ok(Performed::Done)
    }

    fn append_started(
        &self,
        start: &StartStep,
        cluster: &ClusterView,
        now: &str,
    ) -> Result<(), PerformError> {
        let mut entries = start.before.clone();
        entries.push(start.entry.clone());
        self.failpoint
            .reach(&start.step.id, Boundary::BeforeStarted);
        self.append_all(&start.deployment, start.generation, entries, cluster, now)?;
        self.failpoint.reach(&start.step.id, Boundary::AfterStarted);
        Ok(())
    }

    fn append_outcome(
        &self,
        id: &DeploymentId,
        generation: Generation,
        entry: Entry,
        cluster: &ClusterView,
        now: &str,
    ) -> Result<(), PerformError> {
        let succeeded = entry.step.clone().filter(|_| entry.ev == Ev::Succeeded);
        self.append(id, generation, entry, cluster, now)?;
        if let Some(step) = succeeded {
            self.failpoint.reach(&step, Boundary::AfterSucceeded);
        }
        Ok(())
    }

    fn try_lock(&self, deployment: DeploymentId, lock: String) -> Result<Performed, PerformError> {
        let path = paths::lock(&deployment, &lock);
        let event = match self.tree().try_lock(&path)? {
            LockAttempt::Denied => Event::LockDenied { deployment, lock },
            LockAttempt::Granted(fence) => {
                if lock == PLANNER_LOCK {
                    self.ensure_guarded(&paths::plans(&deployment), &path)?;
                }
                Event::LockGranted {
                    deployment,
                    lock,
                    fence,
                }
            }
        };
        Ok(Performed::Event(Box::new(event)))
    }

    /// To guard a directory: hold the lock, mkdir, setxattr, then write.
    fn ensure_guarded(&self, directory: &str, lock: &str) -> Result<(), TreeError> {
        let tree = self.tree();
        let made = tree.make_dir(directory)?;
        if made || tree.guard(directory)?.as_deref() != Some(lock) {
            tree.set_guard(directory, lock)?;
        }
        Ok(())
    }

    fn ensure_plans(&self, id: &DeploymentId) -> Result<(), TreeError> {
        let lock = paths::lock(id, PLANNER_LOCK);
        self.ensure_guarded(&paths::plans(id), &lock)
    }

    fn copy_secrets(&self, from: &DeploymentId, to: &DeploymentId) -> Result<(), TreeError> {
        for entry in self.tree().list(&paths::secrets(from))? {
            let Some(secret) = self.tree().read(&paths::secret(from, &entry.name))? else {
                continue;
            };
            let directory = paths::secrets(to);
            if self.tree().make_dir(&directory)? {
                self.tree().keep_out_of_history(&directory)?;
            }
            self.tree()
                .create(&paths::secret(to, &entry.name), &secret.bytes)?;
        }
        Ok(())
    }

    fn write_generation(
        &self,
        intent: &Intent,
        plan: &PlanRecord,
        cluster: &ClusterView,
        now: &str,
    ) -> Result<(), PerformError> {
        let (id, number) = (&intent.deployment, intent.generation);
        let tree = self.tree();
        let draft = paths::generation_draft(id, number);
        if !tree.make_dir(&draft)? {
            // Left by a planner that died half way.
            tree.remove(&draft)?;
            tree.make_dir(&draft)?;
        }
        self.write_json(&format!("{draft}/intent.json"), intent)?;
        self.write_json(&format!("{draft}/plan.json"), plan)?;
        tree.write(
            &format!("{draft}/plan.txt"),
            plan_text(intent, plan).as_bytes(),
        )?;
        if !tree.rename_new(&draft, &paths::generation(id, number))? {
            return Err(PerformError::GenerationExists {
                deployment: id.clone(),
                generation: number,
            });
        }
        tree.link(
            &number.directory(),
            &format!("{}/current", paths::plans(id)),
        )?;
        let decision = Entry {
            detail: serde_json::json!({
                "rule": "plan",
                "inputs": { "wish": intent.digest, "revision": intent.revision, "base": plan.base },
                "choice": { "reason": intent.reason, "plan": plan.digest, "steps": plan.steps.len() },
            }),
            ..Entry::plain(Ev::Decision)
        };
        self.append(id, number, decision, cluster, now)
    }

    fn append(
        &self,
        id: &DeploymentId,
        generation: Generation,
        entry: Entry,
        cluster: &ClusterView,
        now: &str,
    ) -> Result<(), PerformError> {
        self.append_all(id, generation, vec![entry], cluster, now)
    }

    /// Appends whole lines, as many in one write as it may hold.
    fn append_all(
        &self,
        id: &DeploymentId,
        generation: Generation,
        entries: Vec<Entry>,
        cluster: &ClusterView,
        now: &str,
    ) -> Result<(), PerformError> {
        let tree = self.tree();
        if self.is_doubtful.load(Ordering::Acquire) {
            tree.barrier()?;
            self.is_doubtful.store(false, Ordering::Release);
        }
        let mut log = self.store.own_log(id, &self.node, generation)?;
        if log.seq + entries.len() as u64 > LOG_LINES_MAX {
            return Err(PerformError::LogFull { generation });
        }
        if log.seq == 0 {
            self.ensure_guarded(
                &paths::log_dir(id, &self.node),
                &paths::presence(&self.node),
            )?;
        }
        let fence = cluster.presence.get(&self.node).copied().unwrap_or(0);
        let path = paths::log(id, &self.node, generation);
        let mut lines = Vec::new();
        for entry in entries {
            let line = log.next_line(bounded(entry), fence, now.to_owned())?;
            if !lines.is_empty() && lines.len() + line.len() > LINE_BYTES_MAX {
                self.append_bytes(&path, &std::mem::take(&mut lines))?;
            }
            log.push(line.trim_ascii_end())
                .map_err(|error| RecordError::Broken {
                    path: path.clone(),
                    reason: error_text(&error),
                })?;
            lines.extend(line);
        }
        Ok(self.append_bytes(&path, &lines)?)
    }

    fn append_bytes(&self, path: &str, bytes: &[u8]) -> Result<(), TreeError> {
        self.tree().append(path, bytes).inspect_err(|_| {
            self.is_doubtful.store(true, Ordering::Release);
        })
    }

    fn write_claims(
        &self,
        claims: Claims,
        cluster: &ClusterView,
    ) -> Result<Performed, PerformError> {
        self.write_json(&paths::claims(&self.node), &claims)?;
        let cluster = ClusterView {
            claims,
            ..cluster.clone()
        };
        Ok(Performed::Event(Box::new(Event::Cluster(cluster))))
    }

    fn write_outputs(
        &self,
        id: &DeploymentId,
        outputs: &BTreeMap<String, String>,
    ) -> Result<(), TreeError> {
        let tree = self.tree();
        let directory = paths::outputs(id);
        if outputs.is_empty() && tree.list(&directory)?.is_empty() {
            return Ok(());
        }
        tree.make_dir(&directory)?;
        tree.link("plans/outputs", &format!("{}/outputs", paths::record(id)))?;
        for (name, text) in outputs {
            self.write_changed(
                &format!("{directory}/{name}"),
                format!("{text}\n").as_bytes(),
            )?;
        }
        for entry in tree.list(&directory)? {
            if !outputs.contains_key(&entry.name) {
                tree.remove(&format!("{directory}/{}", entry.name))?;
            }
        }
        Ok(())
    }

    /// Writes status.json and status.txt if they changed, and the links to them.
    ///
    /// # Errors
    /// [`PerformError`].
    pub fn write_status(&self, status: &Status, now: &str) -> Result<(), PerformError> {
        let id = &status.deployment;
        let before: Option<Status> = self.store.json(&paths::status_json(id)).unwrap_or(None);
        let mut status = status.clone();
        status.since = match &before {
            Some(before) if before.phase == status.phase => before.since.clone(),
            _ => now.to_owned(),
        };
        if before.as_ref() == Some(&status) {
            return Ok(());
        }
        self.ensure_plans(id)?;
        // The links come first: a crash after the first status would leave it without them for ever.
        if before.is_none() {
            for name in ["status.json", "status.txt"] {
                self.tree().link(
                    &format!("plans/{name}"),
                    &format!("{}/{name}", paths::record(id)),
                )?;
            }
        }
        self.write_json(&paths::status_json(id), &status)?;
        Ok(self.write_changed(&paths::status_text(id), status::text(&status).as_bytes())?)
    }

    /// An unmounted or lagging tree must never look like a deletion.
    fn check_absence(&self, id: &DeploymentId) -> Result<AbsenceVerdict, PerformError> {
        let tree = self.tree();
        let unsafe_ = |why: &str| Ok(AbsenceVerdict::Unsafe(why.to_owned()));
        let condition = match tree.condition() {
            Ok(condition) => condition,
            Err(error) => return unsafe_(&error_text(&error)),
        };
        if !condition.is_mounted {
            return unsafe_("the tree is not mounted on this node");
        }
        if !condition.has_quorum {
            return unsafe_("this node sees no majority");
        }
        if let Err(error) = tree.barrier() {
            return unsafe_(&error_text(&error));
        }
        if self.store.wish_file(id)? != WishFile::Absent {
            return Ok(AbsenceVerdict::Present);
        }
        let index = WishIndex::scan(tree)?;
        let mut missing = Vec::new();
        let mut live = index.wishes.len();
        for orphan in index.orphans() {
            let Ok(Some(record)) = self.store.wish_record(orphan) else {
                continue;
            };
            if record.removal.is_some() || index.by_inode(record.inode).is_some() {
                continue;
            }
            live += 1;
            let requests = self.store.open_requests(orphan)?;
            if !requests
                .values()
                .any(|request| request.kind == RequestKind::Approve)
            {
                missing.push(orphan.clone());
            }
        }
        Ok(AbsenceVerdict::Absent {
            missing,
            total: live,
        })
    }

    fn write_json<T: Serialize>(&self, path: &str, value: &T) -> Result<(), TreeError> {
        self.tree().write(path, &json_bytes(value))
    }

    fn write_changed(&self, path: &str, bytes: &[u8]) -> Result<(), TreeError> {
        if self
            .tree()
            .read(path)?
            .is_some_and(|now| now.bytes == bytes)
        {
            return Ok(());
        }
        self.tree().write(path, bytes)
    }
}

/// A record as it stands in its file.
///
/// # Panics
/// Never for records: they have text keys only.
pub fn json_bytes<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).expect("records have text keys only");
    bytes.push(b'\n');
    bytes
}

/// Cuts what would make a line larger than one append may be.
fn bounded(mut entry: Entry) -> Entry {
    if let Some(err) = &mut entry.err {
        cut(&mut err.msg, ERROR_TEXT_BYTES_MAX);
    }
    if let Some(note) = &mut entry.note {
        cut(note, ERROR_TEXT_BYTES_MAX);
    }
    let size = |entry: &Entry| serde_json::to_vec(entry).map_or(usize::MAX, |bytes| bytes.len());
    if size(&entry) > LINE_BYTES_MAX {
        for change in &mut entry.changes {
            change.diff = change
                .diff
                .take()
                .map(|_| "(too long for the record)".to_owned());
        }
    }
    if size(&entry) > LINE_BYTES_MAX {
        let count = entry.changes.len();
        entry.changes.clear();
        entry.note = Some(format!("{count} changes were too many for one line"));
    }
    entry
}

fn cut(text: &mut String, bytes_max: usize) {
    if text.len() <= bytes_max {
        return;
    }
    let mut end = bytes_max;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text.push('…');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::record::Phase;
    use crate::mount::posix_tree::PosixTree;

    fn status(id: &DeploymentId) -> Status {
        Status {
            phase: Phase::Active,
            generation: Generation(1),
            revision: 1,
            ..Status::pending(id.clone())
        }
    }

    #[test]
    fn a_status_that_ended_half_way_gets_its_links_the_next_time() {
        let root = tempfile::tempdir().unwrap();
        let tree: Arc<dyn SharedTree> = Arc::new(PosixTree::plain(root.path(), "n1"));
        let store = Arc::new(RunStore::new(Arc::clone(&tree)));
        let performer = Performer::new(store, "n1".to_owned(), Arc::new(Failpoint::default()));
        let id = DeploymentId::parse("mid/a").unwrap();
        tree.make_dir(".vfs").unwrap();
        tree.try_lock(&paths::lock(&id, PLANNER_LOCK)).unwrap();
        // What lies in the way stands for a crash at that point.
        let link = root.path().join("run/mid/a/status.txt");
        std::fs::create_dir_all(&link).unwrap();
        assert!(performer.write_status(&status(&id), "now").is_err());
        std::fs::remove_dir(&link).unwrap();
        performer.write_status(&status(&id), "now").unwrap();
        let target = std::fs::read_link(&link).unwrap();
        assert_eq!(target.to_str(), Some("plans/status.txt"));
    }
}
