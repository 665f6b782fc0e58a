//! The record below `/run`: reads it into views, writes its files.
//!
//! Invariants: a file that is empty is not there yet (its creation and its content are two commits); what cannot be
//! read becomes a trouble of that deployment and never stops another; intents and plans never change, so they are kept.
//! Whatever else was read is kept as long as the tree says that nothing has moved since (`kept.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::kept::Kept;
use super::paths;
use super::shared_tree::{Committed, EntryKind, SharedTree, Standing, TreeError, TreeMark};
use super::wish_index::WishIndex;
use crate::engine::action::PLANNER_LOCK;
use crate::engine::desired::Desired;
use crate::engine::document::{self, Format};
use crate::engine::id::{DeploymentId, FileKind, Generation, classify};
use crate::engine::log::NodeLog;
use crate::engine::record::{
    Claims, FORMAT, FormatHead, GenerationResult, Intent, NodeRecord, Observed, Phase, PlanRecord,
    Request, SealedSecret, Status, Trouble, WishRecord,
};
use crate::engine::view::{
    ClusterView, GenerationView, LockView, View, WishDocument, WishFile, WishRecordOf,
};
use crate::limits::{GENERATIONS_SHOWN_MAX, SECRETS_MAX, VIEWS_KEPT_MAX};

/// See the head of this file.
pub struct RunStore {
    tree: Arc<dyn SharedTree>,
    kept: Mutex<BTreeMap<DeploymentId, (Intent, PlanRecord)>>,
    cluster: Mutex<KeptCluster>,
    views: Mutex<BTreeMap<DeploymentId, KeptView>>,
    /// Readings that the tree has refused. Some are left out of what is put together then, which must not be kept.
    refused: AtomicU64,
}

/// What was read of a deployment: as a whole, and the record alone, which most entries of a busy cluster leave as it
/// is.
#[derive(Default)]
struct KeptView {
    whole: Kept<(Standing, Arc<WishIndex>), Found>,
    record: Kept<u64, Arc<RecordFiles>>,
}

/// What lies below a deployment's directory in `/run`, but for its secrets: who can open them is no matter of the
/// files alone.
#[derive(Clone)]
struct RecordFiles {
    record: Option<WishRecord>,
    generation: Option<GenerationView>,
    observed: BTreeMap<String, Observed>,
    requests: BTreeMap<String, Request>,
    told: Option<Phase>,
    broken: Vec<Trouble>,
}

/// All that a view rests on.
#[derive(Clone)]
struct Found {
    files: Arc<RecordFiles>,
    wish: WishFile,
    secrets: BTreeMap<String, BTreeSet<String>>,
    planner: LockView,
    adoptable: Option<WishRecordOf>,
    successor: Option<(DeploymentId, bool)>,
}

impl Found {
    fn view(self, id: &DeploymentId, round: u32, now: String) -> View {
        let files = Arc::unwrap_or_clone(self.files);
        View {
            id: id.clone(),
            round,
            now,
            remembered_uid: None,
            wish: self.wish,
            record: files.record,
            generation: files.generation,
            observed: files.observed,
            requests: files.requests,
            secrets: self.secrets,
            planner: self.planner,
            adoptable: self.adoptable,
            successor: self.successor,
            told: files.told,
            broken: files.broken,
        }
    }
}

/// What was read of the cluster, as a whole and in parts: most entries of a busy cluster change no node's record.
#[derive(Default)]
struct KeptCluster {
    whole: Kept<TreeMark, ClusterView>,
    /// Names of the presence locks, by the revision of their directory. Who holds one is no matter of revisions.
    presence: Kept<u64, Vec<String>>,
    /// Facts and this node's claims, by the revision of their directory and the members that were asked for.
    nodes: Kept<(u64, BTreeSet<String>), NodeFiles>,
}

#[derive(Clone)]
struct NodeFiles {
    records: BTreeMap<String, NodeRecord>,
    claims: Claims,
}

/// A record that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The tree refused.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// It is no record of this version.
    #[error("{path}: {reason}")]
    Broken {
        /// Which file.
        path: String,
        /// Why.
        reason: String,
    },
}

