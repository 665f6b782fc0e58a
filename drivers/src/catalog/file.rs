//! Driver `file`: one file with a given content on each node.
//!
//! It is the smallest driver that shows the whole contract, and what the agent's own tests run.
//! Invariant: a file that the deployment did not write is overwritten only if the wish says so (`adopt`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::driver::{
    ChangeLine, Claim, Description, Desired, Disruption, Driver, FieldError, Health, MemberHealth,
    Observation, OpClass, OpDescription, Plan, PlanInput, Refusal, RetryPolicy, Scope, Step,
    StepContext, StepOutcome, Undo, Verdict, Wish,
};
use crate::error::DriverError;
use crate::host::fenced::FencedHost;
use crate::host::{Attributes, FileKind, Host};
use crate::params;
use crate::sls::file::{FileAbsent, FilePresent, digest};
use crate::sls::{State, converge, converge_all, directory};

const NAME: &str = "file";
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
const WRITE: &str = "write";
const REMOVE: &str = "remove";

/// What a wish for this driver may say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileParams {
    /// Absolute path of the file. Its directory is made if it is missing.
    #[schemars(length(min = 2, max = 4096))]
    pub path: String,
    /// The content, as text.
    #[schemars(length(max = 65536))]
    pub content: String,
    /// Permission bits in octal, for example "0640".
    #[serde(default = "default_mode")]
    #[schemars(length(min = 3, max = 4))]
    pub mode: String,
    /// Whether a file with another content, which this deployment did not write, may be overwritten.
    #[serde(default)]
    pub adopt: bool,
}

fn default_mode() -> String {
    "0644".to_owned()
}

/// What is on a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Facts {
    /// The file at the wish's path; `None` if there is none.
    found: Option<Found>,
    /// What this deployment wrote on this node and has not taken back.
    written: Option<Written>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Found {
    digest: String,
    mode: u32,
}

/// The node-local note of what was written where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Written {
    path: String,
}

/// The driver; it has no state.
#[derive(Debug, Clone, Copy, Default)]
pub struct FileDriver;

impl Driver for FileDriver {
    fn describe(&self) -> Description {
        let op = |op: &str, summary: &str, undo| OpDescription {
            op: op.to_owned(),
            summary: summary.to_owned(),
            class: OpClass::Idempotent,
            disruption: Disruption::None,
            undo,
            timeout: STEP_TIMEOUT,
            retry: RetryPolicy::default(),
        };
        Description {
            name: NAME.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            summary: "one file with a given content on each node".to_owned(),
            params_schema: params::schema_of::<FileParams>(),
            ops: vec![
                op(WRITE, "writes the file", Undo::Op),
                op(
                    REMOVE,
                    "removes the file",
                    Undo::Impossible("its content is in the wish".to_owned()),
                ),
            ],
        }
    }

    fn check(&self, wish: &Wish) -> Result<(), Vec<FieldError>> {
        parse(wish).map(drop)
    }

    fn claims(&self, wish: &Wish, _: &str) -> Vec<Claim> {
        let path = parse(wish).map(|params| params.path);
        let claim = |value| Claim {
            kind: "path".to_owned(),
            value,
            field: "params.path".to_owned(),
        };
        path.map(claim).into_iter().collect()
    }

    fn observe(&self, host: &dyn Host, scope: &Scope) -> Result<Observation, DriverError> {
        let written: Option<Written> = match host.read_file(&note_path(&scope.uid))? {
            Some(note) => Some(
                serde_json::from_slice(&note).map_err(|cause| broken_note(&scope.uid, &cause))?,
            ),
            None => None,
        };
        let wished = scope
            .wish
            .as_ref()
            .and_then(|wish| parse(wish).ok())
            .map(|params| params.path);
        let path = wished.or_else(|| written.as_ref().map(|written| written.path.clone()));
        let found = match path {
            Some(path) => found(host, Path::new(&path))?,
            None => None,
        };
        Ok(Observation {
            facts: json!(Facts { found, written }),
            measures: Value::Null,
        })
    }

