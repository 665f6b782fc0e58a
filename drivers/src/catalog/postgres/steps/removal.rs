//! Taking the deployment, or a standby's copy of the data, off a node.
//!
//! Invariants: the server is stopped before anything of it goes; data that is not the deployment's is never touched;
//! the note goes last, so that an interrupted removal is found again.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use super::Work;
use crate::catalog::postgres::args::{self, RemovedData};
use crate::catalog::postgres::facts::Data;
use crate::catalog::postgres::layout::{Layout, note_path};
use crate::catalog::postgres::observe;
use crate::driver::{StateChange, StepOutcome};
use crate::error::DriverError;
use crate::sls::directory::DirAbsent;
use crate::sls::file::FileAbsent;
use crate::sls::service::{ServiceDead, loaded_note_path};
use crate::sls::unit::UnitAbsent;
use crate::sls::{change, converge, converge_all};

/// A fast shutdown writes a checkpoint; the unit kills after 120 s.
const STOP_TIMEOUT: Duration = Duration::from_secs(150);

/// `remove`.
pub fn remove(work: &Work<'_>, args: &args::Remove) -> Result<StepOutcome, DriverError> {
    let layout = work.layout(&args.place);
    let mut changes = stop(work, &layout)?;
    let unit = UnitAbsent {
        name: layout.unit(),
    };
    let loaded = FileAbsent {
        path: loaded_note_path(&layout.unit()),
    };
    let conf = DirAbsent {
        path: layout.conf_dir(),
    };
    let partial = DirAbsent {
        path: layout.partial(),
    };
    changes.extend(converge_all(&[&unit, &loaded, &conf, &partial], work.host)?);
    let kept = match (args.data, is_ours(work, &layout)?) {
        (_, false) => None,
        (RemovedData::Retain, true) => Some(layout.data().to_owned()),
        (RemovedData::SetAside, true) => Some(set_aside(work, &layout, &mut changes)?),
        (RemovedData::Purge, true) => {
            // Under the other name it is known to go, even if a crash leaves a part of it without its marker.
            work.host.rename(layout.data(), &layout.partial())?;
            work.host.remove_tree(&layout.partial())?;
            work.host.remove_tree(&layout.kept())?;
            let resource = format!("data directory {}", layout.data().display());
            changes.push(change(resource, Some("present".to_owned()), None));
            None
        }
    };
    let note = FileAbsent {
        path: note_path(layout.uid()),
    };
    changes.extend(converge(&note, work.host)?.into_changes());
    Ok(StepOutcome {
        changes,
        outputs: json!({ "kept": kept }),
    })
}

/// `discard`.
pub fn discard(work: &Work<'_>, args: &args::At) -> Result<StepOutcome, DriverError> {
    let layout = work.layout(&args.place);
    let is_standby = matches!(
        observe::data(work.host, &layout)?,
        Data::Ours {
            is_standby: true,
            ..
        }
    );
    if !is_standby {
        return Ok(StepOutcome::default());
    }
    let mut changes = stop(work, &layout)?;
    let kept = set_aside(work, &layout, &mut changes)?;
    Ok(StepOutcome {
        changes,
        outputs: json!({ "kept": kept }),
    })
}

fn stop(work: &Work<'_>, layout: &Layout) -> Result<Vec<StateChange>, DriverError> {
    let dead = ServiceDead {
        unit: layout.unit(),
        stop_timeout: STOP_TIMEOUT,
    };
    Ok(converge(&dead, work.host)?.into_changes())
}

fn is_ours(work: &Work<'_>, layout: &Layout) -> Result<bool, DriverError> {
    Ok(matches!(
        observe::data(work.host, layout)?,
        Data::Ours { .. }
    ))
}

/// Renames the data; an older copy that was set aside goes, so that there is one at most.
fn set_aside(
    work: &Work<'_>,
    layout: &Layout,
    changes: &mut Vec<StateChange>,
) -> Result<PathBuf, DriverError> {
    let kept = layout.kept();
    work.host.remove_tree(&kept)?;
    work.host.rename(layout.data(), &kept)?;
    let resource = format!("data directory {}", layout.data().display());
    changes.push(change(
        resource,
        Some("present".to_owned()),
        Some(format!("set aside as {}", kept.display())),
    ));
    Ok(kept)
}