impl RunStore {
    /// The record in `tree`.
    pub fn new(tree: Arc<dyn SharedTree>) -> Self {
        Self {
            tree,
            kept: Mutex::new(BTreeMap::new()),
            cluster: Mutex::default(),
            views: Mutex::default(),
            refused: AtomicU64::new(0),
        }
    }

    /// The tree.
    pub fn tree(&self) -> &Arc<dyn SharedTree> {
        &self.tree
    }

    /// Everything that a decision about `id` rests on. `standing` is how things stood before; what was read under the
    /// same one and the same index is not read again.
    ///
    /// # Errors
    /// [`TreeError`] when the tree does not answer; broken records are part of the view.
    pub fn view(
        &self,
        id: &DeploymentId,
        round: u32,
        now: String,
        index: &Arc<WishIndex>,
        standing: Option<Standing>,
    ) -> Result<View, TreeError> {
        let standing = standing.map(|standing| (standing, Arc::clone(index)));
        let kept = self.kept_view(id, |kept| kept.whole.under(standing.as_ref()).cloned());
        if let Some(found) = kept {
            return Ok(found.view(id, round, now));
        }
        let refused = self.refused();
        let found = self.find(id, index)?;
        if self.refused() == refused {
            let keep = found.clone();
            self.keep_view(id, |kept| kept.whole.keep(standing, keep));
        }
        Ok(found.view(id, round, now))
    }

    fn find(&self, id: &DeploymentId, index: &WishIndex) -> Result<Found, TreeError> {
        let wish = self.wish_file(id)?;
        let files = self.record_files(id)?;
        let adoptable = match (&wish, &files.record) {
            (WishFile::Present(document), None) => self.adoptable(id, document.inode, index)?,
            _ => None,
        };
        let successor = match (&wish, &files.record) {
            (WishFile::Absent, Some(record)) => self.successor(id, record.inode, index)?,
            _ => None,
        };
        Ok(Found {
            secrets: self.secret_recipients(id)?,
            planner: self.tree.lock_view(&paths::lock(id, PLANNER_LOCK))?,
            files,
            wish,
            adoptable,
            successor,
        })
    }

    fn record_files(&self, id: &DeploymentId) -> Result<Arc<RecordFiles>, TreeError> {
        let revision = self.tree.tree_revision(&paths::record(id))?;
        let kept = self.kept_view(id, |kept| kept.record.under(revision.as_ref()).cloned());
        if let Some(files) = kept {
            return Ok(files);
        }
        let refused = self.refused();
        let mut broken = Vec::new();
        let record = note(self.wish_record(id), &mut broken)?.flatten();
        let generation = note(self.newest_generation(id), &mut broken)?.flatten();
        let told = match &record {
            Some(record) if record.removal.is_some() => {
                let status: Option<Status> = self.json(&paths::status_json(id)).unwrap_or(None);
                status.map(|status| status.phase)
            }
            _ => None,
        };
        let files = Arc::new(RecordFiles {
            record,
            generation,
            observed: self.observations(id)?,
            requests: self.open_requests(id)?,
            told,
            broken,
        });
        if self.refused() == refused {
            self.keep_view(id, |kept| kept.record.keep(revision, Arc::clone(&files)));
        }
        Ok(files)
    }

    /// Forgets what was read of deployments that are no more.
    pub fn keep_only(&self, deployments: &BTreeSet<DeploymentId>) {
        self.kept_views().retain(|id, _| deployments.contains(id));
    }

    fn kept_view<T>(
        &self,
        id: &DeploymentId,
        find: impl FnOnce(&KeptView) -> Option<T>,
    ) -> Option<T> {
        self.kept_views().get(id).and_then(find)
    }

    fn keep_view(&self, id: &DeploymentId, keep: impl FnOnce(&mut KeptView)) {
        let mut views = self.kept_views();
        if views.contains_key(id) || views.len() < VIEWS_KEPT_MAX {
            keep(views.entry(id.clone()).or_default());
        }
    }