    fn plan(&self, input: &PlanInput) -> Result<Plan, Refusal> {
        let (wanted, members) = match &input.desired {
            Desired::Running(wish) => (Some(parse(wish).map_err(refusal)?), wish.nodes.clone()),
            Desired::Removed { .. } => (None, Vec::new()),
        };
        let mut plan = Plan::default();
        for node in members.iter().filter(|node| input.present.contains(*node)) {
            let facts = facts(input, node)?;
            if let Some(wanted) = &wanted {
                plan_write(&mut plan, node, &facts, wanted)?;
            }
        }
        for node in input
            .observed
            .keys()
            .filter(|node| !members.contains(node) && input.present.contains(*node))
        {
            if let Some(written) = facts(input, node)?.written {
                plan.changes.push(line(
                    '-',
                    node,
                    &written.path,
                    "leaves",
                    "the node is no longer in the wish",
                ));
                plan.steps.push(step(
                    node,
                    REMOVE,
                    &written.path,
                    json!({ "path": written.path }),
                ));
            }
        }
        Ok(plan)
    }

    fn apply(
        &self,
        host: &dyn Host,
        step: &Step,
        context: &StepContext<'_>,
    ) -> Result<StepOutcome, DriverError> {
        let host = FencedHost::new(host, context.guard);
        let uid = &context.scope.uid;
        match step.op.as_str() {
            WRITE => write(&host, uid, &arguments(step)?),
            REMOVE => remove(&host, uid, &arguments::<Written>(step)?),
            other => Err(unknown_op(other)),
        }
    }

    fn undo(
        &self,
        host: &dyn Host,
        step: &Step,
        outputs: &Value,
        context: &StepContext<'_>,
    ) -> Result<StepOutcome, DriverError> {
        if step.op != WRITE {
            return Err(unknown_op(&step.op));
        }
        let host = FencedHost::new(host, context.guard);
        let params: FileParams = arguments(step)?;
        let previous: Option<Previous> = outputs
            .get("previous")
            .and_then(|value| serde_json::from_value(value.clone()).ok());
        let Some(previous) = previous else {
            return remove(&host, &context.scope.uid, &Written { path: params.path });
        };
        let mut changes = Vec::new();
        let attributes = Attributes {
            owner: previous.owner,
            group: previous.group,
            mode: previous.mode,
        };
        changes.extend(
            converge(
                &FilePresent::new(&params.path, previous.content, attributes),
                &host,
            )?
            .into_changes(),
        );
        if !previous.was_ours {
            host.remove_file(&note_path(&context.scope.uid))?;
        }
        Ok(StepOutcome {
            changes,
            outputs: Value::Null,
        })
    }

    fn health(&self, input: &PlanInput) -> Health {
        let (Desired::Running(wish) | Desired::Removed { wish, .. }) = &input.desired;
        let mut health = Health::default();
        let wanted = parse(wish).ok();
        for node in &wish.nodes {
            let facts = facts(input, node).unwrap_or_default();
            let state = match (&facts.found, &wanted) {
                (Some(found), Some(wanted))
                    if found.digest == digest(wanted.content.as_bytes()) =>
                {
                    "written"
                }
                (Some(_), _) => "different",
                (None, _) => "absent",
            };
            if !input.present.contains(node) {
                health
                    .degraded
                    .push(format!("{node} has no presence; its file is as it was"));
            }
            let member = MemberHealth {
                node: node.clone(),
                role: "-".into(),
                state: state.into(),
                note: String::new(),
            };
            health.members.push(member);
        }
        health.outputs = wanted
            .map(|wanted| BTreeMap::from([("path".to_owned(), wanted.path)]))
            .unwrap_or_default();
        health
    }

    fn ok_to_stop(&self, _: &PlanInput, _: &BTreeSet<String>) -> Verdict {
        Verdict::Yes
    }

    fn ok_to_promote(&self, _: &PlanInput, _: &String) -> Verdict {
        Verdict::No("driver file has no primary".to_owned())
    }
}

/// What stood at the path before, so that undo can put it back.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Previous {
    content: String,
    owner: String,
    group: String,
    mode: u32,
    /// Whether the deployment had written that, too.
    was_ours: bool,
}

