//! The driver's operations at work: one file a family.
//!
//! Invariants: every operation looks first and may run again after a crash at any call; a data directory gets its name
//! only when it is complete and marked; each effect is the fenced host's.

mod configuration;
mod data;
mod removal;
mod roles;
mod server;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::args;
use super::layout::{Layout, Place};
use super::observe::package_name;
use super::ops::Op;
use crate::driver::{Step, StepContext, StepOutcome};
use crate::error::DriverError;
use crate::host::fenced::FencedHost;
use crate::host::{Attributes, Host};
use crate::sls::directory::DirPresent;
use crate::sls::file::FilePresent;
use crate::sls::graph::Graph;
use crate::sls::package::PkgInstalled;
use crate::sls::requisite::{Kind, Requisite};

/// Runs one step.
///
/// # Errors
/// See [`DriverError`].
pub fn apply(
    host: &dyn Host,
    step: &Step,
    context: &StepContext<'_>,
) -> Result<StepOutcome, DriverError> {
    let Some(op) = Op::named(&step.op) else {
        return Err(of_another_version(step, &"the op is unknown"));
    };
    let fenced = FencedHost::new(host, context.guard);
    let work = Work {
        host: &fenced,
        context,
        step,
    };
    match op {
        Op::Install => install(&work, &work.args()?),
        Op::Init => data::init(&work, &work.args()?),
        Op::Adopt => data::adopt(&work, &work.args()?),
        Op::Configure => configuration::configure(&work, &work.args()?),
        Op::Start => server::start(&work, &work.args()?),
        Op::Restart => server::restart(&work, &work.args()?),
        Op::ReplicationRole => roles::replication_role(&work, &work.args()?),
        Op::Slots => roles::slots(&work, &work.args()?),
        Op::BaseBackup => data::base_backup(&work, &work.args()?),
        Op::AwaitStreaming => server::await_streaming(&work, &work.args()?),
        Op::Role => roles::role(&work, &work.args()?),
        Op::Database => roles::database(&work, &work.args()?),
        Op::Discard => removal::discard(&work, &work.args()?),
        Op::Remove => removal::remove(&work, &work.args()?),
    }
}

/// A running step.
struct Work<'a> {
    /// The machine, behind the step's fence.
    host: &'a dyn Host,
    context: &'a StepContext<'a>,
    step: &'a Step,
}

impl Work<'_> {
    fn args<T: DeserializeOwned>(&self) -> Result<T, DriverError> {
        serde_json::from_value(self.step.args.clone())
            .map_err(|cause| of_another_version(self.step, &cause))
    }

    fn layout(&self, place: &Place) -> Layout {
        Layout::new(&self.context.scope.uid, place.clone())
    }
}

fn of_another_version(step: &Step, cause: &dyn std::fmt::Display) -> DriverError {
    DriverError::permanent(
        "bad-arguments",
        format!("step {} ({}) cannot be read: {cause}", step.id, step.op),
        "the plan is of another version: run the same version of dsm-agent on all nodes",
    )
}

/// Without the setting, Debian's package starts a cluster `main` of its own on port 5432.
const NO_DEBIAN_CLUSTER: &str =
    "# Written by ContextOS: clusters are made by deployments.\ncreate_main_cluster = false\n";

fn install(work: &Work<'_>, args: &args::Install) -> Result<StepOutcome, DriverError> {
    let mut graph = Graph::default();
    let directory = "/etc/postgresql-common";
    let packages = [(package_name(args.major), args.version.clone())].into();
    graph
        .add(
            "directory",
            DirPresent::new(directory, Attributes::root(0o755)),
            vec![],
        )
        .add(
            "no-debian-cluster",
            FilePresent::new(
                format!("{directory}/createcluster.conf"),
                NO_DEBIAN_CLUSTER,
                Attributes::root(0o644),
            ),
            vec![Requisite::all(Kind::Require, ["directory"])],
        )
        .add(
            "packages",
            PkgInstalled { packages },
            vec![Requisite::all(Kind::Require, ["no-debian-cluster"])],
        );
    let changes = graph.run(work.host)?.into_result()?;
    Ok(StepOutcome {
        changes,
        outputs: Value::Null,
    })
}