    fn kept_views(&self) -> std::sync::MutexGuard<'_, BTreeMap<DeploymentId, KeptView>> {
        // A panic elsewhere leaves whole values only.
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What lies under a deployment's name in `/mid` or `/ctx`.
    ///
    /// # Errors
    /// [`TreeError`] when the tree does not answer.
    pub fn wish_file(&self, id: &DeploymentId) -> Result<WishFile, TreeError> {
        let mut found = Vec::new();
        for (ending, format) in Format::ENDINGS {
            let path = format!("{id}{ending}");
            if let Some(committed) = self.tree.read(&path)? {
                found.push((path, format, committed));
            }
        }
        if found.is_empty() {
            return Ok(WishFile::Absent);
        }
        if let FileKind::Refused(_, reason) = classify(&found[0].0) {
            let hint = "rename the file";
            return Ok(WishFile::Refused(vec![Trouble::blocks(reason, hint)]));
        }
        found.retain(|(_, _, committed)| !committed.bytes.is_empty());
        if found.len() > 1 {
            let names: Vec<_> = found.iter().map(|(path, ..)| format!("/{path}")).collect();
            let reason = format!("{} are wishes of one deployment", names.join(" and "));
            return Ok(WishFile::Refused(vec![Trouble::blocks(
                reason,
                "remove all but one",
            )]));
        }
        let Some((_, format, committed)) = found.pop() else {
            return Ok(WishFile::Emptied);
        };
        let desired = document::decode(format, &committed.bytes)
            .map_err(|fault| vec![fault])
            .and_then(|document| Desired::from_document(&document));
        Ok(WishFile::Present(WishDocument {
            revision: committed.revision,
            inode: committed.inode,
            author: format!("uid {}", committed.uid),
            desired,
        }))
    }