fn parse(wish: &Wish) -> Result<FileParams, Vec<FieldError>> {
    let params: FileParams = params::parse(NAME, &params::schema_of::<FileParams>(), &wish.params)?;
    let mut faults = Vec::new();
    let mut fault = |field: &str, reason: String, hint: &str| {
        faults.push(FieldError {
            field: format!("params.{field}"),
            reason,
            hint: hint.to_owned(),
        });
    };
    let path = Path::new(&params.path);
    if !path.is_absolute()
        || path.components().any(|part| part.as_os_str() == "..")
        || path.file_name().is_none()
    {
        fault(
            "path",
            format!("{} is not an absolute path of a file", params.path),
            "write for example /etc/motd",
        );
    }
    if !is_octal(&params.mode) {
        fault(
            "mode",
            format!("{} is not octal permission bits", params.mode),
            "write for example \"0640\"",
        );
    }
    if faults.is_empty() {
        Ok(params)
    } else {
        Err(faults)
    }
}

fn is_octal(mode: &str) -> bool {
    mode.chars().all(|digit| ('0'..='7').contains(&digit))
}

fn mode_bits(params: &FileParams) -> u32 {
    u32::from_str_radix(&params.mode, 8).expect("parse() lets octal digits pass only")
}

fn found(host: &dyn Host, path: &Path) -> Result<Option<Found>, DriverError> {
    let Some(metadata) = host
        .metadata(path)?
        .filter(|found| found.kind == FileKind::File)
    else {
        return Ok(None);
    };
    let content = host.read_file(path)?.unwrap_or_default();
    Ok(Some(Found {
        digest: digest(&content),
        mode: metadata.attributes.mode,
    }))
}

fn facts(input: &PlanInput, node: &str) -> Result<Facts, Refusal> {
    let Some(observation) = input.observed.get(node) else {
        return Err(Refusal {
            field: None,
            node: Some(node.to_owned()),
            reason: format!("{node} has not told yet what is on it"),
            hint: format!("start dsm-agent on {node}"),
            waits: true,
        });
    };
    serde_json::from_value(observation.facts.clone()).map_err(|cause| Refusal {
        field: None,
        node: Some(node.to_owned()),
        reason: format!("the observation of {node} cannot be read: {cause}"),
        hint: format!("run the same version of dsm-agent on {node}"),
        waits: true,
    })
}

fn plan_write(
    plan: &mut Plan,
    node: &str,
    facts: &Facts,
    wanted: &FileParams,
) -> Result<(), Refusal> {
    let right = Found {
        digest: digest(wanted.content.as_bytes()),
        mode: mode_bits(wanted),
    };
    let ours = facts
        .written
        .as_ref()
        .is_some_and(|written| written.path == wanted.path);
    if let Some(left) = facts.written.as_ref().filter(|_| !ours) {
        plan.changes.push(line(
            '-',
            node,
            &left.path,
            "removed",
            "the wish names another path",
        ));
        plan.steps
            .push(step(node, REMOVE, &left.path, json!({ "path": left.path })));
    }
    if ours && facts.found.as_ref() == Some(&right) {
        return Ok(());
    }
    if !ours
        && !wanted.adopt
        && facts
            .found
            .as_ref()
            .is_some_and(|found| found.digest != right.digest)
    {
        return Err(Refusal {
            field: Some("params.path".to_owned()),
            node: Some(node.to_owned()),
            reason: format!(
                "{} exists on {node} with another content and is not this deployment's",
                wanted.path
            ),
            hint: "write \"adopt\": true to overwrite it, or name another path".to_owned(),
            waits: false,
        });
    }
    let (sign, detail) = match &facts.found {
        None => ('+', format!("mode {}", wanted.mode)),
        Some(found) => (
            '~',
            format!("{} -> {}", &found.digest[..8], &right.digest[..8]),
        ),
    };
    plan.changes.push(line(
        sign,
        node,
        &wanted.path,
        &detail,
        "the wish's content",
    ));
    let mut write = step(node, WRITE, &wanted.path, json!(wanted));
    write.needs = plan
        .steps
        .iter()
        .filter(|step| step.node == *node)
        .map(|step| step.id.clone())
        .collect();
    plan.steps.push(write);
    Ok(())
}

fn line(sign: char, node: &str, path: &str, detail: &str, reason: &str) -> ChangeLine {
    ChangeLine {
        sign,
        subject: format!("{node} {path}"),
        detail: detail.to_owned(),
        disruption: Disruption::None,
        reason: reason.to_owned(),
    }
}

fn step(node: &str, op: &str, path: &str, args: Value) -> Step {
    let undo = if op == WRITE {
        Undo::Op
    } else {
        Undo::Impossible("its content is in the wish".to_owned())
    };
    Step {
        id: format!("{node}/{op}"),
        node: node.to_owned(),
        op: op.to_owned(),
        title: format!("{op} {path}"),
        reason: "the wish".to_owned(),
        args,
        needs: Vec::new(),
        lock: None,
        class: OpClass::Idempotent,
        disruption: Disruption::None,
        undo,
        timeout: STEP_TIMEOUT,
    }
}

fn write(host: &dyn Host, uid: &str, params: &FileParams) -> Result<StepOutcome, DriverError> {
    let path = Path::new(&params.path);
    let written = Written {
        path: params.path.clone(),
    };
    let note = FilePresent::new(note_path(uid), note_text(&written), Attributes::root(0o600));
    let file = FilePresent::new(
        path,
        params.content.as_bytes(),
        Attributes::root(mode_bits(params)),
    );
    let before = host.metadata(path)?.map(|found| found.attributes);
    let previous = match (host.read_file(path)?, before) {
        (Some(content), Some(Attributes { owner, group, mode })) => {
            let was_ours = host.read_file(&note.path)?.is_some();
            let content = String::from_utf8_lossy(&content).into_owned();
            json!(Previous {
                content,
                owner,
                group,
                mode,
                was_ours
            })
        }
        _ => Value::Null,
    };
    directory::make_parents(host, &note.path)?;
    directory::make_parents(host, path)?;
    // The note first: a crash in between leaves a note without a file, which removal copes with.
    let changes = converge_all(&[&note, &file as &dyn State], host)?;
    Ok(StepOutcome {
        changes,
        outputs: json!({ "previous": previous }),
    })
}

fn remove(host: &dyn Host, uid: &str, written: &Written) -> Result<StepOutcome, DriverError> {
    let file = FileAbsent {
        path: PathBuf::from(&written.path),
    };
    let note = FileAbsent {
        path: note_path(uid),
    };
    let changes = converge_all(&[&file, &note as &dyn State], host)?;
    Ok(StepOutcome {
        changes,
        outputs: Value::Null,
    })
}

fn note_path(uid: &str) -> PathBuf {
    PathBuf::from(format!("/var/lib/contextos/file/{uid}.json"))
}

fn note_text(written: &Written) -> String {
    json!(written).to_string() + "\n"
}

fn broken_note(uid: &str, cause: &serde_json::Error) -> DriverError {
    let path = note_path(uid);
    DriverError::permanent(
        "broken-note",
        format!("{} cannot be read: {cause}", path.display()),
        format!("remove it: rm {}", path.display()),
    )
}

fn refusal(faults: Vec<FieldError>) -> Refusal {
    let first = faults.into_iter().next();
    Refusal {
        field: first.as_ref().map(|fault| fault.field.clone()),
        node: None,
        reason: first
            .as_ref()
            .map(|fault| fault.reason.clone())
            .unwrap_or_default(),
        hint: first.map(|fault| fault.hint).unwrap_or_default(),
        waits: false,
    }
}

fn arguments<T: serde::de::DeserializeOwned>(step: &Step) -> Result<T, DriverError> {
    serde_json::from_value(step.args.clone()).map_err(|cause| {
        DriverError::permanent(
            "bad-arguments",
            format!(
                "step {} has arguments that op {} does not take: {cause}",
                step.id, step.op
            ),
            "the plan was made by another version: run the same version of dsm-agent on all nodes",
        )
    })
}

fn unknown_op(op: &str) -> DriverError {
    DriverError::permanent(
        "unknown-op",
        format!("driver {NAME} has no op {op}"),
        "the plan was made by another version: run the same version of dsm-agent on all nodes",
    )
}