    /// `plans/wish.json`.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn wish_record(&self, id: &DeploymentId) -> Result<Option<WishRecord>, RecordError> {
        self.json(&paths::wish_record(id))
    }

    /// A record whose file is gone and whose inode the new wish has.
    fn adoptable(
        &self,
        id: &DeploymentId,
        inode: u64,
        index: &WishIndex,
    ) -> Result<Option<WishRecordOf>, TreeError> {
        for orphan in index.orphans().filter(|orphan| *orphan != id) {
            let Ok(Some(record)) = self.wish_record(orphan) else {
                continue;
            };
            let free = record.removal.is_none();
            if record.inode == inode && free && self.wish_file(orphan)? == WishFile::Absent {
                return Ok(Some(WishRecordOf {
                    id: orphan.clone(),
                    record,
                }));
            }
        }
        Ok(None)
    }

    fn successor(
        &self,
        id: &DeploymentId,
        inode: u64,
        index: &WishIndex,
    ) -> Result<Option<(DeploymentId, bool)>, TreeError> {
        let Some(other) = index.by_inode(inode).filter(|other| *other != id) else {
            return Ok(None);
        };
        let adopted = match self.wish_record(other) {
            Ok(record) => record.is_some_and(|record| record.adopted_from.as_ref() == Some(id)),
            Err(RecordError::Tree(error)) => return Err(error),
            Err(RecordError::Broken { .. }) => false,
        };
        Ok(Some((other.clone(), adopted)))
    }

    /// Numbers of all generations, ascending.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn generations(&self, id: &DeploymentId) -> Result<Vec<Generation>, TreeError> {
        let entries = self.tree.list(&paths::plans(id))?;
        let directories = entries
            .iter()
            .filter(|entry| entry.kind == EntryKind::Directory);
        let mut numbers: Vec<_> = directories
            .filter_map(|entry| Generation::from_directory(&entry.name))
            .collect();
        let surplus = numbers.len().saturating_sub(GENERATIONS_SHOWN_MAX);
        numbers.drain(..surplus);
        Ok(numbers)
    }

    fn newest_generation(&self, id: &DeploymentId) -> Result<Option<GenerationView>, RecordError> {
        match self.generations(id)?.pop() {
            Some(number) => self.generation(id, number).map(Some),
            None => Ok(None),
        }
    }

    /// One generation with all its logs.
    ///
    /// # Errors
    /// [`RecordError`] naming the file that cannot be used.
    pub fn generation(
        &self,
        id: &DeploymentId,
        number: Generation,
    ) -> Result<GenerationView, RecordError> {
        let (intent, plan) = self.intent_and_plan(id, number)?;
        let result: Option<GenerationResult> =
            self.json(&paths::generation_file(id, number, "result.json"))?;
        let mut logs = BTreeMap::new();
        for entry in self.tree.list(&format!("run/{id}/log"))? {
            let path = paths::log(id, &entry.name, number);
            let Some(committed) = self.tree.read(&path)? else {
                continue;
            };
            let log = NodeLog::parse(&plan.digest, &committed.bytes).map_err(|error| {
                RecordError::Broken {
                    path,
                    reason: error_text(&error),
                }
            })?;
            logs.insert(entry.name, log);
        }
        Ok(GenerationView {
            intent,
            plan,
            result,
            logs,
        })
    }

    fn intent_and_plan(
        &self,
        id: &DeploymentId,
        number: Generation,
    ) -> Result<(Intent, PlanRecord), RecordError> {
        if let Some((intent, plan)) = self.kept().get(id)
            && intent.generation == number
        {
            return Ok((intent.clone(), plan.clone()));
        }
        let missing = |path: String| RecordError::Broken {
            path,
            reason:
                "is missing; the generation was put in place as a whole, so it was removed since"
                    .to_owned(),
        };
        let path = paths::generation_file(id, number, "intent.json");
        let intent: Intent = self.json(&path)?.ok_or_else(|| missing(path))?;
        let path = paths::generation_file(id, number, "plan.json");
        let plan: PlanRecord = self.json(&path)?.ok_or_else(|| missing(path))?;
        self.kept()
            .insert(id.clone(), (intent.clone(), plan.clone()));
        Ok((intent, plan))
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, BTreeMap<DeploymentId, (Intent, PlanRecord)>> {
        // A panic elsewhere leaves whole entries only.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what was kept: after a new mount the tree may be another one.
    pub fn forget(&self) {
        self.tree.forget_mark();
        self.kept().clear();
        *self.kept_cluster() = KeptCluster::default();
        self.kept_views().clear();
    }

    /// This node's log of a generation, as far as it goes.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn own_log(
        &self,
        id: &DeploymentId,
        node: &str,
        number: Generation,
    ) -> Result<NodeLog, RecordError> {
        let (_, plan) = self.intent_and_plan(id, number)?;
        let path = paths::log(id, node, number);
        match self.tree.read(&path)? {
            None => Ok(NodeLog::empty(&plan.digest)),
            Some(committed) => NodeLog::parse(&plan.digest, &committed.bytes).map_err(|error| {
                RecordError::Broken {
                    path,
                    reason: error_text(&error),
                }
            }),
        }
    }

    /// All observations that can be read; a broken one is as good as none, its node writes it again.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn observations(&self, id: &DeploymentId) -> Result<BTreeMap<String, Observed>, TreeError> {
        let mut found = BTreeMap::new();
        for entry in self.tree.list(&paths::observed_dir(id))? {
            let Some(node) = entry.name.strip_suffix(".json") else {
                continue;
            };
            match self.json::<Observed>(&paths::observed(id, node)) {
                Ok(Some(observed)) => {
                    found.insert(node.to_owned(), observed);
                }
                Ok(None) | Err(RecordError::Broken { .. }) => {}
                Err(RecordError::Tree(error)) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Requests that have no note yet. One that cannot be read is none: its writer sees it unanswered.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn open_requests(&self, id: &DeploymentId) -> Result<BTreeMap<String, Request>, TreeError> {
        let mut open = BTreeMap::new();
        let entries = self.tree.list(&paths::requests(id))?;
        if entries.is_empty() {
            return Ok(open);
        }
        let notes: BTreeSet<String> = self
            .tree
            .list(&paths::request_notes(id))?
            .into_iter()
            .map(|entry| entry.name)
            .collect();
        for entry in entries
            .into_iter()
            .filter(|entry| !notes.contains(&entry.name))
        {
            let Some(uuid) = entry.name.strip_suffix(".json") else {
                continue;
            };
            let path = format!("{}/{}", paths::requests(id), entry.name);
            if let Ok(Some(request)) = self.json::<Request>(&path) {
                open.insert(uuid.to_owned(), request);
            }
        }
        Ok(open)
    }

    /// Who can open each secret: a node that was sealed to, while it still has the key of then. One that rejoined has a
    /// new key and needs a seal of its own.
    fn secret_recipients(
        &self,
        id: &DeploymentId,
    ) -> Result<BTreeMap<String, BTreeSet<String>>, TreeError> {
        let entries = self.tree.list(&paths::secrets(id))?;
        if entries.is_empty() {
            return Ok(BTreeMap::new());
        }
        let keys = self.sealing_keys();
        let mut found = BTreeMap::new();
        for entry in entries.into_iter().take(SECRETS_MAX) {
            if let Ok(Some(secret)) = self.json::<SealedSecret>(&paths::secret(id, &entry.name)) {
                let able = secret.recipients.into_iter();
                let able = able.filter(|(node, key)| keys.get(node).is_none_or(|now| now == key));
                found.insert(entry.name, able.map(|(node, _)| node).collect());
            }
        }
        Ok(found)
    }

    /// The public sealing key of each member that shows one; none while the members cannot be read.
    fn sealing_keys(&self) -> BTreeMap<String, String> {
        let members = self
            .json_any(paths::MEMBERS)
            .ok()
            .flatten()
            .unwrap_or(Value::Null);
        let listed = members.get("members").and_then(Value::as_array);
        let text = |member: &Value, field: &str| Some(member.get(field)?.as_str()?.to_owned());
        let keys = listed
            .into_iter()
            .flatten()
            .filter_map(|member| Some((text(member, "name")?, text(member, "age_public")?)));
        keys.filter(|(_, key)| !key.is_empty()).collect()
    }

    /// What is known of the cluster: members, presence, facts, the claims of `node`, whose store this is. What was read
    /// under the same `mark`, which the tree told before, is not read again.
    ///
    /// # Errors
    /// [`RecordError`] when members or claims cannot be read; a broken node record is left out.
    pub fn cluster(&self, node: &str, mark: Option<TreeMark>) -> Result<ClusterView, RecordError> {
        if let Some(view) = self.kept_cluster().whole.under(mark.as_ref()) {
            return Ok(view.clone());
        }
        let refused = self.refused();
        let members: Value = self.json_any(paths::MEMBERS)?.unwrap_or(Value::Null);
        let names = members
            .get("members")
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        let names: BTreeSet<String> = names.map(|member| text(member, "name")).collect();
        let nodes = self.node_files(node, &names)?;
        let records = nodes.records.into_iter();
        let mut view = ClusterView {
            cluster: text(&members, "cluster"),
            members: names,
            claims: nodes.claims,
            facts: records.map(|(name, record)| (name, record.facts)).collect(),
            presence: BTreeMap::new(),
        };
        for name in self.presence_names()? {
            if let Some(fence) = self.tree.fence(&paths::presence(&name))? {
                view.presence.insert(name, fence);
            }
        }
        if self.refused() == refused {
            self.kept_cluster().whole.keep(mark, view.clone());
        }
        Ok(view)
    }

    fn presence_names(&self) -> Result<Vec<String>, TreeError> {
        let revision = self.tree.tree_revision(paths::AGENTS)?;
        if let Some(names) = self.kept_cluster().presence.under(revision.as_ref()) {
            return Ok(names.clone());
        }
        let entries = self.tree.list(paths::AGENTS)?;
        let names: Vec<String> = entries.into_iter().map(|entry| entry.name).collect();
        self.kept_cluster().presence.keep(revision, names.clone());
        Ok(names)
    }

    fn node_files(&self, node: &str, members: &BTreeSet<String>) -> Result<NodeFiles, RecordError> {
        let revision = self.tree.tree_revision(paths::NODES)?;
        let key = revision.map(|revision| (revision, members.clone()));
        if let Some(files) = self.kept_cluster().nodes.under(key.as_ref()) {
            return Ok(files.clone());
        }
        let refused = self.refused();
        let mut files = NodeFiles {
            records: BTreeMap::new(),
            claims: self.json(&paths::claims(node))?.unwrap_or(Claims {
                format: FORMAT,
                ..Claims::default()
            }),
        };
        for name in members {
            if let Ok(Some(record)) = self.json::<NodeRecord>(&paths::node_record(name)) {
                files.records.insert(name.clone(), record);
            }
        }
        if self.refused() == refused {
            self.kept_cluster().nodes.keep(key, files.clone());
        }
        Ok(files)
    }

    fn kept_cluster(&self) -> std::sync::MutexGuard<'_, KeptCluster> {
        // A panic elsewhere leaves whole values only.
        self.cluster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A record of this version or an older one; `None` if it is absent or empty.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn json<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, RecordError> {
        let Some(committed) = self.read(path)?.filter(|found| !found.bytes.is_empty()) else {
            return Ok(None);
        };
        let broken = |reason| RecordError::Broken {
            path: path.to_owned(),
            reason,
        };
        let head: FormatHead = serde_json::from_slice(&committed.bytes)
            .map_err(|error| broken(format!("is not a record: {error}")))?;
        if head.format > FORMAT {
            return Err(broken(format!(
                "has format {}, this agent reads up to {FORMAT}: upgrade dsm-agent",
                head.format
            )));
        }
        serde_json::from_slice(&committed.bytes)
            .map(Some)
            .map_err(|error| broken(format!("is not what it should be: {error}")))
    }

    /// A document of vfsd, which has no format number.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn json_any(&self, path: &str) -> Result<Option<Value>, RecordError> {
        let Some(committed) = self.read(path)? else {
            return Ok(None);
        };
        serde_json::from_slice(&committed.bytes)
            .map(Some)
            .map_err(|error| RecordError::Broken {
                path: path.to_owned(),
                reason: format!("is not JSON: {error}"),
            })
    }

    fn read(&self, path: &str) -> Result<Option<Committed>, TreeError> {
        let read = self.tree.read(path);
        if read.is_err() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        read
    }

    fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

/// The message with all its causes.
pub fn error_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

/// A text field of a document, empty if it is missing.
pub fn text(document: &Value, key: &str) -> String {
    document
        .get(key)
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

fn note<T>(
    result: Result<T, RecordError>,
    broken: &mut Vec<Trouble>,
) -> Result<Option<T>, TreeError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(RecordError::Tree(error)) => Err(error),
        Err(RecordError::Broken { path, reason }) => {
            let hint = "restore the file, or move the record's directory away: the next pass observes and plans anew";
            broken.push(Trouble::blocks(format!("/{path} {reason}"), hint));
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::posix_tree::PosixTree;

    #[test]
    fn a_node_that_rejoined_with_a_new_key_cannot_open_older_secrets() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let full = root.path().join(path);
            std::fs::create_dir_all(full.parent().unwrap()).unwrap();
            std::fs::write(full, text).unwrap();
        };
        write(
            ".vfs/members.json",
            r#"{"members":[{"name":"n1","age_public":"age1old"},{"name":"n2","age_public":"age1new"}]}"#,
        );
        write(
            "run/mid/db/secrets/owner",
            r#"{"format":1,"recipients":{"n1":"age1old","n2":"age1old","gone":"age1x"},"sealed":""}"#,
        );
        let store = RunStore::new(Arc::new(PosixTree::plain(root.path(), "n1")));
        let id = DeploymentId::parse("mid/db").unwrap();
        let able = store.secret_recipients(&id).unwrap();
        let able: Vec<&str> = able["owner"].iter().map(String::as_str).collect();
        assert_eq!(able, ["gone", "n1"], "n2 has another key by now");
    }
}
